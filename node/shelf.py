"""The versions of every pipeline's bundle, side by side: which one is active, which run in the shadow, which are retired.

`<folder>/<pipeline>/<version>/` holds a bundle. Where nobody has decided, the newest intact version is active. The first decision about
a pipeline fixes what was active until then, so that a version that is installed later waits for somebody to promote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node import log
from node.audit import Action, AuditEvent, Event, Record, Type, written_first
from node.bundle import Bundle, bundles_in
from node.domain import VersionState
from node.errors import BundleInvalid, NodeError, VersionRefused
from node.ledger.versions import Entry, History, VersionDecision, VersionDecisions

_log = log.get(__name__)

LONGEST_REASON = 400
Signature = tuple[tuple[str, int, int], ...]  #: name, size and time of every file


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One version of a pipeline as it lies in its folder."""

    pipeline: str
    version: str
    bundle: Bundle | None  #: None when it can't be opened
    trouble: str = ""  #: why not

    @property
    def digest(self) -> str:
        return self.bundle.digest if self.bundle else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An installed version, its state, and the decision it rests on."""

    installed: Installed
    state: VersionState
    decided: VersionDecision | None  #: None: nobody has decided about this version
    trouble: str = ""  #: why it does not run although its state says so

    @property
    def runs(self) -> Bundle | None:
        """The bundle, when it may be run."""
        return None if self.trouble or self.state is VersionState.RETIRED else self.installed.bundle


# --- deciding: pure -----------------------------------------------------------------------------------------------------
def standings(installed: Sequence[Installed], history: History) -> list[Standing]:
    """The state of each version of one pipeline; `installed` has the newest last."""
    latest = {one.version: one for one in history}
    chosen = next((one.version for one in reversed(history) if one.state is VersionState.ACTIVE), None)
    if chosen is None:
        chosen = next((one.version for one in reversed(installed) if one.bundle), None)
    found = []
    for one in installed:
        decided = latest.get(one.version)
        if one.version == chosen:
            state = VersionState.ACTIVE
        else:
            shadow = decided is not None and decided.state is VersionState.SHADOW
            state = VersionState.SHADOW if shadow else VersionState.RETIRED
        trouble = one.trouble
        if not trouble and decided and state is not VersionState.RETIRED and decided.digest != one.digest:
            trouble = "its weights are not those that were decided about; decide again"
        found.append(Standing(installed=one, state=state, decided=decided, trouble=trouble))
    return found


def before_the_active_one(history: History) -> str:
    """The version that a rollback brings back; empty when there is none. A rollback takes its step back out of the story."""
    path: list[str] = []
    for one in history:
        if one.state is not VersionState.ACTIVE:
            continue
        if one.step == "rollback" and one.version in path:
            while path[-1] != one.version:
                path.pop()
        elif not path or path[-1] != one.version:
            path.append(one.version)
    return path[-2] if len(path) > 1 else ""


def folders_in(folder: Path) -> list[Path]:
    """`<pipeline>/<version>` below a folder of bundles, the newest version of a pipeline last."""
    return [bundle for bundle in bundles_in(folder) if bundle.parents[1] == folder]


# --- the shelf ----------------------------------------------------------------------------------------------------------
class Shelf:
    """What lies in the folder of bundles and what was decided about it, as both are at this moment.

    Parameters
    ----------
    may_run
        Whether a pipeline's bundle can be run here. Other bundles help some room that uses the newest one by itself, and nothing is
        decided about them.
    alone
        The active version runs without its shadows.
    """

    def __init__(
        self,
        folder: Path,
        decisions: VersionDecisions,
        record: Record,
        *,
        may_run: Callable[[str, Bundle], bool] = lambda _name, _bundle: True,
        alone: bool = False,
    ) -> None:
        self._folder = folder
        self._decisions = decisions
        self._record = record
        self._may_run = may_run
        self._alone = alone
        self._opened: dict[Path, tuple[Signature, Installed]] = {}

    # --- questions ------------------------------------------------------------------------------------------------------
    def all(self) -> dict[str, list[Standing]]:
        """Every pipeline's versions, the newest last."""
        decisions = self._decisions.all()
        return {name: standings(versions, decisions.get(name, [])) for name, versions in self._installed().items()}

    def active(self) -> dict[str, Bundle]:
        """The bundle of each pipeline whose results go home."""
        return {
            name: one.runs
            for name, versions in self.all().items()
            for one in versions
            if one.state is VersionState.ACTIVE and one.runs is not None and self._may_run(name, one.runs)
        }

    def damaged(self) -> dict[str, str]:
        """Pipelines of which no version answers, because the one that should can't be run: why not."""
        found = {}
        for name, versions in self.all().items():
            meant = next((one for one in versions if one.state is VersionState.ACTIVE), versions[-1])
            if meant.trouble:
                found[name] = meant.trouble
        return found

    def shadows(self, pipeline: str) -> list[Bundle]:
        """The bundles that run beside the active one."""
        if self._alone:
            return []
        bundles = [one.runs for one in self.all().get(pipeline, []) if one.state is VersionState.SHADOW]
        return [bundle for bundle in bundles if bundle is not None and self._may_run(pipeline, bundle)]

    # --- decisions ------------------------------------------------------------------------------------------------------
    def promote(self, pipeline: str, version: str, *, who: str, reason: str) -> None:
        """The version becomes the active one; the one before retires. Raises VersionRefused."""

        def chosen(one: Standing, active: Standing | None, _history: History) -> list[Entry]:
            if one is active and not one.trouble:
                raise VersionRefused("it is the active one already", pipeline=pipeline, version=version)
            return self._activate(one, active, "promote", who, reason)

        self._decide(pipeline, lambda _: version, chosen, "promoted", who, reason)

    def shadow(self, pipeline: str, version: str, *, who: str, reason: str) -> None:
        """The version runs beside the active one and delivers nothing. Raises VersionRefused."""
        self._set(pipeline, version, VersionState.SHADOW, "shadow", who, reason)

    def retire(self, pipeline: str, version: str, *, who: str, reason: str) -> None:
        """The version does not run any more. Raises VersionRefused."""
        self._set(pipeline, version, VersionState.RETIRED, "retire", who, reason)

    def rollback(self, pipeline: str, *, who: str, reason: str) -> str:
        """The version that was active before becomes active again; returns it. Raises VersionRefused."""

        def before(history: History) -> str:
            if not (version := before_the_active_one(history)):
                raise VersionRefused("no other version was active before; promote one by its version", pipeline=pipeline)
            return version

        def chosen(one: Standing, active: Standing | None, _history: History) -> list[Entry]:
            return self._activate(one, active, "rollback", who, reason)

        return self._decide(pipeline, before, chosen, "rolled back to", who, reason)

    # --- below ----------------------------------------------------------------------------------------------------------
    def _set(self, pipeline: str, version: str, state: VersionState, step: str, who: str, reason: str) -> None:
        def chosen(one: Standing, active: Standing | None, history: History) -> list[Entry]:
            entries = [_entry(one, state, step, who, reason)]
            if one is not active:
                return entries
            others = [other for other in self._installed()[pipeline] if other.bundle and other.version != version]
            if history or not others:
                why = "it is the active one: promote another version first" if others else "it is the only one that can be active"
                raise VersionRefused(why, pipeline=pipeline, version=version)
            heir = standings(others, [])[-1]  # nobody has decided yet: the next newest was active before this one was installed
            return [*entries, _entry(heir, VersionState.ACTIVE, "found", who, f"active in place of {version}: {reason}")]

        self._decide(pipeline, lambda _: version, chosen, {"shadow": "put in the shadow", "retire": "retired"}[step], who, reason)

    def _activate(self, one: Standing, active: Standing | None, step: str, who: str, reason: str) -> list[Entry]:
        entries = []
        if active and active is not one:
            entries.append(_entry(active, VersionState.RETIRED, step, who, reason))
        return [*entries, _entry(one, VersionState.ACTIVE, step, who, reason)]

    def _decide(
        self,
        pipeline: str,
        which: Callable[[History], str],
        entries_for: Callable[[Standing, Standing | None, History], Sequence[Entry]],
        what: str,
        who: str,
        reason: str,
    ) -> str:
        """Record it, and add the entries, after what was active until now where that is written nowhere; returns the version."""
        _check_reason(reason)
        decided = ""

        def choose(history: History) -> list[Entry]:
            nonlocal decided
            decided = which(history)
            now = standings(self._versions_of(pipeline), history)
            one = next((one for one in now if one.installed.version == decided), None)
            if one is None:
                known = ", ".join(one.installed.version for one in now)
                raise VersionRefused(f"that version is not installed; installed: {known}", pipeline=pipeline, version=decided)
            active = next((one for one in now if one.state is VersionState.ACTIVE), None)
            entries = list(entries_for(one, active, history))
            if not history and active and all(entry.version != active.installed.version for entry in entries if entry.step == "found"):
                entries.insert(0, _entry(active, VersionState.ACTIVE, "found", "", "the newest one installed"))
            return entries

        choose(self._decisions.all().get(pipeline, []))
        asked = decided

        def choose_the_same(history: History) -> list[Entry]:
            entries = choose(history)
            if decided != asked:
                raise VersionRefused("somebody else decided meanwhile; look again", pipeline=pipeline, version=asked)
            return entries

        event = AuditEvent(
            event=Event.SECURITY_ALERT,
            type=Type.SOFTWARE_CONFIGURATION,
            action=Action.UPDATE,
            who=who,
            what=f"{pipeline}: {what} {asked}" if what == "rolled back to" else f"{pipeline} {asked}: {what}",
            facts={"reason": reason, "digest": self._opened_version(pipeline, asked).digest},
        )
        with written_first(self._record, event):
            self._decisions.decide(pipeline, choose_the_same)
        return asked

    def _versions_of(self, pipeline: str) -> list[Installed]:
        installed = self._installed()
        if pipeline not in installed:
            raise VersionRefused(f"no bundle of that name is installed; installed: {', '.join(installed) or 'none'}", pipeline=pipeline)
        bundles = [one.bundle for one in installed[pipeline] if one.bundle is not None]
        if bundles and not any(self._may_run(pipeline, bundle) for bundle in bundles):
            raise VersionRefused(
                "the node has no code to run it as a pipeline: whoever uses it takes its newest version", pipeline=pipeline
            )
        return installed[pipeline]

    def _opened_version(self, pipeline: str, version: str) -> Installed:
        return next(one for one in self._installed()[pipeline] if one.version == version)

    def _installed(self) -> Mapping[str, list[Installed]]:
        found: dict[str, list[Installed]] = {}
        for folder in folders_in(self._folder):
            found.setdefault(folder.parent.name, []).append(self._open(folder))
        return found

    def _open(self, folder: Path) -> Installed:
        """The bundle, its digests checked once for each state of its files."""
        signature = _signature(folder)
        known = self._opened.get(folder)
        if known is None or known[0] != signature:
            known = self._opened[folder] = signature, _opened(folder)
            if known[1].trouble:
                _log.error("a bundle is left out", extra={"folder": f"{folder.parent.name}/{folder.name}", "because": known[1].trouble})
        return known[1]


def _opened(folder: Path) -> Installed:
    pipeline, version = folder.parent.name, folder.name
    try:
        bundle = Bundle.open(folder)
        if bundle.version != version:
            raise BundleInvalid("the folder's name is not the version in metadata.json", bundle=version)
    except NodeError as why:
        return Installed(pipeline=pipeline, version=version, bundle=None, trouble=str(why))
    return Installed(pipeline=pipeline, version=version, bundle=bundle)


def _entry(one: Standing, state: VersionState, step: str, who: str, reason: str) -> Entry:
    if state is not VersionState.RETIRED and one.installed.bundle is None:
        raise VersionRefused(one.installed.trouble, pipeline=one.installed.pipeline, version=one.installed.version)
    return Entry(version=one.installed.version, digest=one.installed.digest, state=state, step=step, who=who, reason=reason)


def _signature(folder: Path) -> Signature:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise VersionRefused(f"say why with --reason, in one line of at most {LONGEST_REASON} letters")
