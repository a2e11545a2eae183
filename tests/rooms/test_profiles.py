"""Which destination gets which objects: said in the settings, carried by the job, kept by the outbox."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from pydicom import dcmread

import config
from node.assembly import House, now
from node.domain import DEFAULT_KINDS, CleanUid, Role, Route
from node.errors import SettingsInvalid
from node.gateway import Gateway
from node.ledger.database import LEDGER, alembic_config, migrate, open_engine, open_ledger, sqlite_url
from node.ledger.jobs import Jobs
from node.ledger.payload import job_from_json, job_to_json
from node.profiles import PROFILES, REPORTS, beside, kinds_of, takers, wanted
from tests.rooms.test_inference import Desk, ct, roles  # noqa: F401 - a fixture

ROUTE = Route(
    rule="any",
    series=CleanUid("2.25.1"),
    pipeline="works",
    destinations=("pacs", "viewer", "old"),
    kinds=(("pacs", PROFILES["basic-pacs"]), ("viewer", (Role.SEG, Role.SC, Role.SR, Role.KO)), ("old", DEFAULT_KINDS)),
)


# --- what may be said ------------------------------------------------------------------------------------------------------------
def test_every_profile_has_a_report_and_a_picture_that_every_viewer_shows():
    assert PROFILES["default"] == (Role.SEG, Role.SC, Role.SR)
    assert set(PROFILES) == {"default", "ohif", "weasis", "slicer", "orthanc", "basic-pacs", "archive"}
    for name, kinds in PROFILES.items():
        assert REPORTS & set(kinds), name
        assert Role.SC in kinds, name


def test_a_list_of_kinds_is_a_profile_of_ones_own():
    assert kinds_of(["PDF", "SEG", "SEG"]) == (Role.SEG, Role.PDF)
    assert kinds_of("ohif") == PROFILES["ohif"]


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("osirix", "known: default, ohif"),
        (["SEG", "GSPS"], "'GSPS' is no"),
        (["SEG", "SC"], "name a report too"),
        (["TEXT", "SR-EDITABLE"], "name SR too"),
        ([], "report"),
        (7, "a profile's name"),
    ],
)
def test_what_is_no_profile_stops_the_start_and_says_what_is_known(tmp_path, profile, says):
    with pytest.raises(ValueError, match=says):
        kinds_of(profile)

    house = House(settings(tmp_path, {"out": {"kind": "folder", "path": str(tmp_path / "out"), "profile": profile}}))
    with pytest.raises(SettingsInvalid, match=r"destinations\.out\.profile"):
        house.check()


# --- what a route asks for ---------------------------------------------------------------------------------------------------------
def test_a_job_writes_what_its_destinations_ask_for_together_and_each_gets_its_own():
    assert wanted(ROUTE) == (Role.SEG, Role.SC, Role.SR, Role.KO, Role.TEXT)
    assert takers(ROUTE, Role.SC) == ("pacs", "viewer", "old")
    assert takers(ROUTE, Role.SR) == ("viewer", "old")
    assert takers(ROUTE, Role.TEXT) == ("pacs",)
    assert takers(ROUTE, Role.PM) == ()


def test_an_object_refers_only_to_what_lies_beside_it_everywhere():
    assert beside(ROUTE, Role.KO) == (Role.SEG, Role.SC, Role.SR, Role.KO)
    assert beside(ROUTE, Role.SC) == (Role.SC,)
    assert beside(ROUTE, Role.TEXT) == (Role.SC, Role.TEXT)


def test_a_job_from_before_there_were_profiles_delivers_what_it_wrote():
    older = replace(ROUTE, kinds=())

    assert wanted(older) == DEFAULT_KINDS
    assert all(takers(older, role) == ROUTE.destinations for role in DEFAULT_KINDS)


# --- through the ledger and the worker -------------------------------------------------------------------------------------------
def test_a_job_carries_its_kinds_to_the_worker_who_writes_them(ct: Desk) -> None:  # noqa: F811
    job = ct.job("works")
    job = job_from_json(job_to_json(replace(job, route=replace(job.route, destinations=ROUTE.destinations, kinds=ROUTE.kinds))))

    made, _ = ct.carry(job)

    assert job.route.kinds == ROUTE.kinds
    assert set(roles(made)) == {Role.SEG, Role.SC, Role.SR, Role.KO, Role.TEXT}
    read = {one.object.role: dcmread(one.object.path) for one in made}
    assert read[Role.SR].SOPInstanceUID in read[Role.KO].to_json()
    assert read[Role.SEG].SOPInstanceUID not in read[Role.TEXT].to_json()  # the PACS that gets the text gets no segmentation
    assert read[Role.SC].SOPInstanceUID in read[Role.TEXT].to_json()


def test_a_ledger_from_before_is_migrated_and_its_jobs_have_no_kinds(tmp_path: Path, ct: Desk) -> None:  # noqa: F811
    engine = open_engine(sqlite_url(tmp_path / "ledger.sqlite"))
    with engine.begin() as connection:
        command.upgrade(alembic_config(LEDGER, connection), "0002_versions")
    old = ct.job("works")
    values = Jobs(engine, now)._values(old)
    table = sa.Table("jobs", sa.MetaData(), autoload_with=engine)
    assert "kinds" not in table.c
    json_columns = {"destinations", "reasons", "algorithm", "inputs"}
    row = {key: json.dumps(value) if key in json_columns else value for key, value in values.items() if key in table.c}
    row |= {"scheduled_at": "2026-03-01 09:30:00.000000", "reason": "", "worker": ""}
    with engine.begin() as connection:
        names = ", ".join(row)
        connection.execute(sa.text(f"INSERT INTO jobs ({names}) VALUES ({', '.join(':' + key for key in row)})"), row)

    migrate(engine, LEDGER)

    [job] = Jobs(engine, now).all()
    assert (job.id, job.route.kinds) == (old.id, ())
    assert wanted(job.route) == DEFAULT_KINDS


@pytest.mark.parametrize("kinds", [PROFILES["basic-pacs"], DEFAULT_KINDS])
def test_a_later_revision_names_the_report_that_the_reader_had(tmp_path: Path, ct: Desk, kinds: tuple[Role, ...]) -> None:  # noqa: F811
    jobs = Jobs(open_ledger(sqlite_url(tmp_path / "ledger.sqlite")), now)
    first = ct.job("works")
    first = replace(first, route=replace(first.route, destinations=("pacs",), kinds=(("pacs", kinds),)))
    made, summary = ct.carry(first)
    jobs.submit(first)
    assert jobs.claim("w", 60)
    assert jobs.done(first, made, summary)

    later = replace(first, id="later", predecessor=first.id)
    predecessor = jobs.predecessor_report(later)
    again, _ = ct.carry(later, predecessor=predecessor)

    report = next(one.object for one in again if one.object.role in (Role.SR, Role.TEXT))
    [study] = dcmread(report.path).PredecessorDocumentsSequence
    [before] = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert (before.ReferencedSOPClassUID, before.ReferencedSOPInstanceUID) == predecessor
    assert before.ReferencedSOPInstanceUID in {one.object.sop_instance_uid for one in made}


# --- as a whole -----------------------------------------------------------------------------------------------------------------------
def settings(tmp_path: Path, destinations: dict[str, dict[str, object]]) -> config.Settings:
    return config.load(data_dir=tmp_path / "data", destinations=destinations)


def test_the_outbox_queues_for_each_destination_its_own_kinds_only(tmp_path, ct: Desk) -> None:  # noqa: F811
    folders = {name: {"kind": "folder", "path": str(tmp_path / name)} for name in ("words", "all")}
    folders["words"]["profile"] = "basic-pacs"
    folders["all"]["profile"] = "archive"
    house = House(settings(tmp_path, folders))
    job = ct.job("works")
    names = ("words", "all")
    job = replace(job, route=replace(job.route, destinations=names, kinds=house.kinds_for(names)[0]))
    made, summary = ct.carry(job)
    house.jobs.submit(job)
    claimed = house.jobs.claim("w", 60)
    assert claimed is not None
    assert claimed.route.kinds == job.route.kinds
    assert house.jobs.done(
        claimed, [replace(one, object=replace(one.object, path=Path("results") / one.object.path.name)) for one in made], summary
    )

    Gateway(house).hand_over()

    queued = {name: {entry.role for entry in house.outbox.entries() if entry.destination == name} for name in names}
    assert queued["words"] == {"SC", "TEXT"}
    assert queued["all"] == {"SEG", "SC", "SR", "PR", "KO", "PDF", "PM", "RTSTRUCT", "KEYS"} & {one.object.role for one in made}
    assert len(queued["all"]) >= 6
