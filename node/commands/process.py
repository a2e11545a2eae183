"""`radnode process`: the path of a study offline, without a socket."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from node.assembly import House
from node.commands.offline import own_house
from node.commands.options import EXAMPLE_RULES, Config, house
from node.domain import JobState
from node.gateway import Gateway
from node.profiles import PROFILES


def process(
    study_dir: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="DICOM files of one or more studies.")],
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Where the objects and summary.json are written.")],
    pipeline: Annotated[str, typer.Option("--pipeline", help="Run this one on every series, whatever the rules say.")] = "",
    profile: Annotated[
        str,
        typer.Option(
            "--profile", help="Which objects: default, ohif, weasis, slicer, orthanc, basic-pacs, archive, or kinds as SEG,SR,PDF."
        ),
    ] = "default",
    config: Config = None,
) -> None:
    """De-identify, route, infer, write, re-identify: the same path as a node takes, on a folder. Nothing of it is kept but the results."""
    node = house(config, quiet=True)
    given = node.settings
    out.mkdir(parents=True, exist_ok=True)
    rules = out.absolute() / "rules.yaml"
    rules.write_text(_rules(node.rules_text() or EXAMPLE_RULES.read_text(), pipeline))
    changes: dict[str, Any] = {
        "rules": rules,
        "destinations": {
            "out": {"kind": "folder", "path": str(out.absolute()), "profile": profile if profile in PROFILES else profile.split(",")}
        },
        "intake": given.intake.model_copy(update={"settle_after_s": 0.0}),
    }
    try:
        with own_house(given, **changes) as home:
            summary = _process(home, study_dir) | {"not_run": _passed_over(home) if pipeline else []}
            _name_files(out, summary)
    finally:
        rules.unlink()
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    for job in summary["jobs"]:
        said = (
            f"{job['label']} ({job['confidence']:.2f})"
            if job["analysed"] and job["confidence"] is not None
            else job["label"] or job["reason"]
        )
        typer.echo(f"{job['pipeline']}: {said}; {', '.join(job['objects'].values())}")
    for refused in summary["refused"]:
        typer.echo(f"refused: {refused['reason']}")
    for reason in summary["not_run"]:
        typer.echo(f"not run: {reason}")
    if not summary["jobs"] and not summary["refused"] and not pipeline:
        typer.echo("no rule met a series; `radnode explain` says why")
    asked_in_vain = pipeline and not summary["jobs"]
    if asked_in_vain or summary["refused"] or any(job["state"] != JobState.COMPLETED for job in summary["jobs"]):
        raise typer.Exit(1)


def _rules(text: str, pipeline: str) -> str:
    """The given rules, with every result sent to the output folder; or one rule that runs `pipeline` on every series."""
    rules = yaml.safe_load(text)["rules"]
    if pipeline:
        rules = [{"name": f"every series to {pipeline}", "when": {"slice_count": {"min": 1}}, "run": pipeline}]
    return yaml.safe_dump({"rules": [{**_without(rule, "between", "send_if"), "send_to": ["out"]} for rule in rules]})


def _without(rule: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Whoever waits for a folder waits for no night, and everything goes there."""
    return {key: value for key, value in rule.items() if key not in keys}


def _process(home: House, study_dir: Path) -> dict[str, Any]:
    home.check()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        step = progress.add_task("reading", total=None)
        left_out = home.take_folder(study_dir, lambda done, of: progress.update(step, completed=done, total=of))
        progress.update(step, description="de-identifying", total=None)
        gateway = Gateway(home)
        while gateway.settle():
            pass  # a study that fails is tried again, then set aside
        progress.update(step, description="running models")
        with home.runner(inline=True) as runner:
            runner.run_waiting()
        progress.update(step, description="writing results")
        gateway.hand_over()
        home.outbox.send_due()
        home.outbox.close()
    return _summary(home, left_out)


def _passed_over(home: House) -> list[str]:
    """Why series were not given to the pipeline that was asked for, each reason once."""
    decided = [one for study in home.decisions.studies() for one in home.decisions.of_study(study)]
    return sorted({one["reasons"][0] for one in decided if not one["met"]})  # before what the rule asks stands what the pipeline needs


def _name_files(out: Path, summary: dict[str, Any]) -> None:
    """`covid_ct-1-SEG.dcm` in place of a folder a series, named by UIDs."""
    numbers: Counter[str] = Counter()
    for job in summary["jobs"]:
        numbers[job["pipeline"]] += 1
        for role, uid in job["objects"].items():
            for file in out.glob(f"*/{uid}.dcm"):
                name = f"{job['pipeline']}-{numbers[job['pipeline']]}-{role}.dcm"
                file.replace(out / name)
                file.parent.rmdir()
                job["objects"][role] = name


def _summary(home: House, left_out: Counter[str]) -> dict[str, Any]:
    jobs = []
    for job in home.jobs.all():
        found = home.jobs.summary_of(job.id) or {}
        jobs.append(
            {
                "state": job.state.value,
                "pipeline": job.route.pipeline,
                "rule": job.route.rule,
                "reasons": list(job.route.reasons),
                "objects": {written.role.value: written.sop_instance_uid for written in home.jobs.objects_of(job)},
                **found,
            }
        )
    refused = [{"kind": entry.kind, "reason": entry.reason} for entry in home.quarantine.list()]
    undelivered = [entry.reason for entry in home.outbox.entries() if entry.state not in ("SENT", "CONFIRMED")]
    return {
        "jobs": jobs,
        "refused": refused,
        "undelivered": undelivered,
        "files_left_out": dict(left_out),
        "disclaimer": "Research use only. Not for diagnosis.",
    }
