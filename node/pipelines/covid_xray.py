"""A chest radiograph: is there infection (COVID-19 pneumonia or another), where, how much of each lung, and a severity score by zones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.bundle import age_in_years
from node.codes import Code
from node.domain import Finding, Heatmap, Measurement, Region, Result, Segment
from node.errors import OutsideIntendedUse
from node.imaging.facing import Facing
from node.imaging.letterbox import Letterbox, box_of
from node.imaging.radiograph import LungFields, Radiograph, equalised, is_lateral, lungs_of, radiograph_of, turned_over
from node.imaging.shown import as_shown
from node.imaging.spacing import squared_aspect
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes

SIZE = 128  #: pixels of the canvas the opacity network sees
MARGIN = 0.03  #: round the lungs, of the longer side of their box
DARKEST = 0.1  #: of a lung on the canvas; 0 is what lies outside
SMALLEST_SPOT = 20  #: pixels of the canvas; smaller spots are noise
USUAL_EXTENT = 0.1  #: at which extent says neither yes nor no
LEAST_SHARE = 1.0  #: percent of one lung that must be opaque for infection to be said of that lung
CERTAIN_TURNED = 0.9  #: how clearly lungs must be seen in a film turned over before it counts as stored with the wrong photometric
ZONES = ("upper", "middle", "lower")
ZONE_STEPS = (5.0, 100 / 3, 200 / 3)  #: percent of a zone from which its score is 1, 2, 3
RIGHT_COLOR, LEFT_COLOR, INFECTION_COLOR = (70, 160, 220), (70, 200, 160), (220, 60, 40)

INFECTIOUS_LUNG_DISEASE = Code("128601007", "SCT", "Infectious disease of lung")
RIGHT_LUNG, LEFT_LUNG = Code("3341006", "SCT", "Right lung"), Code("44029006", "SCT", "Left lung")
OPAQUE_SHARE = codes.private("OPAQUE_SHARE", "Infected (opaque) share of projected lung area")
SEVERITY = codes.private("SEVERITY_6_ZONES", "Opacity score of six zones (0 to 18)")
SIDE_SEVERITY = codes.private("SEVERITY_3_ZONES", "Opacity score of three zones (0 to 9)")
ZONE_SCORES = {zone: codes.private(f"SCORE_{zone.upper()}", f"Opacity score, {zone} zone (0 to 3)") for zone in ZONES}
SCORE = Code("{score}", "UCUM", "score")

WEAK = (
    "Opacity was learned from radiologists' boxes round pneumonia of any kind, not from outlines of COVID-19: areas and scores are rough."
)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def canvas_of(grey: Floats, lungs: Mask) -> tuple[Letterbox, Floats]:
    """Only the lungs, their grey equalised, on the network's canvas; and the way back."""
    box = box_of(lungs)
    assert box is not None  # there are no lungs without a pixel
    seen = np.where(lungs, DARKEST + (1 - DARKEST) * equalised(grey, lungs), 0).astype(np.float32)
    frame = Letterbox(box.grown(MARGIN, *lungs.shape), SIZE)
    return frame, frame.forward(seen)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the opacity network says of one film, on its working grid, nothing outside the lungs."""

    opacity: Floats  #: probability, (rows, columns)
    evidence: float  #: logit of infection: the mean of the evidence map over both lungs
    side_evidence: tuple[float, float]  #: of the right and the left lung alone
    extent: float  #: mean probability of opacity over both lungs
    side_extent: tuple[float, float]


def read(film: Radiograph, lungs: LungFields, network: Any) -> Reading:
    """The network on the lungs and on their mirror image, averaged."""
    import torch

    frame, canvas = canvas_of(film.grey, lungs.both)
    with torch.inference_mode():
        picture = torch.from_numpy(canvas)[None, None]
        straight, mirrored = network(picture).float(), network(picture.flip(-1)).float().flip(-1)
        opacity = ((torch.sigmoid(straight[0, 0]) + torch.sigmoid(mirrored[0, 0])) / 2).cpu().numpy()
        evidence = ((straight[0, 1] + mirrored[0, 1]) / 2).cpu().numpy()
    shape = film.grey.shape
    opacity = np.where(lungs.both, frame.backward(np.asarray(opacity, np.float32), *shape), 0)
    evidence = frame.backward(np.asarray(evidence, np.float32), *shape)
    parts = (lungs.right, lungs.left, lungs.both)
    right, left, both = (float(evidence[part].mean()) for part in parts)
    right_extent, left_extent, extent = (float(opacity[part].mean()) for part in parts)
    return Reading(np.asarray(opacity, np.float32), both, (right, left), extent, (right_extent, left_extent))


def probability(evidence: float, extent: float, limits: Mapping[str, float]) -> float:
    """Calibrated: evidence and the logarithm of the extent, the latter times `extent_weight`, over `temperature`, plus `bias`."""
    logit = evidence + limits.get("extent_weight", 0.0) * float(np.log((extent + 0.01) / USUAL_EXTENT))
    return float(1 / (1 + np.exp(-(logit / limits.get("temperature", 1.0) + limits.get("bias", 0.0)))))


def opaque(reading: Reading, lungs: LungFields, threshold: float) -> Mask:
    """What is above the threshold in the lungs, small spots left out."""
    above = (reading.opacity >= threshold).astype(np.uint8)
    smallest = SMALLEST_SPOT * (max(lungs.box(MARGIN).height, lungs.box(MARGIN).width) / SIZE) ** 2
    count, parts, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    keep = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= smallest]
    return np.isin(parts, keep) if keep else np.zeros(above.shape, bool)


def percent(spots: Mask, lung: Mask) -> float:
    """How much of the lung is opaque, in percent."""
    return 100.0 * float((spots & lung).sum()) / max(1.0, float(lung.sum()))


def zone_scores(spots: Mask, lung: Mask) -> tuple[int, int, int]:
    """Scores 0 to 3 of the upper, middle and lower third of one lung's height, by the opaque share of each."""
    rows = np.flatnonzero(lung.any(axis=1))
    edges = np.linspace(rows[0], rows[-1] + 1, len(ZONES) + 1).round().astype(int)
    scores = []
    for top, bottom in itertools.pairwise(edges):
        share = percent(spots[top:bottom], lung[top:bottom])
        scores.append(sum(share >= step for step in ZONE_STEPS))
    return scores[0], scores[1], scores[2]


class CovidXray(Pipeline):
    """A frontal chest film of an adult in; lungs and opacity as masks, shares, a severity score by zones and a probability out."""

    takes: ClassVar[Takes] = Takes.IMAGE
    label_codes: ClassVar[Mapping[str, Code]] = {"infection": INFECTIOUS_LUNG_DISEASE}

    def load(self, device: str) -> Any:
        """Both networks, warm on `device`."""
        return self.bundle.stages(device, engine="openvino")

    def run(self, volume: Volume, model: Any) -> Result:
        """Infection, where and how much. Raises OutsideIntendedUse when this is no frontal chest film of an adult."""
        header = volume.frames[0].instance.header
        if why := self.bundle.refusal(header):
            raise OutsideIntendedUse(why)
        if is_lateral(header):
            raise OutsideIntendedUse("the model reads frontal (PA or AP) films; the header tells of another view")
        if volume.unit == "HU":
            raise OutsideIntendedUse("the model reads projection radiographs, not CT values")
        if len(volume.pixels) != 1:
            raise OutsideIntendedUse("the model reads single films, not several frames at once")
        facing = Facing.of(header)
        assert facing is not None  # of a lateral view, and those are refused above
        aspect = facing.aspect(squared_aspect(header, volume.pixel_spacing_mm))
        film, lungs, notes = self._seen(facing.turn(as_shown(volume)), model["lungs"], aspect)
        reading = read(film, lungs, model["opacity"])
        spots = opaque(reading, lungs, self.bundle.thresholds["opacity"])
        if age_in_years(str(header.get("PatientAge", "") or "")) is None:
            notes = [*notes, "The patient's age is not known; the model was made for adults."]
        if not facing.told:
            notes = [*notes, "The header does not tell which side is which: the image's left edge was taken as the patient's right."]
        return self._result(volume, facing, film, lungs, reading, spots, notes)

    def _seen(self, plane: NDArray[Any], network: Any, aspect: float = 1.0) -> tuple[Radiograph, LungFields, list[str]]:
        """The film and its lungs; turned over where only that shows lungs. Raises OutsideIntendedUse."""
        film = radiograph_of(plane, aspect)
        if isinstance(film, str):
            raise OutsideIntendedUse(film)
        lungs = lungs_of(film, network)
        if not isinstance(lungs, str):
            return film, lungs, []
        over = turned_over(film)
        found = lungs_of(over, network)
        if isinstance(found, str) or found.certainty < CERTAIN_TURNED:
            raise OutsideIntendedUse(lungs)
        return over, found, ["Black and white look exchanged in the file (Photometric Interpretation): the film was read turned over."]

    def _result(
        self,
        volume: Volume,
        facing: Facing,
        film: Radiograph,
        lungs: LungFields,
        reading: Reading,
        spots: Mask,
        notes: list[str],
    ) -> Result:
        limits = self.bundle.thresholds
        likely = probability(reading.evidence, reading.extent, limits)
        present = likely >= limits["infection"]
        scores = {"right": zone_scores(spots, lungs.right), "left": zone_scores(spots, lungs.left)}
        total = sum(sum(side) for side in scores.values())
        masks = [facing.back(film.on_source(m) > 0.5) for m in (lungs.right, lungs.left, spots)]
        largest = outline(masks[2])
        findings = [
            Finding(
                name="infection",
                code=INFECTIOUS_LUNG_DISEASE,
                probability=likely,
                present=present,
                site=codes.LUNG,
                measurements=(
                    Measurement(name=OPAQUE_SHARE, value=round(percent(spots, lungs.both), 1), unit=codes.PERCENT),
                    Measurement(name=SEVERITY, value=total, unit=SCORE),
                ),
                region=largest,
                segment=3 if masks[2].any() else None,
            )
        ]
        sides = (("right", codes.RIGHT, lungs.right), ("left", codes.LEFT, lungs.left))
        bare = []  # lungs that are called infected, with nothing outlined
        for number, (side, laterality, lung) in enumerate(sides):
            share = percent(spots, lung)
            chance = probability(reading.side_evidence[number], reading.side_extent[number], limits)
            called = bool(present and (chance >= limits["infection"] or share >= LEAST_SHARE))  # no side alone where both are clean
            bare += [side] if called and not share else []
            zones = tuple(
                Measurement(name=ZONE_SCORES[zone], value=score, unit=SCORE) for zone, score in zip(ZONES, scores[side], strict=True)
            )
            findings.append(
                Finding(
                    name=f"infection, {side} lung",
                    code=INFECTIOUS_LUNG_DISEASE,
                    probability=chance,
                    present=called,
                    site=codes.LUNG,
                    laterality=laterality,
                    measurements=(
                        Measurement(name=OPAQUE_SHARE, value=round(share, 1), unit=codes.PERCENT),
                        Measurement(name=SIDE_SEVERITY, value=sum(scores[side]), unit=SCORE),
                        *zones,
                    ),
                    region=elsewhere(outline(masks[2] & masks[number]), largest),
                )
            )
        return Result(
            analysed=True,
            label="infection" if present else "no infection",
            confidence=likely if present else 1 - likely,
            findings=tuple(findings),
            segments=segments(masks, present=present),
            heatmap=Heatmap(title="Opacity probability", values=facing.back(film.on_source(reading.opacity))[None], frames=(0,)),
            notes=(*volume.notes, WEAK, *notes, *remarks(spots, bare, present=present)),
            facts={
                "lung_certainty": round(lungs.certainty, 3),
                "zones": {side: dict(zip(ZONES, one, strict=True)) for side, one in scores.items()},
                "severity": total,
                "opacity_threshold": limits["opacity"],
                "threshold": limits["infection"],
                "temperature": limits.get("temperature", 1.0),
                "canvas": SIZE,
                "turned": [name for name in ("transposed", "flip_rows", "flip_columns") if getattr(facing, name)],
            },
        )


def segments(masks: list[Mask], *, present: bool) -> tuple[Segment, ...]:
    """Right lung, left lung, and the opacity where there is any, on the film's grid."""
    lungs = (("Right lung", RIGHT_LUNG, RIGHT_COLOR), ("Left lung", LEFT_LUNG, LEFT_COLOR))
    found = [
        Segment(number=n, label=label, mask=masks[n - 1][None], category=codes.ANATOMICAL_STRUCTURE, type=kind, color=color)
        for n, (label, kind, color) in enumerate(lungs, 1)
    ]
    if masks[2].any():
        label = "Infection (opacity)" if present else "Opacity below the decision threshold"
        category = codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE
        found.append(Segment(number=3, label=label, mask=masks[2][None], category=category, type=codes.LESION, color=INFECTION_COLOR))
    return tuple(found)


def remarks(spots: Mask, bare: Sequence[str], *, present: bool) -> list[str]:
    """What a reader should see where decision and mask do not agree; `bare`: lungs that are called infected and have no opacity."""
    if present and not spots.any():
        return ["The film is called infected, but no opacity could be outlined."]
    if not present and spots.any():
        return ["An opacity is outlined although the film as a whole is not called infected: look at it."]
    return [f"The {side} lung is called infected, but no opacity could be outlined in it." for side in bare]


def elsewhere(own: Region | None, largest: Region | None) -> Region | None:
    """A lung's own opacity where it is not the one that is outlined already: two outlines in one place are two labels over each other."""
    return None if own is None or largest is None or np.array_equal(own.outline, largest.outline) else own


def outline(mask: Mask) -> Region | None:
    """The largest part as a closed outline in DICOM's pixel coordinates."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
    return Region(frame=0, outline=largest + np.float32(0.5))
