"""How long `xray_anomaly` takes for one chest film: `python -m bench.chest_anomaly`. CPU seconds by step, medians."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import typer

from bench.chest_film import film
from node.bundle import Bundle, bundles_in
from node.imaging.enhance import enhanced
from node.pipelines.xray_anomaly import XrayAnomaly, canvas_of, features_of, percentile, seen

BUNDLES = Path(__file__).parents[1] / "models" / "xray_anomaly"


def main(rounds: int = 5) -> None:
    """Print a row a size."""
    pipeline = XrayAnomaly(Bundle.open(list(bundles_in(BUNDLES))[-1]))
    began = time.process_time()
    model = pipeline.load("cpu")
    print(f"load: {time.process_time() - began:.1f} CPU s\n")
    print("| film | lungs | edges and transformer | forests | enhancement | all |\n|---|---|---|---|---|---|")
    for side in (720, 2000, 4000):
        volume, rows = film(side), []
        pipeline.run(volume, model)
        for _ in range(rounds):
            times = [time.process_time()]
            shown = seen(volume.pixels[0], model.lungs)
            times.append(time.process_time())
            features = features_of(canvas_of(shown.film, shown.lungs)[1], model.reader)
            times.append(time.process_time())
            percentile(features, model.groups["adult"])
            times.append(time.process_time())
            enhanced(shown.film.grey)
            times.append(time.process_time())
            pipeline.run(volume, model)
            rows.append([*np.diff(times), time.process_time() - times[-1]])
        print(f"| {side} x {side} | " + " | ".join(f"{statistics.median(column):.2f}" for column in zip(*rows, strict=True)) + " |")


if __name__ == "__main__":
    typer.run(main)
