"""The worker's one act: a clean series becomes a volume, the pipeline finds, the writers write. No name, no key, no network."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from node import log
from node.bundle import GUEST, Bundle, bundles_in
from node.codes import Code
from node.companions import channels_of, wanted_by
from node.domain import CleanUid, Finding, Instance, Job, Result, Role, Series, Study, WrittenObject
from node.errors import GeometryRefused, JobFailed, NotAnalysed, OutsideIntendedUse, PixelsUnreadable
from node.header_text import zone_of
from node.imaging.beside import beside
from node.imaging.build import build_volume, images_of
from node.imaging.clinical import tell
from node.imaging.decode import frame_count, is_image, whole
from node.imaging.study import read_study
from node.imaging.volume import Beside, Volume
from node.interlock import Interlock
from node.ledger.payload import Made
from node.pipelines._any_bundle import kind_of
from node.pipelines.interface import Pipeline, Takes
from node.provenance import Provenance
from node.registry import Registry
from node.warm_models import Key, WarmModels
from node.writers import written

_log = log.get(__name__)

PIPELINES = "node.pipelines"
MOST_IMAGES = 64  #: images of one series that are analysed one by one
NORMAL = {"normal"}  #: labels that are no finding
_UID = re.compile(r"\d+(?:\.\d+)+")

Progress = Callable[[str], None]
Reads = Callable[[Volume], Result]  #: what a pipeline's model makes of a volume


def _silent(_step: str) -> None:
    pass


@dataclass(slots=True)
class _Watch:
    """Seconds of each step."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    step: str = ""
    since: float = 0.0

    def begins(self, step: str) -> None:
        now = time.perf_counter()
        if self.step:
            self.seconds[self.step] = round(self.seconds.get(self.step, 0) + now - self.since, 3)
        self.step, self.since = step, now
        if step:
            self.progress(step)


def carry_out(
    job: Job,
    *,
    clean_folder: Path,
    results_folder: Path,
    bundles_dir: Path,
    device: str,
    loaded: WarmModels,
    written_at: datetime,
    predecessor: tuple[str, str] | None = None,
    progress: Progress = _silent,
    room: str = PIPELINES,
) -> tuple[list[Made], dict[str, Any]]:
    """Carry out a job.

    Parameters
    ----------
    clean_folder
        The clean volume here; the job's folder lies below it.
    results_folder
        Objects are written to `<job id>/<ROLE>.dcm` below it, each flushed before it gets its name.
    loaded
        Models that this process holds warm.
    written_at
        The time the objects carry: the job's, so that a retry writes the same bytes.
    predecessor
        SOP Class and SOP Instance UID of the report that this result replaces.

    Returns
    -------
    The objects that the route asks for (only reports when the series was not analysed), and a summary in JSON values.

    Raises
    ------
    JobFailed, BundleDamaged, BundleInvalid, PluginBroken
        When the job can't be carried out here. That the series can't be analysed is a result, not a failure.
    """
    watch = _Watch(progress)
    watch.begins("read")
    study, given, series = _read(job, clean_folder)
    watch.begins("load")
    pipeline, model = _warm(job, bundles_dir, device, loaded, room)
    volume: Volume | None = None
    try:
        if why := pipeline.bundle.refusal(series.header):
            raise OutsideIntendedUse(why)
        of_volume = partial(_of_volume, others=_others(given, series, pipeline.bundle))
        find = _of_images if pipeline.takes is Takes.IMAGE else _of_picture if job.picture and len(series.instances) == 1 else of_volume
        volume, result = find(partial(_run, pipeline, model, Interlock(bundles_dir), job.told), series, watch)
    except NotAnalysed as why:
        result = Result(analysed=False, reason=str(why))
    _check(result, job)
    result = _as_viewers_name(result, given)
    watch.begins("write")
    made = _write(job, study, series, volume, result, written_at, predecessor, results_folder)
    watch.begins("")
    return made, _summary(job, result, watch.seconds, device)


def write_refusal(
    job: Job,
    reason: str,
    *,
    clean_folder: Path,
    results_folder: Path,
    written_at: datetime,
    predecessor: tuple[str, str] | None = None,
) -> tuple[list[Made], dict[str, Any]]:
    """The report of a job that was set aside: not analysed, and why. Needs no model."""
    study, given, series = _read(job, clean_folder)
    result = _as_viewers_name(Result(analysed=False, reason=reason), given)
    return _write(job, study, series, None, result, written_at, predecessor, results_folder), _summary(job, result, {}, "")


# --- reading --------------------------------------------------------------------------------------------------------------
def _read(job: Job, clean_folder: Path) -> tuple[Study, Study, Series]:
    """The study; what of it the job was made for, since late images belong to a later job; and the job's series of that."""
    study, wanted = read_study(clean_folder / job.folder), set(job.inputs)
    mine = [replace(one, instances=tuple(i for i in one.instances if i.sop_instance_uid in wanted)) for one in study]
    given = replace(study, series=tuple(one for one in mine if one.instances))
    found = sum(len(one.instances) for one in given)
    if found < len(wanted):
        raise JobFailed("images of the series are missing", job=job.id, missing=len(wanted) - found)
    for instance in [i for one in given for i in one.instances] if job.told else ():
        tell(instance.header, job.told)
    for series in given:
        if series.series_instance_uid == job.route.series:
            return study, given, series
    raise JobFailed("the series is not in the clean study", job=job.id)


def _others(given: Study, series: Series, bundle: Bundle) -> list[tuple[str, Series]]:
    """The other series that the model reads, by the names of its channels. Raises OutsideIntendedUse."""
    wanted = wanted_by(bundle)
    if not wanted:
        return []
    chosen, reasons = channels_of(given, series, wanted)
    if missing := [reason.words for reason in reasons if not reason.met]:
        raise OutsideIntendedUse(f"the model reads {len(wanted)} series at once: {'; '.join(missing)}")
    return list(zip([one.name for one in wanted], chosen, strict=True))[1:]


def _warm(job: Job, bundles_dir: Path, device: str, loaded: WarmModels, room: str) -> tuple[Pipeline, Any]:
    """The pipeline and its model: from memory, or opened with every digest checked."""
    name, algorithm = job.route.pipeline, job.algorithm
    if warm := loaded.get(Key(name, algorithm.version, algorithm.digest, device)):
        return warm.pipeline, warm.model
    bundle = Bundle.open(bundles_dir / name / algorithm.version)
    if bundle.digest != algorithm.digest:
        raise JobFailed("the installed weights are not those the job was scheduled with", job=job.id, pipeline=name)
    return _load(bundle, name, device, loaded, room)


def _load(bundle: Bundle, name: str, device: str, loaded: WarmModels, room: str) -> tuple[Pipeline, Any]:
    kind: Callable[[Bundle], Pipeline] = kind_of(bundle) if bundle.sidecar else Registry(room, Pipeline)[name]  # type: ignore[type-abstract]
    pipeline = kind(bundle)
    loaded.make_room(bundle.size_in_memory)
    model = pipeline.load(device)
    loaded.keep(Key(name, bundle.version, bundle.digest, device), pipeline, model, bundle.size_in_memory)
    return pipeline, model


def warm_up(
    bundles_dir: Path, device: str, loaded: WarmModels, *, first: Sequence[tuple[str, str]] | None = None, room: str = PIPELINES
) -> Iterator[str]:
    """Load models before a job asks for them, as far as they fit into memory; yields the pipeline's name after each.

    `first` names pipelines and versions in the order of their importance; by default it is the newest version of every pipeline.
    """
    pipelines: Registry[Pipeline] = Registry(room, Pipeline)  # type: ignore[type-abstract]
    newest = {folder.parent.name: folder for folder in bundles_in(bundles_dir)}
    wanted = newest.items() if first is None else [(name, bundles_dir / name / version) for name, version in first]
    for name, folder in wanted:
        if name not in pipelines and not (folder / GUEST).exists():
            continue
        try:
            bundle = Bundle.open(folder)
            if not loaded.fits(bundle.size_in_memory):
                continue
            _load(bundle, name, device, loaded, room)
        except Exception:  # the job that needs it will say so to its reader
            _log.warning("a model did not load ahead of its first job", extra={"pipeline": name}, exc_info=True)
        else:
            yield name


# --- finding --------------------------------------------------------------------------------------------------------------
def _of_volume(reads: Reads, series: Series, watch: _Watch, *, others: Sequence[tuple[str, Series]]) -> tuple[Volume, Result]:
    """The series as one volume, `others` laid over it, and what was found in it. A volume that the pipeline refuses still goes into the report."""
    watch.begins("build")
    volume = build_volume(series)
    if others:
        volume = _together(volume, others)
    watch.begins("run")
    return volume, reads(volume)


def _together(volume: Volume, others: Sequence[tuple[str, Series]]) -> Volume:
    """The volume with the other series on its grid, and what a reader should know of them."""
    laid: list[Beside] = []
    notes: list[str] = []
    for name, other in others:
        try:
            one, remarks = beside(volume, name, build_volume(other))
        except (GeometryRefused, PixelsUnreadable) as why:
            raise type(why)(f"{name}: {why.detail}") from None
        laid.append(one)
        notes += remarks
    names = ", ".join(f"{name} (series {whole(other.header, 'SeriesNumber')})" for name, other in others)
    said = f"Read together with {names}, laid over this series by their positions; nothing was registered."
    return replace(volume, beside=tuple(laid), notes=(*volume.notes, said, *notes))


def _of_picture(reads: Reads, series: Series, watch: _Watch) -> tuple[Volume, Result]:
    """One picture that knows no place in the patient, as a volume of one image."""
    watch.begins("build")
    volume = next(images_of(series))
    watch.begins("run")
    return volume, reads(volume)


def _of_images(reads: Reads, series: Series, watch: _Watch) -> tuple[Volume | None, Result]:
    """Every image by itself; the one with the most suspicious finding leads the report. A damaged image does not stop the others."""
    lead: tuple[Volume | None, Result] | None = None
    lines: list[str] = []
    analysed = more = 0
    for number, one in enumerate(_images(series), 1):
        if number > MOST_IMAGES:
            more = 1
            break
        watch.begins("build")
        built = one()
        watch.begins("run")
        watch.progress(f"image {number}")
        volume = built if isinstance(built, Volume) else None
        result = reads(built) if isinstance(built, Volume) else Result(analysed=False, reason=str(built))
        analysed += result.analysed
        lines.append(f"Image {number}: {_headline(result)}.")
        if lead is None or _suspicion(result) > _suspicion(lead[1]):
            lead, leading = (volume, result), number
    if lead is None:
        raise PixelsUnreadable("the series has no images")
    shown, result = lead
    if len(lines) == 1 or not result.analysed:
        return shown, result
    notes = [f"{analysed} of {len(lines)} images of the series were analysed; this report shows image {leading}.", *lines]
    if more:
        notes.append(f"Only the first {MOST_IMAGES} images were analysed: that is the limit for one series.")
    facts = {**result.facts, "images": len(lines), "images_analysed": analysed}
    return shown, replace(result, notes=(*result.notes, *notes), facts=facts)


def _images(series: Series) -> Iterator[Callable[[], Volume | NotAnalysed]]:
    """The images in the order of their Instance Number, each to be built when it is its turn."""
    for instance in sorted(filter(is_image, series.instances), key=lambda i: (_instance_number(i), i.sop_instance_uid)):
        frames = images_of(replace(series, instances=(instance,)))
        for _ in range(max(1, frame_count(instance.header))):
            yield partial(_next_image, frames, series)


def _next_image(frames: Iterator[Volume], series: Series) -> Volume | NotAnalysed:
    try:
        return replace(next(frames), series=series)
    except StopIteration:
        return PixelsUnreadable("an earlier frame of the image is damaged")
    except NotAnalysed as why:
        return why


def _instance_number(instance: Instance) -> int:
    """Instance Number (0020,0013), 0 where there is none."""
    return whole(instance.header, "InstanceNumber")


def _run(pipeline: Pipeline, model: Any, interlock: Interlock, told: Mapping[str, float | str], volume: Volume) -> Result:
    volume = replace(volume, clinical=told)
    try:
        seen = interlock.check(pipeline.bundle, volume)
        result = pipeline.run(volume, model)
    except NotAnalysed as why:
        return Result(analysed=False, reason=str(why))
    return replace(result, notes=(*result.notes, *seen.notes), facts={**result.facts, **seen.facts})


def _check(result: Result, job: Job) -> None:
    """Nothing that is no number reaches a report. Raises JobFailed."""
    told = [result.confidence, *(finding.probability for finding in result.findings)]
    if not all(value is None or 0 <= value <= 1 for value in told):  # not a number is not between either
        raise JobFailed("the pipeline gave a probability that is not between 0 and 1", job=job.id)
    if not all(math.isfinite(one.value) for finding in result.findings for one in finding.measurements):
        raise JobFailed("the pipeline gave a measurement that is not a number", job=job.id)


def _as_viewers_name(result: Result, given: Study) -> Result:
    """Images in sentences by their Instance Number: a clean UID in words stays clean on the way home, and nobody at the archive can look it up."""
    instances = (i for series in given for i in series.instances)
    numbers = {i.sop_instance_uid: f"image {_instance_number(i)}" if _instance_number(i) else "an image" for i in instances}

    def seen(text: str) -> str:
        return _UID.sub(lambda uid: numbers.get(CleanUid(uid[0]), uid[0]), text)

    return replace(result, reason=seen(result.reason), notes=tuple(seen(note) for note in result.notes))


def _suspicion(result: Result) -> float:
    """The highest probability of anything that is not normal, 1 for what is there without one; below all when nothing was analysed."""
    if not result.analysed:
        return -1.0
    odd = (finding for finding in result.findings if finding.name not in NORMAL)
    return max((float(f.present is True) if f.probability is None else f.probability for f in odd), default=0.0)


def _headline(result: Result) -> str:
    if not result.analysed:
        return f"not analysed: {result.reason}"
    return result.label + (f" ({result.confidence:.2f})" if result.confidence is not None else "")


# --- writing --------------------------------------------------------------------------------------------------------------
def _write(
    job: Job,
    study: Study,
    series: Series,
    volume: Volume | None,
    result: Result,
    written_at: datetime,
    predecessor: tuple[str, str] | None,
    results_folder: Path,
) -> list[Made]:
    """Every object that the job's destinations ask for, each flushed before it has its name."""
    provenance = Provenance(
        job=job,
        node_uid=node_uid(results_folder),
        written_at=written_at.astimezone(zone_of(series.header)),  # DICOM writes local time: the images' zone, else this machine's
        used_series_numbers=[whole(s.header, "SeriesNumber") for s in study],
    )
    objects = written(study, series, volume, result, provenance, predecessor)
    folder = results_folder / job.id
    folder.mkdir(parents=True, exist_ok=True)
    made = [_save(job, role, dataset, folder) for role, dataset in objects.items()]
    for left in set(folder.iterdir()) - {one.object.path for one in made}:
        left.unlink(missing_ok=True)  # of an earlier try
    _flush(folder)
    return made


def _save(job: Job, role: Role, dataset: Dataset, folder: Path) -> Made:
    """Write the object under a passing name, flush it, then name it: what stands at its path is whole."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    part10 = buffer.getvalue()
    path = folder / f"{role}.dcm"
    passing = folder / f".{role}.{os.getpid()}"
    with passing.open("wb") as file:
        file.write(part10)
        file.flush()
        os.fsync(file.fileno())
    passing.replace(path)
    noted = WrittenObject(
        job=job.id,
        study=CleanUid(job.study.study),
        role=role,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        path=path,
    )
    return Made(object=noted, sha256=hashlib.sha256(part10).hexdigest())


def _flush(folder: Path) -> None:
    """Names of files are durable once their folder is."""
    for path in (folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def node_uid(results_folder: Path) -> str:
    """This installation's UID, made once (PS3.5 B.2) and kept beside its results."""
    path = results_folder / "node_uid"
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    results_folder.mkdir(parents=True, exist_ok=True)
    passing = results_folder / f".node_uid.{os.getpid()}"
    passing.write_text(f"2.25.{uuid.uuid4().int}\n")
    with suppress(FileExistsError):
        os.link(passing, path)  # the first process wins
    passing.unlink()
    return path.read_text().strip()


# --- the summary ----------------------------------------------------------------------------------------------------------
def _summary(job: Job, result: Result, seconds: Mapping[str, float], device: str) -> dict[str, Any]:
    """The result in a few JSON values, as `/predict` and `radnode status` show it."""
    algorithm = job.algorithm
    return {
        "pipeline": job.route.pipeline,
        "model": {"name": algorithm.name, "version": algorithm.version, "digest": algorithm.digest},
        "analysed": result.analysed,
        "reason": result.reason or None,
        "label": result.label or None,
        "confidence": result.confidence,
        "findings": [_finding(finding) for finding in result.findings],
        "notes": list(result.notes),
        "facts": result.facts,
        "device": device,
        "seconds": dict(seconds),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "code": _code(finding.code),
        "probability": finding.probability,
        "present": finding.present,
        "site": finding.site.meaning if finding.site else None,
        "laterality": finding.laterality.meaning if finding.laterality else None,
        "measurements": [{"name": one.name.meaning, "value": one.value, "unit": one.unit.value} for one in finding.measurements],
    }


def _code(code: Code) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme_designator, "meaning": code.meaning}
