"""Any bundle that dropped in: its process computes (`node/guests/`), this turns the answer into a Result by the task of its sidecar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from node import codes
from node.bundle import Bundle
from node.codes import Code
from node.domain import Finding, Measurement, Region, Result, Segment
from node.errors import GuestFailed, OutsideIntendedUse
from node.guests import allowed
from node.guests.host import Guest
from node.imaging.rescale import turned_window
from node.imaging.volume import Volume
from node.imaging.window import window
from node.pipelines.interface import Pipeline, Takes

Grid = tuple[int, int, int]
THRESHOLD = 0.5
MOST_REGIONS = 20
SIDES = {"Left": codes.LEFT, "Right": codes.RIGHT}


class AnyBundle(Pipeline):
    """The task decides what a result is: segments with volumes, findings with probabilities, boxes, or a measurement."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        allowed.check(bundle)

    @classmethod
    def codes_of(cls, bundle: Bundle) -> Mapping[str, Code]:
        """Of the outputs that the sidecar gives a type."""
        return {str(output["name"]): _code(output["type"]) for output in bundle.node["outputs"] if "type" in output}

    def load(self, device: str) -> Guest:
        """The bundle's process, with its network loaded."""
        guest = Guest(self.bundle, device)
        guest.start()
        return guest

    def run(self, volume: Volume, model: Guest) -> Result:
        """What the bundle finds. Raises OutsideIntendedUse, or NotAnalysed with the bundle's reason."""
        self._refuse(volume)
        pixels = self._channels(volume) if volume.beside else self._values(volume)
        by_slice = self.bundle.node["dims"] == 2 and len(pixels) > 1
        answers = (
            [self._ask(volume, pixels[at : at + 1], model) for at in range(len(pixels))] if by_slice else [self._ask(volume, pixels, model)]
        )
        match self.bundle.node["task"]:
            case "segmentation":
                return self._segments(volume, answers)
            case "classification":
                return self._classes(volume, answers[0][0])
            case "detection":
                return self._boxes(volume, *answers[0])
            case "regression":
                return self._number(volume, answers[0][0])
        raise GuestFailed(f"the task {self.bundle.node['task']} is not known", bundle=self.bundle.name)

    # --- what it is given -----------------------------------------------------------------------------------------------
    def _refuse(self, volume: Volume) -> None:
        if why := self.bundle.refusal(volume.series.header):
            raise OutsideIntendedUse(why)
        if self.bundle.node.get("unit") == "HU" and volume.unit != "HU":
            raise OutsideIntendedUse("the model needs CT values in Hounsfield units")
        if len(self.bundle.node.get("series", [0])) != 1 + len(volume.beside):
            raise OutsideIntendedUse(f"the model reads {len(self.bundle.node['series'])} series at once, and was given one")
        least = int(self.bundle.intended_use.get("min_slices", 1))
        if self.bundle.node["dims"] == 3 and len(volume.pixels) < least:
            raise OutsideIntendedUse(f"the model needs at least {least} slices")
        if not volume.finite:
            raise OutsideIntendedUse("some pixels are no numbers")
        if float(volume.pixels.min()) == float(volume.pixels.max()):
            raise OutsideIntendedUse("nothing is on the images: every pixel has the same value")

    def _values(self, volume: Volume) -> NDArray[np.float32]:
        """(frames, rows, columns), or (…, 3): in the reader's units, or as a reader sees them, 0 to 255."""
        pixels = np.asarray(volume.pixels, np.float32)
        colour = pixels.ndim == 4
        if colour and self.bundle.node["channels"] == 1:
            pixels, colour = pixels @ np.asarray([0.299, 0.587, 0.114], np.float32), False
        elif not colour and self.bundle.node["values"] == "window":
            frame = volume.frames[0]
            centre, width = turned_window(frame.instance.header, frame.number) or _span(pixels)
            pixels = 255 * window(pixels, centre, width)
        if not colour and self.bundle.node["channels"] == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=3)
        return np.ascontiguousarray(pixels)

    def _channels(self, volume: Volume) -> NDArray[np.float32]:
        """(frames, rows, columns, channels) of a model that reads several series, each as stored or each as a reader sees it."""
        planes = [np.asarray(pixels, np.float32) for pixels in (volume.pixels, *(one.pixels for one in volume.beside))]
        if self.bundle.node["values"] == "window":
            planes = [255 * window(plane, *_span(plane)) for plane in planes]
        return np.ascontiguousarray(np.stack(planes, axis=-1))

    def _ask(self, volume: Volume, pixels: NDArray[np.float32], guest: Guest) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        facts = {
            "dims": self.bundle.node["dims"],
            "affine": None if volume.affine is None else volume.affine.tolist(),
            "spacing_mm": volume.spacing_mm,
        }
        return guest.ask(facts, {"pixels": pixels})

    # --- what it gives --------------------------------------------------------------------------------------------------
    def _segments(self, volume: Volume, answers: Sequence[tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]]) -> Result:
        """One segment for each output that has a voxel, its volume in mL; a finding for every output, seen or not."""
        grid: Grid = (volume.pixels.shape[0], volume.pixels.shape[1], volume.pixels.shape[2])
        segments: list[Segment] = []
        findings: list[Finding] = []
        for output in self.bundle.node["outputs"]:
            mask = np.concatenate([self._mask(output, facts, arrays) for facts, arrays in answers])
            if mask.shape != grid:
                raise GuestFailed(f"its masks have {mask.shape} voxels, the images {grid}", bundle=self.bundle.name)
            found = bool(mask.any())
            kind, side = _code(output["type"]), SIDES.get(output.get("laterality", ""))
            if found:
                segments.append(
                    Segment(
                        number=len(segments) + 1,
                        label=output["name"],
                        mask=mask,
                        category=_code(output["category"]),
                        type=kind,
                        color=(output["color"][0], output["color"][1], output["color"][2]),
                    )
                )
            findings.append(
                Finding(
                    name=output["name"],
                    code=kind,
                    probability=None,
                    present=found,
                    site=kind if side is not None else None,
                    laterality=side,
                    measurements=_sizes(mask, volume) if found else (),
                    segment=len(segments) if found else None,
                )
            )
        present = [finding.name for finding in findings if finding.present]
        label = ", ".join(present[:6]) + (" …" if len(present) > 6 else "") or "nothing"
        seen = [arrays["labels"] for facts, arrays in answers if facts.get("kind") == "labels"]
        return self._result(volume, label=label, findings=findings, segments=segments, nameless=self._nameless(seen))

    def _mask(self, output: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Where one output is, (frames, rows, columns)."""
        value, outputs = int(output["value"]), self.bundle.node["outputs"]
        if facts.get("kind") == "labels" and arrays.get("labels") is not None and arrays["labels"].ndim == 3:
            if len(outputs) == 1 and value == 0:
                value = 1  # a single channel above its threshold
            return np.asarray(arrays["labels"] == value)
        masks = arrays.get("masks")
        if facts.get("kind") != "masks" or masks is None or masks.ndim != 4:
            raise GuestFailed("it gave no masks", bundle=self.bundle.name)
        if int(outputs[-1]["value"]) >= len(masks):
            value -= int(outputs[0]["value"])  # names from 1 on, and no channel for the background
        if not 0 <= value < len(masks):
            raise GuestFailed(
                f"it gave {len(masks)} channels, and {output['name']} should be channel {output['value']}", bundle=self.bundle.name
            )
        return np.asarray(masks[value] != 0)

    def _nameless(self, seen: Sequence[NDArray[Any]]) -> list[int]:
        """Labels that the bundle gave and nobody named; 0 is what is left over, and 1 what a single channel marks."""
        named = {0, *(int(output["value"]) for output in self.bundle.node["outputs"])}
        found = {int(value) for labels in seen for value in np.unique(labels)}
        return sorted(found - (named if named != {0} else {0, 1}))

    def _classes(self, volume: Volume, facts: Mapping[str, Any]) -> Result:
        """A finding for each class. Where classes exclude each other the likeliest is present, else each above its threshold."""
        values, outputs = _numbers(facts.get("values")), self.bundle.node["outputs"]
        if len(values) != len(self.bundle.node["outputs"]) and not (len(outputs) == 1 and len(values) == 2):
            raise GuestFailed(f"it gave {len(values)} numbers for {len(outputs)} labels", bundle=self.bundle.name)
        if not all(-1e-4 <= value <= 1 + 1e-4 for value in values):
            raise GuestFailed(
                "it gave probabilities that are not between 0 and 1; name its activation in the mapping file", bundle=self.bundle.name
            )
        values = [min(1.0, max(0.0, value)) for value in values]
        if len(values) == 2 and len(outputs) == 1:
            values = values[1:]
        exclusive = facts.get("activation") == "softmax" and len(values) > 1
        findings = [
            Finding(
                name=output["name"],
                code=_code(output["type"]),
                probability=value,
                present=at == int(np.argmax(values)) if exclusive else value >= self._threshold(output),
            )
            for at, (output, value) in enumerate(zip(outputs, values, strict=True))
        ]
        present = [finding for finding in findings if finding.present]
        best = max(present or findings, key=lambda finding: finding.probability or 0.0)
        sure = best.probability if present else 1 - (best.probability or 0.0)
        label = best.name if present else f"no {best.name}" if len(findings) == 1 else "nothing above its threshold"
        return self._result(volume, label=label, confidence=sure, findings=findings)

    def _boxes(self, volume: Volume, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Result:
        """A finding with a region for each box above the threshold, the surest first; for a label without a box, that it was not found."""
        scores, labels = _numbers(facts.get("scores")), [int(label) for label in _numbers(facts.get("labels"))]
        boxes = arrays.get("boxes", np.zeros((0, 6), np.float32))
        if boxes.shape != (len(scores), 6) or len(labels) != len(scores):
            raise GuestFailed("it gave boxes and scores of different number", bundle=self.bundle.name)
        outputs = {int(output["value"]): output for output in self.bundle.node["outputs"]}
        findings: list[Finding] = []
        counted: Counter[str] = Counter()  # findings are told apart by their names
        left_out = 0
        for box, score, number in zip(boxes, scores, labels, strict=True):
            output = outputs.get(number) or (next(iter(outputs.values())) if len(outputs) == 1 else None)
            if output is None:
                continue
            region = _region(box, volume)
            if score >= self._threshold(output) and region is not None:
                chance = min(1.0, max(0.0, score))
                counted[output["name"]] += 1
                if len(findings) >= MOST_REGIONS and counted[output["name"]] > 1:  # the surest of each label is always told
                    left_out += 1
                    continue
                name = output["name"] if counted[output["name"]] == 1 else f"{output['name']} {counted[output['name']]}"
                findings.append(Finding(name=name, code=_code(output["type"]), probability=chance, present=True, region=region))
        for output in outputs.values():
            if not counted[output["name"]]:
                highest = [
                    score
                    for score, number in zip(scores, labels, strict=True)
                    if outputs.get(number, next(iter(outputs.values()))) is output
                ]
                chance = min(1.0, max(0.0, *highest)) if highest else 0.0
                findings.append(Finding(name=output["name"], code=_code(output["type"]), probability=chance, present=False))
        present = [finding for finding in findings if finding.present]
        label = ", ".join(dict.fromkeys(finding.name for finding in present)) or "nothing"
        sure = max((finding.probability or 0.0 for finding in present), default=None)
        nameless = self._nameless([np.asarray(labels, int)]) if len(outputs) > 1 else ()
        remarks = [f"{left_out} more boxes reach their threshold; only the {len(present)} surest are in this report."] if left_out else []
        more = {"boxes": len(present) + left_out}
        return self._result(volume, label=label, confidence=sure, findings=findings, nameless=nameless, remarks=remarks, more=more)

    def _threshold(self, output: Mapping[str, Any]) -> float:
        """Of this output, else that of all."""
        return self.bundle.thresholds.get(output["name"], float(self.bundle.node.get("threshold", THRESHOLD)))

    def _number(self, volume: Volume, facts: Mapping[str, Any]) -> Result:
        """One measurement in the unit that the mapping file named."""
        values, told = _numbers(facts.get("values")), self.bundle.node["measurement"]
        if len(values) != 1:
            raise GuestFailed(f"it gave {len(values)} numbers, and one measurement is named", bundle=self.bundle.name)
        [output] = self.bundle.node["outputs"]
        value = values[0] * float(told.get("scale", 1)) + float(told.get("offset", 0))
        unit = Code(str(told["unit"]), "UCUM", str(told["unit"]))
        name = _code(told["code"]) if "code" in told else _code(output["type"])
        measured = Measurement(name=name, value=value, unit=unit)
        finding = Finding(name=output["name"], code=name, probability=None, present=None, measurements=(measured,))
        return self._result(volume, label=f"{output['name']} {codes.number_said(value)} {told['unit']}", findings=[finding])

    def _result(
        self,
        volume: Volume,
        *,
        label: str,
        findings: Sequence[Finding],
        confidence: float | None = None,
        segments: Sequence[Segment] = (),
        nameless: Sequence[int] = (),
        remarks: Sequence[str] = (),
        more: Mapping[str, Any] | None = None,
    ) -> Result:
        return Result(
            analysed=True,
            label=label,
            confidence=confidence,
            findings=tuple(findings),
            segments=tuple(segments),
            notes=(
                *volume.notes,
                *remarks,
                *_left_out(nameless),
                "Run as a bundle that dropped in: its figures are its makers', none were measured here.",
            ),
            facts={"task": self.bundle.node["task"], **(more or {})},
        )


class VolumesOfAnyBundle(AnyBundle):
    """A bundle that takes a series as one volume."""

    takes: ClassVar[Takes] = Takes.VOLUME


class ImagesOfAnyBundle(AnyBundle):
    """A bundle that takes each image by itself."""

    takes: ClassVar[Takes] = Takes.IMAGE


def kind_of(bundle: Bundle) -> type[AnyBundle]:
    """The pipeline that runs this guest."""
    return VolumesOfAnyBundle if bundle.node.get("takes") == Takes.VOLUME else ImagesOfAnyBundle


# --- small things -----------------------------------------------------------------------------------------------------------
def _sizes(mask: NDArray[np.bool_], volume: Volume) -> tuple[Measurement, ...]:
    """Volume in mL; on a single image its area; nothing where the spacing is not known."""
    count = float(mask.sum())
    if len(mask) > 1 and volume.voxel_ml is not None:
        return (Measurement(name=codes.VOLUME, value=_rounded(count * volume.voxel_ml, 3), unit=codes.MILLILITER),)
    if len(mask) == 1 and volume.pixel_spacing_mm is not None:
        area = count * float(np.prod(volume.pixel_spacing_mm))
        return (Measurement(name=codes.AREA, value=_rounded(area, 2), unit=codes.SQUARE_MILLIMETER),)
    return ()


def _rounded(size: float, decimals: int) -> float:
    """What is there is not rounded to nothing."""
    return round(size, decimals) or float(f"{size:.3g}")


def _left_out(nameless: Sequence[int]) -> list[str]:
    """That there was more than has a name."""
    some = ", ".join(map(str, nameless[:6])) + (" …" if len(nameless) > 6 else "")
    return [f"The bundle also marked what nobody has named: label {some}. It is not in this report."] if nameless else []


def _region(box: NDArray[Any], volume: Volume) -> Region | None:
    """A box (column, row, frame of two corners) as a rectangle on its middle frame; None when nothing of it is on the images."""
    frames, rows, columns = volume.pixels.shape[:3]
    limits = np.asarray([columns, rows, frames] * 2, np.float64)
    left, top, first, right, bottom, last = np.clip(np.nan_to_num(np.asarray(box, np.float64)), 0, limits)
    if right - left <= 0 or bottom - top <= 0 or last - first <= 0:
        return None
    frame = min(frames - 1, int((first + last) / 2))
    outline = np.asarray([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], np.float32)
    return Region(frame=frame, outline=outline)


def _span(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """(centre, width) from the 0.5th to the 99.5th percentile: for images that propose no window."""
    low, high = (float(v) for v in np.percentile(pixels, [0.5, 99.5]))
    return (low + high) / 2, max(high - low, 1e-6)


def _numbers(told: Any) -> list[float]:
    """Numbers from a process that is not trusted."""
    if not isinstance(told, list) or not all(isinstance(value, int | float) and np.isfinite(value) for value in told):
        raise GuestFailed("it gave no numbers")
    return [float(value) for value in told]


def _code(told: Sequence[str]) -> Code:
    return Code(str(told[0]), str(told[1]), str(told[2]))
