"""How long one chest film takes: `python -m bench.chest_film`. CPU seconds, since a shared machine's wall clock says little; medians."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import typer
from pydicom.dataset import Dataset

from node.bundle import Bundle, bundles_in
from node.domain import CleanUid, Instance, Series
from node.imaging.volume import Frame, Volume
from node.pipelines.covid_xray import CovidXray
from node.testing.phantom_chest_xray import chest_xray

BUNDLES = Path(__file__).parents[1] / "models" / "covid_xray"


def film(side: int) -> Volume:
    """The drawn film at a size, as the node hands it to a pipeline."""
    header = Dataset()
    header.SOPInstanceUID, header.Modality = "2.25.1", "DX"
    instance = Instance(header=header, path=Path("nowhere"))
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="DX", instances=(instance,))
    pixels = np.asarray(cv2.resize(chest_xray().pixels, (side, side)), np.float32)[None]
    return Volume(series=series, pixels=pixels, unit="1", frames=(Frame(instance=instance),), affine=None, spacing_mm=None)


def seconds(pipeline: CovidXray, model: Any, volume: Volume, rounds: int) -> tuple[float, float]:
    """Medians of CPU and wall seconds."""
    cpu, wall = [], []
    for _ in range(rounds):
        began, clock = time.process_time(), time.perf_counter()
        pipeline.run(volume, model)
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - clock)
    return statistics.median(cpu), statistics.median(wall)


def main(rounds: int = 7) -> None:
    """Print a row a size: as the node computes (OpenVINO), and with plain PyTorch."""
    pipeline = CovidXray(Bundle.open(list(bundles_in(BUNDLES))[-1]))
    models = {"OpenVINO": pipeline.load("cpu"), "PyTorch": pipeline.bundle.stages("cpu")}
    print("| film | engine | CPU s | wall s |\n|---|---|---|---|")
    for side in (720, 2000, 4000):
        volume = film(side)
        for name, model in models.items():
            pipeline.run(volume, model)
            cpu, wall = seconds(pipeline, model, volume, rounds)
            print(f"| {side} x {side} | {name} | {cpu:.2f} | {wall:.2f} |")


if __name__ == "__main__":
    typer.run(main)
