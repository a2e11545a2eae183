"""`radnode demo`: the main job in a temporary department: phantoms in by C-STORE, results home, a table and pictures."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import typer
from pydicom import Dataset
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from node.commands.demo_node import CALLER, DemoNode, demo_node
from node.commands.options import wide_console
from node.domain import Role
from node.errors import NodeError
from node.provenance import role_said
from node.testing.pacs import Pacs
from node.testing.scanner import send
from node.testing.studies import a_study

PATIENCE_S = 600  #: without anything that comes home: a busy or small machine loads its models for minutes


@dataclass(slots=True)
class Sample:
    """One phantom on its way: what it is, what is known of it, what came back."""

    title: str
    known: str
    datasets: list[Dataset]
    pipeline: str
    sent_at: float = 0.0
    seconds: float = 0.0
    results: list[Dataset] = field(default_factory=list)

    @property
    def study(self) -> str:
        return str(self.datasets[0].StudyInstanceUID)


def demo(
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Where results and pictures are left.")] = Path("demo-output"),
    both: Annotated[bool, typer.Option("--all", help="Send the healthy phantoms too.")] = False,
    profile: Annotated[str, typer.Option("--profile", help="Which objects come home, see docs/results.md.")] = "default",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary data folder of the node, and say where it is.")] = False,
    stay: Annotated[bool, typer.Option("--stay", help="Let the node run on until Ctrl-C, to look at its web pages.")] = False,
) -> None:
    """Start a node and a small PACS on loopback, send one study per pipeline by C-STORE, show what comes back."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the demo ends its node
    console, progress = wide_console(), Console(stderr=True)
    with ExitStack() as open_:
        with progress.status("starting a node, drawing phantoms"):
            folder = open_.enter_context(_folder(keep))
            pacs = open_.enter_context(Pacs(folder / "pacs"))
            starting = open_.enter_context(demo_node(folder, pacs, profile))
            samples = list(_samples(both=both))
            node = starting.ready()
        _run(samples, pacs, node, progress)
        _leave(samples, out)
        console.print(_table(samples))
        console.print(
            f"Pictures and DICOM files: {out}/ · the phantoms' answers are known, the models' are not perfect · RESEARCH USE ONLY"
        )
        if keep:
            console.print(f"The node's data: {folder}")
        if stay:
            console.print(f"Look around: {node.address} Sign in as {node.admin} and choose another. Ctrl-C ends it.")
            _until_interrupted()
    missing = [sample.title for sample in samples if not sample.results]
    if missing:
        raise NodeError(f"nothing came back for: {', '.join(missing)}")


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="radnode-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _run(samples: list[Sample], pacs: Pacs, node: DemoNode, console: Console) -> None:
    """Send every phantom, wait until all are home."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        step = progress.add_task("sending studies by C-STORE", total=1)
        for sample in samples:
            send(sample.datasets, port=node.port, calling_ae=CALLER, called_ae="RADNODE")
            sample.sent_at = time.monotonic()
        progress.update(step, advance=1, description="phantoms sent")
        waiting = {sample.study: progress.add_task(f"{sample.title}: on its way", total=1) for sample in samples}
        _wait(samples, pacs, node, lambda sample: progress.update(waiting[sample.study], completed=1, description=f"{sample.title}: home"))


def _until_interrupted() -> None:
    with suppress(KeyboardInterrupt):
        signal.pause()


def _samples(*, both: bool) -> Iterator[Sample]:
    """One study a pipeline, and with `both` one that must stay quiet beside most of them."""
    yield Sample("chest CT with ground-glass", "infection", a_study("CT", slices=48, patient=1), "covid_ct")
    yield Sample("breast ultrasound, irregular", "malignant", a_study("US", patient=4, kind="malignant"), "breast_ultrasound")
    yield Sample("chest film with haze", "infection", a_study("DX", patient=1), "covid_xray")
    # of the films called CR each meets one rule, by the patient's sex
    yield Sample("chest film findings, clear", "normal", a_study("DX", patient=3, opacity="", Modality="CR"), "chest_xray")
    unlike = a_study("DX", patient=5, study=1, opacity="right middle", Modality="CR")
    yield Sample("chest film unlike normal ones", "anomaly", unlike, "xray_anomaly")
    yield Sample("brain MR, ring-enhancing", "tumor", a_study("MR", slices=22, patient=3), "brain_mri")
    if not both:
        return
    yield Sample("chest CT, healthy", "none", a_study("CT", slices=48, patient=2, patches=0), "covid_ct")
    yield Sample("breast ultrasound, oval", "benign", a_study("US", patient=5, kind="benign"), "breast_ultrasound")
    yield Sample("chest film, clear", "none", a_study("DX", patient=2, opacity=""), "covid_xray")
    like = a_study("DX", patient=5, study=2, opacity="", Modality="CR")
    yield Sample("chest film like normal ones", "none", like, "xray_anomaly")
    yield Sample("brain MR, healthy", "none", a_study("MR", slices=22, patient=4, tumor=False), "brain_mri")


def _wait(samples: list[Sample], pacs: Pacs, node: DemoNode, home: Callable[[Sample], None]) -> None:
    """Until every study has its report, nothing more comes, or the node has ended."""
    seen, end = 0, time.monotonic() + PATIENCE_S
    open_ = {sample.study: sample for sample in samples}
    while open_ and node.runs() and time.monotonic() < end:
        time.sleep(0.2)
        if len(pacs.stored) == seen:
            continue
        seen, end = len(pacs.stored), time.monotonic() + PATIENCE_S
        received = pacs.received()
        for sample in samples:
            sample.results = [ds for ds in received if ds.StudyInstanceUID == sample.study]
            if sample.study in open_ and any(ds.Modality == "SR" for ds in sample.results):  # the report goes last
                sample.seconds = time.monotonic() - sample.sent_at
                home(open_.pop(sample.study))


def _leave(samples: list[Sample], out: Path) -> None:
    """Results as files, and a picture a study."""
    for sample in samples:
        folder = out / sample.title.replace(", ", "-").replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for ds in sample.results:
            role = role_said(ds.SeriesDescription)
            ds.save_as(folder / f"{role}.dcm", enforce_file_format=True)
            if role is Role.PDF:
                (folder / "page.pdf").write_bytes(ds.EncapsulatedDocument)
            elif role is Role.KEYS:
                cv2.imwrite(str(folder / "summary.png"), cv2.cvtColor(ds.pixel_array, cv2.COLOR_RGB2BGR))
            elif role is Role.SC:
                pixels = ds.pixel_array
                for number, frame in enumerate(pixels if pixels.ndim == 4 else [pixels], 1):
                    cv2.imwrite(str(folder / f"picture-{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def _table(samples: list[Sample]) -> Table:
    table = Table(title="Studies that came home", title_justify="left")
    for heading in ("study", "route", "known answer", "finding", "probability", "objects delivered", "seconds"):
        table.add_column(heading, justify="right" if heading in ("probability", "seconds") else "left")
    for sample in samples:
        finding, probability = _headline(sample)
        kinds = ", ".join(sorted(str(role_said(ds.SeriesDescription)) for ds in sample.results))
        seconds = f"{sample.seconds:.1f}" if sample.seconds else "-"
        table.add_row(sample.title, sample.pipeline, sample.known, finding, probability, kinds or "nothing", seconds)
    return table


def _headline(sample: Sample) -> tuple[str, str]:
    """What the report concludes, read from the SR that came home: ("infection", "88 %")."""
    for report in (ds for ds in sample.results if ds.Modality == "SR"):
        for item in report.iterall():
            if item.keyword == "TextValue" and str(item.value).startswith(f"{sample.pipeline}: "):
                said = str(item.value).removeprefix(f"{sample.pipeline}: ").rstrip(".")
                label, comma, probability = said.rpartition(", ")
                return (label, probability) if comma and probability.endswith("%") else (said, "-")
    return "-", "-"
