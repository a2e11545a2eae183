"""The bundle `picture_kinds`: its description, its units, how often it refuses what it should, and its model card."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.likeness import CLEARLY, FAR, NEAR, SIDE, Kind, Likeness, described, spoken
from training.bundles import alike
from training.datasets import pictures_of_a_kind as sets
from training.recipes.picture_kinds import CHANGED, DIRECTIONS, descriptions, learn

USUAL = 95  #: per cent of a kind's validation pictures lie within 1.0

LICENCE_NOTE = """What lies in this bundle are means and directions of descriptions of pictures, from sets of which some are for non-commercial use only
(ieee8023 chest radiographs, COVID-SemiSeg, Figure 1 COVID); NIH ChestX-ray14 asks to be cited (Wang et al., CVPR 2017), BUSI and the
Kermany radiographs are CC BY 4.0. Use it for research that is not commercial. The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Keeps models from reading what they were not made for when the header's words can't be trusted: says how far a picture "
    "lies from those of its kind. Not for diagnosis, and no judgement of a picture's quality."
)

Floats = npt.NDArray[np.float32]


def inference() -> dict[str, Any]:
    """`configs/inference.json`: there is no network to build."""
    return {"_desc_": "means and directions, read by node.imaging.likeness"}


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return alike.described(
        version,
        copyright="The Radnode authors; pictures as the licence note says",
        changelog={"1.0.0": "four kinds"},
        name="Kinds of pictures",
        task="Out-of-distribution score of single pictures",
        description=(
            f"Oriented gradients, thumbnail and greys of the picture at {SIDE} px; of each kind the mean and the {DIRECTIONS} widest directions; "
            "Mahalanobis distance within them and the residual beside them."
        ),
        intended_use=INTENDED,
        data_source=", ".join(name for of in sets.SETS.values() for name in of),
        radnode={
            "pipeline": "picture_kinds",
            "family": "Mahalanobis distance",
            "labels": list(sets.SETS),
            "thresholds": dict.fromkeys(sets.SETS, 1.0),
            "intended_use": {},
            "licence": {"name": "non-commercial research", "non_commercial": True, "text": "LICENSE"},
            "research_only": True,
        },
    )


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """What each kind calls 1.0: nineteen of twenty validation pictures, as they are and changed, lie within."""
    return {name: round(_unit(kind, data, sets.SETS[name]), 4) for name, kind in _likeness(bundle).kinds.items()}


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Share of the pictures of each set that is refused by a model made for each kind."""
    likeness = _likeness(bundle)
    return {
        "split": split,
        "refused": {kind: {name: _refused(likeness, kind, _of(data, name, split)) for name in _measured()} for kind in sets.SETS},
    }


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Sources that were left out of learning, one at a time, and DICOM from elsewhere."""
    known = _likeness(bundle).kinds
    chest = sets.SETS["chest_radiograph"]
    left_out = {}
    for name in chest:
        others = tuple(other for other in chest if other != name)
        kind = learn(data, others)
        likeness = Likeness({**known, "chest_radiograph": replace(kind, unit=_unit(kind, data, others))})
        left_out[name] = _refused(likeness, "chest_radiograph", descriptions(data, name, "train"))
    likeness = Likeness(known)
    apart = {}
    for what in sets.APART:
        told = np.stack([described(picture) for picture in sets.apart(data, what)])
        apart[what] = {kind: _refused(likeness, kind, told) for kind in sets.SETS} | {"images": len(told)}
    return {"left_out": left_out, "apart": apart}


def _likeness(bundle: Bundle) -> Likeness:
    return Likeness.of({name: tensor.float().numpy() for name, tensor in bundle.tensors().items()}, bundle.thresholds)


def _unit(kind: Kind, data: Path, of: tuple[str, ...]) -> float:
    told = [descriptions(data, name, "val", changed=times) for name in of if _has_val(name) for times in (0, CHANGED)]
    return float(np.percentile(kind.distance(np.concatenate(told)), USUAL))


def _has_val(name: str) -> bool:
    return name != "cxr_figure1"


def _measured() -> list[str]:
    return [name for of in sets.SETS.values() for name in of if _has_val(name)]


@cache
def _of(data: Path, name: str, split: str) -> Floats:
    return descriptions(data, name, split)


def _refused(likeness: Likeness, kind: str, told: Floats) -> float:
    return round(float(np.mean([bool(likeness.judge_described(one[None], kind).refusal) for one in told])), 3)


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    kinds = list(sets.SETS)
    of_set = {name: kind for kind, of in sets.SETS.items() for name in of}
    head = f"| | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}"
    rows = "\n".join(
        f"| {name} ({spoken(of_set[name]).removeprefix('a ')}) | {' | '.join(format(found['refused'][kind][name], '.1%') for kind in kinds)} |"
        for name in _measured()
    )
    left = "\n".join(f"| {name} | {share:.1%} |" for name, share in found["left_out"].items())
    apart = "\n".join(
        f"| {what}, {of['images']} | {' | '.join(f'{of[kind]:.0%}' for kind in kinds)} |" for what, of in found["apart"].items()
    )
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Licence: non-commercial research (see `LICENSE`).**

{meta["intended_use"]}

## What it does
{meta["description"]} A model whose bundle says `intended_use.picture` reads a picture only when it lies within {NEAR} of that kind, or
within {FAR} and no other kind is clearly nearer (its distance below {CLEARLY} of it). 1.0 is the distance within which {USUAL} of 100 validation pictures lie. Of a
series of slices seven from the middle are asked, and their median counts. The reason for a refusal goes into the report.

## Refused, of each validation set, by a model made for
{head}
{rows}

## Sources left out
Chest radiographs of one set, refused after learning from the other sets only:

| set | refused |
|---|---|
{left}

## DICOM from elsewhere, never learned from: refused by a model made for
{head}
{apart}

## Where it fails
- It knows four kinds. Whatever else there is must lie *far* to be refused: other views of a chest, other parts of the body of which no picture was at hand
  (but a hand and a breast) may pass as near.
- Coarse shapes only: it sees no disease, no motion, no noise, no burned-in text.
- A picture turned upside down or on its side lies far; that is meant.
"""
