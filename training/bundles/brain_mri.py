"""The bundle of `brain_mri`: its description, its thresholds, its figures and its model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.letterbox import Box
from node.pipelines.brain_mri import LEADING, SIZE, TYPES, canvas_of, chances, grey_of, head_of, series_logit
from training import evaluate as e
from training.bundles.alike import GREY, PROBABILITIES, SCHEMA, classes_output, described, image_input, on_pictures
from training.datasets import brain_tumor_mri
from training.recipes.brain_mri import GLIOBLASTOMA, HEALTHY, HEALTHY_HEAD, NETWORK, STAGES, WHOLE_SERIES

LAYER = "layer3"  #: 11 x 11 on the canvas: fine enough to point, deep enough to mean something
SENSITIVITY = 0.975  #: of tumour slices on validation, at which the threshold is set (never below 0.5)
SECOND_SOURCE = Path("dicom/mr_brain_tumor_btp/PGBM_02_pre_T1post")  #: a patient with a mask for each slice, never trained on

LICENCE_NOTE = """The weights in this bundle were trained on slices of Cheng's brain tumour data set (figshare 1512427, 2017, CC BY 4.0) and
of the collection of S. Bhuvaji et al. (released under the MIT licence), on one T1-weighted head of brainchop (MIT)
and on one series of TCIA Brain-Tumor-Progression (Schmainda and Prah, 2018, CC BY 3.0).
They may be used under CC BY 4.0; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Says of a brain MR series whether a slice looks like those with a tumour (glioma, meningioma, pituitary tumour), and "
    "shows the slice and where on it the network looks. Made for T1-weighted series after contrast of adults. "
    "Not for diagnosis, not for screening, not for telling kinds of tumour apart."
)


def inference(network: dict[str, Any] = NETWORK) -> dict[str, Any]:
    """`configs/inference.json`: the network and, for one grey picture, the steps before and after it."""
    greys = {
        "_target_": "ScaleIntensityRangePercentilesd",
        "keys": "image",
        "lower": 1,
        "upper": 99.5,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    }
    return on_pictures(network, SIZE, [*GREY, greys], [PROBABILITIES])


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        schema=SCHEMA,
        changelog={"1.0.0": "first weights"},
        name="Brain tumour on MR",
        task="Classification of brain MR slices: tumour or none",
        description=f"ResNet18 of half width on {SIZE} x {SIZE} pictures of the head; binary cross entropy, and cross entropy over three kinds.",
        intended_use=INTENDED,
        data_source="Cheng 2017 (figshare 1512427); Bhuvaji et al., Brain Tumor Classification (MRI)",
        image_classes="one grey MR slice, cut to the head, 0 to 1",
        label_classes="tumour; of those the kind",
        pred_classes="logit of tumour; logits of glioma, meningioma, pituitary tumour given a tumour",
        network_data_format={
            "inputs": {"image": image_input(SIZE, modality="MR")},
            "outputs": {"pred": classes_output("tumor", *TYPES)},
        },
        radnode={
            "pipeline": "brain_mri",
            "family": "convolutional neural network",
            "labels": ["tumor"],
            "thresholds": {"tumor": 0.5, "temperature": 1.0},
            "grad_cam_layer": LAYER,
            "intended_use": {
                "picture": "brain_mr",
                "modality": ["MR"],
                "weighting": ["T1"],
                "body_part": ["BRAIN", "HEAD", "SKULL", "NEURO"],
                "body_part_required": True,
                "min_slices": 1,
                "min_age_years": 18,
            },
            "licence": {"name": "CC BY 4.0", "non_commercial": False, "text": "LICENSE"},
            "research_only": True,
        },
    )


# --- figures ----------------------------------------------------------------------------------------------------------------
def of_split(data: Path, split: str) -> list[brain_tumor_mri.Slice]:
    return [s for s in brain_tumor_mri.load(data / "images" / "brain_tumor_mri") if s.split == split]


def readings(network: Any, pictures: list[npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(logits of tumour, kinds) of pictures, by the node's own path."""
    read = []
    for picture in pictures:
        grey = grey_of(picture)
        box, _ = head_of(grey)
        read.append(chances(network, canvas_of(grey, box or Box(0, 0, *grey.shape))[1]))
    return np.array([logit for logit, _ in read]), np.array([int(kinds.argmax()) for _, kinds in read])


def probability(logits: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Calibrated chances of tumour."""
    return np.asarray(1 / (1 + np.exp(-logits / temperature)))


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """On validation: the temperature of least log loss, and the chance from which 97.5 % of the tumour slices are called."""
    scans = of_split(data, "val")
    logits, _ = readings(bundle.network(engine="openvino"), [s.grey for s in scans])
    truth = np.array([s.label > 0 for s in scans])

    def log_loss(temperature: float) -> float:
        likely = np.clip(probability(logits, temperature), 1e-6, 1 - 1e-6)
        return float(-np.where(truth, np.log(likely), np.log(1 - likely)).mean())

    temperature = round(float(min(np.arange(0.5, 4.01, 0.05), key=log_loss)), 2)
    called = np.sort(probability(logits[truth], temperature))[::-1]
    at = float(called[int(np.ceil(SENSITIVITY * len(called))) - 1])
    return {"tumor": max(0.5, float(np.floor(at * 1000) / 1000)), "temperature": temperature}


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Slices of one split, at the bundle's thresholds."""
    scans = of_split(data, split)
    limits = bundle.thresholds
    pictures = [s.grey for s in scans]
    logits, kinds = readings(bundle.network(engine="openvino"), pictures)
    exact, _ = readings(bundle.network(), pictures)
    labels = np.array([s.label for s in scans])
    truth, groups = labels > 0, [s.group for s in scans]
    likely = probability(logits, limits["temperature"])
    called = likely >= limits["tumor"]
    four = np.where(called, kinds + 1, 0)
    return {
        "split": split,
        "training_pictures": len(of_split(data, "train")),
        "pictures": len(scans),
        "groups": len(set(groups)),
        "auc_tumor": e.figure(groups, lambda i: e.auc(likely[i], truth[i])),
        "auc_tumor_float32": round(e.auc(exact, truth), 3),
        "sensitivity": e.figure(groups, lambda i: e.sensitivity(called[i], truth[i])),
        "specificity": e.figure(groups, lambda i: e.specificity(called[i], truth[i])),
        "accuracy_four": e.figure(groups, lambda i: float((four[i] == labels[i]).mean())),
        "confusion": e.confusion(four.tolist(), labels.tolist(), 4),
        "log_loss": round(float(-np.where(truth, np.log(likely + 1e-9), np.log(1 - likely + 1e-9)).mean()), 3),
    }


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Whole DICOM series: a glioblastoma that was never trained on, and what two others say of themselves that were."""
    network, limits = bundle.network(engine="openvino"), bundle.thresholds

    def of_series(logits: npt.NDArray[np.float64]) -> float:
        return round(float(probability(np.array([series_logit(logits.tolist())]), limits["temperature"])[0]), 3)

    def read(folder: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        slices = brain_tumor_mri.slices_with_truth(data / folder, (data / folder).with_name(folder.name + "_mask"))
        return readings(network, [picture for picture, _ in slices])[0], np.array([holds for _, holds in slices])

    logits, truth = read(SECOND_SOURCE)
    trained, _ = read(GLIOBLASTOMA)
    healthy, _ = readings(network, brain_tumor_mri.healthy_planes(data / HEALTHY_HEAD, step=6)[:30])
    names = [str(n) for n in range(len(truth))]
    return {
        "second_source": {
            "name": SECOND_SOURCE.name,
            "slices": len(truth),
            "with_tumor": int(truth.sum()),
            "auc_slices": e.figure(names, lambda i: e.auc(logits[i], truth[i])),
            "key_slice_holds_tumor": bool(truth[int(logits.argmax())]),
            "series": of_series(logits),
        },
        "trained_on": {GLIOBLASTOMA.name: of_series(trained), "healthy head, axial planes": of_series(healthy)},
    }


def model_card(meta: dict[str, Any], found: dict[str, Any], *, sizes: Sequence[int] = tuple(size for _, size in STAGES)) -> str:
    """MODEL_CARD.md from the metadata and the measured figures; `sizes` are the canvases of the training."""
    limits, second = meta["radnode"]["thresholds"], found["second_source"]
    names = ("none", *TYPES)
    rows = "\n".join(f"| **{label}** | {' | '.join(map(str, row))} |" for label, row in zip(names, found["confusion"], strict=True))
    trained = "; ".join(f"{name} {value:.3f}" for name, value in found["trained_on"].items())
    pointed = "holds" if second["key_slice_holds_tumor"] else "does **not** hold"
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence of the weights: CC BY 4.0 (see `LICENSE`).**

{meta["intended_use"]}

## What it does
Each slice is scaled between its 1st and 99.5th percentile, cut to the head, and put on a {SIZE} x {SIZE} canvas with its aspect kept.
{meta["description"]} Slice and mirror image are averaged. The series is as suspicious as its {LEADING} most suspicious slices on
average; logits are divided by a temperature of {limits["temperature"]}, *tumor* is called from {limits["tumor"]}. The heatmap is Grad-CAM on `{meta["radnode"]["grad_cam_layer"]}` of the leading
slices: **where the network looks, which is not where a tumour is.** Nothing is outlined.

## Data
{found["training_pictures"]} 8-bit slices for training, {found["pictures"]} for validation: glioma, meningioma, pituitary tumour (Cheng's collection, T1 after contrast, three
planes) and slices without a tumour **from other sources** (T1, T2 and others). There are no patient ids: look-alikes (correlation 0.95)
form groups, and no group stands in both splits; two slices of one patient that look different may. Planes of one healthy head
(brainchop, T1; {HEALTHY:.0%} of the negatives drawn) and one series after contrast with a truth for each slice (TCIA Brain-Tumor-Progression,
{WHOLE_SERIES:.0%} of negatives and of gliomas) were added. Training: {meta["radnode"]["training"].get("steps", "?")} steps of 24 pictures at {" and ".join(map(str, sizes))} px in
{meta["radnode"]["training"].get("minutes", "?")} minutes on one shared CPU core; random weights at the start.

Because label and source go together in this data, margins, brightness, window, bias field, noise, sharpness, JPEG quality and size were
varied strongly on all pictures in training.

## Figures
Validation: {found["pictures"]} slices, {found["groups"]} groups; value (95 % interval, bootstrap over groups). Temperature and threshold were set on
the same slices.

| | |
|---|---|
| AUC, tumour against none | {e.written(found["auc_tumor"])} |
| the same in float32 | {found["auc_tumor_float32"]:.3f} |
| sensitivity | {e.written(found["sensitivity"])} |
| specificity | {e.written(found["specificity"])} |
| accuracy, four classes | {e.written(found["accuracy_four"])} |
| log loss | {found["log_loss"]:.3f} |

| truth \\ called | {" | ".join(names)} |
|---|---|---|---|---|
{rows}

A second source, never trained on: {second["slices"]} slices (DICOM, 16 bit) of one glioblastoma patient, {second["with_tumor"]} of them with tumour by the published masks.
AUC of slices with tumour against those without: {e.written(second["auc_slices"])}; the slice that is called most suspicious {pointed} tumour; the series is
called with {second["series"]:.3f}. Of what was trained on: {trained}.

For scale: on Cheng's data a network reaches 96.6 % with slices drawn at random and 88.5 % when patients are kept apart (Badža and
Barjaktarović, Applied Sciences 10:1999, 2020).

## Where it fails, and what it is not for
- **Source and label are confounded in the data.** On slices from elsewhere expect clearly less than the first table says.
- **It tells series better than slices.** Within one patient it is much less sure than the first table looks
  (second source above): the key slice may hold none, and the heatmap often lies beside the tumour, on the other side even. Look at
  the whole series.
- The probability is one among such slices (nine in ten show a tumour), not a risk.
- Only three kinds of tumour after contrast were seen. Metastases, lymphoma, abscess, stroke, bleeding, demyelination and post-operative
  changes are unknown to it and may be called either way. Sequences without contrast hide most tumours.
- A series whose header tells another weighting than T1 (T2, FLAIR, diffusion) is not analysed. Where it tells none, nobody asks.
- A long thin series has more slices and so more chances to be called; {LEADING} slices are averaged for that reason.
- Never seen: children, images with motion or metal.
"""
