"""The bundle of `breast_ultrasound`: its description, its thresholds, its figures and its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.letterbox import Box
from node.pipelines.breast_ultrasound import LABELS, SIZE, SMALLEST_LESION, Reading, outlined, probabilities, read
from training import evaluate as e
from training.bundles.alike import (
    GREY,
    MASK,
    PROBABILITIES,
    SCHEMA,
    between,
    classes_output,
    described,
    image_input,
    maps_output,
    on_pictures,
)
from training.datasets import busi_breast_us
from training.recipes.breast_ultrasound import NETWORK, without_marks

SURE = 0.9  #: how high the lesion map must reach for an outline in a picture that is called normal
SENSITIVITY = 0.9  #: of malignant on validation, at which the malignant threshold is set

LICENCE_NOTE = """The weights in this bundle were trained on BUSI (Al-Dhabyani et al., Data in Brief 28:104863, 2020), CC BY 4.0.
They may be used under CC BY 4.0; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Reads one B-mode picture of the breast: normal, benign or malignant lesion, with the lesion's outline and, "
    "where the picture is calibrated, its size. For pictures that a person chose because they show the finding. "
    "Not for diagnosis, not for screening, not for Doppler, elastography or male breasts."
)


def inference() -> dict[str, Any]:
    """`configs/inference.json`: the network and, for one grey picture, the steps before and after it."""
    first = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda pred: pred[0]"}
    return on_pictures(NETWORK, SIZE, [*GREY, between(0.0, 255.0)], [first, PROBABILITIES, *MASK])


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        schema=SCHEMA,
        packages=("segmentation-models-pytorch", "safetensors"),
        changelog={"1.0.0": "first weights", "1.1.0": "trained twice as long"},
        name="Breast ultrasound lesion",
        task="Classification (normal, benign, malignant) and lesion segmentation on breast ultrasound",
        description="U-Net with a ResNet18 encoder and a class head on its bottleneck, 192 x 192, BCE + Dice + cross entropy.",
        intended_use=INTENDED,
        data_source="BUSI (Al-Dhabyani et al., Data in Brief 28:104863, 2020)",
        image_classes="one grey B-mode picture, 0 to 1",
        label_classes="lesion; malignant lesion; class of the picture",
        pred_classes="pred: two channels of logits; classes: logits of normal, benign, malignant",
        network_data_format={
            "inputs": {"image": image_input(SIZE, modality="US")},
            "outputs": {"pred": maps_output(SIZE, "lesion", "malignant lesion"), "classes": classes_output(*LABELS)},
        },
        radnode={
            "pipeline": "breast_ultrasound",
            "family": "convolutional neural network",
            "labels": list(LABELS),
            "thresholds": {"lesion": 0.5, "lesion_sure": SURE, "malignant": 0.5, "temperature": 1.0},
            "intended_use": {
                "picture": "breast_ultrasound",
                "modality": ["US"],
                "body_part": ["BREAST"],
                "body_part_required": True,
                "min_slices": 1,
                "min_rows": 64,
                "max_depth_mm": 110,
                "min_age_years": 18,
            },
            "licence": {"name": "CC BY 4.0", "non_commercial": False, "text": "LICENSE"},
            "research_only": True,
        },
    )


# --- figures ----------------------------------------------------------------------------------------------------------------
def of_split(data: Path, split: str) -> list[busi_breast_us.Scan]:
    return [s for s in busi_breast_us.load(data / "images" / "busi_breast_us") if s.split == split]


def readings(bundle: Bundle, scans: list[busi_breast_us.Scan], *, inpainted: bool = False, engine: str = "openvino") -> list[Reading]:
    """What the bundle says of each picture, by the node's own path."""
    network = bundle.network(engine=engine)
    pictures = [without_marks(s.grey) if inpainted else s.grey for s in scans]
    return [read(p, Box(0, 0, *p.shape), network) for p in pictures]


def masks(found: list[Reading], limits: Mapping[str, float]) -> list[npt.NDArray[np.bool_]]:
    """The outlines as the pipeline draws them."""
    return [outlined(r, probabilities(r.logits, limits), limits, SMALLEST_LESION * (max(r.lesion.shape) / SIZE) ** 2) for r in found]


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """On validation: the temperature of least log loss, the outline of best Dice, the malignant threshold of 90 % sensitivity."""
    scans = of_split(data, "val")
    found = readings(bundle, scans)
    truth = np.array([s.label for s in scans])

    labels = [s.label for s in of_split(data, "train")]
    prior = {f"prior_{label}": round(labels.count(i) / len(labels), 4) for i, label in enumerate(LABELS)}

    def log_loss(temperature: float) -> float:
        chances = np.stack([probabilities(r.logits, prior | {"temperature": temperature}) for r in found])
        return float(-np.log(chances[np.arange(len(truth)), truth] + 1e-9).mean())

    temperature = float(min(np.arange(0.5, 4.01, 0.05), key=log_loss))

    def score(limit: float) -> float:
        limits = prior | {"lesion": limit, "lesion_sure": SURE, "temperature": temperature}
        return e.mean_dice(e.counts(masks(found, limits), [s.mask for s in scans]))

    lesion = float(max((0.3, 0.4, 0.5, 0.6, 0.7), key=score))
    likely = np.array([probabilities(r.logits, prior | {"temperature": temperature})[2] for r in found])
    called = np.sort(likely[truth == 2])[::-1]
    malignant = float(called[int(np.ceil(SENSITIVITY * len(called))) - 1])
    return {
        "lesion": lesion if score(lesion) > score(0.5) + 0.005 else 0.5,
        "lesion_sure": SURE,
        "malignant": float(np.floor(malignant * 1000) / 1000),
        "temperature": round(temperature, 2),
        **prior,
    }


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Outline and classes of one split, at the bundle's thresholds."""
    scans = of_split(data, split)
    found = readings(bundle, scans)
    inpainted = readings(bundle, scans, inpainted=True)
    exact = readings(bundle, scans, engine="torch")
    limits = bundle.thresholds
    groups = [s.group for s in scans]
    truth = np.array([s.label for s in scans])
    table = e.counts(masks(found, limits), [s.mask for s in scans])
    chances = np.stack([probabilities(r.logits, limits) for r in found]).astype(float)
    clean = np.stack([probabilities(r.logits, limits) for r in inpainted]).astype(float)
    slow = np.stack([probabilities(r.logits, limits) for r in exact]).astype(float)
    called = chances.argmax(axis=1)
    malignant = chances[:, 2] >= limits["malignant"]
    confusion = e.confusion(called.tolist(), truth.tolist(), len(LABELS))
    return {
        "split": split,
        "training_pictures": len(of_split(data, "train")),
        "pictures": len(scans),
        "groups": len(set(groups)),
        "dice_lesion": e.figure(groups, lambda i: e.lesion_dice(table[i])),
        "dice_mean": e.figure(groups, lambda i: e.mean_dice(table[i])),
        "dice_pooled": e.figure(groups, lambda i: e.pooled_dice(table[i])),
        "iou_lesion": e.figure(groups, lambda i: e.mean_iou(table[i])),
        "normal_without_lesion": round(float((table[truth == 0][:, 1] == 0).mean()), 3),
        "auc_malignant": e.figure(groups, lambda i: e.auc(chances[i, 2], truth[i] == 2)),
        "auc_malignant_marks_removed": e.figure(groups, lambda i: e.auc(clean[i, 2], truth[i] == 2)),
        "auc_malignant_float32": round(e.auc(slow[:, 2], truth == 2), 3),
        "dice_lesion_float32": round(e.lesion_dice(e.counts(masks(exact, limits), [s.mask for s in scans])), 3),
        "auc_lesion": e.figure(groups, lambda i: e.auc(1 - chances[i, 0], truth[i] > 0)),
        "accuracy": e.figure(groups, lambda i: float((called[i] == truth[i]).mean())),
        "balanced_accuracy": round(e.balanced_accuracy(confusion), 3),
        "sensitivity_malignant": e.figure(groups, lambda i: e.sensitivity(malignant[i], truth[i] == 2)),
        "specificity_malignant": e.figure(groups, lambda i: e.specificity(malignant[i], truth[i] == 2)),
        "confusion": confusion,
        "log_loss": round(float(-np.log(chances[np.arange(len(truth)), truth]).mean()), 3),
    }


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """How much painted-on calipers and words move the malignant probability: they must not decide."""
    from training.recipes.breast_ultrasound import with_marks

    scans = of_split(data, "val")
    network = bundle.network(engine="openvino")
    moved = []
    for number, scan in enumerate(scans):
        side = max(scan.grey.shape)
        square = np.zeros((side, side), np.float32)
        square[: scan.grey.shape[0], : scan.grey.shape[1]] = scan.grey
        marked = with_marks(square, np.random.default_rng(number))[: scan.grey.shape[0], : scan.grey.shape[1]]
        pair = [read(p, Box(0, 0, *scan.grey.shape), network) for p in (scan.grey, np.ascontiguousarray(marked))]
        plain, with_ink = (float(probabilities(r.logits, bundle.thresholds)[2]) for r in pair)
        moved.append(abs(plain - with_ink))
    return {"malignant_moved_by_marks": {"mean": round(float(np.mean(moved)), 3), "p95": round(float(np.percentile(moved, 95)), 3)}}


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    limits = meta["radnode"]["thresholds"]
    rows = "\n".join(f"| **{label}** | {' | '.join(map(str, row))} |" for label, row in zip(LABELS, found["confusion"], strict=True))
    moved = found["malignant_moved_by_marks"]
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence of the weights: CC BY 4.0 (see `LICENSE`).**

{meta["intended_use"]}

## What it does
The tissue region of the picture (the machine's own region where the header names it, else what is not black) is put in grey on a
{SIZE} x {SIZE} canvas with its aspect kept. One U-Net with a ResNet18 encoder gives two maps (lesion, malignant lesion) and three class
logits; the picture and its mirror image are averaged. Logits are divided by a temperature of {limits["temperature"]} (set on validation)
and weighted with how often each class stands in the training data (training itself shows them evenly).
The outline is cut at {limits["lesion"]}, and left out in a picture called normal unless the map reaches {limits["lesion_sure"]}; *malignant* is called from {limits["malignant"]}, where {SENSITIVITY:.0%} of the malignant
validation pictures are called. The heatmap is the larger of the malignant map and half the lesion map.

## Data
BUSI: 780 pictures of about 600 women from one hospital and two machines, 8-bit, as used here at most 320 px. Normal, benign, malignant
with masks. CC BY 4.0. Training {found["training_pictures"]}, validation {found["pictures"]} pictures. There are no patient ids:
look-alikes (correlation 0.95) form groups, and no group stands in both; two pictures of one woman that look different may.
Pictures that stand in two classes were left out. Training: {meta["radnode"]["training"].get("steps", "?")} steps of 16 pictures at 128 and {SIZE} px
in {meta["radnode"]["training"].get("minutes", "?")} minutes on a share of two CPU cores; random weights at the start, no pre-trained encoder.

## Figures
Validation: {found["pictures"]} pictures, {found["groups"]} groups; value (95 % interval, bootstrap over groups). Temperature and
thresholds were set on the same pictures, so the figures that depend on them lean to the good side; AUC and Dice hardly do.

| | |
|---|---|
| AUC, malignant against the rest | {e.written(found["auc_malignant"])} |
| the same with calipers and letters inpainted away | {e.written(found["auc_malignant_marks_removed"])} |
| AUC, any lesion against normal | {e.written(found["auc_lesion"])} |
| accuracy, three classes | {e.written(found["accuracy"])} |
| balanced accuracy | {found["balanced_accuracy"]:.3f} |
| sensitivity, malignant | {e.written(found["sensitivity_malignant"])} |
| specificity, malignant | {e.written(found["specificity_malignant"])} |
| log loss | {found["log_loss"]:.3f} |
| Dice, pictures with a lesion | {e.written(found["dice_lesion"])} |
| Dice, all pictures (empty and empty is 1) | {e.written(found["dice_mean"])} |
| Dice, all pixels together | {e.written(found["dice_pooled"])} |
| IoU, pictures with a lesion | {e.written(found["iou_lesion"])} |
| normal pictures without any outline | {found["normal_without_lesion"]:.0%} |

Measured as the node computes on a CPU (OpenVINO, bfloat16). In float32: AUC {found["auc_malignant_float32"]:.3f}, Dice on lesions
{found["dice_lesion_float32"]:.3f}.

| truth \\ called | {" | ".join(LABELS)} |
|---|---|---|---|
{rows}

Painting random calipers and words on each picture moves the malignant probability by {moved["mean"]:.3f} on average
(95th percentile {moved["p95"]:.3f}).

For scale: BreastMNIST (the same source, benign and normal against malignant) is published with AUC 0.89 to 0.90 for ResNet-18; U-Net
with pre-training and a random split reaches Dice 0.76 on BUSI. A random split lets look-alikes through.

## Where it fails, and what it is not for
- One hospital, two machines: **expect less elsewhere.** No second source could be measured.
- BUSI's marks stand more often beside lesions. They were painted on all classes and inpainted at random in training; the two figures
  above show what is left of it.
- The pictures were chosen by a person to show the finding. Frames of a sweep mostly show nothing, and the share of malignant pictures
  (one in four) is far above practice: **the probability is one among such pictures, not a risk.**
- Large lesions that fill the picture, several lesions at once, and lesions of fat's brightness are outlined badly.
- Cysts are *benign* here; BI-RADS categories were never seen.
- Colour (Doppler, elastography) and calibrated pictures deeper than 110 mm are refused. Split screens, 3-D views and other organs are
  outside its use too, but can't be told from the pixels: route by the order, not by modality alone.
- Labels of BUSI have known faults (same lesion in two classes, other organs): Pawłowska et al., Data in Brief 48:109247, 2023.
"""
