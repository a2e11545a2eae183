"""COVID-19 infection on chest CT: which voxels, how much of each lung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.domain import Finding, Heatmap, Measurement, Region, Result, Segment
from node.errors import OutsideIntendedUse
from node.imaging.letterbox import Letterbox, box_of
from node.imaging.lungs import Lungs, find_lungs, hull_of
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes

SIZE = 448  #: pixels of the canvas the network sees
WINDOW_HU = (-1350.0, 150.0)  #: centre -600, width 1500
BATCH = 4  #: slices at once: half the time of one by one in torch; the compiled network reads one by one, which is as fast there
MARGIN = 0.03  #: round the lungs, of the longer side of their box
SMALLEST_LUNG_MM2 = 300.0  #: a slice with less lung is not shown to the network
SMALLEST_SPOT = 30  #: pixels of the canvas; smaller spots are noise
ASSUMED_MM = (5.0, 0.8, 0.8)  #: for finding lungs when the spacing is not known
INFECTION_COLOR = (220, 60, 40)

INFECTIOUS_LUNG_DISEASE = codes.Code("128601007", "SCT", "Infectious disease of lung")
INFECTED_SHARE = codes.private("INFECTED_SHARE", "Infected share of lung volume")
LUNG_VOLUME = codes.private("LUNG_VOLUME", "Volume of lung, infected parts included")

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def windowed(hu: Floats) -> Floats:
    """Hounsfield units as 0 to 1 in the lung window."""
    low, high = WINDOW_HU
    return np.asarray(np.clip((hu - low) / (high - low), 0, 1), np.float32)


@dataclass(frozen=True, slots=True)
class Upright:
    """How the planes of a series are turned so that the patient's left is right and the back is below; exactly undone."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, affine: NDArray[np.float64] | None) -> Upright:
        """From the patient axes. Raises OutsideIntendedUse when the slices are not axial (or steeply tilted)."""
        if affine is None:
            return cls()
        directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
        column, row = directions[:, 0], directions[:, 1]  # which way columns and rows count up, in LPS
        if abs(float(np.cross(column, row)[2])) < 0.8:
            raise OutsideIntendedUse("the slices are not axial; the model has only seen axial ones")
        transposed = abs(column[0]) < abs(row[0])
        if transposed:
            column, row = row, column
        return cls(bool(transposed), bool(row[1] < 0), bool(column[0] < 0))

    def turn(self, planes: NDArray[Any]) -> NDArray[Any]:
        """(frames, rows, columns) upright."""
        out = planes.transpose(0, 2, 1) if self.transposed else planes
        out = out[:, ::-1] if self.flip_rows else out
        return np.ascontiguousarray(out[:, :, ::-1] if self.flip_columns else out)

    def back(self, planes: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `turn`."""
        out = planes[:, :, ::-1] if self.flip_columns else planes
        out = out[:, ::-1] if self.flip_rows else out
        return np.ascontiguousarray(out.transpose(0, 2, 1) if self.transposed else out)


def infection_map(hu: Floats, lungs: Lungs, network: Any, *, smallest_pixels: float = 0.0) -> Floats:
    """The network's probability of infection for every voxel of an upright volume, (slices, rows, columns).

    Each slice is cut to the box of the lungs of the whole series, put on the canvas, and the answer is brought back on the
    source grid. Slices with fewer than `smallest_pixels` of lung stay 0.
    """
    import torch

    box = box_of(np.asarray(lungs.both.any(axis=0)))
    out = np.zeros(hu.shape, np.float32)
    if box is None:
        return out
    rows, columns = hu.shape[1:]
    frame = Letterbox(box.grown(MARGIN, rows, columns), SIZE)
    worth = np.flatnonzero(lungs.both.sum(axis=(1, 2)) >= max(1.0, smallest_pixels))
    with torch.inference_mode():
        for start in range(0, len(worth), BATCH):
            slices = worth[start : start + BATCH]
            canvases = torch.from_numpy(np.stack([frame.forward(windowed(hu[z])) for z in slices]))[:, None]
            answers = torch.sigmoid(network(canvases).float())[:, 0].cpu().numpy()
            for z, answer in zip(slices, answers, strict=True):
                out[z] = frame.backward(answer, rows, columns)
    return out


def infected(probability: Floats, lungs: Lungs, threshold: float, smallest_pixels: float) -> tuple[Mask, Mask]:
    """(in the left lung, in the right lung): what is above the threshold within each lung's reach, small spots left out.

    Dense consolidation is as bright as the chest wall, so the lung that thresholding finds ends where it begins. The reach of a
    lung is its convex hull on the slice; the network has learned to leave heart and wall alone.
    """
    above = probability >= threshold
    both = lungs.both
    kept = np.zeros_like(above)
    reach = both | hull_of(lungs.left) | hull_of(lungs.right)
    for z in np.flatnonzero(above.any(axis=(1, 2))):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((above[z] & reach[z]).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            spot = labels == part
            if stats[part, cv2.CC_STAT_AREA] >= smallest_pixels and (spot & both[z]).any():
                kept[z] |= spot
    left_reach = hull_of(lungs.left) & ~lungs.right
    left = kept & (lungs.left | (left_reach & ~lungs.right))
    return left, kept & ~left


class CovidCt(Pipeline):
    """A chest CT in Hounsfield units in; a mask of infected lung, volumes and shares per lung out."""

    takes: ClassVar[Takes] = Takes.VOLUME
    label_codes: ClassVar[Mapping[str, codes.Code]] = {"infection": INFECTIOUS_LUNG_DISEASE}

    def load(self, device: str) -> Any:
        """The network, warm on `device`."""
        return self.bundle.network(device, engine="openvino")

    def run(self, volume: Volume, model: Any) -> Result:
        """Infected voxels and their share. Raises OutsideIntendedUse when this is no axial chest CT in HU."""
        if why := self.bundle.refusal(volume.series.header):
            raise OutsideIntendedUse(why)
        upright = Upright.of(volume.affine)
        if volume.unit != "HU" or volume.pixels.ndim != 3:
            raise OutsideIntendedUse("the model needs CT values in Hounsfield units")
        if not volume.finite:
            raise OutsideIntendedUse("some pixels are no numbers")
        hu = upright.turn(np.asarray(volume.pixels, np.float32))
        spacing = volume.spacing_mm or ASSUMED_MM
        if upright.transposed:
            spacing = (spacing[0], spacing[2], spacing[1])
        lungs = find_lungs(hu, spacing)
        if lungs is None:
            raise OutsideIntendedUse("no lungs are seen on these slices")
        pixel_mm2 = spacing[1] * spacing[2]
        probability = infection_map(hu, lungs, model, smallest_pixels=SMALLEST_LUNG_MM2 / pixel_mm2)
        box = box_of(np.asarray(lungs.both.any(axis=0)))
        assert box is not None
        scale = max(box.height, box.width) * (1 + 2 * MARGIN) / SIZE
        left, right = infected(probability, lungs, self.bundle.thresholds["infection"], SMALLEST_SPOT * scale**2)
        return self._result(volume, upright, lungs, probability, left, right)

    def _result(self, volume: Volume, upright: Upright, lungs: Lungs, probability: Floats, left: Mask, right: Mask) -> Result:
        both = left | right
        voxel_ml = volume.voxel_ml if both.shape[0] > 1 else None
        shares = {
            None: (both, lungs.both | both),
            codes.LEFT: (left, lungs.left | left),
            codes.RIGHT: (right, lungs.right | right),
        }
        share = percent(*shares[None])
        present = share >= self.bundle.thresholds["share_percent"]
        key = int(both.sum(axis=(1, 2)).argmax())
        mask = upright.back(both)
        findings = []
        for laterality, (spots, lung) in shares.items():
            here = percent(spots, lung)
            findings.append(
                Finding(
                    name="infection" if laterality is None else f"infection, {laterality.meaning.lower()} lung",
                    code=INFECTIOUS_LUNG_DISEASE,
                    probability=self.probability_present(here),
                    present=bool(present and here >= self.bundle.thresholds["share_percent"]),  # decided once, for both lungs
                    site=codes.LUNG,
                    laterality=laterality,
                    measurements=measurements(spots, lung, voxel_ml),
                    region=outline(mask[key], key) if laterality is None and both.any() else None,
                    segment=1 if laterality is None and both.any() else None,
                )
            )
        segment = Segment(
            number=1,
            label="Infection" if present else "Opacity below the decision threshold",
            mask=mask,
            category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
            type=codes.LESION,
            color=INFECTION_COLOR,
        )
        seen = np.where(lungs.both | both, probability, 0).astype(np.float32)
        order = np.argsort(-(both.sum(axis=(1, 2)) + 1e-3 * seen.sum(axis=(1, 2))), kind="stable")
        likely = self.probability_present(share)
        return Result(
            analysed=True,
            label="infection" if present else "no infection",
            confidence=likely if present else 1 - likely,
            findings=tuple(findings),
            segments=(segment,) if both.any() else (),
            heatmap=Heatmap(title="Infection probability", values=upright.back(seen), frames=tuple(int(z) for z in order[:5]), segment=1),
            notes=(*volume.notes, *self._remarks(volume, lungs)),
            facts={
                "infected_share_percent": round(share, 3),
                "threshold": self.bundle.thresholds["infection"],
                "slices_with_lung": int(lungs.both.any(axis=(1, 2)).sum()),
                "window_hu": list(WINDOW_HU),
                "canvas": SIZE,
            },
        )

    def probability_present(self, share_percent: float) -> float:
        """How likely a reader would call this infected, from the infected share alone: a logistic curve in its logarithm.

        The model card says on what the curve was set; it ranks, and is no more than roughly calibrated.
        """
        middle, slope = self.bundle.thresholds["share_percent"], self.bundle.thresholds["share_slope"]
        return float(1 / (1 + np.exp(-slope * np.log10((share_percent + 0.01) / (middle + 0.01)))))

    def _remarks(self, volume: Volume, lungs: Lungs) -> list[str]:
        remarks = []
        if volume.affine is None:
            remarks.append("Without patient axes the slices were taken as upright.")
        if volume.pixels.shape[0] < int(self.bundle.intended_use.get("min_slices", 1)):
            remarks.append(f"Only {volume.pixels.shape[0]} slices: the share is of these slices, not of the lungs.")
        elif lungs.both[0].any() and lungs.both[-1].any():
            remarks.append("Lung is seen on the first and the last slice: the series may not hold the whole lungs.")
        thickest = self.bundle.intended_use.get("max_slice_thickness_mm")
        if thickest and volume.spacing_mm and volume.spacing_mm[0] > float(thickest):
            remarks.append(f"Slices lie {volume.spacing_mm[0]:.1f} mm apart, more than the {thickest} mm the volumes are meant for.")
        return remarks


def percent(spots: Mask, lung: Mask) -> float:
    """How many of the lung's voxels are infected, in percent; 0 without a lung."""
    return 100.0 * float(spots.sum()) / max(1.0, float(lung.sum()))


def measurements(spots: Mask, lung: Mask, voxel_ml: float | None) -> tuple[Measurement, ...]:
    """Share in percent; volumes in mL where the spacing is known."""
    found = [Measurement(name=INFECTED_SHARE, value=round(percent(spots, lung), 2), unit=codes.PERCENT)]
    if voxel_ml is not None:
        found.append(Measurement(name=codes.VOLUME, value=round(float(spots.sum()) * voxel_ml, 1), unit=codes.MILLILITER))
        found.append(Measurement(name=LUNG_VOLUME, value=round(float(lung.sum()) * voxel_ml, 1), unit=codes.MILLILITER))
    return tuple(found)


def outline(mask: Mask, frame: int) -> Region | None:
    """The largest spot of one frame as a closed outline in DICOM's pixel coordinates."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
    return Region(frame=frame, outline=largest + np.float32(0.5))
