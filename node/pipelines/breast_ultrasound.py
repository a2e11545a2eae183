"""A breast ultrasound picture: normal, benign or malignant, and the lesion's outline and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.domain import Finding, Heatmap, Measurement, Region, Result, Segment
from node.errors import OutsideIntendedUse
from node.imaging.letterbox import Box, Letterbox
from node.imaging.scan_region import ScanRegion, scan_region
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes

SIZE = 192  #: pixels of the canvas the network sees
LABELS = ("normal", "benign", "malignant")
MOST_FRAMES = 32  #: of a clip, evenly spaced
SMALLEST_LESION = 35  #: pixels of the canvas
MOST_COLOUR = 0.02  #: share of the tissue; marks and a logo may be coloured
LESION_COLOR = (240, 180, 30)

NORMAL = codes.Code("17621005", "SCT", "Normal")
BENIGN = codes.Code("30807003", "SCT", "Benign")  # CID 6063
MALIGNANT = codes.Code("21594007", "SCT", "Malignant")

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def grey_of(pixels: NDArray[Any]) -> Floats:
    """Frames as grey 0 to 1, (frames, rows, columns), from float grey of any range or uint8 colour (…, 3)."""
    if pixels.ndim == 4:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        return np.asarray(pixels.astype(np.float32) @ weights / 255.0, np.float32)
    grey = np.asarray(pixels, np.float32)
    top = float(grey.max(initial=0.0))
    if top <= 1.0:
        return np.clip(grey, 0, 1)
    full = 255.0 if top <= 255.0 else top  # 8-bit pictures keep their brightness; deeper ones use their range
    return np.asarray(np.clip(grey / full, 0, 1), np.float32)


def coloured_share(frame: NDArray[Any], box: Box) -> float:
    """How much of the box is clearly coloured, 0 to 1; 0 for a grey frame (rows, columns)."""
    if frame.ndim != 3:
        return 0.0
    part = frame[box.top : box.bottom, box.left : box.right].astype(np.int16)
    return float((part.max(axis=-1) - part.min(axis=-1) > 60).mean())


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network says of one picture, on the picture's own grid."""

    logits: Floats  #: (3,), in the order of LABELS, before temperature
    lesion: Floats  #: probability of lesion, (rows, columns)
    malignant: Floats  #: probability of malignant lesion, (rows, columns)


def read(grey: Floats, box: Box, network: Any, aspect: float = 1.0) -> Reading:
    """The network on one picture and on its mirror image, averaged. `aspect`: height of a pixel by its width."""
    import torch

    frame = Letterbox(box, SIZE, aspect)
    canvas = torch.from_numpy(frame.forward(grey))[None, None]
    with torch.inference_mode():
        maps, classes = network(torch.cat([canvas, canvas.flip(-1)]))
        maps = torch.sigmoid(maps.float()).cpu()
        mean = ((maps[0] + maps[1].flip(-1)) / 2).numpy()
        logits = classes.float().cpu().mean(dim=0).numpy()
    lesion, malignant = (frame.backward(m, *grey.shape) for m in mean)
    return Reading(np.asarray(logits, np.float32), lesion, malignant)


def probabilities(logits: Floats, limits: Mapping[str, float]) -> Floats:
    """Calibrated class probabilities, (3,): logits over `temperature`, then weighted with `prior_<label>`.

    Training shows the three classes evenly; the prior is how often they stand in the data.
    """
    prior = np.log([limits.get(f"prior_{label}", 1.0) for label in LABELS])
    scaled = logits / limits.get("temperature", 1.0) + prior
    chances = np.exp(scaled - scaled.max())
    return np.asarray(chances / chances.sum(), np.float32)


def outlined(reading: Reading, likely: Floats, limits: Mapping[str, float], smallest_pixels: float) -> Mask:
    """The lesions of one picture. Where the whole picture is called normal, only what the map is sure of."""
    mask = lesion_mask(reading.lesion, limits["lesion"], smallest_pixels)
    if likely.argmax() == 0 and float(reading.lesion.max()) < limits.get("lesion_sure", 0.0):
        return np.zeros_like(mask)
    return mask


def lesion_mask(lesion: Floats, threshold: float, smallest_pixels: float) -> Mask:
    """What is above the threshold, without small spots and holes."""
    above = (lesion >= threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    keep = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] >= smallest_pixels]
    return np.isin(labels, keep) if keep else np.zeros(lesion.shape, bool)


class BreastUltrasound(Pipeline):
    """One picture (or clip) in; three calibrated probabilities, the lesion's outline, diameter and area out."""

    takes: ClassVar[Takes] = Takes.IMAGE
    label_codes: ClassVar[Mapping[str, codes.Code]] = dict(zip(LABELS, (NORMAL, BENIGN, MALIGNANT), strict=True))

    def load(self, device: str) -> Any:
        """The network, warm on `device`."""
        return self.bundle.network(device, engine="openvino")

    def run(self, volume: Volume, model: Any) -> Result:
        """Label, lesion, size. Raises OutsideIntendedUse when there is nothing to see in the picture."""
        if why := self.bundle.refusal(volume.series.header):
            raise OutsideIntendedUse(why)
        if volume.unit == "HU":
            raise OutsideIntendedUse("the model reads ultrasound pictures, not CT values")
        if not volume.finite:
            raise OutsideIntendedUse("some pixels are no numbers")
        grey = grey_of(volume.pixels)
        frames = np.unique(np.linspace(0, grey.shape[0] - 1, min(MOST_FRAMES, grey.shape[0])).astype(int))
        readings: dict[int, tuple[Reading, ScanRegion]] = {}
        for z in frames:
            region = scan_region(grey[z], volume.frames[z].instance.header, volume.pixel_spacing_mm)
            part = grey[z, region.box.top : region.box.bottom, region.box.left : region.box.right]
            if min(part.shape) < 32 or float(part.std()) < 0.01:
                continue
            self._refuse_other_examinations(volume.pixels[z], region)
            readings[int(z)] = (read(grey[z], region.box, model, region.aspect), region)
        if not readings:
            raise OutsideIntendedUse("the picture shows nothing: too small or of one grey")
        key = max(readings, key=lambda z: float(1 - self._likely(readings[z][0])[0]) + 1e-3 * float(readings[z][0].lesion.max()))
        return self._result(volume, grey.shape, readings, key)

    def _refuse_other_examinations(self, frame: NDArray[Any], region: ScanRegion) -> None:
        """Colour in the tissue is Doppler or elastography; a picture that reaches deep into the body is of something else."""
        if coloured_share(frame, region.box) > MOST_COLOUR:
            raise OutsideIntendedUse("the picture holds colour (Doppler, elastography); the model reads grey B-mode pictures")
        deepest = float(self.bundle.intended_use.get("max_depth_mm", np.inf))
        if region.pixel_mm and region.box.height * region.pixel_mm[0] > deepest:
            raise OutsideIntendedUse(f"the picture reaches deeper than {deepest:.0f} mm: not a breast")

    def _likely(self, reading: Reading) -> Floats:
        return probabilities(reading.logits, self.bundle.thresholds)

    def _result(self, volume: Volume, shape: tuple[int, ...], readings: dict[int, tuple[Reading, ScanRegion]], key: int) -> Result:
        limits = self.bundle.thresholds
        likely = self._likely(readings[key][0])
        mask = np.zeros(shape, bool)
        heat = np.zeros(shape, np.float32)
        for z, (reading, region) in readings.items():
            smallest = SMALLEST_LESION / math.prod(Letterbox(region.box, SIZE, region.aspect).scale)
            mask[z] = outlined(reading, self._likely(reading), limits, smallest)
            heat[z] = np.maximum(reading.lesion * 0.5, reading.malignant)
        label = LABELS[int(likely.argmax())]
        contradiction = []
        if label == "normal" and mask[key].any():
            contradiction = ["A lesion is outlined although the picture as a whole is called normal: look at it."]
        if label != "normal" and not mask[key].any():
            contradiction = ["The picture is called abnormal, but no lesion could be outlined."]
        drawn, pixel_mm = largest_part(mask[key]), readings[key][1].pixel_mm
        named = label if label != "normal" or not drawn.any() else LABELS[1 + int(likely[2] > likely[1])]
        findings = []
        for code, name, p in zip((NORMAL, BENIGN, MALIGNANT), LABELS, likely, strict=True):
            shows = name == named and drawn.any()
            findings.append(
                Finding(
                    name=name,
                    code=code,
                    probability=float(p),
                    present=bool(p >= limits["malignant"]) if name == "malignant" else name == label,
                    site=codes.BREAST,
                    measurements=size_of(drawn, pixel_mm) if shows else (),
                    region=outline(drawn, key) if shows else None,
                    segment=1 if shows else None,
                )
            )
        segment = Segment(
            number=1,
            label="Lesion",
            mask=mask,
            category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
            type=codes.LESION,
            color=LESION_COLOR,
        )
        remarks = [] if pixel_mm else ["The picture is not calibrated: no sizes in mm."]
        if shape[0] > len(readings):
            remarks.append(f"{len(readings)} of {shape[0]} frames were read.")
        if beside := readings[key][1].others:
            remarks.append(f"The header names {beside} more regions with tissue on the picture: only the first was read.")
        box = tight_box(drawn)
        return Result(
            analysed=True,
            label=label,
            confidence=float(likely.max()),
            findings=tuple(findings),
            segments=(segment,) if mask.any() else (),
            heatmap=Heatmap(title="Lesion and malignancy", values=heat, frames=(key,)),
            notes=(*volume.notes, *contradiction, *remarks),
            facts={
                "frame": key,
                "box": box,
                "lesion_threshold": limits["lesion"],
                "malignant_threshold": limits["malignant"],
                "temperature": limits.get("temperature", 1.0),
                "canvas": SIZE,
            },
        )


def largest_part(mask: Mask) -> Mask:
    """The largest connected part of one frame's mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(mask.shape, bool)
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def tight_box(mask: Mask) -> list[int] | None:
    """[column, row, width, height] in pixels."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def size_of(mask: Mask, pixel_mm: tuple[float, float] | None) -> tuple[Measurement, ...]:
    """Longest diameter in mm and area in mm2 of one lesion; nothing without calibration.

    The diameter is the greatest distance between two corners of outline pixels' centres, plus one pixel.
    """
    if pixel_mm is None or not mask.any():
        return ()
    row_mm, column_mm = pixel_mm
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours).reshape(-1, 2).astype(np.float64) * (column_mm, row_mm)
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2)
    longest = float(np.linalg.norm(hull[:, None] - hull[None], axis=-1).max()) + (row_mm + column_mm) / 2
    area = float(mask.sum()) * row_mm * column_mm
    return (
        Measurement(name=codes.LONG_AXIS, value=round(longest, 1), unit=codes.MILLIMETER),
        Measurement(name=codes.AREA, value=round(area, 1), unit=codes.SQUARE_MILLIMETER),
    )


def outline(mask: Mask, frame: int) -> Region | None:
    """The lesion as a closed outline in DICOM's pixel coordinates."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
    return Region(frame=frame, outline=largest + np.float32(0.5))
