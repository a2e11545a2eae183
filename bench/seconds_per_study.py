"""Seconds a study takes through each pipeline: as the node computes, and with plain PyTorch, the same weights, one image at a time.

`python -m bench.seconds_per_study [--rounds 3] [--slices 24]` prints two tables, of the wall and of the CPU. A study means a drawn series, from DICOM files to
findings: read, decoded, put in order, analysed; nothing is written. "plain" runs the node's own code with its networks as torch modules in float32; "plain, from
scratch" also opens the bundle and builds the networks for each study, as a script does that is started for it (its imports are not counted).
Both sides alternate, and the ratio is that of their medians: on a machine with other work nothing else means something.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydicom.dataset import Dataset

from node.bundle import Bundle, bundles_in
from node.domain import CleanUid, Instance, Series
from node.imaging.build import build_volume, images_of
from node.pipelines.interface import Pipeline, Takes
from node.registry import Registry
from node.testing.studies import a_study

MODELS = Path(__file__).parents[1] / "models"
SIDES = ("node", "plain", "plain, from scratch")


class Plain(Bundle):
    """A bundle whose networks are torch modules that see one image at a time."""

    def network(self, device: str = "cpu", *, engine: str = "torch") -> Callable[[torch.Tensor], Any]:
        return one_by_one(self.module(device))

    def stages(self, device: str = "cpu", *, engine: str = "torch") -> Mapping[str, Callable[[torch.Tensor], Any]]:
        compiled = {
            name for name, shape in self.input_shapes.items() if shape is not None
        }  # the node compiles these; others are torch anyway
        return {name: one_by_one(one) if name in compiled else one for name, one in super().stages(device).items()}


def one_by_one(network: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """The network on each image of a batch by itself."""

    def run(batch: torch.Tensor) -> Any:
        answers = [network(image[None]) for image in batch]
        if isinstance(answers[0], (tuple, list)):
            return tuple(torch.cat(part) for part in zip(*answers, strict=True))
        return torch.cat(answers)

    return run


def studies(slices: int) -> dict[str, list[Dataset]]:
    """A drawn study for each pipeline."""
    return {
        "covid_ct": a_study("CT", slices=slices, patient=1),
        "covid_xray": a_study("DX", patient=1),
        "chest_xray": a_study("DX", patient=3, opacity="", Modality="CR"),
        "xray_anomaly": a_study("DX", patient=5, study=1, opacity="right upper", Modality="CR"),
        "breast_ultrasound": a_study("US", patient=4, kind="malignant"),
        "brain_mri": a_study("MR", slices=22, patient=3),
    }


def on_disk(datasets: list[Dataset], folder: Path) -> Series:
    """The series as files, as the node's clean volume holds them."""
    folder.mkdir()
    instances = []
    for number, ds in enumerate(datasets):
        path = folder / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        header = Dataset({element.tag: element for element in ds if element.keyword != "PixelData"})
        header.file_meta = ds.file_meta
        instances.append(Instance(header=header, path=path))
    first = datasets[0]
    return Series(series_instance_uid=CleanUid(str(first.SeriesInstanceUID)), modality=str(first.Modality), instances=tuple(instances))


def read(series: Series, pipeline: Pipeline, model: Any) -> str:
    """The headline of a series."""
    if pipeline.takes is Takes.VOLUME:
        return pipeline.run(build_volume(series), model).label
    return pipeline.run(next(images_of(series)), model).label


def measured(act: Callable[[], str]) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds, what was found)."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = act()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=24, help="of the chest CT")
    chosen = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    kinds: Registry[Pipeline] = Registry("node.pipelines", Pipeline)  # type: ignore[type-abstract]
    rows: dict[str, list[list[float]]] = {"wall": [], "CPU": []}
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for name, datasets in studies(chosen.slices).items():
            series = on_disk(datasets, Path(folder) / name)
            *_, path = bundles_in(MODELS / name)
            kind = kinds[name]
            node, plain = kind(Bundle.open(path)), kind(Plain.open(path))
            warm, module = node.load("cpu"), plain.load("cpu")

            def from_scratch(kind: Any = kind, path: Path = path, series: Series = series) -> str:
                made = kind(Plain.open(path))
                return read(series, made, made.load("cpu"))

            acts = {
                "node": lambda s=series, p=node, m=warm: read(s, p, m),
                "plain": lambda s=series, p=plain, m=module: read(s, p, m),
                "plain, from scratch": from_scratch,
            }
            acts["node"]()
            taken: dict[str, list[tuple[float, float, str]]] = {side: [] for side in SIDES}
            for _ in range(chosen.rounds):
                for side in SIDES:
                    taken[side].append(measured(acts[side]))
                    print(f"{name}, {side}: {taken[side][-1][0]:.2f} s", file=sys.stderr, flush=True)
            assert len({found for of_side in taken.values() for *_, found in of_side}) == 1, f"{name}: the sides do not agree"
            names.append(name)
            for place, what in enumerate(("wall", "CPU")):
                rows[what].append([median(one[place] for one in taken[side]) for side in SIDES])
    for what, of_kind in rows.items():
        print(f"\n{what} seconds, {cores} cores, {chosen.rounds} rounds\n")
        print(f"| pipeline | {' | '.join(SIDES)} | plain / node | from scratch / node |\n|---|---|---|---|---|---|")
        for name, (ours, theirs, fresh) in zip(names, of_kind, strict=True):
            print(f"| {name} | {ours:.2f} | {theirs:.2f} | {fresh:.2f} | {theirs / ours:.1f} | {fresh / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
