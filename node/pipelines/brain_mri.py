"""A brain MR: is there a slice that looks like tumour, which one, and where on it does the network look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.domain import Finding, Heatmap, Result
from node.errors import OutsideIntendedUse
from node.imaging.facing import Facing
from node.imaging.letterbox import Box, Letterbox, box_of
from node.imaging.spacing import squared_aspect
from node.imaging.volume import Volume
from node.networks.explanation import AGREE, DISAGREE, agreement, grad_cam, occlusion
from node.pipelines.interface import Pipeline, Takes

SIZE = 176  #: pixels of the canvas the network sees
MARGIN = 0.04  #: round the head, of the longer side of its box
TYPES = ("glioma", "meningioma", "pituitary")  #: the other outputs of the network, told in words only
MOST_SLICES = 96  #: of a thin series, evenly spaced
LEADING = 3  #: the series is as suspicious as its most suspicious slices on average
SMALLEST_HEAD = 0.25  #: share of the largest slice's head; smaller slices are the vertex, the neck or nothing
SEEN_MM = 40.0  #: how far along the normal a series must reach for a negative answer without a remark

INTRACRANIAL_TUMOR = codes.Code("126952004", "SCT", "Neoplasm of brain")

Floats = NDArray[np.float32]


def grey_of(plane: NDArray[Any]) -> Floats:
    """One slice, (rows, columns) of any range, as 0 to 1 between its 1st and 99.5th percentile."""
    low, high = np.percentile(plane, [1, 99.5])
    return np.asarray(np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def head_of(grey: Floats, aspect: float = 1.0) -> tuple[Box | None, float]:
    """The box round the head and how many pixels it has: the largest part that is no air. (None, 0) where there is nothing.

    `aspect`: height of a pixel by its width.
    """
    down = max(1.0, grey.shape[0] / 128)
    smooth = cv2.GaussianBlur(grey, (0, 0), down * aspect, sigmaY=down)
    level = max(0.06, 0.35 * float(smooth[smooth > 0.06].mean()) if (smooth > 0.06).any() else 1.0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((smooth > level).astype(np.uint8), connectivity=8)
    if count < 2:
        return None, 0.0
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return box_of(labels == largest), float(stats[largest, cv2.CC_STAT_AREA])


def canvas_of(grey: Floats, box: Box, aspect: float = 1.0) -> tuple[Letterbox, Floats]:
    """The head on the network's canvas, and the way back. `aspect`: height of a pixel by its width."""
    rows, columns = grey.shape
    frame = Letterbox(box.grown(MARGIN, rows, columns, aspect), SIZE, aspect)
    return frame, frame.forward(grey)


def chances(network: Any, canvas: Floats) -> tuple[float, Floats]:
    """(logit of tumour, chances of each type given a tumour) of one slice, averaged over its mirror image."""
    import torch

    picture = torch.from_numpy(canvas)[None, None]
    with torch.inference_mode():
        logits = network(torch.cat([picture, picture.flip(-1)])).float().cpu().mean(dim=0)
        return float(logits[0]), torch.softmax(logits[1:], dim=0).numpy()


def series_logit(logits: list[float]) -> float:
    """The mean of the most suspicious slices."""
    return float(np.mean(sorted(logits, reverse=True)[:LEADING]))


@dataclass(frozen=True, slots=True)
class Warm:
    """The network twice: compiled for reading, as a torch module for looking into."""

    network: Any
    module: Any
    layer: str  #: whose activations Grad-CAM weighs


class BrainMri(Pipeline):
    """Every slice is scored; the most suspicious decide for the series and are shown with a heatmap (Grad-CAM)."""

    takes: ClassVar[Takes] = Takes.VOLUME
    label_codes: ClassVar[Mapping[str, codes.Code]] = {"tumor": INTRACRANIAL_TUMOR}

    def load(self, device: str) -> Warm:
        """The network, warm on `device`."""
        layer = str(self.bundle.node["grad_cam_layer"])
        return Warm(self.bundle.network(device, engine="openvino"), self.bundle.module(device), layer)

    def run(self, volume: Volume, model: Warm) -> Result:
        """Tumour or not, and the key slice. Raises OutsideIntendedUse when no head is seen."""
        if why := self.bundle.refusal(volume.series.header):
            raise OutsideIntendedUse(why)
        if volume.unit == "HU" or volume.pixels.ndim != 3:
            raise OutsideIntendedUse("the model reads grey MR images, not CT values or colour")
        if not volume.finite:
            raise OutsideIntendedUse("some pixels are no numbers")
        facing = Facing() if volume.affine is None else Facing.in_space(volume.affine)
        heads = self._heads(volume, facing)
        read = {z: chances(model.network, canvas) for z, (_, canvas) in heads.items()}
        order = sorted(read, key=lambda z: -read[z][0])
        temperature = self.bundle.thresholds.get("temperature", 1.0)
        tumor = _sigmoid(series_logit([logit for logit, _ in read.values()]) / temperature)
        shown = order[:LEADING]
        heat = np.zeros(volume.pixels.shape, np.float32)
        cams = {z: grad_cam(model.module, model.layer, heads[z][1][None], 0) for z in shown}
        for z in shown:
            heat[z] = facing.back(heads[z][0].backward(cams[z], *facing.turn(heat[z]).shape)) * _sigmoid(read[z][0] / temperature)
        present = tumor >= self.bundle.thresholds["tumor"]
        key = shown[0]
        agree = agreement(cams[key], occlusion(model.module, heads[key][1][None], 0))
        finding = Finding(  # no outline: Grad-CAM tells where the network looks, not where a tumour ends
            name="tumor",
            code=INTRACRANIAL_TUMOR,
            probability=tumor,
            present=present,
            site=codes.BRAIN,
        )
        return Result(
            analysed=True,
            label="tumor" if present else "no tumor",
            confidence=tumor if present else 1 - tumor,
            findings=(finding,),
            heatmap=Heatmap(title="Where the network looks for tumor (Grad-CAM)", values=heat, frames=tuple(shown)),
            notes=(*volume.notes, *self._remarks(volume, read[key][1], len(read), agree, present=present)),
            facts={
                "slices_read": len(read),
                "key_slice": key + 1,
                "cam_and_occlusion_agree": round(agree, 2),
                "slice_probabilities": {str(z + 1): round(_sigmoid(read[z][0] / temperature), 3) for z in sorted(read)},
                "threshold": self.bundle.thresholds["tumor"],
                "temperature": temperature,
                "canvas": SIZE,
            },
        )

    def _heads(self, volume: Volume, facing: Facing) -> dict[int, tuple[Letterbox, Floats]]:
        """The slices worth reading: those through a good part of the head, at most `MOST_SLICES`; as readers hang them, pixels square."""
        heads: dict[int, tuple[Floats, Box, float]] = {}
        aspect = facing.aspect(squared_aspect(volume.frames[0].instance.header, volume.pixel_spacing_mm))
        for z, plane in enumerate(np.asarray(volume.pixels, np.float32)):
            grey = grey_of(facing.turn(plane))
            box, area = head_of(grey, aspect)
            if box is not None and min(box.height, box.width) >= 32 and float(plane.std()) > 0:
                heads[z] = grey, box, area
        if not heads:
            raise OutsideIntendedUse("no head is seen on these images")
        largest = max(area for *_, area in heads.values())
        good = [z for z in heads if heads[z][2] >= SMALLEST_HEAD * largest]
        chosen = np.unique(np.linspace(0, len(good) - 1, min(MOST_SLICES, len(good))).round().astype(int))
        return {good[i]: canvas_of(*heads[good[i]][:2], aspect) for i in chosen}

    def _remarks(self, volume: Volume, types: Floats, read: int, agree: float, *, present: bool) -> list[str]:
        remarks = []
        if present:
            likely = int(types.argmax())
            remarks.append(
                f"Of the three kinds that the network has seen, the key slice is most like {TYPES[likely]} ({codes.chance_said(float(types[likely]))}); no diagnosis."
            )
        if agree < AGREE:
            remarks.append(DISAGREE)
        reach = None if volume.spacing_mm is None else volume.spacing_mm[0] * volume.pixels.shape[0]
        if not present and (reach is None or reach < SEEN_MM):
            remarks.append("The images reach through a part of the head only: nothing is said about the rest.")
        if read < volume.pixels.shape[0]:
            remarks.append(f"{read} of {volume.pixels.shape[0]} slices were read; the others show little of the head, or lie between.")
        return remarks


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
