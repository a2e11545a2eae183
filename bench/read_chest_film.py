"""How long one chest film takes through `chest_xray`, warm, by the size of the film and by backbone (random weights but for the shipped one).

`python -m bench.read_chest_film [--rounds 5]` prints a table. CPU seconds say more than those of the wall on a machine with other work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pydicom.dataset import Dataset
from safetensors.torch import load_file, save_file

from node.bundle import Bundle, write_sums
from node.domain import CleanUid, Instance, Series
from node.imaging.volume import Frame, Volume
from node.networks.backbones import NAMES
from node.networks.image_and_clinical import ImageAndClinical
from node.pipelines.chest_xray import ChestXray
from node.testing.phantom_chest_xray import chest_xray

SHIPPED = Path(__file__).parents[1] / "models" / "chest_xray" / "1.1.0"
SHIPPED_BACKBONE = "small"
SIDES = (512, 2048)


def film(side: int) -> Volume:
    """A drawn chest film of `side` x `side` pixels."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.Modality, ds.ViewPosition, ds.PatientAge, ds.PatientSex = "2.25.1", "DX", "PA", "055Y", "F"
    instance = Instance(header=ds, path=Path("nowhere"))
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="DX", instances=(instance,))
    pixels = chest_xray(rows=side).pixels.astype(np.float32)[None]
    return Volume(series=series, pixels=pixels, unit="1", frames=(Frame(instance=instance),), affine=None, spacing_mm=None)


def with_backbone(name: str, folder: Path) -> Bundle:
    """The shipped bundle, its findings network built anew with another backbone."""
    if name == SHIPPED_BACKBONE:
        return Bundle.open(SHIPPED)
    path = folder / name
    shutil.copytree(SHIPPED, path)
    inference = json.loads((path / "configs/inference.json").read_text())
    inference["network_def"]["findings"]["backbone"] = name
    network = ImageAndClinical(**{k: v for k, v in inference["network_def"]["findings"].items() if k != "_target_"})
    weights = {k: v for k, v in load_file(SHIPPED / "models/model.safetensors").items() if k.startswith("lungs.")}
    weights |= {f"findings.{k}": v.contiguous() for k, v in network.state_dict().items()}
    (path / "configs/inference.json").write_text(json.dumps(inference))
    save_file(weights, path / "models/model.safetensors")
    write_sums(path)
    return Bundle.open(path)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("| backbone | film | load, CPU s | film, CPU s (median) | film, wall s (median) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            begun = time.process_time()
            pipeline = ChestXray(with_backbone(name, Path(folder)))
            model = pipeline.load("cpu")
            loaded = time.process_time() - begun
            for side in SIDES if name == SHIPPED_BACKBONE else SIDES[:1]:
                volume = film(side)
                pipeline.run(volume, model)
                cpu, wall = [], []
                for _ in range(chosen.rounds):
                    at, now = time.process_time(), time.perf_counter()
                    pipeline.run(volume, model)
                    cpu.append(time.process_time() - at)
                    wall.append(time.perf_counter() - now)
                print(f"| {name} | {side} x {side} | {loaded:.1f} | {median(cpu):.2f} | {median(wall):.2f} |", flush=True)


if __name__ == "__main__":
    main()
