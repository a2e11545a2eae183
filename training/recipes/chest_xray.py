"""Chest radiographs: findings from the lungs and from what is known of the patient, each row training only the labels it has.

COVID-19 comes from other sources than the rest. What gives a source away is therefore taken off or varied on all: lungs are cut out and
equalised by rank, their outline is gnawed at, hearts are drawn into fields that were cut without one, pixels are blurred, thinned out and
squeezed as JPEG. Radiologists' boxes tell the eyes of the network where an opacity is. A clinical field that only some sources tell would
give them away as well: where a value is missing one is drawn from the whole training set, and known and drawn values alike are hidden at
random, so "not known" stands for everybody. Films of children are left out, so that one collection with normal and ill films of its own
stays to be measured on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from node.imaging.clinical import Told, row_of
from node.imaging.lung_field import field_of, inner
from node.imaging.radiograph import equalised
from node.networks.image_and_clinical import ImageAndClinical
from training.augment import placed
from training.augment_xray import exposed, marked
from training.course import Course
from training.datasets import chest_rows
from training.datasets.chest_rows import LABELS, OUTPUTS, SEVERITY, Row
from training.datasets.table import ensure_there
from training.evaluate import auc, figure
from training.loop import Batch, train
from training.lungs import found_in, lung_bundle
from training.processes import keep, write
from training.recipes.covid_xray import heart_cut, heart_drawn
from training.splits import ensure_disjoint

SIZE = 160  #: pixels of the canvas the network sees
STORED = 176  #: of the longer side of a film that is learned from
STRIDE = 16  #: of the grid on which boxes are told
STAGES = ((0.7, 112), (1.01, SIZE))  #: until progress, canvas
FIRST_SOURCE, FIRST = "cxr_lungfield256", 0.5  #: what the first part of a run learns from, and its share of the time
BATCH = (  #: set, label, how many; in RSNA and NIH about as many normal as ill
    ("cxr_lungfield256", "normal", 5),
    ("cxr_lungfield256", "pneumonia_opacity", 4),
    ("cxr_lungfield256", "other_abnormal", 2),
    ("cxr_lungfield256", "covid", 3),
    ("cxr_nih64", "normal", 2),
    ("cxr_nih64", "pneumonia_opacity", 1),
    ("cxr_nih64", "other_abnormal", 1),
    ("cxr_adult224", "normal", 3),
    ("cxr_adult224", "covid", 2),
)
SETS = tuple(dict.fromkeys(name for name, _, _ in BATCH))
WHERE = 0.5  #: weight of telling where the opacity is
HIDDEN = {"age_years": 0.4, "sex": 0.3, "view": 0.6}  #: chance that a field is not told
ALL_HIDDEN = 0.25
FIELDS: list[dict[str, Any]] = [
    {"name": "age_years", "mean": 50.0, "scale": 20.0},
    {"name": "sex", "values": ["F", "M"]},
    {"name": "view", "values": ["PA", "AP"]},
]
NETWORK: dict[str, Any] = {
    "_target_": "node.networks.image_and_clinical.ImageAndClinical",
    "backbone": "small",
    "clinical": FIELDS,
    "labels": list(LABELS),
    "severity": list(SEVERITY),
    "width": 96,
    "heads": 4,
    "dropout": 0.3,
}

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def network(backbone: str = "small") -> ImageAndClinical:
    return ImageAndClinical(**{k: v for k, v in NETWORK.items() if k != "_target_"} | {"backbone": backbone})


def gnawed(mask: Mask, rng: np.random.Generator) -> Mask:
    """Another outline of the same lungs: thinner, with bites and holes, as another network would have cut it."""
    size = mask.shape[0]
    out = mask.astype(np.uint8)
    if rng.random() < 0.5:
        k = int(rng.integers(1, max(2, size // 28))) * 2 + 1
        out = np.asarray(cv2.erode(out, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k))), np.uint8)
    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.5 else 0):
        rows, columns = np.nonzero(out)
        if rows.size == 0:
            break
        at = int(rng.integers(rows.size))
        axes = rng.integers(size // 50 + 1, size // 12, 2)
        cv2.ellipse(out, (int(columns[at]), int(rows[at])), (int(axes[0]), int(axes[1])), float(rng.uniform(0, 180)), 0, 360, 0, -1)
    kept = out > 0
    return kept if kept.sum() > 0.5 * mask.sum() else mask


def varied(row: Row, size: int, rng: np.random.Generator) -> tuple[Picture, Picture, Picture]:
    """(film, opacity, lungs): one film on the canvas as no two scanners would give it, and the boxes and lungs on a coarse grid, 0 to 1."""
    change: dict[str, Any] = {"rotate_deg": 10, "scale": (0.85, 1.1), "stretch": 0.1, "elastic": 0.004}
    state = rng.bit_generator.state
    image, mask = placed(row.grey, row.lungs.astype(np.float32), size, rng, **change)
    boxes = np.zeros_like(mask)
    if row.opacity is not None and row.opacity.any():
        rng.bit_generator.state = state
        _, boxes = placed(row.grey, row.opacity.astype(np.float32), size, rng, **change)
    image = exposed(marked(image, rng) if rng.random() < 0.3 else image, rng)
    lungs = mask > 0.5
    if rng.random() < (0.3 if row.whole else 0.6):  # a heart in the lungs tells nothing of the source
        image, lungs = (image, heart_cut(lungs, rng)) if row.whole else heart_drawn(image, lungs, rng)
    lungs = gnawed(inner(lungs), rng)
    grid = [cv2.resize(m.astype(np.float32), (size // STRIDE, size // STRIDE), interpolation=cv2.INTER_AREA) for m in (boxes, lungs)]
    return equalised(image, lungs), np.asarray(grid[0], np.float32), np.asarray(grid[1], np.float32)


def canvas_of(row: Row) -> Picture:
    """One film as the pipeline shows it to the network."""
    return field_of(row.grey, row.lungs, SIZE)[1]


def smaller(row: Row) -> Row:
    """The film with no more pixels than learning needs."""
    rows, columns = row.grey.shape
    if (shrink := STORED / max(rows, columns)) >= 1:
        return row
    size = max(1, round(columns * shrink)), max(1, round(rows * shrink))

    def shrunk(mask: Mask) -> Mask:
        return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5)

    grey = np.asarray(cv2.resize(row.grey, size, interpolation=cv2.INTER_AREA), np.float32)
    return replace(row, grey=grey, lungs=shrunk(row.lungs), opacity=None if row.opacity is None else shrunk(row.opacity))


class Taught(nn.Module):
    """The network in training: its eyes also tell where an opacity is."""

    def __init__(self, net: ImageAndClinical) -> None:
        super().__init__()
        self.net = net
        self.where = nn.Conv2d(net.backbone.channels, 1, 1)

    def forward(self, image: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, (batch, outputs); logits of opacity, (batch, rows / 16, columns / 16)) of images, (batch, 1, rows, columns)."""
        seen = self.net.backbone(image)
        return self.net.answer(self.net.asked(seen, told)), self.where(seen)[:, 0]


def told_for_training(told: Told, known: dict[str, list[Any]], rng: np.random.Generator) -> Told:
    """What the network is told of a patient in training: see the module's first lines."""
    if rng.random() < ALL_HIDDEN:
        return {}
    out: Told = {}
    for name, hidden in HIDDEN.items():
        value = told.get(name)
        if value is None:
            value = known[name][int(rng.integers(len(known[name])))]
        if rng.random() >= hidden:
            out[name] = value
    return out


def known_values(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Of each clinical field, the values that the rows tell."""
    return {name: [row.told[name] for row in rows if name in row.told] for name in HIDDEN}


def logits_of(net: nn.Module, rows: Sequence[Row], *, clinical: bool = True, batch: int = 32) -> npt.NDArray[np.float64]:
    """(rows, outputs): as the pipeline asks, picture and mirror image averaged; `clinical` false tells nothing of the patient."""
    out = []
    for at in range(0, len(rows), batch):
        some = rows[at : at + batch]
        images = torch.from_numpy(np.stack([canvas_of(row) for row in some]))[:, None]
        told = torch.tensor([row_of(row.told if clinical else {}, FIELDS) for row in some], dtype=torch.float32)
        with torch.inference_mode():
            out.append(((net(images, told) + net(images.flip(-1), told)) / 2).float().numpy())
    return np.concatenate(out).astype(np.float64)


def aucs(logits: npt.NDArray[np.float64], rows: Sequence[Row]) -> dict[str, float]:
    """AUC of each output over the rows that tell it."""
    targets = np.stack([row.targets for row in rows])
    found = {}
    for k, name in enumerate(OUTPUTS):
        told = ~np.isnan(targets[:, k])
        found[name] = auc(logits[told, k], targets[told, k] > 0.5) if told.any() else float("nan")
    return found


def masked_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy over the labels that each row has, labels weighing the same; severity weighs a quarter."""
    known = ~torch.isnan(targets)
    smooth = torch.where(known, targets * 0.94 + 0.03, torch.zeros_like(targets))
    each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none") * known
    weight = torch.ones_like(logits[0])
    weight[len(LABELS) :] = 0.25
    counted = known.sum(dim=0)
    mean = each.sum(dim=0) / counted.clamp(min=1)
    share = torch.minimum(counted / 4, torch.ones_like(mean))  # a label that one row tells does not weigh as one that all tell
    total: torch.Tensor = (mean * weight * share).sum()
    return total


def where_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Boxes inside the lungs, of the films on which somebody looked for them."""
    lungs = batch["lungs"] * batch["looked"][:, None, None]
    each = functional.binary_cross_entropy_with_logits(logits, batch["opacity"] * 0.9, reduction="none")
    loss: torch.Tensor = (each * lungs).sum() / lungs.sum().clamp(min=1)
    return loss


def rows_of(data: Path, sources: Sequence[str], splits: Sequence[str] = chest_rows.SPLITS) -> list[Row]:
    """The sets that are trained on."""
    rows: list[Row] = []
    if "cxr_lungfield256" in sources:
        rows += [row for row in chest_rows.lung_fields(data / "images" / "cxr_lungfield256") if row.split in splits]
    whole = {"cxr_adult224": chest_rows.adult_films, "cxr_nih64": chest_rows.nih_films, "cxr_pediatric224": chest_rows.child_films}
    if set(whole) & set(sources):
        network_of_lungs = lung_bundle().network(engine="openvino")
        for name, load in whole.items():
            if name in sources:
                rows += load(data / "images" / name, lambda grey: found_in(grey, network_of_lungs), splits)
    return rows


def run(data: Path, out: Path, course: Course) -> None:
    """Train; `data` is the folder that holds images/. First on one set alone, then on all: how the first does on sets it has not seen
    is left in `notes.json` for the model card."""
    films = rows_of(data, SETS)
    ensure_disjoint((row.split, row.group) for row in films)
    first = learned(network(), films, (FIRST_SOURCE,), out / "first", course.part(FIRST))
    notes = {"first": notes_of(out / "first"), "across": across(first, films, data)}
    both = learned(first, films, SETS, out, course.part(1 - FIRST, watched=True), peak_rate=1e-3, seed=1)
    write(out / "notes.json", json.dumps(notes_of(out) | notes, indent=2))
    keep(both.state_dict(), out)


def learned(
    model: ImageAndClinical,
    films: Sequence[Row],
    sources: Sequence[str],
    out: Path,
    course: Course,
    *,
    peak_rate: float = 1.5e-3,
    seed: int = 0,
) -> ImageAndClinical:
    """`model` after the minutes of `course` with the films of `sources`."""
    training = [smaller(row) for row in films if row.split == "train" and row.source in sources]
    validation = [row for row in films if row.split == "val" and row.source in sources]
    known = known_values(training)
    pools: dict[tuple[str, str], list[Row]] = {}
    for row in training:
        pools.setdefault((row.source, row.label), []).append(row)
    ensure_there({f"train {label} of {source}": len(pools.get((source, label), ())) for source, label, _ in BATCH if source in sources})
    ensure_there({f"val of {source}": sum(row.source == source for row in validation) for source in sources})
    drawn_of = [pools[source, label] for source, label, number in BATCH if source in sources for _ in range(number)]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        size = next(s for until, s in STAGES if progress < until)
        drawn = [pool[int(rng.integers(len(pool)))] for pool in drawn_of]
        pictures, boxes, lungs = (np.stack(part) for part in zip(*(varied(row, size, rng) for row in drawn), strict=True))
        return {
            "image": torch.from_numpy(pictures)[:, None],
            "opacity": torch.from_numpy(boxes),
            "lungs": torch.from_numpy(lungs),
            "looked": torch.tensor([float(row.opacity is not None) for row in drawn]),
            "told": torch.tensor([row_of(told_for_training(row.told, known, rng), FIELDS) for row in drawn], dtype=torch.float32),
            "targets": torch.from_numpy(np.stack([row.targets for row in drawn])),
        }

    def loss_of(taught: nn.Module, batch: Batch) -> torch.Tensor:
        logits, where = taught(batch["image"].contiguous(memory_format=torch.channels_last), batch["told"])
        return masked_loss(logits.float(), batch["targets"]) + WHERE * where_loss(where.float(), batch)

    def evaluate(taught: nn.Module) -> dict[str, float]:
        found = {}
        for name in sources:
            some = [row for row in validation if row.source == name]
            for label, value in aucs(logits_of(taught.net, some), some).items():
                if not np.isnan(value):
                    found[f"{name} {label}"] = round(value, 3)
        return found

    cv2.setNumThreads(1)
    taught = Taught(model)
    state = train(
        taught, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course, seed=seed,
        peak_rate=peak_rate, weight_decay=2e-2, decay=0.995, evaluate_every_s=600,
    )  # fmt: skip
    taught.load_state_dict(state)
    return taught.net.eval()


def notes_of(out: Path) -> dict[str, float]:
    """Steps and minutes of a run."""
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True, map_location="cpu")
    return {"steps": checkpoint["step"], "minutes": round(checkpoint["spent"] / 60, 1)}


def across(model: nn.Module, films: Sequence[Row], data: Path) -> dict[str, Any]:
    """How a network that has seen `FIRST_SOURCE` alone does on its validation films, and on all films of sets that it has never seen."""
    network_of_lungs = lung_bundle().network(engine="openvino")
    seen = {row.group for row in films if row.source == FIRST_SOURCE and row.split == "train"}
    sets = {
        FIRST_SOURCE: [row for row in films if row.source == FIRST_SOURCE and row.split == "val"],
        "cxr_adult224": [row for row in films if row.source == "cxr_adult224" and row.group not in seen],
        "cxr_nih64": [row for row in films if row.source == "cxr_nih64"],
        "cxr_figure1": chest_rows.figure1_films(data / "images" / "cxr_figure1", lambda grey: found_in(grey, network_of_lungs)),
    }
    return {name: against_normal(logits_of(model, rows, clinical=False), rows) for name, rows in sets.items()}


def against_normal(logits: npt.NDArray[np.float64], rows: Sequence[Row]) -> dict[str, Any]:
    """AUC of COVID-19, and of pneumonia, against the normal films of the same rows, by the difference to the logit of normal."""
    label = np.array([row.label for row in rows])
    found = {}
    for name, output in (("covid", "covid"), ("pneumonia_opacity", "pneumonia"), ("pneumonia", "pneumonia")):
        some = (label == name) | (label == "normal")
        if (label == name).any() and (label == "normal").any():
            score, truth = (logits[:, OUTPUTS.index(output)] - logits[:, OUTPUTS.index("normal")])[some], (label == name)[some]
            groups = [row.group for row, kept in zip(rows, some, strict=True) if kept]
            counts = {"positive": int(truth.sum()), "normal": int((~truth).sum())}
            found[output] = counts | figure(groups, lambda i, s=score, t=truth: auc(s[i], t[i]))  # type: ignore[misc]
    return found
