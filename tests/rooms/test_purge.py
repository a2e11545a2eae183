"""After a purge nothing of the study is left in either database but what is named here, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import Engine, MetaData, select, text

from node.domain import CleanUid
from node.errors import KeyMissing, NothingToDo
from node.gateway import Gateway
from node.identified.tables import Base as Wing
from node.ledger.tables import Base as Ledger
from node.testing.studies import a_study, write_study
from tests.orthanc_server import OrthancServer
from tests.rooms.api_site import WHY, Site, a_house
from tests.rooms.whole_office import DRAFT

PURGED = {
    "jobs", "objects", "summaries", "verdicts", "decisions", "headers", "watched", "cards", "card_tags",  # ledger
    "keys", "studies", "instances", "segment_studies", "identities", "quarantine", "by_hand", "outbox", "reveal_requests",  # wing
}  # fmt: skip
KEPT = {
    "audit": "the trail is only ever added to: who saw, sent and purged the study, by pseudonym and clean UID",
    "answers": "what was answered to an Idempotency-Key, clean UIDs among it, for 24 hours",
    "ours": "digests of the UIDs of what was delivered, so that it is no work when an archive sends it back",
    "tallies": "how readers answered, counted for a version of a pipeline",
    "fetches": "an Orthanc's own id of a study that is still to be fetched",
}
OF_NO_STUDY = {
    "rule_revisions", "rules_file", "bundle_versions", "tokens", "people", "sessions", "probes", "notices",  # ledger
    "masters", "segments", "changes",  # wing
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_house(tmp_path, reidentification={"approval": "second person"}) as home:
        home.rule_book.watch(DRAFT, who="os:test", reason="to see what it would do")
        yield Site(home=home, gateway=Gateway(home), folder=tmp_path, web=None)  # type: ignore[arg-type]


def mentions(engine: Engine, words: set[str]) -> dict[str, set[str]]:
    """Which of the words stand anywhere in which table."""
    metadata = MetaData()
    metadata.reflect(engine)
    found = {}
    with engine.connect() as connection:
        for table in metadata.tables.values():
            held = " ".join(str(tuple(row)) for row in connection.execute(select(table)))
            if some := {word for word in words if word in held}:
                found[table.name] = some
    return found


def words_of(site: Site, study: str) -> set[str]:
    """All UIDs and ids by which the databases could know a study."""
    home = site.home
    jobs = home.jobs.of_study(study)
    written = [dcmread(path) for path in (home.studies / study).rglob("*.dcm")]
    return {
        study,
        *(job.id for job in jobs),
        *(job.route.series for job in jobs),
        *(one.sop_instance_uid for job in jobs for one in home.jobs.objects_of(job)),
        *(str(ds.SOPInstanceUID) for ds in written),
        *(str(ds.PatientID) for ds in written),
        str(site.sources[study].StudyInstanceUID),
    }


def test_every_table_is_named_as_purged_or_kept() -> None:
    """A new table fails here until somebody has decided, and said in docs/operations.md."""
    tables = {*Ledger.metadata.tables, *Wing.metadata.tables}

    assert tables == PURGED | set(KEPT) | OF_NO_STUDY
    assert len(tables) == len(PURGED) + len(KEPT) + len(OF_NO_STUDY)


def test_after_a_purge_nothing_of_the_study_is_left_but_what_is_named(site: Site) -> None:
    home = site.home
    study, other = site.arrives(*a_study("CT", slices=4, rows=64, patient=1)), site.arrives(*a_study("CT", slices=4, rows=64, patient=4))
    refused = site.arrives(*a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES"))
    site.works_off()
    [job], [kept] = home.jobs.of_study(study), home.jobs.of_study(other)
    home.answer(job.id, "accept", reason="artifact", who="dr")
    home.reveal_study(study, WHY)
    home.mask_by_hand(refused, home.review.pictures(CleanUid(refused), site.folder / "shown")[0].instance, [(0, 0, 8, 8)], WHY)
    words = words_of(site, study) | words_of(site, refused)
    before = {**mentions(home.ledger, words), **mentions(home.wing, words)}
    assert before.keys() >= PURGED  # else this test would say nothing of one

    site.gateway.purge(CleanUid(study), CleanUid(refused))

    after = {**mentions(home.ledger, words), **mentions(home.wing, words)}
    assert set(after) == {"audit"}
    assert not [path for path in home.clean.rglob("*") if any(word in str(path) for word in words)]
    assert home.verdicts.rates()["works", "1.0.0"].accept == 1
    assert [one.id for one in home.jobs.all()] == [kept.id]
    assert home.jobs.summary_of(kept.id)


def test_what_retention_forgets_is_purged_alike_and_stays_for_replay_only(site: Site) -> None:
    study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
    site.works_off()
    words = words_of(site, study)
    home = site.home
    with home.wing.begin() as connection:
        connection.execute(text("UPDATE studies SET first_arrival = :then, last_arrival = :then"), {"then": "2020-01-01 00:00:00.000000"})

    assert site.gateway.expire() == 1

    assert set(mentions(home.ledger, words)) == {"audit", "headers", "watched"}
    assert mentions(home.wing, words) == {}


def test_a_study_that_is_sent_again_after_its_purge_is_analysed_again(site: Site) -> None:
    images = a_study("CT", slices=4, rows=64, patient=1)
    study = site.arrives(*images)
    site.works_off()
    site.gateway.purge(CleanUid(study))
    shutil.rmtree(site.folder / "pacs")

    write_study(images, site.folder / "again")
    site.home.take_folder(site.folder / "again")
    site.works_off()

    [job] = site.home.jobs.of_study(study)
    assert site.home.jobs.summary_of(job.id)["analysed"]
    assert list((site.folder / "pacs").rglob("*.dcm"))
    assert site.home.studies_back() == []


def test_a_result_that_an_archive_sends_back_after_the_purge_is_no_work(site: Site) -> None:
    study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
    site.works_off()
    site.gateway.purge(CleanUid(study))
    delivered = list((site.folder / "pacs").rglob("*.dcm"))
    assert delivered

    with pytest.raises(NothingToDo):
        site.home.take_folder(site.folder / "pacs")

    assert site.home.arrivals.of([CleanUid(study)]) == []
    assert site.home.jobs.is_ours(str(dcmread(delivered[0]).SOPInstanceUID))


def test_results_that_are_alone_in_an_orthanc_after_the_purge_are_not_fetched(tmp_path: Path, orthanc: OrthancServer) -> None:
    with a_house(tmp_path, orthancs={"archive": {"url": orthanc.url}}) as home:
        site = Site(home=home, gateway=Gateway(home), folder=tmp_path, web=None)  # type: ignore[arg-type]
        study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
        site.works_off()
        site.gateway.purge(CleanUid(study))
        delivered = [orthanc.upload(path.read_bytes()) for path in (tmp_path / "pacs").rglob("*.dcm")]

        [source] = home.orthanc_sources(home.vault.writer("orthanc")).values()
        taken = source.fetch_study(delivered[0]["ParentStudy"])
        source.close()

        assert taken == 0
        assert home.arrivals.of([CleanUid(study)]) == []


def test_what_an_earlier_purge_left_in_the_ledger_goes_when_the_gateway_starts(site: Site) -> None:
    study, here = site.arrives(*a_study("CT", slices=4, rows=64, patient=1)), site.arrives(*a_study("CT", slices=4, rows=64, patient=4))
    site.works_off()
    words = words_of(site, study)
    site.home.intake.purge(CleanUid(study))  # the wing forgot it, and the ledger did not
    assert "jobs" in mentions(site.home.ledger, words)

    site.gateway.chores()

    assert set(mentions(site.home.ledger, words)) == {"audit"}
    assert site.home.jobs.studies() == {here}


def test_what_a_worker_writes_about_a_study_that_was_purged_meanwhile_goes_too(site: Site) -> None:
    study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
    while site.gateway.settle():
        pass
    job = site.home.jobs.claim("a worker", 60)
    assert job is not None
    site.gateway.purge(CleanUid(study))
    (site.home.results / job.id).mkdir(parents=True)  # the worker ends what it had begun
    (site.home.results / job.id / "SR.dcm").write_bytes(b"")

    assert not site.home.jobs.done(job, [], {"analysed": True}, worker="a worker")
    site.gateway.expire()

    assert not (site.home.results / job.id).exists()


@pytest.mark.parametrize("step", ["its identity is sealed", "its job is there"])
def test_a_study_that_is_purged_while_it_is_made_clean_does_not_come_back(site: Site, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """By another process: a page or a command."""
    home = site.home
    study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
    words = words_of(site, study)
    steps = {"its identity is sealed": (home.deidentifier._identities, "put"), "its job is there": (home.jobs, "submit")}
    where, name = steps[step]
    goes_on = getattr(where, name)

    def purged_just_now(*args: object) -> object:
        monkeypatch.undo()
        Gateway(home).purge(CleanUid(study))
        return goes_on(*args)

    monkeypatch.setattr(where, name, purged_just_now)
    site.gateway.settle()

    with pytest.raises(KeyMissing):
        home.keyring.existing_key(CleanUid(study))
    assert mentions(home.wing, words) == {}
    assert set(mentions(home.ledger, words)) == {"audit"}
    assert not (home.studies / study).exists()
    assert site.gateway.settle() == 0


def test_a_study_that_is_purged_while_its_source_counts_it_does_not_come_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    home = site.home
    study = site.arrives(*a_study("CT", slices=2, rows=64, patient=1))
    monkeypatch.setattr(home.intake, "uncounted", lambda: [(CleanUid(study), str(site.sources[study].StudyInstanceUID))])
    monkeypatch.setattr(home, "instances_at_source", lambda _original: site.gateway.purge(CleanUid(study)))

    site.gateway.count()

    assert home.arrivals.of([CleanUid(study)]) == []


def test_what_was_taken_away_from_a_folder_goes_and_the_folder_can_be_made_clean_again(site: Site) -> None:
    home = site.home
    write_study(a_study("CT", slices=2, rows=64, patient=1), site.folder / "in")
    for out in ("first", "second"):
        home.folders().deidentify(site.folder / "in", site.folder / out)
        [sealed] = home.sealed_folders.iterdir()
        assert [*sealed.iterdir()]
        if out == "first":
            site.gateway.purge(CleanUid(sealed.name))
            assert not sealed.exists()

    again = home.folders().reidentify(site.folder / "second", site.folder / "again")

    assert (again["restored"], again["refused"]) == (2, 0)


def test_a_study_whose_purge_can_not_be_written_down_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    study = site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
    site.works_off()
    monkeypatch.setattr(site.home.trail, "record_all", lambda _events: (_ for _ in ()).throw(OSError("the disk is full")))

    with pytest.raises(OSError, match="full"):
        site.gateway.purge(CleanUid(study))

    assert site.home.keyring.existing_key(CleanUid(study))
    assert site.home.jobs.of_study(study)
