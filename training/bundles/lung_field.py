"""The bundle of the lung-field network: a support of the chest X-ray pipelines, which hold a copy of it in their own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.radiograph import LUNG_SIZE, LungFields, Radiograph, lungs_of, radiograph_of
from training import evaluate as e
from training.bundles.alike import described, image_input, maps_output
from training.datasets import cxr_adult224
from training.recipes.lung_field import NETWORK, NO_CHEST, pictures

WHOLE_FILMS = ("cxr_figure1", "cxr_nih64", "cxr_pediatric224")

LICENCE_NOTE = """The weights in this bundle were trained on chest films of the ieee8023 COVID-19 collection (licences of single images, CC BY and
CC BY-NC-SA) with outlines by v7 Labs (CC BY 4.0), and, without outlines, on films of NIH ChestX-ray14 (free use with citation),
Figure1-COVID (research only) and Kermany et al. (CC BY 4.0). They may be used for non-commercial research only; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Finds the two lungs on a frontal chest film, also where heart or disease covers them, so that other networks look there "
    "and nowhere else. Not a measurement of the lungs, not for diagnosis."
)


def inference() -> dict[str, Any]:
    """`configs/inference.json`: the network alone; what comes before and after it is `node/imaging/radiograph.py`."""
    return {"network_def": NETWORK}


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        changelog={"1.0.0": "first weights"},
        name="Lung fields of a chest film",
        task="Segmentation of both lungs on frontal chest radiographs",
        description=f"U-Net, {LUNG_SIZE} x {LUNG_SIZE}, one map for the lung at each edge of the image; BCE + Dice, one round of self-training.",
        intended_use=INTENDED,
        data_source="ieee8023 with v7 outlines; NIH ChestX-ray14, Figure1-COVID, Kermany et al. without outlines",
        network_data_format={
            "inputs": {"image": image_input(LUNG_SIZE)},
            "outputs": {"pred": maps_output(LUNG_SIZE, "lung at the image's left edge", "lung at its right edge")},
        },
        radnode={
            "pipeline": "lung_field",
            "intended_use": {"modality": ["CR", "DX"], "body_part": ["CHEST"]},
            "licence": {"name": "non-commercial research", "non_commercial": True, "text": "LICENSE"},
        },
    )


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """None are set: the maps are cut at 0.5."""
    return {}


def found_in(grey: npt.NDArray[np.float32], network: Any) -> LungFields | str:
    """The lungs of one picture by the node's own path."""
    film = radiograph_of(grey)
    return lungs_of(film, network) if isinstance(film, Radiograph) else film


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Dice against outlines by people; a film whose lungs are not believed counts 0."""
    films = [f for f in cxr_adult224.load(data / "images" / "cxr_adult224") if f.split == split and f.lungs is not None]
    network = bundle.network(engine="openvino")
    rows = []
    for film in films:
        assert film.lungs is not None
        lungs = found_in(film.grey, network)
        truths = cxr_adult224.sides(film.lungs)
        if isinstance(lungs, str):
            rows.append((0.0, 0.0, 0.0))
        else:
            rows.append((e.dice(lungs.both, film.lungs), e.dice(lungs.right, truths[0]), e.dice(lungs.left, truths[1])))
    table, groups = np.array(rows), [f.group for f in films]
    return {
        "split": split,
        "films": len(films),
        "patients": len(set(groups)),
        "dice": e.figure(groups, lambda i: float(table[i, 0].mean())),
        "dice_image_left": e.figure(groups, lambda i: float(table[i, 1].mean())),
        "dice_image_right": e.figure(groups, lambda i: float(table[i, 2].mean())),
        "not_believed": int((table[:, 0] == 0).sum()),
    }


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """On how many whole films of other collections two lungs are believed, and on how many pictures of something else."""
    network = bundle.network(engine="openvino")

    def believed(grey: list[npt.NDArray[np.float32]]) -> float:
        return round(float(np.mean([not isinstance(found_in(one, network), str) for one in grey])), 3)

    images = data / "images"
    films = {name: pictures(images / name, 100, seed=9) for name in WHOLE_FILMS}
    lying = [np.ascontiguousarray(np.rot90(one)) for one in films["cxr_figure1"]]
    return {
        "believed_films": {name: believed(grey) for name, grey in films.items()},
        "believed_lying_films": believed(lying),
        "believed_others": {name.split("/")[0]: believed(pictures(images / name.replace("train", "val"), 50, seed=9)) for name in NO_CHEST},
    }


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    films = "\n".join(
        f"| `{name}`, whole films, seen in training without outlines | {share:.0%} |" for name, share in found["believed_films"].items()
    )
    others = "\n".join(f"| `{name}`, no chest film | {share:.0%} |" for name, share in found["believed_others"].items())
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence: non-commercial (see `LICENSE`).**

{meta["intended_use"]}

## What it does
A film is stretched between its 0.5th and 99.5th percentile, cut free of black and white borders, put on a {LUNG_SIZE} x {LUNG_SIZE} canvas, and a
U-Net (channels {", ".join(map(str, NETWORK["channels"]))}) draws the lung at each edge of the image; the film and its mirror image are averaged.
`node/imaging/radiograph.py` does that, and believes the answer only when there are two lungs, as large as lungs, side by side and clearly seen.
The lungs reach behind the heart and below the domes as people outlined them, and through disease.

The pipelines for chest films hold a copy of these weights in their own weights file, so that one digest names all that made a result.

## Data
96 films of COVID-19 patients with outlines by people (v7), the middle 80 % of each film, 224 px. Round one learns from those alone; what it then
outlines with certainty on films of NIH, Figure1-COVID and Kermany (children) is half of what round two sees. Haze, letters, wires, frames, bad
exposures and bad files are drawn over all of it; pictures of other things and films on their side have no lungs.

## Figures
Validation: {found["films"]} films of {found["patients"]} patients, outlines by people; value (95 % interval, bootstrap over patients). Outlines
are polygons, coarse at the heart and the domes.

| | |
|---|---|
| Dice, both lungs | {e.written(found["dice"])} |
| Dice, lung at the image's left edge | {e.written(found["dice_image_left"])} |
| Dice, lung at its right edge | {e.written(found["dice_image_right"])} |
| films whose lungs are not believed | {found["not_believed"]} |

| two lungs are believed in | |
|---|---|
{films}
| `cxr_figure1` turned by 90 degrees | {found["believed_lying_films"]:.0%} |
{others}

## Where it fails
- A lung that is wholly opaque from top to bottom is often not seen; the film is then refused.
- Lateral films are refused by their header, and by the shape of what is found where the header is silent; the latter is not certain.
- No outline of a whole film was there to measure on: the share of films above says only that lungs of a lung's shape are found.
"""
