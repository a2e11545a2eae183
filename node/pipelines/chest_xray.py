"""A chest radiograph: normal, pneumonia, COVID-19, from the lungs and from what is known of the patient; fracture and cancer not yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.domain import Finding, Heatmap, Measurement, Result
from node.errors import BundleInvalid, OutsideIntendedUse
from node.imaging.clinical import Told, clinical_of, row_of
from node.imaging.facing import Facing
from node.imaging.letterbox import Letterbox
from node.imaging.lung_field import field_of
from node.imaging.radiograph import LungFields, Radiograph, is_lateral, lungs_of, radiograph_of, turned_over
from node.imaging.shown import as_shown
from node.imaging.spacing import squared_aspect
from node.imaging.volume import Volume
from node.networks.explanation import AGREE, DISAGREE, agreement, grad_cam, occlusion
from node.pipelines.interface import Pipeline, Takes

NORMAL = "normal"
UNCLEAR = "unclear"  #: the headline when no label reaches its threshold, or the network wavers between a finding and normal
PASSES, SEED = 30, 7  #: of Monte Carlo dropout; the seed is fixed, so a retry gives the same numbers
DIVIDED = 0.2  #: share of the passes that decide otherwise from which the reader is told
OUTSIDE = 0.5  #: share of a heatmap outside the lungs from which the reader is told
NEAR_LUNGS = 0.04  #: of the canvas: this near to the lungs still counts as inside, for a heatmap is coarse

LAYER = "network.backbone"  #: whose activations Grad-CAM weighs
CERTAIN_TURNED = 0.9  #: how clearly lungs must be seen in a film turned over before it counts as stored with the wrong photometric

CODES = {
    "normal": (codes.Code("17621005", "SCT", "Normal"), codes.CHEST),
    "pneumonia": (codes.Code("233604007", "SCT", "Pneumonia"), codes.LUNG),
    "covid": (codes.Code("840539006", "SCT", "Disease caused by SARS-CoV-2"), codes.LUNG),
    "fracture": (codes.Code("125605004", "SCT", "Fracture of bone"), codes.CHEST),
    "cancer": (codes.Code("363346000", "SCT", "Malignant neoplastic disease"), codes.LUNG),
}
SPREAD = codes.private("MC_SPREAD", "Standard deviation of the probability, dropout")
SEVERITY = {
    "intensive care": codes.private("P_ICU", "Probability of intensive care"),
    "intubation": codes.private("P_INTUBATION", "Probability of intubation"),
    "death": codes.private("P_DEATH", "Probability of death"),
}

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Warm:
    """The two networks, one after the other."""

    lungs: Any  #: finds the lungs
    findings: Any  #: an `ImageAndClinical`


@dataclass(frozen=True, slots=True)
class Seen:
    """One film on the network's canvas, and the way back."""

    facing: Facing
    film: Radiograph
    lungs: LungFields
    frame: Letterbox
    canvas: Floats
    turned_over: bool  #: black and white are exchanged in the file

    def on_film(self, canvas: Floats) -> Floats:
        """A map of the canvas on the film's own rows and columns, as it lies in its file."""
        working = self.frame.backward(canvas, *self.film.grey.shape)
        return self.facing.back(self.film.on_source(working))


def seen(plane: NDArray[Any], facing: Facing, network: Any, size: int, aspect: float = 1.0) -> Seen | str:
    """The lungs of one film as the findings network sees them, or why they can't be shown to it.

    Parameters
    ----------
    plane : (rows, columns), or uint8 (rows, columns, 3); bones bright
    network : finds lungs
    size : of the canvas
    aspect : height of a pixel by its width, as the film lies in its file
    """
    film = radiograph_of(facing.turn(plane), facing.aspect(aspect))
    if isinstance(film, str):
        return film
    lungs = lungs_of(film, network)
    over = False
    if isinstance(lungs, str):
        found = lungs_of(turned_over(film), network)
        if isinstance(found, str) or found.certainty < CERTAIN_TURNED:
            return lungs
        film, lungs, over = turned_over(film), found, True
    frame, canvas = field_of(film.grey, lungs.both, size)
    return Seen(facing, film, lungs, frame, canvas, over)


def answers(network: Any, canvas: Floats, row: Sequence[float], *, passes: int = 0) -> tuple[Doubles, Doubles]:
    """(logits of each output, logits of each dropout pass and output) of one film and its mirror image, averaged."""
    import torch

    device = next(network.parameters()).device
    picture = torch.from_numpy(canvas)[None, None].to(device)
    both = torch.cat([picture, picture.flip(-1)])
    told = torch.tensor([list(row)] * 2, dtype=torch.float32, device=device).reshape(2, len(row))
    with torch.inference_mode():
        plain = network(both, told).float().mean(dim=0)
        drawn = network.passes(both, told, count=passes, seed=SEED).float().mean(dim=1) if passes else plain[None]
    return plain.double().cpu().numpy(), drawn.double().cpu().numpy()


def calibrated(logits: Doubles, names: Sequence[str], limits: Mapping[str, float]) -> Doubles:
    """Chances from logits (…, outputs): each output with its own `temperature_<name>` and `offset_<name>`."""
    temperature = np.array([limits.get(f"temperature_{name}", 1.0) for name in names])
    offset = np.array([limits.get(f"offset_{name}", 0.0) for name in names])
    return np.asarray(1 / (1 + np.exp(-(logits / temperature + offset))))


def of_patient(network: Any, row: Sequence[float]) -> Any:
    """The findings network of one patient: a module that takes films alone."""
    import torch

    device = next(network.parameters()).device
    return network.of(torch.tensor([list(row)], dtype=torch.float32, device=device).reshape(1, len(row)))


class ChestXray(Pipeline):
    """One film in; a calibrated chance for every trained label, how sure it is, and where the network looks, out."""

    takes: ClassVar[Takes] = Takes.IMAGE
    label_codes: ClassVar[Mapping[str, codes.Code]] = {name: code for name, (code, _) in CODES.items()}

    def load(self, device: str) -> Warm:
        """Both networks, warm on `device`."""
        held = self.bundle.stages(device, engine="openvino")
        return Warm(held["lungs"], held["findings"])

    def run(self, volume: Volume, model: Warm) -> Result:
        """What is found on the film. Raises OutsideIntendedUse when it is no frontal chest film of an adult."""
        header = volume.frames[0].instance.header
        if why := self.bundle.refusal(header):
            raise OutsideIntendedUse(why)
        if volume.unit == "HU" or volume.pixels.shape[0] != 1:
            raise OutsideIntendedUse("the model reads single chest films, not CT values or runs of images")
        facing = Facing.of(header)
        if facing is None or is_lateral(header):
            raise OutsideIntendedUse("the film is a lateral or oblique view; the model has only seen frontal ones")
        told = clinical_of(header, volume.clinical)
        youngest = float(self.bundle.intended_use.get("min_age_years", 0))
        if float(told.get("age_years", youngest)) < youngest:
            raise OutsideIntendedUse(f"the model was made for patients from {youngest:.0f} years on")
        aspect = squared_aspect(header, volume.pixel_spacing_mm)
        film = seen(as_shown(volume), facing, model.lungs, self._size, aspect)
        if isinstance(film, str):
            raise OutsideIntendedUse(film)
        return self._result(volume, film, told, model)

    @property
    def _size(self) -> int:
        """Of the canvas. Raises BundleInvalid when the bundle does not tell it."""
        shape = self.bundle.input_shapes.get("image")
        if shape is None:
            raise BundleInvalid("metadata.json does not tell the shape of the input `image`", bundle=self.bundle.name)
        return int(shape[-1])

    def _result(self, volume: Volume, film: Seen, told: Told, model: Warm) -> Result:
        network, limits = model.findings, self.bundle.thresholds
        outputs = (*network.labels, *network.severity)
        row = row_of(told, network.tokens.fields)
        logits, drawn = answers(network, film.canvas, row, passes=PASSES)
        chances = dict(zip(outputs, calibrated(logits, outputs, limits), strict=True))
        spread = dict(zip(outputs, calibrated(drawn, outputs, limits).T, strict=True))
        present = self.decided(chances)
        wavers = wavering(spread, present)
        label, confidence = headline_of(chances, present, wavers)
        trained = [name for name in self.bundle.labels if name in present]
        leading = max((name for name in trained if name != NORMAL), key=lambda name: (present[name], chances[name]))
        alone = of_patient(network, row)
        cams = {name: grad_cam(alone, LAYER, film.canvas[None], outputs.index(name)) for name in trained}
        agree = agreement(cams[leading], occlusion(alone, film.canvas[None], outputs.index(leading)))
        outside = {name: round(self.outside(cam, film), 3) for name, cam in cams.items()}
        heat = film.on_film(cams[leading]) * (film.facing.back(film.film.on_source(film.lungs.both)) > 0.5)
        return Result(
            analysed=True,
            label=label,
            confidence=confidence,
            findings=tuple(self._finding(name, chances, spread, present) for name in self.bundle.labels),
            heatmap=Heatmap(
                title=f"Where the network looks for {leading} (Grad-CAM)",
                values=np.asarray(np.clip(heat * chances[leading], 0, 1), np.float32)[None],
                frames=(0,),
            ),
            notes=(
                *volume.notes,
                *_of_film(film),
                *self._remarks(network, told, chances, spread, present, wavers, outside, leading, agree),
            ),
            facts={
                "clinical_used": [str(one["name"]) for one in network.tokens.fields if one["name"] in told],
                "cam_outside_lungs": outside,
                "cam_and_occlusion_agree": round(agree, 2),
                "heatmap_of": leading,
                "other_abnormality": round(float(chances["other"]), 4) if "other" in chances else None,
                "spread": {name: round(float(spread[name].std()), 4) for name in trained},
                "entropy": {name: round(entropy(float(spread[name].mean())), 4) for name in trained},
                "passes": PASSES,
                "lungs_certainty": round(film.lungs.certainty, 3),
                "thresholds": {name: limits[name] for name in trained},
                "canvas": film.canvas.shape[0],
            },
        )

    def decided(self, chances: Mapping[str, float]) -> dict[str, bool]:
        """Of each trained label, whether it is called: a finding never where normal is likelier, normal only when nothing else is."""
        limits = self.bundle.thresholds
        called = {
            name: bool(chances[name] >= limits[name] and chances[name] >= chances.get(NORMAL, 0)) for name in self.bundle.node["trained"]
        }
        if any(called[name] for name in called if name != NORMAL):
            called[NORMAL] = False
        return called

    def _finding(self, name: str, chances: Mapping[str, float], spread: Mapping[str, Doubles], present: Mapping[str, bool]) -> Finding:
        code, site = CODES[name]
        if name not in present:
            return Finding(name=name, code=code, probability=None, present=None, site=site)
        numbers = [Measurement(name=SPREAD, value=round(100 * float(spread[name].std()), 1), unit=codes.PERCENT)]
        if name == "covid" and present[name]:
            numbers += [
                Measurement(name=SEVERITY[one], value=round(100 * float(chances[one]), 1), unit=codes.PERCENT)
                for one in self.bundle.node.get("severity", ())
            ]
        return Finding(
            name=name,
            code=code,
            probability=float(chances[name]),
            present=present[name],
            site=site,
            measurements=tuple(numbers),
        )

    def outside(self, cam: Floats, film: Seen) -> float:
        """The share of a heatmap on the canvas that lies outside the lungs."""
        lungs = film.frame.forward(film.lungs.both.astype(np.float32)) > 0.5
        reach = 2 * max(1, round(NEAR_LUNGS * cam.shape[0])) + 1
        near = cv2.dilate(lungs.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0
        return float(cam[~near].sum() / max(float(cam.sum()), 1e-6))

    def _remarks(
        self,
        network: Any,
        told: Told,
        chances: Mapping[str, float],
        spread: Mapping[str, Doubles],
        present: Mapping[str, bool],
        wavers: Collection[str],
        outside: Mapping[str, float],
        leading: str,
        agree: float,
    ) -> list[str]:
        limits = self.bundle.thresholds
        untrained = [name for name in self.bundle.labels if name not in present]
        remarks = []
        if untrained:
            remarks.append(
                f"The model was not trained for {' and '.join(untrained)}: it says neither that they are there nor that they are not."
            )
        if present[NORMAL]:
            remarks.append(
                "Normal means none of what was trained: masses, nodules, fractures, air and fluid in the chest were not looked for."
            )
        if not any(present.values()):
            remarks.append("No label reaches its threshold: the film is called neither normal nor any of the trained findings.")
        if wavers:
            remarks.append(
                f"The network wavers between normal and {' and '.join(wavers)}: normal is likelier in many of its dropout passes."
            )
        for name in present:
            other = float((spread[name] < limits[name]).mean() if chances[name] >= limits[name] else (spread[name] >= limits[name]).mean())
            if other >= DIVIDED:
                remarks.append(f"The network is divided about {name}: {other:.0%} of its {PASSES} dropout passes decide otherwise.")
        if agree < AGREE:
            remarks.append(DISAGREE)
        if outside[leading] > OUTSIDE:
            remarks.append(
                f"The network looks outside the lungs for {leading} ({outside[leading]:.0%} of the heatmap): a shortcut is likely."
            )
        if present.get("covid"):
            remarks += [str(self.bundle.node.get(remark, "")) for remark in ("covid_remark", "severity_remark")]
        fields = [str(one["name"]) for one in network.tokens.fields]
        used = [_words(name) for name in fields if name in told]
        unused = [_words(name) for name in told if name not in fields]
        remarks.append(f"Beside the film the network was told: {', '.join(used) or 'nothing'}.")
        if unused:
            remarks.append(f"Known but not used, since no training data told it: {', '.join(unused)}.")
        return [remark for remark in remarks if remark]


def _of_film(film: Seen) -> list[str]:
    """What was assumed about the file."""
    remarks = []
    if film.turned_over:
        remarks.append("Black and white look exchanged in the file (Photometric Interpretation): the film was read turned over.")
    if not film.facing.told:
        remarks.append("The header does not tell which side is which: the image's left edge was taken as the patient's right.")
    return remarks


def wavering(spread: Mapping[str, Doubles], present: Mapping[str, bool]) -> list[str]:
    """The findings that are called although normal is likelier in `DIVIDED` of the dropout passes or more."""
    called = [name for name in present if present[name] and name != NORMAL and NORMAL in spread]
    return [name for name in called if float((spread[name] < spread[NORMAL]).mean()) >= DIVIDED]


def headline_of(chances: Mapping[str, float], present: Mapping[str, bool], wavers: Collection[str] = ()) -> tuple[str, float]:
    """The label that is called and most likely, and its chance; when none is called, or that one wavers, that none applies."""
    called = [name for name in present if present[name]]
    label = max(called, key=lambda name: chances[name]) if called else UNCLEAR
    if label in (UNCLEAR, *wavers):
        return UNCLEAR, float(1 - max(chances[name] for name in present))
    return label, float(chances[label])


def entropy(chance: float) -> float:
    """Of one yes or no, in bits: 0 sure, 1 undecided."""
    sides = np.clip([chance, 1 - chance], 1e-9, 1)
    return float(-(sides * np.log2(sides)).sum())


def _words(name: str) -> str:
    return {
        "age_years": "age",
        "weight_kg": "weight",
        "height_m": "height",
        "temperature_c": "temperature",
        "spo2_percent": "oxygen saturation",
        "view": "view position",
    }.get(name, name)
