"""Chest radiographs: findings from the lungs and from what is known of the patient, each row training only the labels it has.

COVID-19 comes from other sources than the rest. What gives a source away is therefore taken off or varied on all: lungs are cut out and
equalised by rank, their outline is gnawed at, pixels are blurred, thinned out and squeezed as JPEG. A clinical field that only some
sources tell would give them away as well: where a value is missing one is drawn from the whole training set, and known and drawn
values alike are hidden at random, so "not known" stands for everybody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from node.imaging.clinical import Told, row_of
from node.imaging.lung_field import aerated, field_of, inner
from node.imaging.radiograph import equalised
from node.networks.image_and_clinical import ImageAndClinical
from training.augment import placed, shaded
from training.course import Course
from training.datasets import chest_rows
from training.datasets.chest_rows import LABELS, OUTPUTS, SEVERITY, Row
from training.evaluate import auc, figure
from training.loop import Batch, train
from training.lungs import found_in, lung_bundle
from training.processes import keep, write
from training.recipes.brain_mri import squeezed
from training.splits import ensure_disjoint

SIZE = 160  #: pixels of the canvas the network sees
BATCH = 24
STAGES = ((0.6, 112), (1.01, SIZE))  #: until progress, canvas
FIRST_SOURCE, FIRST = "cxr_lungfield256", 0.5  #: what the first part of a run learns from, and its share of the time
SHARES = {"cxr_lungfield256": 0.6, "cxr_adult224": 0.22, "cxr_nih64": 0.18}  #: of the rows drawn
OF_LABELS = {"normal": 0.28, "pneumonia_opacity": 0.26, "other_abnormal": 0.16, "covid": 0.30}  #: within a set, of the labels it has
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


def varied(row: Row, size: int, rng: np.random.Generator) -> Picture:
    """One film on the canvas as no two scanners would give it."""
    image, mask = placed(
        row.grey, row.lungs.astype(np.float32), size, rng, rotate_deg=10, scale=(0.85, 1.1), stretch=0.1, elastic=0.004
    )  # fmt: skip
    lungs = mask > 0.5
    if row.whole and rng.random() < 0.85:
        lungs = aerated(image, lungs, between=float(rng.uniform(0.8, 1.2)))
    image = shaded(image, rng, gain=0.2, bias=0.05, gamma=0.4, noise=0.03, blur=0.4)
    image = squeezed(image, rng) if rng.random() < 0.6 else image
    return equalised(image, gnawed(inner(lungs), rng))


def canvas_of(row: Row) -> Picture:
    """One film as the pipeline shows it to the network."""
    return field_of(row.grey, aerated(row.grey, row.lungs) if row.whole else row.lungs, SIZE)[1]


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


def rows_of(data: Path, sources: Sequence[str], splits: Sequence[str] = chest_rows.SPLITS) -> list[Row]:
    """The sets that are trained on."""
    rows: list[Row] = []
    if "cxr_lungfield256" in sources:
        rows += [row for row in chest_rows.lung_fields(data / "images" / "cxr_lungfield256") if row.split in splits]
    whole = {"cxr_adult224": chest_rows.adult_films, "cxr_nih64": chest_rows.nih_films}
    if set(whole) & set(sources):
        network_of_lungs = lung_bundle().network(engine="openvino")
        for name, load in whole.items():
            if name in sources:
                rows += load(data / "images" / name, lambda grey: found_in(grey, network_of_lungs), splits)
    return rows


def run(data: Path, out: Path, course: Course) -> None:
    """Train; `data` is the folder that holds images/. First on one set alone, then on all: how the first does on sets it has not seen
    is left in `notes.json` for the model card."""
    films = rows_of(data, tuple(SHARES))
    ensure_disjoint((row.split, row.group) for row in films)
    first = learned(network(), films, (FIRST_SOURCE,), out / "first", course.part(FIRST))
    write(out / "notes.json", json.dumps({"first": notes_of(out / "first"), "across": across(first, films, data)}, indent=2))
    both = learned(first, films, tuple(SHARES), out, course.part(1 - FIRST, watched=True), peak_rate=1e-3, seed=1)
    keep(both.state_dict(), out)


def learned(
    model: nn.Module,
    films: Sequence[Row],
    sources: Sequence[str],
    out: Path,
    course: Course,
    *,
    peak_rate: float = 1.5e-3,
    seed: int = 0,
) -> nn.Module:
    """`model` after the minutes of `course` with the films of `sources`."""
    training = [row for row in films if row.split == "train" and row.source in sources]
    validation = [row for row in films if row.split == "val" and row.source in sources]
    known = known_values(training)
    pools: dict[str, dict[str, list[Row]]] = {}
    for row in training:
        pools.setdefault(row.source, {}).setdefault(row.label, []).append(row)
    names = list(pools)
    shares = np.array([SHARES[name] for name in names])

    def one(rng: np.random.Generator) -> Row:
        pool = pools[names[int(rng.choice(len(names), p=shares / shares.sum()))]]
        labels = list(pool)
        chances = np.array([OF_LABELS[label] for label in labels])
        some = pool[labels[int(rng.choice(len(labels), p=chances / chances.sum()))]]
        return some[int(rng.integers(len(some)))]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        size = next(s for until, s in STAGES if progress < until)
        drawn = [one(rng) for _ in range(BATCH)]
        return {
            "image": torch.from_numpy(np.stack([varied(row, size, rng) for row in drawn]))[:, None],
            "told": torch.tensor([row_of(told_for_training(row.told, known, rng), FIELDS) for row in drawn], dtype=torch.float32),
            "targets": torch.from_numpy(np.stack([row.targets for row in drawn])),
        }

    def loss_of(net: nn.Module, batch: Batch) -> torch.Tensor:
        logits = net(batch["image"].contiguous(memory_format=torch.channels_last), batch["told"]).float()
        return masked_loss(logits, batch["targets"])

    def evaluate(net: nn.Module) -> dict[str, float]:
        found = {}
        for name in names:
            some = [row for row in validation if row.source == name]
            for label, value in aucs(logits_of(net, some), some).items():
                if not np.isnan(value):
                    found[f"{name} {label}"] = round(value, 3)
        return found

    cv2.setNumThreads(1)
    state = train(
        model, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course, seed=seed,
        peak_rate=peak_rate, weight_decay=2e-2, decay=0.995, evaluate_every_s=180,
    )  # fmt: skip
    model.load_state_dict(state)
    return model.eval()


def notes_of(out: Path) -> dict[str, float]:
    """Steps and minutes of a run."""
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    return {"steps": checkpoint["step"], "minutes": round(checkpoint["spent"] / 60, 1)}


def across(model: nn.Module, films: Sequence[Row], data: Path) -> dict[str, Any]:
    """How a network that has seen `FIRST_SOURCE` alone does on its validation films, and on sets that it has never seen."""
    network_of_lungs = lung_bundle().network(engine="openvino")
    seen = {row.group for row in films if row.source == FIRST_SOURCE and row.split == "train"}
    sets = {
        FIRST_SOURCE: [row for row in films if row.source == FIRST_SOURCE and row.split == "val"],
        "cxr_adult224": [row for row in films if row.source == "cxr_adult224" and row.group not in seen],
        "cxr_nih64": [row for row in films if row.source == "cxr_nih64" and row.split == "val"],
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
