"""Infection on a chest radiograph: a U-Net on the equalised lungs alone, with one map of opacity and one of evidence for infection.

The opacity map learns from radiologists' boxes (weak: soft inside, hard outside), from films without any, from haze drawn into such films, and on
ill films that nobody outlined from what the version before saw there: else "whole film" would come to mean "no opacity", for only clean ones
are told. The evidence map, averaged over the lungs, is the film's logit of infection and learns from labels. What stands for a source may not stand for a label: batches hold
infected and clean films of each source in the same number where a source has both, all are seen as ranks of grey inside the lungs only,
and lungs are cut by people, by another group's network and by ours. Hearts are drawn into fields that were cut without one, and cut out of whole
films: else a heart would stand for a whole film, and a whole film for no opacity. Each film is shown twice and changed anew; the two logits are drawn
together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import nn
from torch.nn import functional

from node.bundle import Bundle
from node.imaging.letterbox import Box, box_of
from node.imaging.radiograph import LungFields, Radiograph, lungs_of, radiograph_of
from node.pipelines.covid_xray import SIZE, canvas_of, opaque, read
from node.testing.phantom_chest_xray import chest_xray
from training.augment import Picture, placed
from training.augment_xray import SEEN_HAZE, clouds, exposed, locally_equalised, marked
from training.course import Course
from training.datasets import cxr_adult224, cxr_lungfield256, cxr_nih64, cxr_pediatric224, table
from training.datasets.table import ensure_there
from training.evaluate import auc
from training.loop import Batch, train
from training.processes import keep
from training.splits import ensure_disjoint

LUNG_FIELD = Path(__file__).parents[2] / "models" / "lung_field" / "1.0.0"
#: where a run starts, and who outlines what nobody did; 1.1.0 went on from 1.0.0
BEFORE = Path(__file__).parents[2] / "models" / "covid_xray" / "1.1.0"
NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [16, 32, 64, 96, 160, 192],
    "strides": [2, 2, 2, 2, 2],
    "num_res_units": 0,
    "act": "relu",
    "norm": "batch",
    "dropout": 0.1,
}
INFECTED = {"Pneumonia", "Consolidation", "Infiltration"}  #: labels of ChestX-ray14 that count as infection
SPLITS = ("train", "val")
MEASURED = ("cxr_lungfield256", "cxr_adult224", "cxr_nih64", "cxr_pediatric224")
SOFT = 0.9  #: truth inside a box: much of a box is not opaque
BATCH = (  #: how many of each kind: source, infected
    ("rsna", True, 3),
    ("rsna", False, 3),
    ("nih", True, 1),
    ("nih", False, 2),
    ("covid", True, 2),
    ("child", True, 2),
    ("child", False, 2),
    ("drawn", True, 1),
    ("drawn", False, 1),
)
HAZY = 0.4  #: of the clean films get haze drawn in
DRAWN = range(100, 130)  #: seeds of drawn chests; those of the tests are others
HELD = 0.5  #: how much an outline counts that no person drew

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """A film with its lungs. `opacity` is None where nobody said where it is."""

    name: str
    split: str
    group: str
    source: str  #: "rsna", "nih", "covid", "child" or "drawn"
    set: str  #: which data set
    infected: bool
    grey: Picture
    lungs: Mask
    opacity: Mask | None
    other_abnormal: bool = False
    trust: float = 1.0  #: in `opacity`


def network() -> nn.Module:
    options = {k: v for k, v in NETWORK.items() if k != "_target_"}
    return UNet(**options)


def lung_network() -> Any:
    return Bundle.open(LUNG_FIELD).module()


def fields(data: Path, splits: tuple[str, ...] = SPLITS) -> list[Chest]:
    """Cut lung fields of RSNA and COVID-19, frontal ones."""
    found = []
    for f in cxr_lungfield256.load(data / "images" / "cxr_lungfield256"):
        if f.split not in splits or f.view == cxr_lungfield256.LATERAL or box_of(f.field) is None:
            continue
        label = cxr_lungfield256.LABELS[f.label]
        infected = label in ("pneumonia_opacity", "covid")
        found.append(
            Chest(
                name=f.name,
                split=f.split,
                group=f.group,
                source="rsna" if f.rsna else "covid",
                set="cxr_lungfield256",
                infected=infected,
                grey=f.grey,
                lungs=f.field,
                opacity=f.opacity,
                other_abnormal=label == "other_abnormal",
            )
        )
    return found


def seen(grey: Picture, lung: Any) -> tuple[Radiograph, LungFields] | None:
    """The film and its lungs by our network; None where it sees none."""
    film = radiograph_of(grey)
    lungs = lungs_of(film, lung) if isinstance(film, Radiograph) else ""
    return (film, lungs) if isinstance(film, Radiograph) and isinstance(lungs, LungFields) else None


def films(data: Path, lung: Any, splits: tuple[str, ...] = SPLITS) -> list[Chest]:
    """Whole films: COVID-19 and NIH at 224 px, NIH at 64 px, with lungs by our network and, where there are, by people too."""
    found = []
    for f in cxr_adult224.load(data / "images" / "cxr_adult224"):
        if f.split not in splits:
            continue
        covid = cxr_adult224.LABELS[f.label] == "covid"
        common = {"split": f.split, "group": f.group, "source": "covid" if covid else "nih", "set": "cxr_adult224", "infected": covid}
        empty = None if covid else np.zeros(f.grey.shape, bool)
        if (ours := seen(f.grey, lung)) is not None:
            film, lungs = ours
            found.append(Chest(name=f.name, grey=film.grey, lungs=lungs.both, opacity=empty, **common))  # type: ignore[arg-type]
        if f.lungs is not None and f.split == "train":
            found.append(Chest(name=f.name, grey=f.grey, lungs=f.lungs, opacity=empty, **common))  # type: ignore[arg-type]
    return found + small_films(data, lung, splits)


def children(data: Path, lung: Any, splits: tuple[str, ...] = SPLITS) -> list[Chest]:
    """Children with and without pneumonia, of one hospital: no source gives the label away."""
    found = []
    for f in cxr_pediatric224.load(data / "images" / "cxr_pediatric224"):
        if f.split in splits and (ours := seen(np.asarray(f.grey, np.float32), lung)) is not None:
            film, lungs = ours
            ill = cxr_pediatric224.LABELS[f.label] != "normal"
            empty = None if ill else np.zeros(film.grey.shape, bool)
            common = {"split": f.split, "group": f"child_{f.group}", "source": "child", "set": "cxr_pediatric224", "infected": ill}
            found.append(Chest(name=f.name, grey=film.grey, lungs=lungs.both, opacity=empty, **common))  # type: ignore[arg-type]
    return found


def drawn_chests(lung: Any, seeds: Iterable[int]) -> list[Chest]:
    """Drawn chests, clear and with haze of known outline: what a film is when only its haze tells, and nothing of a collection."""
    found = []
    for seed in seeds:
        for opacity in ("", f"{('right', 'left')[seed % 2]} {('upper', 'middle', 'lower')[seed % 3]}"):
            chest = chest_xray(opacity=opacity, rows=360, seed=seed)
            if (ours := seen(np.asarray(chest.pixels, np.float32), lung)) is not None:
                film, lungs = ours
                about = {"split": "train", "group": f"drawn_{seed}", "source": "drawn", "set": "drawn", "infected": bool(opacity)}
                found.append(Chest(name=f"{seed} {opacity}", grey=film.grey, lungs=lungs.both, opacity=chest.opacity, **about))  # type: ignore[arg-type]
    return found


def outlined(chests: list[Chest], bundle: Bundle) -> list[Chest]:
    """Ill films that nobody outlined get the outline that `bundle` draws, and half the trust. That it draws none tells nothing."""
    network, limit = bundle.stages(engine="openvino")["opacity"], bundle.thresholds["opacity"]
    made = []
    for one in chests:
        if one.opacity is None and one.set != "cxr_nih64":  # too coarse
            film, lungs = as_seen(one)
            mask = opaque(read(film, lungs, network), lungs, limit)
            one = replace(one, opacity=mask, trust=HELD) if mask.any() else one
        made.append(one)
    return made


def as_seen(one: Chest) -> tuple[Radiograph, LungFields]:
    """A film and its lungs as the node holds them."""
    right, left = cxr_adult224.sides(one.lungs)
    return Radiograph(one.grey, Box(0, 0, *one.grey.shape), one.grey.shape), LungFields(right, left, 1.0)


def small_films(data: Path, lung: Any, splits: tuple[str, ...] = SPLITS) -> list[Chest]:
    """NIH at 64 px: adults without a finding, and with a label of infection."""
    root, found = data / "images" / "cxr_nih64", []
    for row in table.rows(root, "file", "split", "finding_labels", "patient", "age"):
        if row["split"] not in splits:
            continue
        labels = set(row["finding_labels"].split("|"))
        infected, clean = bool(labels & INFECTED), labels == {"No Finding"}
        years = table.years(row)
        if not (infected or clean) or (years is not None and years < 18):
            continue
        large = cv2.resize(table.grey(root / row["file"]), (192, 192), interpolation=cv2.INTER_CUBIC)
        if (ours := seen(np.asarray(large, np.float32) / np.float32(255), lung)) is not None:
            film, lungs = ours
            found.append(
                Chest(
                    name=row["file"],
                    split=row["split"],
                    group=cxr_nih64.patient_of(row),
                    source="nih",
                    set="cxr_nih64",
                    infected=infected,
                    grey=film.grey,
                    lungs=lungs.both,
                    opacity=None if infected else np.zeros(film.grey.shape, bool),
                )
            )
    return found


def cut(one: Chest, rng: np.random.Generator) -> tuple[Picture, Mask, Mask]:
    """(grey, lungs, opacity) of one film, changed at random, on a canvas a little larger than the network's, to be cut to the lungs."""
    change: dict[str, Any] = {"rotate_deg": 10, "scale": (0.85, 1.1), "stretch": 0.18, "elastic": 0.006, "fills": (0.0,)}
    state = rng.bit_generator.state
    grey, lungs = placed(one.grey, one.lungs.astype(np.float32), SIZE + 24, rng, **change)
    boxes = np.zeros_like(lungs)
    if one.opacity is not None and one.opacity.any():
        rng.bit_generator.state = state
        _, boxes = placed(one.grey, one.opacity.astype(np.float32), SIZE + 24, rng, **change)
    if one.opacity is not None and not one.infected and rng.random() < HAZY:
        grey, haze = clouds(grey, lungs, rng)
        boxes = np.maximum(boxes, haze > SEEN_HAZE)
    if rng.random() < 0.3:
        grey = marked(grey, rng)
    if rng.random() < 0.25:
        grey = locally_equalised(grey, rng)
    grey = exposed(grey, rng)
    where = lungs > 0.5
    if rng.random() < 0.3:
        where = cut_off(where, rng)
    if rng.random() < 0.5:  # another outline: wider or tighter, smoother
        k = int(rng.integers(2, 7))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k))
        redrawn = cv2.erode if rng.random() < 0.6 or one.set == "cxr_lungfield256" else cv2.dilate
        where = np.asarray(redrawn(where.astype(np.uint8), kernel), bool)
    if not where.any():
        where = lungs > 0.5
    if rng.random() < 0.6:  # so that a heart in the lungs tells nothing of the source, and so of the label
        if one.set == "cxr_lungfield256":
            grey, where = heart_drawn(grey, where, rng)
        else:
            where = heart_cut(where, rng)
    return grey, where, (boxes > 0.5) & where


def cut_off(where: Mask, rng: np.random.Generator) -> Mask:
    """Lungs that end where the film does: up to a fifth is gone at some sides."""
    box = box_of(where)
    left = where.copy()
    if box is not None:
        for side, first, length in ((0, box.top, box.height), (1, box.left, box.width)):
            low, high = (round(length * max(0.0, rng.uniform(-0.15, 0.2))) for _ in range(2))
            lines = np.moveaxis(left, side, 0)
            lines[: first + low] = False
            lines[first + length - high :] = False
    return left


def lungs_apart(where: Mask) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) of the two largest parts, from the image's left edge on."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(where.astype(np.uint8), connectivity=8)
    boxes = sorted((tuple(int(v) for v in row) for row in stats[1:]), key=lambda b: -b[4])[:2]
    return sorted((b[0], b[1], b[2], b[3]) for b in boxes)


def heart_drawn(grey: Picture, where: Mask, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A field that was cut without the heart, as our lung stage would cut it: wider towards the midline below, and bright there."""
    if len(boxes := lungs_apart(where)) != 2:
        return grey, where
    (l0, t0, w0, h0), (l1, t1, w1, h1) = boxes
    middle = (l0 + w0 + l1) / 2
    reach = np.zeros(where.shape, np.uint8)
    for (left, top, wide, high), inwards, share in (
        ((l0, t0, w0, h0), middle - 0.12 * w0, 0.6),
        ((l1, t1, w1, h1), middle + 0.08 * w1, 1.0),
    ):
        part = np.zeros(where.shape, np.uint8)
        part[top : top + high, left : left + wide] = where[top : top + high, left : left + wide]
        points = list(np.asarray(cv2.findNonZero(part), np.float32).reshape(-1, 2))
        if rng.random() < share:
            rise = rng.uniform(0.35, 0.6) if share == 1 else 0.8
            points += [np.array([inwards, top + rise * high]), np.array([inwards, top + rng.uniform(0.88, 1.0) * high])]
        hull = cv2.convexHull(np.asarray(points, np.float32)).round().astype(np.int32)
        cv2.fillConvexPoly(reach, hull, 1)
    added = (reach > 0) & ~where
    level = float(np.quantile(grey[where], rng.uniform(0.85, 0.99))) + rng.uniform(0.0, 0.2)
    texture = cv2.GaussianBlur(rng.normal(0, 1, grey.shape).astype(np.float32), (0, 0), float(rng.uniform(1, 5)))
    tissue = level + rng.uniform(0.01, 0.06) * texture / (float(texture.std()) + 1e-6)
    soft = cv2.GaussianBlur(added.astype(np.float32), (0, 0), float(rng.uniform(0.5, 2.0)))
    weight = np.where(added, 1.0, soft)
    return np.asarray(np.clip(grey * (1 - weight) + tissue * weight, 0, 1), np.float32), where | added


def heart_cut(where: Mask, rng: np.random.Generator) -> Mask:
    """Lungs of a whole film without what lies behind the heart, as the other group's network cut them."""
    if len(boxes := lungs_apart(where)) != 2:
        return where
    (l0, t0, w0, h0), (l1, t1, w1, h1) = boxes
    heart = np.zeros(where.shape, np.uint8)
    middle = (l0 + w0 + l1) // 2
    axes = (round(rng.uniform(0.45, 0.75) * w1 + l1 - middle), round(rng.uniform(0.28, 0.42) * h1))
    cv2.ellipse(heart, ((middle, round(t1 + rng.uniform(0.68, 0.85) * h1)), (2 * axes[0], 2 * axes[1]), float(rng.uniform(0, 35))), 1, -1)
    if rng.random() < 0.5:
        cv2.ellipse(heart, ((l0 + w0, round(t0 + 0.75 * h0)), (0.5 * w0, 0.5 * h0), 0.0), 1, -1)
    left = where & (heart == 0)
    return left if left.sum() > 0.5 * where.sum() else where


def of_batch(kinds: dict[tuple[str, bool], list[Chest]], rng: np.random.Generator) -> Batch:
    """Films of every kind, as `BATCH` says, twice: the second half of the batch is the first, changed anew."""
    images, boxes, lungs, trust, infected, labelled, chosen = [], [], [], [], [], [], []
    for source, ill, number in BATCH:
        pool = kinds[source, ill]
        for _ in range(number):
            one = pool[int(rng.integers(len(pool)))]
            looks = [cut(one, rng) for _ in range(2)]
            if all(where.any() for _, where, _ in looks):
                chosen.append((one, looks))
    for look in range(2):
        for one, looks in chosen:
            grey, where, box = looks[look]
            frame, canvas = canvas_of(grey, where)
            images.append(canvas)
            lungs.append(frame.forward(where.astype(np.float32)) > 0.5)
            boxes.append(frame.forward(box.astype(np.float32)) > 0.5)
            trust.append(0.0 if one.opacity is None else one.trust * (0.5 if one.other_abnormal else 1.0))
            infected.append(one.infected)
            labelled.append(one.infected or not box.any())
    return {
        "image": torch.from_numpy(np.stack(images))[:, None],
        "lungs": torch.from_numpy(np.stack(lungs)),
        "boxes": torch.from_numpy(np.stack(boxes)),
        "trust": torch.tensor(trust, dtype=torch.float32),
        "infected": torch.tensor(infected, dtype=torch.float32),
        "labelled": torch.tensor(labelled, dtype=torch.float32),
    }


def losses(maps: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Opacity against boxes inside the lungs (BCE and Tversky), evidence averaged over the lungs against the label, two looks against each other.

    A clean film with haze drawn in has an outline and no label: nobody knows what would be called of it.
    """
    lungs = batch["lungs"].float()
    area = lungs.sum(dim=(1, 2)).clamp(min=1)
    truth = batch["boxes"].float()
    trust, labelled = batch["trust"], batch["labelled"]
    opacity, evidence = maps[:, 0], maps[:, 1]
    pixel = functional.binary_cross_entropy_with_logits(opacity, truth * SOFT, reduction="none")
    outline = (pixel * lungs).sum(dim=(1, 2)) / area
    chance = torch.sigmoid(opacity) * lungs
    both = (chance * truth).sum(dim=(1, 2))
    tversky = 1 - (both + 20) / (
        both + 0.5 * (chance * (1 - truth)).sum(dim=(1, 2)) + 0.5 * ((lungs - chance) * truth).sum(dim=(1, 2)) + 20
    )
    boxed = (truth.sum(dim=(1, 2)) > 0).float()
    drawn = ((outline + tversky * boxed) * trust).sum() / trust.sum().clamp(min=1)
    logit = (evidence * lungs).sum(dim=(1, 2)) / area
    smooth = batch["infected"] * 0.9 + 0.05
    called = functional.binary_cross_entropy_with_logits(logit, smooth, reduction="none")
    one, other = logit.chunk(2)
    alike = labelled.chunk(2)[0] * labelled.chunk(2)[1]
    apart = ((one - other).square() * alike).sum() / alike.sum().clamp(min=1)
    loss: torch.Tensor = drawn + 0.7 * (called * labelled).sum() / labelled.sum().clamp(min=1) + 0.1 * apart
    return loss


@torch.inference_mode()
def maps_of(model: nn.Module, chests: list[Chest]) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float32]]]:
    """(logits of infection, opacity maps on the canvas) of films as they are."""
    logits, opacity = [], []
    for one in chests:
        frame, canvas = canvas_of(one.grey, one.lungs)
        where = frame.forward(one.lungs.astype(np.float32)) > 0.5
        maps = model(torch.from_numpy(canvas)[None, None]).float()[0].numpy()
        logits.append(float(maps[1][where].mean()))
        opacity.append(np.where(where, 1 / (1 + np.exp(-maps[0])), 0).astype(np.float32))
    return np.asarray(logits), opacity


def run(data: Path, out: Path, course: Course) -> None:
    """Train the opacity stage; `data` is the folder that holds images/. The lung stage is `models/lung_field`."""
    cv2.setNumThreads(1)
    lung = lung_network()
    chests = fields(data) + films(data, lung) + children(data, lung)
    ensure_disjoint((c.split, c.group) for c in chests)
    training = outlined([c for c in chests if c.split == "train"], Bundle.open(BEFORE)) + drawn_chests(lung, DRAWN)
    validation = [c for c in chests if c.split == "val"]
    kinds = {(source, ill): [c for c in training if (c.source, c.infected) == (source, ill)] for source, ill, _ in BATCH}
    ensure_there({f"train {'infected' if ill else 'clean'} of {source}": len(some) for (source, ill), some in kinds.items()})
    ensure_there({f"val of {name}": sum(c.set == name for c in validation) for name in MEASURED})

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        return of_batch(kinds, rng)

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        return losses(model(batch["image"].contiguous(memory_format=torch.channels_last)).float(), batch)

    def evaluate(model: nn.Module) -> dict[str, float]:
        rsna = [c for c in validation if c.source == "rsna"]
        logits, opacity = maps_of(model, rsna)
        overlap = total = 0.0
        for one, found in zip(rsna, opacity, strict=True):
            frame, _ = canvas_of(one.grey, one.lungs)
            assert one.opacity is not None
            truth = frame.forward(one.opacity.astype(np.float32)) > 0.5
            overlap += 2 * float(((found > 0.5) & truth).sum())
            total += float((found > 0.5).sum() + truth.sum())
        figures = {"val_auc_rsna": auc(logits, np.array([c.infected for c in rsna])), "val_dice_pooled": overlap / max(1.0, total)}
        for name in MEASURED[1:]:
            whole = [c for c in validation if c.set == name]
            logits, opacity = maps_of(model, whole)
            ill = np.array([c.infected for c in whole])
            outlines = np.array([float((o > 0.3).sum()) > 20 for o in opacity])
            figures |= {
                f"val_auc_{name}": auc(logits, ill),
                f"outlined_{name}": float(outlines[ill].mean()),
                f"false_{name}": float(outlines[~ill].mean()),
            }
        return {k: round(v, 4) for k, v in figures.items()}

    model = network()
    model.load_state_dict(Bundle.open(BEFORE).module().opacity.state_dict())
    state = train(
        model,
        draw=draw,
        loss_of=loss_of,
        evaluate=evaluate,
        out=out,
        course=course,
        peak_rate=1e-3,
        weight_decay=5e-3,
        decay=0.995,
        evaluate_every_s=300,
    )
    keep(state, out)
