"""Versions side by side: who is active, who decided, and how to come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.audit import AuditEvent, Event, Type
from node.bundle import write_sums
from node.domain import VersionState
from node.errors import VersionRefused
from node.ledger.versions import VersionDecisions
from node.shelf import Shelf
from tests.rooms.databases import sqlite
from tests.rooms.workbench import bundle


@dataclass
class Site:
    """A folder of bundles and a ledger; every question goes to a fresh shelf, as another process would ask."""

    root: Path
    events: list[AuditEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decisions = VersionDecisions(sqlite(self.root), lambda: datetime(2026, 3, 1, 8, tzinfo=UTC))
        self.kept = self.shelf

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.models, self.decisions, self.events.append, may_run=lambda name, _: name != "brain_mask")

    def install(self, *versions: str, pipeline: str = "works") -> Site:
        for version in versions:
            bundle(self.models, pipeline, version, weight=float(version.replace(".", "")))
        return self

    def states(self, pipeline: str = "works") -> dict[str, str]:
        found = {one.installed.version: one.state.value for one in self.shelf.all()[pipeline]}
        assert found == {one.installed.version: one.state.value for one in self.kept.all()[pipeline]}, (
            "a shelf that was there before sees it"
        )
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


EVE = {"who": "os:eve", "reason": "measured on last month's studies"}


def test_the_newest_is_active_where_nobody_has_decided(site: Site) -> None:
    site.install("1.9.0", "1.10.0")

    assert site.states() == {"1.9.0": "retired", "1.10.0": "active"}
    assert site.shelf.active()["works"].version == "1.10.0"
    assert site.shelf.shadows("works") == []

    site.install("2.0.0")
    assert site.states() == {"1.9.0": "retired", "1.10.0": "retired", "2.0.0": "active"}


def test_a_promoted_version_is_active_and_says_since_when_by_whom_and_why(site: Site) -> None:
    site.install("1.0.0", "1.1.0").shelf.promote("works", "1.0.0", **EVE)

    assert site.states() == {"1.0.0": "active", "1.1.0": "retired"}
    [active] = [one for one in site.shelf.all()["works"] if one.state is VersionState.ACTIVE]
    assert active.decided is not None
    assert (active.decided.who, active.decided.reason, active.decided.at) == (*EVE.values(), datetime(2026, 3, 1, 8, tzinfo=UTC))
    [event] = site.events
    assert (event.event, event.type, event.who) == (Event.SECURITY_ALERT, Type.SOFTWARE_CONFIGURATION, "os:eve")
    assert event.what == "works 1.0.0: promoted"
    assert event.facts == {"reason": EVE["reason"], "digest": active.installed.digest}


def test_a_version_that_is_installed_after_a_decision_waits_to_be_promoted(site: Site) -> None:
    site.install("1.0.0", "1.1.0").shelf.promote("works", "1.0.0", **EVE)

    site.install("2.0.0")

    assert site.states() == {"1.0.0": "active", "1.1.0": "retired", "2.0.0": "retired"}


def test_a_shadow_runs_beside_the_active_one_until_it_is_retired_or_promoted(site: Site) -> None:
    site.install("1.0.0", "1.1.0", "1.2.0").shelf.promote("works", "1.0.0", **EVE)
    for version in ("1.1.0", "1.2.0"):
        site.shelf.shadow("works", version, **EVE)
    assert [one.version for one in site.shelf.shadows("works")] == ["1.1.0", "1.2.0"]

    site.shelf.retire("works", "1.1.0", **EVE)
    assert [one.version for one in site.shelf.shadows("works")] == ["1.2.0"]

    site.shelf.promote("works", "1.2.0", **EVE)
    assert site.states() == {"1.0.0": "retired", "1.1.0": "retired", "1.2.0": "active"}


def test_the_newest_can_go_into_the_shadow_before_anybody_has_decided(site: Site) -> None:
    """Whoever tries a new version installs it and says so: the one before it is active again, and stays so."""
    site.install("1.0.0", "1.1.0").shelf.shadow("works", "1.1.0", **EVE)
    assert site.states() == {"1.0.0": "active", "1.1.0": "shadow"}

    site.install("3.0.0")
    assert site.states() == {"1.0.0": "active", "1.1.0": "shadow", "3.0.0": "retired"}
    [active] = [one for one in site.shelf.all()["works"] if one.state is VersionState.ACTIVE]
    assert active.decided is not None
    assert active.decided.reason == f"active in place of 1.1.0: {EVE['reason']}"


def test_rollback_goes_back_step_by_step(site: Site) -> None:
    site.install("1.0.0", "1.1.0", "1.2.0", "1.3.0")
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        site.shelf.promote("works", version, **EVE)

    back = [site.shelf.rollback("works", **EVE) for _ in range(3)]

    assert back == ["1.1.0", "1.0.0", "1.3.0"]  # the last was active before anybody decided
    assert site.states()["1.3.0"] == "active"
    with pytest.raises(VersionRefused, match="no other version was active before"):
        site.shelf.rollback("works", **EVE)
    site.shelf.promote("works", "1.2.0", **EVE)
    assert site.shelf.rollback("works", **EVE) == "1.3.0"
    assert list(site.states().values()).count("active") == 1


@pytest.mark.parametrize(
    ("decide", "because"),
    [
        (lambda shelf: shelf.promote("works", "9.9.9", **EVE), "not installed; installed: 1.0.0, 1.1.0"),
        (lambda shelf: shelf.promote("werks", "1.0.0", **EVE), "no bundle of that name is installed; installed: brain_mask, works"),
        (lambda shelf: shelf.promote("works", "1.1.0", **EVE), "active one already"),
        (lambda shelf: shelf.promote("brain_mask", "1.0.0", **EVE), "no code to run it as a pipeline"),
        (lambda shelf: shelf.promote("works", "1.0.0", who="os:eve", reason="  "), "say why with --reason"),
        (lambda shelf: shelf.promote("works", "1.0.0", who="os:eve", reason="two\nlines"), "say why with --reason"),
        (lambda shelf: shelf.rollback("works", **EVE), "no other version was active before"),
    ],
)
def test_what_can_not_be_decided_is_refused_with_what_to_do_and_changes_nothing(
    site: Site, decide: Callable[[Shelf], None], because: str
) -> None:
    site.install("1.0.0", "1.1.0").install("1.0.0", pipeline="brain_mask")

    with pytest.raises(VersionRefused, match=because):
        decide(site.shelf)

    assert site.decisions.all() == {}
    assert site.events == []


def test_there_is_always_an_active_one(site: Site) -> None:
    site.install("1.0.0")
    with pytest.raises(VersionRefused, match="the only one"):
        site.shelf.retire("works", "1.0.0", **EVE)
    site.install("1.1.0").shelf.promote("works", "1.0.0", **EVE)

    for decide in (site.shelf.shadow, site.shelf.retire):
        with pytest.raises(VersionRefused, match="promote another version first"):
            decide("works", "1.0.0", **EVE)

    assert site.states() == {"1.0.0": "active", "1.1.0": "retired"}


def damage(site: Site, version: str) -> None:
    weights = site.models / "works" / version / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")


def test_a_damaged_version_is_never_used_and_mended_it_is_back(site: Site) -> None:
    site.install("1.0.0", "1.1.0")
    whole = (site.models / "works" / "1.1.0" / "models" / "model.safetensors").read_bytes()
    damage(site, "1.1.0")
    assert site.states() == {"1.0.0": "active", "1.1.0": "retired"}
    with pytest.raises(VersionRefused, match=r"file=models/model\.safetensors"):
        site.shelf.promote("works", "1.1.0", **EVE)

    (site.models / "works" / "1.1.0" / "models" / "model.safetensors").write_bytes(whole)
    assert site.states() == {"1.0.0": "retired", "1.1.0": "active"}


def test_a_promoted_version_that_is_damaged_has_no_stand_in(site: Site) -> None:
    """Somebody chose it: another model would answer in its name."""
    site.install("1.0.0", "1.1.0").shelf.promote("works", "1.0.0", **EVE)
    damage(site, "1.0.0")

    assert site.states() == {"1.0.0": "active", "1.1.0": "retired"}
    assert site.shelf.active() == {}
    assert "file=models/model.safetensors" in site.shelf.damaged()["works"]

    site.shelf.promote("works", "1.1.0", **EVE)
    assert site.shelf.active()["works"].version == "1.1.0"
    assert site.shelf.damaged() == {}


def test_other_weights_under_a_version_that_was_decided_about_do_not_run(site: Site) -> None:
    site.install("1.0.0", "1.1.0").shelf.promote("works", "1.0.0", **EVE)
    site.shelf.shadow("works", "1.1.0", **EVE)
    for version in ("1.0.0", "1.1.0"):
        shutil.rmtree(site.models / "works" / version)
        bundle(site.models, "works", version, weight=77)

    assert site.shelf.active() == {}
    assert site.shelf.shadows("works") == []
    assert [one.trouble for one in site.shelf.all()["works"]] == 2 * ["its weights are not those that were decided about; decide again"]

    site.shelf.promote("works", "1.0.0", **EVE)
    assert site.shelf.active()["works"].version == "1.0.0"


def test_a_folder_that_is_not_named_after_its_version_is_not_used(site: Site) -> None:
    site.install("1.0.0")
    shutil.copytree(site.models / "works" / "1.0.0", site.models / "works" / "2.0.0")
    write_sums(site.models / "works" / "2.0.0")

    assert site.shelf.active()["works"].version == "1.0.0"
    assert "not the version in metadata.json" in site.shelf.all()["works"][1].trouble
