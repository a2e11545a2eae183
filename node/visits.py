"""A study on a visit: handed in over HTTP, looked at at once, and forgotten when the answer is out.

It takes the same path as every study (de-identified, routed, analysed by a confined worker, named again), but no vault, job or result
is kept of it: only the audit trail remembers that it was looked at.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from node import log
from node.assembly import House, now
from node.audit import Action, AuditEvent, Event, Outcome
from node.bundle import Bundle
from node.companions import channels_of, inputs_of, wanted_by
from node.domain import Channel, Job, Origin, Role, Route, Series, Study
from node.errors import (
    IdentityConflict,
    InstanceUnreadable,
    NobodyFree,
    SopClassRefused,
    StudyRefused,
    UploadRefused,
)
from node.imaging.build import frames_in
from node.imaging.decode import is_image
from node.imaging.plain import SOP_CLASS, as_dicom, decoded
from node.inference import node_uid
from node.router import RuleSet, decide, routes_for
from node.uploads import Given, Kind, Upload
from node.waiting_room import Crew, WaitingRoom

_log = log.get(__name__)

MOST_SERIES = 4  #: of a study, tried one after the other until one is analysed
#: refused for what was sent, not for what it shows
BAD_INPUT = (InstanceUnreadable, IdentityConflict, SopClassRefused)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Who asks, and for what."""

    upload: Upload
    who: str
    peer: str
    what: str
    capture: bool
    nobody_listens: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What is said of a visit. `pipeline` and `model` are empty when the study was refused before one was chosen."""

    pipeline: str = ""
    model: Mapping[str, str] = field(default_factory=dict)  #: name, version, digest
    summary: Mapping[str, Any] = field(repr=False)  #: as `inference` gives it; of a refusal `analysed`, `reason`
    rule: str = ""  #: that chose the pipeline; empty: whoever asked did
    others: Sequence[str] = ()  #: pipelines that the rules would have chosen too
    untrained: Sequence[str] = ()  #: labels of which the model says nothing
    capture: bytes = field(default=b"", repr=False)  #: Part 10, without a name
    named_capture: bytes = field(default=b"", repr=False)  #: the same under the names that came


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What is to be done: one pipeline, and the series that may be for it, the likeliest first."""

    pipeline: str
    bundle: Bundle
    series: Sequence[Series]
    rule: str = ""
    reasons: Sequence[str] = ()
    others: Sequence[str] = ()


class Visits:
    """Receives studies for a visit, several at a time; their models run one after the other in workers of their own.

    Parameters
    ----------
    fallback
        Rules for a node that has none.
    """

    def __init__(self, house: House, fallback: Path) -> None:
        chosen = house.settings.predict
        self._house, self._fallback = house, fallback
        self._folder = house.clean / "visits"
        self._results = self._folder / "results"
        self._seats = threading.BoundedSemaphore(chosen.most_at_once)
        self._room = WaitingRoom(now)
        self._crew = Crew(self._room, self._runner, idle_s=chosen.idle_s)
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed

    def close(self) -> None:
        """End the workers, and leave nothing."""
        self._crew.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """A place for one request, from its first byte to its answer. Raises NobodyFree when all are taken."""
        if not self._seats.acquire(blocking=False):
            raise NobodyFree
        try:
            yield
        finally:
            self._seats.release()

    def examine(
        self,
        upload: Upload,
        *,
        who: str,
        peer: str = "",
        what: str = "predict",
        capture: bool = False,
        nobody_listens: Callable[[], bool] = lambda: False,
    ) -> Examined:
        """Look at an upload and forget it. Returns when that is done and written down.

        Parameters
        ----------
        who, peer, what
            Who asks, from where, and by which route: for the audit trail.
        capture
            The Secondary Capture is wanted.
        nobody_listens
            Whoever asked is gone: what has not begun need not begin.

        Raises
        ------
        UploadRefused, NobodyFree, PredictionFailed
            Nothing was kept, and that too is in the audit trail.
        """
        asked = _Asked(upload=upload, who=who, peer=peer, what=what, capture=capture, nobody_listens=nobody_listens)
        token = secrets.token_hex(8)
        folder = self._folder / token
        folder.mkdir(parents=True, mode=0o700)
        about: dict[str, str] = {}
        try:
            try:
                examined = self._examined(asked, token, folder, about)
            finally:
                self._forget(folder, self._results / token)
        except Exception as why:
            self._remember(asked, about, Outcome.SERIOUS_FAILURE, type(why).__name__)
            raise
        by = f" by {examined.pipeline} {examined.model['version']}" if examined.pipeline else ""
        self._remember(asked, about, Outcome.SUCCESS, f"{'' if examined.summary['analysed'] else 'not '}analysed{by}")
        return examined

    def pipelines(self) -> list[str]:
        """What may be named as `pipeline`."""
        return sorted(self._house.bundles)

    # --- the path ---------------------------------------------------------------------------------------------------------------
    def _examined(self, asked: _Asked, token: str, folder: Path, about: dict[str, str]) -> Examined:
        upload = asked.upload
        bundle = self._named(upload.pipeline) if upload.pipeline else None
        picture = upload.files[0].kind is not Kind.DICOM
        about["files"] = str(len(upload.files))
        if picture:
            if bundle is None:
                raise UploadRefused("A picture does not say what it shows: name the pipeline.", pipelines=self.pipelines())
            if why := _no_picture_for(bundle, upload):
                return self._refused(why, upload.pipeline, bundle)
        files = _wrapped(upload, bundle) if picture and bundle else [one.file for one in upload.files]
        visitor = self._house.visitor(folder)
        try:
            study = visitor.deidentified(files, Origin(channel=Channel.UPLOAD, received_at=now(), peer=asked.peer))
        except BAD_INPUT as why:
            raise UploadRefused(f"{why.message} {why.detail}".strip()) from None
        except StudyRefused as why:
            return self._refused(f"{why.message} {why.detail}".strip(), upload.pipeline, bundle)
        about |= {"study": study.ref.study, "patient": study.pseudonym}
        choice = self._chosen(study, upload.pipeline, bundle)
        examined = self._first_analysed(asked, token, study, choice, picture=picture)
        if not asked.capture or not examined.capture:
            return examined
        return replace(examined, named_capture=visitor.name_again(examined.capture, study.ref.study))

    def _first_analysed(self, asked: _Asked, token: str, study: Study, choice: _Choice, *, picture: bool) -> Examined:
        """The result of the first series that is analysed; of the likeliest one when none is."""
        first: Examined | None = None
        for series in choice.series[:MOST_SERIES]:
            examined = self._analysed(asked, self._job(asked.upload, token, study, series, choice, picture=picture), choice)
            if examined.summary["analysed"]:
                return examined
            first = first or examined
        assert first is not None
        return first

    def _analysed(self, asked: _Asked, job: Job, choice: _Choice) -> Examined:
        wait_s = self._house.settings.predict.wait_s
        made, summary = self._room.carried_out(job, wait_s=wait_s, nobody_listens=asked.nobody_listens)
        captures = [one.object.path for one in made if one.object.role is Role.SC] if asked.capture else []
        return Examined(
            pipeline=choice.pipeline,
            model=_model(choice.bundle),
            summary=summary,
            rule=choice.rule,
            others=choice.others,
            untrained=untrained(choice.bundle),
            capture=captures[0].read_bytes() if captures else b"",
        )

    def _job(self, upload: Upload, token: str, study: Study, series: Series, choice: _Choice, *, picture: bool) -> Job:
        route = Route(
            rule=choice.rule, series=series.series_instance_uid, pipeline=choice.pipeline, destinations=(), reasons=tuple(choice.reasons)
        )
        return Job(
            id=token,
            study=study.ref,
            pseudonym=study.pseudonym,
            folder=study.folder,
            route=route,
            algorithm=choice.bundle.algorithm,
            inputs=inputs_of(study, series, wanted_by(choice.bundle)),
            told=upload.told,
            picture=picture,
        )

    def _refused(self, why: str, pipeline: str, bundle: Bundle | None) -> Examined:
        summary = {"analysed": False, "reason": why, "label": None, "confidence": None, "findings": [], "notes": []}
        return Examined(pipeline=pipeline, model=_model(bundle) if bundle else {}, summary=summary)

    # --- choosing ---------------------------------------------------------------------------------------------------------------
    def _named(self, pipeline: str) -> Bundle:
        try:
            return self._house.bundles[pipeline]
        except KeyError:
            raise UploadRefused("There is no pipeline of that name.", pipelines=self.pipelines()) from None

    def _chosen(self, study: Study, pipeline: str, bundle: Bundle | None) -> _Choice:
        if bundle is not None:
            return _Choice(pipeline=pipeline, bundle=bundle, series=_for(bundle, study), reasons=("named by whoever asks",))
        rules, needs = self._rules(), self._house.needs
        routes = routes_for(study, rules, needs)
        if not routes:
            nearest = sorted(decide(study, rules, needs), key=lambda d: sum(reason.met for reason in d.reasons))  # last
            unmet = {d.rule.name: next(reason.words for reason in d.reasons if not reason.met) for d in nearest}
            raise UploadRefused("No rule meets the study: name the pipeline.", pipelines=self.pipelines(), rules=unmet)
        first = routes[0]
        mine = [route.series for route in routes if route.pipeline == first.pipeline]
        by_uid = {series.series_instance_uid: series for series in study}
        others = sorted({route.pipeline for route in routes} - {first.pipeline})
        return _Choice(
            pipeline=first.pipeline,
            bundle=self._named(first.pipeline),
            series=[by_uid[uid] for uid in mine],
            rule=first.rule,
            reasons=first.reasons,
            others=others,
        )

    def _rules(self) -> RuleSet:
        return self._house.rules if self._house.rules.rules else self._house.rules_of(self._fallback)

    # --- around it --------------------------------------------------------------------------------------------------------------
    def _runner(self) -> Any:
        self._results.mkdir(parents=True, exist_ok=True)
        (self._results / "node_uid").write_text(node_uid(self._house.results))  # what it writes says that it comes from this node
        return self._house.runner_for(self._room, self._results)

    def _forget(self, *folders: Path) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                _log.error("a visit left something behind; delete DATA_DIR/clean/visits", extra={"folder": folder.name})

    def _remember(self, asked: _Asked, about: Mapping[str, str], outcome: Outcome, what: str) -> None:
        """DICOM Instances Accessed (PS3.15 A.5.3.6)."""
        self._house.trail.record(
            AuditEvent(
                event=Event.INSTANCES_ACCESSED,
                action=Action.READ,
                outcome=outcome,
                who=asked.who,
                peer=asked.peer,
                study=about.get("study", ""),
                patient=about.get("patient", ""),
                what=f"{asked.what}: {what}",
                facts={"files": about.get("files", "0"), "kept": "nothing"},
            )
        )


def _model(bundle: Bundle) -> dict[str, str]:
    return {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}


def untrained(bundle: Bundle) -> list[str]:
    """The labels that a bundle names and was not trained for."""
    return [label for label in bundle.labels if label not in bundle.node.get("trained", bundle.labels)]


def _no_picture_for(bundle: Bundle, upload: Upload) -> str:
    """Why the bundle's pipeline can't read a plain picture; empty when it can."""
    modality = _modality(bundle, upload)
    if modality == "CT":
        return "A plain picture holds no Hounsfield units, which the model reads; send the DICOM series."
    if modality not in SOP_CLASS:
        return f"The model reads {modality or 'no modality that it names'}, which a plain picture can't stand for; send DICOM."
    return ""


def _modality(bundle: Bundle, upload: Upload) -> str:
    """As whoever asks says, else the first that the bundle names. Raises UploadRefused for one that the bundle does not read."""
    known = [str(one) for one in bundle.intended_use.get("modality", ())]
    if upload.modality and upload.modality not in known:
        raise UploadRefused(f"The pipeline does not read pictures of that modality; it reads {', '.join(known) or 'none that it names'}.")
    return upload.modality or next(iter(known), "")


def _wrapped(upload: Upload, bundle: Bundle) -> list[BinaryIO]:
    """Pictures as images of what the bundle declares: its modality, its body part, and its view where it knows a single one."""
    use = bundle.intended_use
    views = use.get("view", ())
    pictures = [decoded(_read(one)) for one in upload.files]
    parts = as_dicom(
        pictures,
        modality=_modality(bundle, upload),
        body_part=str(next(iter(use.get("body_part", ())), "")),
        view=str(views[0]) if len(views) == 1 else "",
    )
    return [BytesIO(part) for part in parts]


def _read(given: Given) -> bytes:
    given.file.seek(0)
    return given.file.read()


def _for(bundle: Bundle, study: Study) -> list[Series]:
    """The series with images, those first that nothing speaks against, then the largest. Raises UploadRefused when there are none."""
    modalities, wanted = bundle.intended_use.get("modality", ()), wanted_by(bundle)

    def rank(series: Series) -> tuple[bool, list[bool], bool, int]:
        lacks = [not reason.met for reason in channels_of(study, series, wanted)[1]] if wanted else []
        return bool(modalities) and series.modality not in modalities, lacks, bool(bundle.refusal(series.header)), -frames_in(series)

    found = sorted((one for one in study if any(map(is_image, one.instances))), key=rank)
    if not found:
        raise UploadRefused("The study holds no image.")
    return found
