"""`radnode bundles add`: a bundle is checked, tried on a phantom in its own process, described, and only then becomes usable."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from node import log
from node.audit import Action, Type
from node.bundle import GUEST, SUMS, Bundle, sha256
from node.commands.options import Config, house
from node.errors import BundleRefused, NodeError
from node.guests import allowed
from node.guests.arrival import read_metadata, slices_itself, unpack, with_weights
from node.guests.description import GENERATOR, description, modalities_of
from node.guests.licence import licence_of
from node.pipelines.interface import Pipeline
from node.registry import Registry

if TYPE_CHECKING:
    from node.commands.bundles_trial import Trial

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,40}")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def add(
    path: Annotated[
        Path, typer.Argument(help="A MONAI Bundle folder or its zip, a TorchScript, ONNX or weights file.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", help="What rules call it: `run: NAME`. Default: made from the bundle's name.")] = "",
    modality: Annotated[list[str] | None, typer.Option("--modality", help="CT, MR …; where the bundle does not say it.")] = None,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="What the bundle leaves open (YAML): docs/add-a-pipeline.md.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it becomes usable.")] = False,
    config: Config = None,
) -> None:
    """Add a bundle: no Python needed. Errors leave nothing behind."""
    home = house(config, quiet=True)
    bundles_dir = home.settings.bundles_dir
    with tempfile.TemporaryDirectory(prefix="radnode-add-") as folder, _as_refusal():
        staged, trial = _staged(path, _mapping(mapping), name, modality or [], Path(folder), bundles_dir)
        for line in (*trial.lines, *_own(staged, bundles_dir)):
            typer.echo(line)
        if not trial.usable:
            raise BundleRefused(trial.reason)
        if not yes and not typer.confirm(f"Add it as {staged.parent.name} {staged.name}?"):
            raise BundleRefused("not confirmed")
        what = f"{staged.parent.name} {staged.name}: added"
        with home.by_hand(what, Type.SOFTWARE_CONFIGURATION, Action.CREATE, digest=sha256(staged / SUMS)):
            _install(staged, bundles_dir)
    typer.echo(f"Added. A rule runs it: `run: {staged.parent.name}`.")


def _staged(path: Path, mapping: dict[str, Any], name: str, modality: list[str], folder: Path, bundles_dir: Path) -> tuple[Path, Trial]:
    """The bundle as `<folder>/<name>/<version>`, checked and tried."""
    from node.commands.bundles_trial import tried  # phantoms are dear to import, and other commands of `bundles` need none

    bare = unpack(path, folder / ".arrived", mapping)
    metadata = read_metadata(folder / ".arrived")
    name = name or str(mapping.get("name") or "") or _name_of(path, metadata)
    if not NAME.fullmatch(name):
        raise BundleRefused(f"{name[:40]!r} is no name for a rule: lower case letters, digits and _; choose one with --name")
    if name in Registry("node.pipelines", Pipeline):  # type: ignore[type-abstract]
        raise BundleRefused(f"{name} is the name of a pipeline with code of its own; choose another with --name")
    if any(not (folder / GUEST).exists() for folder in (bundles_dir / name).glob("*") if folder.is_dir()):
        raise BundleRefused(f"{name} is a bundle that the node's own code uses; choose another name with --name")
    version = str(mapping.get("version") or metadata["version"])
    if not VERSION.fullmatch(version):
        raise BundleRefused(f"{version[:40]!r} is no version: letters, digits, points and dashes")
    staged = folder / name / version
    staged.parent.mkdir()
    (folder / ".arrived").rename(staged)
    sidecar = description(metadata, mapping, name=name, modality=modalities_of(modality), bare=bare, volume=slices_itself(staged))
    try:
        with_weights(staged)
    except BundleRefused:
        if sidecar["task"] == "generation":  # fetched weights would not help
            raise BundleRefused(GENERATOR) from None
        raise
    sidecar["version"] = version
    sidecar["licence"] = licence_of(staged, metadata, mapping.get("licence"))
    typer.echo(f"Trying {name} {version} on a phantom; a large network takes minutes without a GPU.", err=True)
    trial = tried(staged, metadata, sidecar)
    there = bundles_dir / name / version
    if trial.usable and there.exists():
        raise BundleRefused(f"{name} {version} is there already{_what_else(there, staged)}")
    return staged, trial


def _what_else(there: Path, staged: Path) -> str:
    """What to do about a version that is there already; nothing where it is the same and intact."""
    try:
        allowed.check(Bundle.open(there))
    except NodeError:
        return f", and damaged: remove {there}, and add it again"
    return "" if sha256(there / SUMS) == sha256(staged / SUMS) else ", with other files: give the new one another version"


def _own(staged: Path, bundles_dir: Path) -> Iterator[str]:
    """What is lost when a bundle that was made for a pipeline of the node's own is added as a guest."""
    own = read_metadata(staged).get("radnode")
    pipeline = own.get("pipeline") if isinstance(own, dict) else None
    if pipeline in Registry("node.pipelines", Pipeline):  # type: ignore[type-abstract]
        there = bundles_dir / str(pipeline) / staged.name
        yield (
            f"              It was made for the node's own pipeline {pipeline}, whose thresholds and findings a guest does not have: to run it as a "
            f"version of that, copy the folder to {there} instead (docs/operations.md, *Versions of a model*)."
        )


def _install(staged: Path, bundles_dir: Path) -> None:
    """Copy under a passing name of its own, then name it, then allow it: until then nothing runs it."""
    there = bundles_dir / staged.parent.name / staged.name
    made, named = not there.parent.exists(), False
    try:
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=bundles_dir) as passing:
            shutil.copytree(staged, Path(passing) / staged.name)
            there.parent.mkdir(parents=True, exist_ok=True)
            (Path(passing) / staged.name).rename(there)  # fails where somebody else added the same meanwhile
            named = True
        allowed.allow(there)
    except OSError as why:
        if named:
            shutil.rmtree(there, ignore_errors=True)
        if made:
            with suppress(OSError):
                there.parent.rmdir()
        raise BundleRefused(f"the bundles' folder can't be written: {why.strerror or 'is there room?'}") from None


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Whatever is wrong with the bundle is said as a refusal of it."""
    try:
        yield
    except BundleRefused:
        raise
    except NodeError as why:
        raise BundleRefused(why.detail or why.message) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise BundleRefused("the zip is damaged, or packed in a way that is not read here; unpack it, and add the folder") from None
    except OSError as why:
        raise BundleRefused(f"a file of it can't be read or copied: {why.strerror or type(why).__name__}") from None
    except RecursionError:
        raise BundleRefused("its metadata or configuration is nested too deep to be read") from None
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, ArithmeticError) as why:  # metadata of any shape
        raise BundleRefused(f"its metadata or the mapping file holds something unexpected: {log.where_it_failed(why)}") from why


def _mapping(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as why:
        raise BundleRefused(f"the mapping file can't be read: {why.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BundleRefused("the mapping file is not YAML") from None
    if not isinstance(read, dict):
        raise BundleRefused("the mapping file must hold keys and values")
    return read


def _name_of(path: Path, metadata: Mapping[str, Any]) -> str:
    """`Spleen CT segmentation` → `spleen_ct_segmentation`."""
    told = str(metadata.get("name") or path.stem)
    word = re.sub(r"[^a-z0-9]+", "_", told.lower()).strip("_")[:40].strip("_")
    return word if NAME.fullmatch(word) else f"bundle_{word}"[:40]
