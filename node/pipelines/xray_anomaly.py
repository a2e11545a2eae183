"""A chest film: how unlike normal ones is it, where, and the same film with less noise and more contrast beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node import captioner, codes
from node.bundle import age_in_years
from node.domain import Finding, Heatmap, Result
from node.errors import OutsideIntendedUse
from node.imaging.enhance import enhanced
from node.imaging.facing import Facing
from node.imaging.lung_canvas import LungCanvas, equalised
from node.imaging.radiograph import LungFields, Radiograph, is_lateral, lungs_of, radiograph_of, turned_over
from node.imaging.shown import as_shown
from node.imaging.spacing import squared_aspect
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes

CANVAS, CELL = 160, 16  #: pixels of the canvas, and of a cell of it: ten by ten cells
DIRECTIONS = 8  #: of edges, in the histograms
CHILD_UNTIL, ADULT_FROM = 6.0, 18.0  #: years; between them both groups are asked
GROUPS = {"child": "children of 1 to 5 years", "adult": "adults"}
FEWEST_PIXELS = 100  #: from the lungs' tops to their bases, for an answer without a remark
LEAST_HOT = 0.3  #: of the heatmap, for a zone to be named
SHARE_HOT = 0.1  #: of a zone, for it to be named

ABNORMAL = codes.Code("263654008", "SCT", "Abnormal")

Floats = NDArray[np.float32]


# --- which film it is -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An upright film, bones bright, and its lungs."""

    film: Radiograph
    lungs: LungFields
    inverted: bool = False  #: the file had bones dark


def seen(plane: NDArray[Any], network: Any, aspect: float = 1.0) -> Seen:
    """The film and its lungs, turned from negative to positive when only so there are lungs. Raises OutsideIntendedUse when there are none."""
    film = radiograph_of(plane, aspect)
    if isinstance(film, str):
        raise OutsideIntendedUse(film)
    lungs = lungs_of(film, network)
    if isinstance(lungs, LungFields) and _darker(film, lungs):
        return Seen(film, lungs)
    negative = turned_over(film)
    there = lungs_of(negative, network)
    if isinstance(there, LungFields) and _darker(negative, there):
        return Seen(negative, there, inverted=True)
    if isinstance(lungs, LungFields):
        return Seen(film, lungs)
    raise OutsideIntendedUse(lungs)


def _darker(film: Radiograph, lungs: LungFields) -> bool:
    """Whether the lungs are darker than what lies round them."""
    box = lungs.box(0.0)
    part = slice(box.top, box.bottom), slice(box.left, box.right)
    grey, inside = film.grey[part], lungs.both[part]
    return bool(inside.all()) or float(grey[inside].mean()) < float(grey[~inside].mean())


def groups_for(years: float | None) -> tuple[str, ...]:
    """Beside whose normal films a film is held: children, adults, or both when the age does not say."""
    if years is None or CHILD_UNTIL <= years < ADULT_FROM:
        return ("child", "adult")
    return ("child",) if years < CHILD_UNTIL else ("adult",)


# --- what is measured on it -----------------------------------------------------------------------------------------------------
class Features(NamedTuple):
    """One film as numbers."""

    edges: Floats  #: histograms of oriented gradients over the canvas, (values,)
    whole: Floats  #: class token, the patches weighted by attention, and the logits' summary, (values,)
    patches: Floats  #: (cells, width), row by row
    attention: Floats  #: (cells,), adds up to 1
    where: Floats  #: (cells,): chance that the patch was changed, as the transformer learned it


def canvas_of(film: Radiograph, lungs: LungFields) -> tuple[LungCanvas, Floats]:
    """The lungs on the canvas, contrast evened out, and the way back."""
    frame = LungCanvas.round(lungs.box(0.0), CANVAS, *film.grey.shape)
    return frame, equalised(frame.forward(film.grey))


def features_of(canvas: Floats, reader: Any) -> Features:
    """What histograms and transformer make of a canvas."""
    import torch
    from skimage.feature import hog

    edges = hog(canvas, orientations=DIRECTIONS, pixels_per_cell=(CELL, CELL), cells_per_block=(2, 2))
    with torch.inference_mode():
        read = reader(torch.from_numpy(canvas)[None, None])
    whole, patches, changed, where, attention = (np.asarray(part[0].float().cpu().numpy(), np.float32) for part in read)
    told = np.concatenate([whole, attention @ patches, [changed, np.sort(where)[-10:].mean(), where.mean()]])
    return Features(
        np.asarray(edges, np.float32), np.asarray(told, np.float32), patches, attention, np.asarray(1 / (1 + np.exp(-where)), np.float32)
    )


# --- the pipeline -----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Warm:
    """The networks, the forests of each age group, and somebody's captioner if there is one."""

    lungs: Any
    reader: Any
    groups: dict[str, Any]
    captioner: captioner.Captioner | None


class XrayAnomaly(Pipeline):
    """Isolation forests grown on normal films only say how unlike them a film is; the report says where, and that unlike is no diagnosis."""

    takes: ClassVar[Takes] = Takes.IMAGE
    label_codes: ClassVar[Mapping[str, codes.Code]] = {"anomaly": ABNORMAL}

    def load(self, device: str) -> Warm:
        """Networks and forests, warm on `device`."""
        parts: Any = self.bundle.stages(device, engine="openvino")
        return Warm(
            parts["lungs"], parts["reader"], {name: parts[name] for name in GROUPS}, captioner.found_in(self.bundle.path, self.bundle.sums)
        )

    def run(self, volume: Volume, model: Warm) -> Result:
        """Percentile among normal films, heatmap, report. Raises OutsideIntendedUse when this is no frontal chest film."""
        header = volume.frames[0].instance.header
        facing = self._facing(volume, header)
        aspect = facing.aspect(squared_aspect(header, volume.pixel_spacing_mm))
        shown = seen(facing.turn(as_shown(volume)), model.lungs, aspect)
        frame, canvas = canvas_of(shown.film, shown.lungs)
        features = features_of(canvas, model.reader)
        years = age_in_years(str(header.get("PatientAge", "") or ""))
        likely = {name: percentile(features, model.groups[name]) for name in groups_for(years)}
        group = min(likely, key=lambda name: likely[name])
        threshold = self.bundle.thresholds["anomaly"]
        present = likely[group] >= threshold
        heat = heat_of(features, model.groups[group], frame, shown)
        better = enhanced(shown.film.grey)
        finding = Finding(name="anomaly", code=ABNORMAL, probability=likely[group], present=present, site=codes.CHEST)
        said = report(likely, group, threshold, zones(heat, shown.lungs) if present else [])
        if model.captioner is not None:
            said.append(f"A captioning network writes (it may be wrong): {model.captioner.says(better)}")
        return Result(
            analysed=True,
            label="anomaly" if present else "no anomaly",
            confidence=likely[group] if present else 1 - likely[group],
            findings=(finding,),
            heatmap=Heatmap(
                title="Most unlike normal films, over the enhanced film",
                values=facing.back(shown.film.on_source(heat))[None],
                frames=(0,),
                over=facing.back(shown.film.on_source(better))[None],
            ),
            notes=(*volume.notes, *said, *remarks(years, shown)),
            facts={
                "percentiles": {name: round(value, 4) for name, value in likely.items()},
                "compared_with": group,
                "threshold": threshold,
                "probability_is": "percentile among normal films",
                "lung_certainty": round(shown.lungs.certainty, 3),
                "canvas": CANVAS,
            },
        )

    def _facing(self, volume: Volume, header: Dataset) -> Facing:
        """How the film lies. Raises OutsideIntendedUse for what the header says is no frontal chest film of one frame."""
        if why := self.bundle.refusal(header):
            raise OutsideIntendedUse(why)
        if volume.unit == "HU":
            raise OutsideIntendedUse("the model reads chest films, not CT values")
        if len(volume.pixels) != 1:
            raise OutsideIntendedUse("the model reads single films, not several frames at once")
        facing = Facing.of(header)
        if facing is None or is_lateral(header):
            raise OutsideIntendedUse("the header names a lateral or oblique view; the model reads frontal films")
        return facing


def percentile(features: Features, group: Any) -> float:
    """Share of normal films of a group that are less unlike the others than this one."""
    from node.imaging.normality import Measured

    one = Measured(features.edges[None], features.whole[None], features.patches[None])
    return float(group.normals.percentile(float(group.oddness(one)[0])))


def warmth(features: Features, group: Any) -> Floats:
    """How much each cell of the canvas stands out, 0 to 1, row by row: unlike normal patches at its place, and taken for changed."""
    from node.imaging.normality import Measured

    one = Measured(features.edges[None], features.whole[None], features.patches[None])
    odd = np.array([group.normal_patches.percentile(float(score)) for score in group.patch_scores(one)[0]])
    return np.asarray(np.clip((odd - 0.8) / 0.2, 0, 1) * features.where, np.float32)


def heat_of(features: Features, group: Any, frame: LungCanvas, shown: Seen) -> Floats:
    """On the film's working grid, 0 to 1, in and near the lungs."""
    hot = warmth(features, group)
    side = CANVAS // CELL
    smooth = cv2.resize(hot.reshape(side, side), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    near = cv2.GaussianBlur(shown.lungs.both.astype(np.float32), (0, 0), max(2.0, 0.02 * frame.box.height))
    return np.asarray(np.clip(frame.backward(smooth, *shown.film.grey.shape), 0, 1) * np.clip(near * 1.5, 0, 1), np.float32)


# --- the written report -------------------------------------------------------------------------------------------------------------
def zones(heat: Floats, lungs: LungFields) -> list[str]:
    """Side and third of each lung that stands out, the most striking first."""
    found = []
    for side, lung in (("right", lungs.right), ("left", lungs.left)):
        rows = np.flatnonzero(lung.any(axis=1))
        for name, third in zip(("upper", "middle", "lower"), np.array_split(rows, 3), strict=True):
            inside = heat[third[0] : third[-1] + 1][lung[third[0] : third[-1] + 1]] if third.size else np.zeros(0)
            if inside.size and float((inside >= LEAST_HOT).mean()) >= SHARE_HOT:
                found.append((float(inside.mean()), f"{side} lung, {name} zone"))
    return [place for _, place in sorted(found, reverse=True)]


def report(likely: dict[str, float], group: str, threshold: float, places: list[str]) -> list[str]:
    """What was found, in sentences."""
    lines = [
        f"The film is more unlike normal films than {codes.chance_said(likely[group], decimals=1)} of normal films of {GROUPS[group]} are "
        f"(a percentile, not the chance of a disease); an anomaly is called from {100 * threshold:.0f} %.",
    ]
    if likely[group] >= threshold:
        where = f"What stands out most: {'; '.join(places)}." if places else "No part of the lungs stands out: the film differs as a whole."
        lines.append(where)
    lines.append(
        "Unlike normal is no diagnosis: other anatomy, position, exposure or material on the film can be the reason; an ill film can look normal."
    )
    return lines


def remarks(years: float | None, shown: Seen) -> list[str]:
    """What a reader should know of this film."""
    out = []
    if years is None:
        out.append("The patient's age is not known: held beside normal films of children and of adults, the kinder answer counts.")
    elif CHILD_UNTIL <= years < ADULT_FROM:
        out.append(
            "Normal films of this age were not learned from: held beside those of small children and of adults, the kinder answer counts."
        )
    elif years < 1:
        out.append("Films of infants were not learned from.")
    if shown.lungs.box(0.0).height * shown.film.step < FEWEST_PIXELS:
        out.append("The film has few pixels: blur alone makes it unlike normal films.")
    if shown.inverted:
        out.append("The stored grey values were taken for inverted: bones are dark in the file.")
    return out
