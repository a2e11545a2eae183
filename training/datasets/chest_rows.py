"""The chest radiograph sets as rows of one kind: lungs cut out, the labels that a set really tells, what is known of the patient.

A set says nothing about labels that its readers did not look for: such targets are NaN and train nothing. A COVID-19 film may show an
opacity that a reader would call pneumonia, so its pneumonia target is NaN; films of 2017 and before are no COVID-19.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.imaging.clinical import Told, view_of
from node.imaging.letterbox import Box, box_of
from training.datasets import cxr_adult224, cxr_figure1, cxr_lungfield256, cxr_nih64, cxr_pediatric224

LABELS = ("normal", "pneumonia", "covid", "fracture", "cancer", "other")  #: outputs of the network; nothing tells of fracture and cancer
SEVERITY = ("intensive care", "intubation", "death")
OUTPUTS = (*LABELS, *SEVERITY)
SPLITS = ("train", "val", "test")
OPACITIES = {"Infiltration", "Consolidation", "Pneumonia"}  #: of ChestX-ray14, what RSNA's readers would call an opacity

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Lungs = Callable[[Picture], tuple[Picture, Mask]]  #: a whole film at working size, and where on it the lungs are; none where none are seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One film: `grey` float32 0 to 1 with bones bright and `lungs`, both cut to the lungs' box with some room around it."""

    name: str
    source: str  #: the set
    split: str
    group: str  #: the patient
    label: str  #: what the set calls it
    grey: Picture
    lungs: Mask
    targets: npt.NDArray[np.float32]  #: 0, 1 or NaN for each of OUTPUTS
    told: Told
    whole: bool = True  #: `lungs` holds what lies behind the heart too; else it was cut without it
    opacity: Mask | None = None  #: boxes round pneumonia, empty where somebody looked and saw none; None where nobody drew any


def targets_of(**known: float | bool | None) -> npt.NDArray[np.float32]:
    """0 and 1 where known, NaN elsewhere; names as in OUTPUTS with `_` for a space."""
    out = np.full(len(OUTPUTS), np.nan, np.float32)
    for name, value in known.items():
        if value is not None:
            out[OUTPUTS.index(name.replace("_", " "))] = float(value)
    return out


NORMAL = targets_of(normal=1, pneumonia=0, covid=0, other=0)


def part_of(lungs: Mask, room: float = 0.08) -> tuple[slice, slice]:
    """The lungs' box and some room around it, so that augmentation can move it: rows and columns."""
    box = (box_of(lungs) or Box(0, 0, *lungs.shape)).grown(room, *lungs.shape)
    return slice(box.top, box.bottom), slice(box.left, box.right)


def cut(grey: Picture, lungs: Mask) -> tuple[Picture, Mask]:
    """Film and lungs, cut to `part_of`."""
    part = part_of(lungs)
    return np.ascontiguousarray(grey[part]), np.ascontiguousarray(lungs[part])


def told_of(age: float | None, sex: str, view: str) -> Told:
    """As `node.imaging.clinical.clinical_of` gives it."""
    told: Told = {}
    if age:
        told["age_years"] = age
    if sex in ("F", "M"):
        told["sex"] = sex
    if view_of(view):
        told["view"] = view_of(view)
    return told


def lung_fields(root: Path) -> list[Row]:
    """`cxr_lungfield256`, without lateral films and children; the lungs were cut upstream."""
    rows = []
    for one in cxr_lungfield256.load(root):
        if one.view == cxr_lungfield256.LATERAL or (one.age_years is not None and one.age_years < 18) or one.field.sum() < 400:
            continue
        label = cxr_lungfield256.LABELS[one.label]
        targets = {
            "normal": NORMAL,
            "pneumonia_opacity": targets_of(normal=0, pneumonia=1, covid=0),
            "other_abnormal": targets_of(normal=0, pneumonia=0, covid=0, other=1),
            "covid": _covid(one.icu, one.intubated, one.survival),
        }[label]
        grey, lungs = cut(one.grey, one.field)
        rows.append(
            Row(
                name=one.name,
                source="cxr_lungfield256",
                split=one.split,
                group=one.group,
                label=label,
                grey=grey,
                lungs=lungs,
                targets=targets,
                told=told_of(one.age_years, one.sex, one.view),
                whole=False,
                opacity=None if one.opacity is None else np.ascontiguousarray(one.opacity[part_of(one.field)]),
            )
        )
    return rows


def adult_films(root: Path, lungs_of: Lungs, splits: Collection[str] = SPLITS) -> list[Row]:
    """`cxr_adult224`: whole chests."""
    rows = []
    for one in cxr_adult224.load(root):
        if one.split not in splits:
            continue
        grey, lungs = lungs_of(one.grey)
        if not lungs.any():
            continue
        grey, lungs = cut(grey, lungs)
        label = cxr_adult224.LABELS[one.label]
        targets = NORMAL if label == "normal" else _covid(one.icu, None, None)
        told = told_of(one.age_years, one.sex, one.view)
        rows.append(
            Row(
                name=one.name,
                source="cxr_adult224",
                split=one.split,
                group=one.group,
                label=label,
                grey=grey,
                lungs=lungs,
                targets=targets,
                told=told,
            )
        )
    return rows


def nih_films(root: Path, lungs_of: Lungs, splits: Collection[str] = SPLITS) -> list[Row]:
    """`cxr_nih64`: whole chests of few pixels, drawn larger; opacities by the labels that were mined from reports."""
    rows = []
    for one in cxr_nih64.load(root):
        if (one.age_years is not None and one.age_years < 18) or one.split not in splits:
            continue
        grey, lungs = lungs_of(one.grey)
        if not lungs.any():
            continue
        grey, lungs = cut(grey, lungs)
        opacity = bool(one.findings & OPACITIES)
        targets = NORMAL if one.normal else targets_of(normal=0, pneumonia=opacity, covid=0, other=bool(one.findings - OPACITIES) or None)
        rows.append(
            Row(
                name=one.name,
                source="cxr_nih64",
                split=one.split,
                group=one.patient,
                label="normal" if one.normal else "pneumonia_opacity" if opacity else "other_abnormal",
                grey=grey,
                lungs=lungs,
                targets=targets,
                told=told_of(one.age_years, one.sex, one.view),
            )
        )
    return rows


def child_films(root: Path, lungs_of: Lungs, splits: Collection[str] = SPLITS) -> list[Row]:
    """`cxr_pediatric224`: whole chests of children, whose normal films and pneumonias are of one hospital. They teach what an opacity is;
    the node refuses children, and of COVID-19 they tell nothing.
    """
    rows = []
    for one in cxr_pediatric224.load(root):
        if one.split not in splits:
            continue
        grey, lungs = lungs_of(np.asarray(one.grey, np.float32) / np.float32(255))
        if not lungs.any():
            continue
        grey, lungs = cut(grey, lungs)
        normal = cxr_pediatric224.LABELS[one.label] == "normal"
        rows.append(
            Row(
                name=one.name,
                source="cxr_pediatric224",
                split=one.split,
                group=f"child_{one.group}",
                label="normal" if normal else "pneumonia",
                grey=grey,
                lungs=lungs,
                targets=targets_of(normal=normal, pneumonia=not normal),
                told={},
            )
        )
    return rows


def figure1_films(root: Path, lungs_of: Lungs) -> list[Row]:
    """`cxr_figure1`: photographs and exports of COVID-19 and a few others from one collection. Never trained on."""
    rows = []
    for one in cxr_figure1.load(root):
        grey, lungs = lungs_of(one.grey)
        if not lungs.any():
            continue
        grey, lungs = cut(grey, lungs)
        targets = {
            "covid": _covid(None, None, None),
            "normal": NORMAL,
            "pneumonia": targets_of(normal=0, pneumonia=1, covid=0),
        }[one.label]
        rows.append(
            Row(
                name=one.name,
                source="cxr_figure1",
                split=one.split,
                group=one.group,
                label=one.label,
                grey=grey,
                lungs=lungs,
                targets=targets,
                told=told_of(one.age_years, one.sex, one.view),
            )
        )
    return rows


def _covid(icu: bool | None, intubated: bool | None, survival: bool | None) -> npt.NDArray[np.float32]:
    death = None if survival is None else not survival
    return targets_of(normal=0, covid=1, intensive_care=icu, intubation=intubated, death=death)
