"""What stands behind the pages of rules, models and destinations: the parts of a house, put as those pages ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node.assembly import House
from node.domain import Channel
from node.errors import VersionRefused
from node.ledger.comparison import Comparison, compare
from node.ledger.shown import SourceShown
from node.profiles import SOP_CLASSES
from node.rules.form import words
from node.web.desks import MOST_WATCHED, Gets, RulesDesk, SendingDesk


def rules_desk(home: House) -> RulesDesk:
    """The rule book of the house, and its past."""

    def watched(draft: int) -> tuple[int, list[dict[str, Any]]]:
        return home.watched.studies(draft), home.watched.of_draft(draft, limit=MOST_WATCHED)

    return RulesDesk(
        book=home.rule_book,
        words=lambda: words(home.needs, list(home.settings.destinations)),
        try_on=home.try_rules,
        replay=home.replay,
        watched=watched,
        second_person=home.settings.routing.approval == "second person",
    )


def compared(home: House, pipeline: str, a: str, b: str) -> Comparison:
    """Two versions over the series that both have read. Raises VersionRefused."""
    known = [one.installed.version for one in home.shelf.all().get(pipeline, [])]
    readings = []
    for version in (a, b):
        readings.append(home.jobs.readings(pipeline, version))
        if not readings[-1] and version not in known:
            raise VersionRefused(f"it is not installed and has read nothing; installed: {', '.join(known) or 'none'}", version=version)
    return compare(*readings)


def sending_desk(home: House) -> SendingDesk:
    """Destinations and sources."""

    def gets() -> dict[str, Gets]:
        probed = home.probes.all()
        return {
            name: Gets(
                profile=_profile(home.settings.destinations[name].get("profile", "default")),
                roles=[role.value for _, roles in kinds for role in roles],
                instead=[one.removeprefix(f"{name}: ") for one in said],
                packing=home.packing(name),
                probed_at=probed[name].at if name in probed else None,
            )
            for name in home.destinations
            for kinds, said in [home.kinds_for([name])]
        }

    def probe(name: str) -> list[tuple[str, bool]] | None:
        accepted = home.probe(name, [uid for classes in SOP_CLASSES.values() for uid in classes])
        if accepted is None:
            return None
        return [(role.value, any(uid in accepted for uid in classes)) for role, classes in SOP_CLASSES.items()]

    return SendingDesk(gets=gets, probe=probe, forget=home.forget_probe, sources=lambda: _sources(home))


def _profile(chosen: Any) -> str:
    return chosen if isinstance(chosen, str) else ", ".join(map(str, chosen))


def _sources(home: House) -> Sequence[SourceShown]:
    """Those of which something came, then those that the settings name and that sent nothing yet."""
    seen = home.arrivals.sources()
    named = [(Channel.DIMSE, one.ae_title) for one in home.settings.scp.callers] + [
        (Channel.ORTHANC, name) for name in home.settings.orthancs
    ]
    silent = [pair for pair in named if all((one.channel, one.name) != (pair[0].value, pair[1]) for one in seen)]
    return [*seen, *(SourceShown(channel=channel.value, name=name, studies=0, last=None) for channel, name in silent)]
