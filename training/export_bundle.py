"""The only thing that crosses over: weights and figures become `models/<pipeline>/<version>/`, a MONAI Bundle.

`python -m training.export_bundle bundle PIPELINE --weights FILE --data DIR --models DIR [--version 1.0.0]`
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from node.bundle import METADATA, SUMS, Bundle, write_sums
from node.evaluation.card import CARD, sections, with_section

app = typer.Typer(add_completion=False, help="Weights and measured figures become a bundle.")


def export(recipe: Any, state: dict[str, Any], folder: Path, version: str) -> None:
    """Write configs, half-precision weights and licence of `recipe` into `folder`, with thresholds that are not set yet."""
    from safetensors.torch import save_file

    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(recipe.inference(), indent=2) + "\n")
    exact = tuple(getattr(recipe, "EXACT", ()))  # numbers that are compared with, not multiplied
    halves = {k: (v.half() if v.is_floating_point() and not k.startswith(exact) else v).contiguous() for k, v in state.items()}
    save_file(halves, folder / "models" / "model.safetensors", metadata={"format": "pt"})
    (folder / "models" / "model.safetensors").chmod(0o644)
    (folder / "LICENSE").write_text(recipe.LICENCE_NOTE)
    write_metadata(folder, recipe.metadata(version))


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write the metadata and renew the sums."""
    (folder / METADATA).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
    write_sums(folder)


@app.command("measure")
def measure(
    pipeline: str,
    folder: Path,
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
) -> None:
    """Measure a bundle at its thresholds on the validation split, and write figures and model card."""
    described = importlib.import_module(f"training.bundles.{pipeline}")
    bundle = Bundle.open(folder)
    metadata = json.loads((folder / METADATA).read_text())
    metadata["eval_metrics"] = described.figures(bundle, data, "val") | described.checks(bundle, data)
    write_metadata(folder, metadata)
    renew_card(pipeline, folder)


@app.command("card")
def renew_card(pipeline: str, folder: Path) -> None:
    """Write the model card of a bundle again from the figures in its metadata. What `radnode bundles evaluate --card` wrote of it stays."""
    described = importlib.import_module(f"training.bundles.{pipeline}")
    metadata = json.loads((folder / METADATA).read_text())
    path, card = folder / CARD, described.model_card(metadata, metadata["eval_metrics"])
    for section in sections(path.read_text(), weights=Bundle.open(folder).digest) if path.exists() else ():
        card = with_section(card, section)
    path.write_text(card)
    write_metadata(folder, metadata)


@app.command("bundle")
def bundle_of(
    pipeline: Annotated[str, typer.Argument(help="name of a recipe, e.g. covid_ct")],
    weights: Annotated[Path, typer.Option(help="weights.pt of a run, or its checkpoint.pt")],
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
    models: Annotated[Path, typer.Option(help="folder of bundles")] = Path("models"),
    version: Annotated[str, typer.Option(help="of the bundle")] = "1.0.0",
) -> None:
    """Make the bundle, set its thresholds on the validation split, measure it, write its model card."""
    recipe = importlib.import_module(f"training.bundles.{pipeline}")
    state, run = left_by(weights)
    if hasattr(recipe, "complete"):
        state = recipe.complete(state)
    metadata = recipe.metadata(version)
    folder = models / metadata["radnode"]["pipeline"] / version
    with _whole_or_not(folder) as making:
        export(recipe, state, making, version)
        metadata["radnode"]["thresholds"] = recipe.thresholds(Bundle.open(making), data)
        metadata["radnode"]["training"] = run
        write_metadata(making, metadata)
        measure(pipeline, making, data)
    bundle = Bundle.open(folder)
    typer.echo(f"{bundle.name} {bundle.version} {bundle.digest} ({(folder / bundle.weights).stat().st_size / 1e6:.1f} MB, {SUMS})")


def left_by(weights: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(averaged weights, what the card tells of the run: steps and minutes by the checkpoint, and the run's notes), on a CPU wherever it trained."""
    import torch

    state = torch.load(weights, weights_only=True, map_location="cpu")
    beside = weights.with_name("checkpoint.pt")
    whole = state if "average" in state else torch.load(beside, weights_only=True, map_location="cpu") if beside.exists() else None
    run = {"steps": whole["step"], "minutes": round(whole["spent"] / 60, 1)} if whole else {}
    if (notes := weights.with_name("notes.json")).exists():
        run |= json.loads(notes.read_text())
    return state.get("average", state), run


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, by a name that no node reads, that takes its place when the block has ended well: with thresholds, figures and card."""
    making, before = (folder.with_name(f".{folder.name}.{word}") for word in ("making", "before"))
    for old in (making, before):
        shutil.rmtree(old, ignore_errors=True)
    making.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.copytree(folder, making)  # with what somebody has put in, and what the card tells of these weights
    try:
        yield making
        if folder.exists():
            folder.rename(before)
        making.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def main() -> None:
    """The console entry."""
    from training.datasets.table import DataRefused

    try:
        app()
    except (DataRefused, OSError) as why:
        typer.echo(f"export_bundle: {why}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
