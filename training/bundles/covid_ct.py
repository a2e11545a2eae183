"""The bundle of `covid_ct`: its description, its thresholds, its figures and its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.letterbox import Box, Letterbox
from node.imaging.lungs import Lungs, find_lungs
from node.pipelines.covid_ct import SIZE, SMALLEST_SPOT, WINDOW_HU, infected, infection_map, percent, windowed
from training import evaluate as e
from training.bundles.alike import MASK, PROBABILITIES, SCHEMA, between, described, image_input, maps_output, on_pictures
from training.datasets import covid_ct_medseg, dicom_ct
from training.recipes.covid_ct import LOWER_PART, NETWORK

SHARE_PERCENT, SHARE_SLOPE = 3.0, 4.0  #: the logistic curve from infected share to probability; set by hand, see the card
NO_COVID = "dicom/ct_chest_lungpetctdx"
COVID = "dicom/ct_covid_ny_sbu"

LICENCE_NOTE = """The weights in this bundle were trained on the COVID-SemiSeg release of MedSeg and Radiopaedia slices, which is
for research only (non-commercial), and on one CT of TCIA Lung-PET-CT-Dx (CC BY 4.0).
The weights may be used for research and not for commercial purposes; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Marks lung that looks infected (ground glass and consolidation) on axial chest CT of adults in whom "
    "COVID-19 pneumonia is already suspected or known, and measures its share of each lung. Not for diagnosis, "
    "not for telling COVID-19 from other causes, not for children."
)


def inference() -> dict[str, Any]:
    """`configs/inference.json`: the network and, for one slice cut to the lungs in HU, the steps before and after it."""
    slices = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    back = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False}
    return on_pictures(NETWORK, SIZE, [*slices, between(*WINDOW_HU)], [PROBABILITIES, back, *MASK])


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        schema=SCHEMA,
        packages=("segmentation-models-pytorch", "safetensors"),
        changelog={"1.0.0": "first weights"},
        name="COVID-19 infection on chest CT",
        task="Segmentation of infected lung on axial chest CT",
        description="U-Net with a ResNet34 encoder on lung-cropped axial slices, 448 x 448, trained with BCE + Jaccard.",
        intended_use=INTENDED,
        data_source="MedSeg / COVID-SemiSeg (Fan et al., IEEE TMI 2020); TCIA Lung-PET-CT-Dx",
        image_classes="one axial CT slice in Hounsfield units, cut to the lungs, patient's left on the right, back below",
        label_classes="0 = other, 1 = infected lung",
        pred_classes="one channel: logit of infected lung",
        network_data_format={
            "inputs": {"image": image_input(SIZE, modality="CT", unit="hounsfield")},
            "outputs": {"pred": maps_output(SIZE, "infection")},
        },
        radnode={
            "pipeline": "covid_ct",
            "family": "convolutional neural network",
            "labels": ["infection"],
            "thresholds": {"infection": 0.5, "share_percent": SHARE_PERCENT, "share_slope": SHARE_SLOPE},
            "intended_use": {
                "modality": ["CT"],
                "body_part": ["CHEST", "LUNG", "THORAX"],
                "orientation": "axial",
                "unit": "HU",
                "min_slices": 8,
                "max_slice_thickness_mm": 10.0,
                "min_age_years": 18,
            },
            "licence": {"name": "COVID-SemiSeg release, research only", "non_commercial": True, "text": "LICENSE"},
            "research_only": True,
        },
    )


# --- figures ----------------------------------------------------------------------------------------------------------------
def maps(bundle: Bundle, slices: list[covid_ct_medseg.Slice], engine: str = "torch") -> list[npt.NDArray[np.float32]]:
    """The bundle's probability map of each slice on the slice's own grid."""
    import torch

    network = bundle.network(engine=engine)
    found = []
    with torch.inference_mode():
        for one in slices:
            frame = Letterbox(Box(0, 0, *one.hu.shape), SIZE)
            answer = torch.sigmoid(network(torch.from_numpy(frame.forward(windowed(one.hu)))[None, None]))
            found.append(frame.backward(answer[0, 0].numpy(), *one.hu.shape))
    return found


def of_split(data: Path, split: str) -> list[covid_ct_medseg.Slice]:
    return [s for s in covid_ct_medseg.load(data / "images" / "covid_ct_medseg", pseudo=False) if s.split == split]


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """0.5, unless another threshold is better by more than half a point of mean Dice on the ten validation slices."""
    slices = of_split(data, "val")
    probability = maps(bundle, slices)

    def score(limit: float) -> float:
        return e.mean_dice(e.counts([p >= limit for p in probability], [s.mask for s in slices]))

    best = max((0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6), key=score)
    chosen = best if score(best) > score(0.5) + 0.005 else 0.5
    return {"infection": chosen, "share_percent": SHARE_PERCENT, "share_slope": SHARE_SLOPE}


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Dice and IoU of one split, at the bundle's threshold."""
    slices = of_split(data, split)
    limit = bundle.thresholds["infection"]
    table = e.counts([p >= limit for p in maps(bundle, slices)], [s.mask for s in slices])
    fast = e.counts([p >= limit for p in maps(bundle, slices, "openvino")], [s.mask for s in slices])
    groups = [s.group for s in slices]
    return {
        "split": split,
        "slices": len(slices),
        "groups": len(set(groups)),
        "dice_mean": e.figure(groups, lambda i: e.mean_dice(table[i])),
        "dice_median": round(float(np.median([e.mean_dice(table[i : i + 1]) for i in range(len(table))])), 3),
        "dice_pooled": e.figure(groups, lambda i: e.pooled_dice(table[i])),
        "iou_mean": e.figure(groups, lambda i: e.mean_iou(table[i])),
        "dice_mean_openvino": round(e.mean_dice(fast), 3),
        "pixel_sensitivity": round(float(table[:, 0].sum() / (table[:, 0] + table[:, 2]).sum()), 3),
        "pixel_specificity": round(float(table[:, 3].sum() / (table[:, 3] + table[:, 1]).sum()), 4),
    }


def share_of(bundle: Bundle, ct: dicom_ct.Ct, network: Any, slices: slice | None = None) -> float | None:
    """Infected share in percent of one CT (or of some of its slices) by the node's own path; None without lungs."""
    lungs = find_lungs(ct.hu, ct.spacing_mm)
    if lungs is None:
        return None
    part = slices or slice(None)
    lungs = Lungs(lungs.left[part], lungs.right[part])
    probability = infection_map(ct.hu[part], lungs, network)
    left, right = infected(probability, lungs, bundle.thresholds["infection"], SMALLEST_SPOT)
    both = left | right
    return round(percent(both, lungs.both | both), 2)


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """What the node's whole path says of real CT it was not trained on: a chest without and chests with COVID-19."""
    network = bundle.network(engine="openvino")
    ct = dicom_ct.read(sorted((data / NO_COVID).rglob("*.dcm")))
    shares: dict[str, Any] = {}
    for file in sorted((data / COVID).rglob("axial*.dcm")):
        name = f"{file.parent.name} {file.stem.removeprefix('axial_')}"
        shares[name] = share_of(bundle, dicom_ct.read([file]), network)
    return {
        "no_covid_upper_part_percent": share_of(bundle, ct, network, slice(LOWER_PART + 3, None)),
        "no_covid_lower_part_percent": share_of(bundle, ct, network, slice(0, LOWER_PART)),
        "no_covid_whole_percent": share_of(bundle, ct, network),
        "covid_slices_percent": shares,
    }


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    limits = meta["radnode"]["thresholds"]
    slices = "\n".join(
        f"| {name} | {'no lungs on the slice' if share is None else f'{share:.1f} %'} |"
        for name, share in found["covid_slices_percent"].items()
    )
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence: non-commercial (see `LICENSE`).**

{meta["intended_use"]}

## What it does
Each axial slice of a chest CT is read in the window centre -600, width 1500 HU, cut to the box of the lungs, put on a
{SIZE} x {SIZE} canvas with its aspect kept, and a U-Net with a ResNet34 encoder ({meta["description"].split(",")[0]}) gives the
probability of infection for every pixel. The map is brought back on the source grid, cut at {limits["infection"]}, limited to
the reach of each lung, and counted: infected volume and share, overall and per lung.

The *probability that infection is present* is a logistic curve in the logarithm of the infected share: 0.5 at
{limits["share_percent"]} % of the lung, slope {limits["share_slope"]}. It was **set by hand** between the one CT without COVID-19 and
the COVID-19 slices named below. It ranks; it is not a calibrated probability.

## Data
| what | number | used for | licence |
|---|---|---|---|
| MedSeg slices with masks by radiologists | 35 of 40 | training | research only |
| slices with masks made by another model (Inf-Net), limited to the lungs | 400 | training, at first half of the draws, fading out | research only |
| lower {LOWER_PART} slices of TCIA Lung-PET-CT-Dx A0001 (no COVID-19), empty masks | 27 with lung | training, one draw in eight | CC BY 4.0 |
| MedSeg slices with masks by radiologists | 10 | validation and threshold | research only |

The release has no patient ids and its own split puts slices of one patient on both sides. Slices that look alike (correlation
above {covid_ct_medseg.LOOK_ALIKE} at 48 px) count as one patient here; five training slices were left out because their
look-alike stands in validation. Some patients may still be on both sides.

Training: {meta["radnode"]["training"].get("steps", "?")} steps of 12, 8 and 6 slices at 256, 352 and {SIZE} px in
{meta["radnode"]["training"].get("minutes", "?")} minutes on two shared CPU cores; random weights at the start, no pre-trained encoder.

The slices are 8-bit pictures in unknown windows, cut to the lungs, lying on their side. They were set upright (checked by eye on
every source) and their grey was put on a Hounsfield-like scale from two landmarks, aerated lung and soft tissue.

## Figures
Validation: {found["slices"]} slices, {found["groups"]} groups; value (95 % interval, bootstrap over groups). The threshold was set on the
same slices, so the figures lean to the good side. **Ten slices say little: read the interval.**

| | |
|---|---|
| Dice, mean over slices | {e.written(found["dice_mean"])} |
| Dice, median | {found["dice_median"]:.3f} |
| Dice, all pixels together | {e.written(found["dice_pooled"])} |
| IoU, mean over slices | {e.written(found["iou_mean"])} |
| Dice, mean, as the node computes on a CPU (OpenVINO, bfloat16 where the CPU has it) | {found["dice_mean_openvino"]:.3f} |
| pixel sensitivity / specificity | {found["pixel_sensitivity"]:.3f} / {found["pixel_specificity"]:.4f} |

For scale: on the official test slices of the same release U-Net is published with Dice 0.439, Inf-Net 0.682, Semi-Inf-Net 0.739
(Fan et al., IEEE TMI 39:2626, 2020).

Whole path of the node (lungs found, cut, brought back) on real CT series:

| chest without COVID-19 (A0001, a lung cancer in the left upper lobe) | infected share |
|---|---|
| upper part, **not trained on** (same patient), holds the tumour | {found["no_covid_upper_part_percent"]} % |
| lower part, trained on as empty | {found["no_covid_lower_part_percent"]} % |
| whole series | {found["no_covid_whole_percent"]} % |

| NY-SBU, COVID-19 patients, single axial slices, never trained on | infected share of the slice's lung |
|---|---|
{slices}

## Where it fails, and what it is not for
- It marks **whatever looks like ground glass or consolidation**: a tumour with its surroundings, other pneumonia, aspiration,
  oedema, atelectasis and dependent density. On A0001 most of what is marked lies round the tumour.
- Very dense consolidation that reaches the chest wall over a whole lobe may lie outside the reach of the lung that is found
  and is then measured too small.
- Effusion is neither lung nor infection here; shares then refer to the lung that is left.
- Partial volume above the diaphragm, fissures and hilar vessels give small false spots (of the order of half a percent).
- Never seen: children, slices thicker than 10 mm, coronal or sagittal reformats (refused). Contrast was not recorded.
- Single slices can be read, but their share is that slice's and not the lungs'.
- No second reader, no second hospital with masks, no subgroup by sex, age or scanner could be measured: the data has none.
"""
