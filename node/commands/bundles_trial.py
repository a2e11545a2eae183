"""A bundle is tried before it is added: run on a phantom of its modality in its own process, and described in words."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from node.bundle import GUEST, Bundle, write_sums
from node.domain import CleanUid, Instance, Result, Series
from node.errors import BundleRefused, GuestFailed, NodeError, NotAnalysed
from node.guests import allowed
from node.guests.description import GENERATOR
from node.guests.host import Guest, Limits
from node.imaging.build import build_volume, images_of
from node.imaging.volume import Beside, Volume
from node.picture import said
from node.pipelines._any_bundle import kind_of
from node.pipelines.interface import Takes
from node.result_check import check
from node.testing.studies import a_study, write_study

PHANTOMS: Mapping[str, Mapping[str, Any]] = {  #: modality → arguments of `a_study`; other modalities: the nearest of these
    "CT": {"modality": "CT", "slices": 32, "rows": 192},
    "MR": {"modality": "MR", "slices": 22, "rows": 192},
    "US": {"modality": "US"},
    "CR": {"modality": "CR", "slices": 64, "rows": 160},
}
RESAMPLES = re.compile(r"^(Resize|Zoom|Resample|Spatial|Affine)")  #: transforms after which an image has another spacing
PROJECTIONS = {"CR", "DX", "MG", "XA", "RF", "IO", "PX"}


@dataclass(slots=True)
class Trial:
    """What was learned, in lines for a person; `reason` says why it can't be used."""

    lines: list[str] = field(default_factory=list)
    usable: bool = True
    reason: str = ""


def tried(staged: Path, metadata: Mapping[str, Any], sidecar: dict[str, Any]) -> Trial:
    """Seal the bundle in folder `<name>/<version>`, run it on a phantom and seal it again with what was seen.

    Raises
    ------
    BundleRefused, BundleInvalid, GuestFailed
        When it can't be built or run: with the reason.
    """
    _seal(staged, sidecar)
    bundle = Bundle.open(staged)
    trial = Trial([f"{bundle.title}, version {bundle.version}: {sidecar['task']}", *_of_the_files(bundle, metadata)])
    if sidecar["task"] == "generation":
        return _generator(bundle, sidecar, trial)
    pipeline = kind_of(bundle)(bundle)
    guest = pipeline.load("cpu")
    try:
        modality = str(sidecar["intended_use"]["modality"][0])
        with tempfile.TemporaryDirectory(prefix="radnode-phantom-") as folder:
            volume = phantom(modality, pipeline.takes, Path(folder))
            same, others = np.asarray(volume.pixels, np.float32), [str(one["name"]) for one in sidecar.get("series", [])][1:]
            volume = replace(volume, beside=tuple(Beside(name=name, series=volume.series, pixels=same) for name in others))
            begun = time.monotonic()
            result = pipeline.run(volume, guest)
            seconds = time.monotonic() - begun
        check(volume, result)  # what no object can hold is known now and not at the first study
        gives = _gives(sidecar, result)
        accepts = _accepts(sidecar, guest.told)
    except NotAnalysed as why:
        raise BundleRefused(f"it did not take a phantom of its modality: {why.detail or why.message}") from None
    except GuestFailed as why:
        if why.detail and re.search(r"MB of memory|did not end within", why.detail):
            raise BundleRefused(f"{why.detail}; where it may cost more, the mapping file says so: {_limits(sidecar)}") from None
        raise
    finally:
        guest.close()
    sidecar["checked"] = {"accepts": accepts, "gives": gives, "network": guest.told.get("network", "")}
    _seal(staged, sidecar)
    trial.lines += [
        f"  runs      {guest.told['network']} ({guest.told['parameters']:,} parameters), {guest.told['inferer']}, in a process of its own",
        f"  before    {', '.join(guest.told['preprocessing']) or 'nothing'}",
        f"  after     {', '.join(guest.told['postprocessing']) or 'nothing'}",
        f"  accepts   {accepts}",
        f"  gives     {gives}",
        f"  phantom   {modality}, {' x '.join(str(n) for n in volume.pixels.shape)}, {seconds:.1f} s: {result.label}",
        *(f"              {said(finding)}" for finding in result.findings[:12]),
        *(f"              {note}" for note in result.notes[len(volume.notes) :]),
    ]
    return trial


def _limits(sidecar: Mapping[str, Any]) -> str:
    """Twice what it may cost now, as the mapping file says it."""
    now = Limits.of(sidecar.get("limits", {}))
    return f"limits: {{memory_mb: {2 * now.memory_mb}, time_s: {2 * now.time_s:g}}}"


def phantom(modality: str, takes: Takes, folder: Path) -> Volume:
    """A phantom as the worker would build it: of that modality, or of the nearest that there is."""
    nearest = modality if modality in PHANTOMS else "CR" if modality in PROJECTIONS else "MR" if takes is Takes.VOLUME else "US"
    datasets = a_study(**PHANTOMS[nearest])
    for ds in datasets:
        ds.Modality = modality
    paths = write_study(datasets, folder)
    instances = tuple(Instance(header=dcmread(path, stop_before_pixels=True), path=path) for path in paths)
    series = Series(series_instance_uid=CleanUid(str(datasets[0].SeriesInstanceUID)), modality=modality, instances=instances)
    built = build_volume(series) if takes is Takes.VOLUME else next(images_of(series))
    return replace(built, series=series)


def _seal(staged: Path, sidecar: Mapping[str, Any]) -> None:
    (staged / GUEST).write_text(json.dumps(sidecar, indent=1), encoding="utf-8")
    write_sums(staged)
    allowed.allow(staged)


def _generator(bundle: Bundle, sidecar: Mapping[str, Any], trial: Trial) -> Trial:
    """Its network is built, filled and run, so that it is known to be whole; a node can use none of it."""
    guest = Guest(bundle)
    try:
        guest.start()
        facts, _ = guest.ask({}, {})
    except NodeError:
        raise BundleRefused("it draws images from random numbers, which no node could report; and it does not even run here") from None
    finally:
        guest.close()
    shape = " x ".join(str(n) for n in facts.get("shape", []))
    trial.lines += [
        f"  runs      {guest.told['network']} ({guest.told['parameters']:,} parameters), in a process of its own: the weights fit",
        f"  accepts   {' x '.join(map(str, sidecar['latent']))} random numbers, no image",
        f"  gives     an image ({shape})",
    ]
    trial.usable = False
    trial.reason = f"it is intact and runs, but {GENERATOR}"
    return trial


def _of_the_files(bundle: Bundle, metadata: Mapping[str, Any]) -> list[str]:
    """Licence, weights, and what it would like to have installed."""
    licence = bundle.licence
    lines = [
        f"  licence   {licence['name']}{' (NOT FOR COMMERCIAL USE)' if licence['non_commercial'] else ''}",
        f"  weights   {bundle.weights}, SHA-256 {bundle.sums[bundle.weights]}",
    ]
    wanted = {**(metadata.get("optional_packages_version") or {}), **(metadata.get("required_packages_version") or {})}
    if missing := sorted(name for name in wanted if not _installed(str(name))):
        lines.append(
            f"  packages  not installed here, and named in its metadata: {', '.join(missing)}; what needs them would have failed below"
        )
    return lines


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    for name in (package, package.replace("_", "-"), f"{package}-headless"):
        try:
            version(name)
        except (PackageNotFoundError, ValueError):
            continue
        return True
    return package == "pytorch"


def _accepts(sidecar: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """In a sentence: which series, and what becomes of them before the network."""
    modalities = " or ".join(sidecar["intended_use"]["modality"])
    what = "a series as one volume" if sidecar["takes"] == Takes.VOLUME else "each image of a series"
    names = [str(one["name"]) for one in sidecar.get("series", [])]
    channels = f"{len(names)} series of a study laid over each other: {', '.join(names)}" if names else "1 channel"
    parts = [f"{modalities}: {what}", "colour (RGB; grey becomes RGB)" if sidecar["channels"] == 3 and not names else channels]
    if sidecar["dims"] == 2 and sidecar["takes"] == Takes.VOLUME:
        parts.append("slice by slice")
    parts.append(
        "values as displayed, 0 to 255" if sidecar["values"] == "window" else "HU" if sidecar.get("unit") == "HU" else "values as stored"
    )
    if told.get("spacing_mm"):
        parts.append(f"resampled to {' x '.join(f'{mm:g}' for mm in told['spacing_mm'])} mm")
    elif sidecar["dims"] == 3 and not any(RESAMPLES.match(name) for name in told.get("preprocessing", ())):
        parts.append("in its own spacing")
    if told.get("orientation"):
        parts.append(f"axes {told['orientation']}")
    if "min_slices" in sidecar["intended_use"]:
        parts.append(f"at least {sidecar['intended_use']['min_slices']} slices")
    return ", ".join(parts)


def _gives(sidecar: Mapping[str, Any], result: Result) -> str:
    """In a sentence: which objects, with which codes and measurements."""
    names = ", ".join(f"{one['name']} ({one['type'][0]}, {one['type'][1]})" for one in sidecar["outputs"][:12])
    more = f" and {len(sidecar['outputs']) - 12} more" if len(sidecar["outputs"]) > 12 else ""
    match sidecar["task"]:
        case "segmentation":
            size = "volumes in mL" if sidecar["takes"] == Takes.VOLUME else "areas in mm2"
            return f"SEG and SR: segments {names}{more}; {size}"
        case "classification":
            return f"SR: probability of {names}{more}"
        case "detection":
            return f"SR: boxes with a probability, of {names}{more}"
    return f"SR: {names} in {sidecar['measurement']['unit']}"
