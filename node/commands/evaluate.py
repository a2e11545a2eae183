"""`radnode bundles evaluate`: what an installed bundle is worth on a folder of images with known answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from node.assembly import House
from node.bundle import Bundle
from node.commands.options import Config, Json, house
from node.errors import EvaluationRefused
from node.evaluation import card, plots, report
from node.evaluation.images import cases_in
from node.evaluation.readings import Reading, read_all, truth_of
from node.interlock import Interlock


def evaluate(
    name: Annotated[str, typer.Argument(help="The pipeline, e.g. breast_ultrasound.")],
    data: Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="Folder with index.csv: file, split, label, mask.")],
    split: Annotated[str, typer.Option("--split", help="Which rows of the index.")] = "test",
    version: Annotated[str, typer.Option("--version", help="Of the bundle; default: the active one.")] = "",
    truth: Annotated[list[str] | None, typer.Option("--truth", help="FINDING=LABEL,LABEL: which labels mean the finding.")] = None,
    window_hu: Annotated[str, typer.Option("--window-hu", help="LOW,HIGH: what black and white of a CT picture stand for.")] = "",
    out: Annotated[Path | None, typer.Option("--out", file_okay=False, help="Folder for report.json and the plots.")] = None,
    on_card: Annotated[bool, typer.Option("--card", help="Write the figures on the bundle's model card.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run the bundle over the images as the node would, and say how often it was right: with intervals, per subgroup, and with plots."""
    home = house(config, quiet=True)
    bundle = _bundle(home, name, version)
    cases = cases_in(data, split)
    meant = truth_of(cases, bundle, dict(map(_meant, truth or [])))
    window = _window(window_hu)
    pipeline = home.kind_of(name, bundle)(bundle)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        step = progress.add_task("reading images", total=len(cases))
        device = "cpu" if home.settings.workers.device == "auto" else home.settings.workers.device
        model = pipeline.load(device)
        readings = read_all(
            cases,
            pipeline,
            model,
            truth=meant,
            interlock=Interlock(home.settings.bundles_dir),
            window_hu=window,
            progress=lambda done, _: progress.update(step, completed=done),
        )
        progress.update(step, description="drawing intervals", total=None)
        found = report.figures(readings, bundle, data=data.resolve().name, split=split)
    if out:
        _leave(out, found, readings)
    if on_card:
        card.renew(bundle, found)
    typer.echo(json.dumps(found, indent=1) if as_json else report.in_words(found))


def _bundle(home: House, name: str, version: str) -> Bundle:
    """The named version, or the active one."""
    if not version and name in home.bundles:
        return home.bundles[name]
    for one in home.shelf.all().get(name, []):
        if one.installed.version == version:
            if one.installed.bundle is None:
                raise EvaluationRefused(one.installed.trouble)
            if not (one.installed.bundle.sidecar or name in home.pipelines):
                raise EvaluationRefused("the node has no code to run it as a pipeline")
            return one.installed.bundle
    if not version and name in (damaged := home.shelf.damaged()):
        raise EvaluationRefused(damaged[name])
    raise EvaluationRefused(f"{name} {version or '(active)'} is not installed; `radnode bundles list` shows what is")


def _meant(words: str) -> tuple[str, frozenset[str]]:
    finding, equals, labels = words.partition("=")
    if not equals or not finding or not labels:
        raise typer.BadParameter(f"--truth {words}: FINDING=LABEL,LABEL is expected")
    return finding, frozenset(labels.split(","))


def _window(words: str) -> tuple[float, float] | None:
    if not words:
        return None
    try:
        low, high = map(float, words.split(","))
    except ValueError:
        raise typer.BadParameter("--window-hu: LOW,HIGH is expected, as --window-hu=-1350,150") from None
    return low, high


def _leave(out: Path, found: dict[str, object], readings: Sequence[Reading]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    for name in {name for one in readings for name in one.truth}:
        scored = report.scored(readings, name)
        if scored[1].any() and not scored[1].all():
            safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
            plots.write(plots.roc(name, scored), out / f"roc-{safe}.png")
            plots.write(plots.reliability(name, scored), out / f"reliability-{safe}.png")
