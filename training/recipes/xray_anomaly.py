"""Chest films without labels: a small vision transformer, and forests grown on what it and plain edges say of normal films.

First it paints patches that it can't see, of all films. Then it tells where something was pasted into normal ones. The forests are grown on
normal films that it learned from, and their scale comes from a fifth of the normal patients that neither of them met in these two steps.
No film of an ill patient, and no label but "normal", has a part in the second step or in the forests.

The forests meet each normal film as it is and processed otherwise: what a machine did to a film is then hardly unlike.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from node.bundle import Bundle
from node.errors import OutsideIntendedUse
from node.imaging.chest_vit import PATCH, ChestVit
from node.imaging.lung_canvas import MARGIN, equalised
from node.imaging.normality import Measured, Normality
from node.pipelines.xray_anomaly import CANVAS, CELL, GROUPS, Features, Seen, canvas_of, features_of, seen
from training.augment import shaded
from training.augment_xray import Processing, blurred, brighter, darker, locally_equalised, marked
from training.course import Course
from training.datasets import cxr_nih64, table
from training.datasets.table import ensure_there
from training.evaluate import auc
from training.loop import Batch, train
from training.pasted import pasted
from training.processes import keep, write
from training.splits import ensure_disjoint

READER: dict[str, Any] = {"size": CANVAS, "width": 128, "mlp": 384, "depth": 4, "heads": 4}
CELLS = (CANVAS // CELL) ** 2
EDGES = (CANVAS // CELL - 1) ** 2 * 4 * 8  #: blocks, cells of each, directions
WHOLE = 2 * READER["width"] + 3
COMPONENTS = (64, 24, 24)  #: of edges, of the film as a whole, of a patch
TREES, NODES, SAMPLES = 200, 400, 192  #: of each forest
WEIGHTS = {"child": (0.5, 0.5), "adult": (0.0, 1.0)}  #: of edges, of the transformer; in adults edges tell nothing, see the card
EXAMPLES = 128  #: steps of the scale
SETS = {"cxr_pediatric224": "child", "cxr_adult224": "adult", "cxr_nih64": "adult"}  #: and beside whose normals they are held
PAINTED = (*SETS, "cxr_figure1")
GROWN_ON = ("cxr_pediatric224", "cxr_adult224")  #: films of 64 pixels would teach the forests that blur is normal
PAINTING = 0.16  #: share of the minutes
HIDDEN = 0.6  #: share of patches that are painted over
BATCH = 40
#: how films of an age group are processed otherwise; in adults brighter and darker films gained nothing
PROCESSED: dict[str, tuple[Processing, ...]] = {
    "child": (locally_equalised, blurred, brighter, darker),
    "adult": (locally_equalised, blurred),
}
KEPT_BACK = 5  #: one normal patient of so many is kept for the scale
LUNG_FIELD = Path(__file__).parents[2] / "models" / "lung_field" / "1.0.0"
ROOM, STORED = 0.3, 256  #: room round the lungs and pixels of a stored film, so that views can move

Picture = npt.NDArray[np.float32]


# --- films --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """One film cut to its lungs."""

    source: str  #: the set
    split: str
    label: str
    group: str  #: set and patient
    canvas: Picture  #: as the pipeline shows it to transformer and forests
    otherwise: tuple[Picture, ...]  #: the same film processed otherwise, where a forest is grown on it
    grey: npt.NDArray[np.uint8]  #: (STORED, STORED): the lungs' box with ROOM of it on each side
    lungs: npt.NDArray[np.uint8]  #: the same of the lungs' mask, 0 to 255

    @property
    def age_group(self) -> str:
        return SETS[self.source]

    @property
    def patient(self) -> str:
        """Whoever it is in whichever set."""
        return self.group.partition(" ")[2]

    @property
    def normal(self) -> bool:
        return self.label == "normal"

    @property
    def kept_back(self) -> bool:
        """Whether the patient is one of those that set the scale."""
        return zlib.crc32(self.patient.encode()) % KEPT_BACK == 0


def rows_of(data: Path, name: str) -> Iterable[dict[str, str]]:
    return table.rows(data / "images" / name, "file", "split", "label")


def chests(data: Path, splits: tuple[str, ...] = ("train", "val"), lungs: Any = None) -> list[Chest]:
    """The films of all three sets by the node's own path: normal ones of train, all of the other splits. A refused film is left out."""
    network = lungs or Bundle.open(LUNG_FIELD).network(engine="openvino")
    found = []
    for name in SETS:
        for row in rows_of(data, name):
            if row["split"] not in splits or (row["split"] == "train" and row["label"] != "normal"):
                continue
            film = table.grey(data / "images" / name / row["file"])
            try:
                shown = seen(np.asarray(film, np.float32), network)
            except OutsideIntendedUse:
                continue
            box, (rows, columns) = shown.lungs.box(0.0), shown.film.grey.shape
            top, left = box.top - int(ROOM * box.height), box.left - int(ROOM * box.width)
            bottom, right = box.bottom + int(ROOM * box.height), box.right + int(ROOM * box.width)
            pad = max(0, -top), max(0, bottom - rows), max(0, -left), max(0, right - columns)
            grey = cv2.copyMakeBorder((shown.film.grey * 255).astype(np.uint8), *pad, cv2.BORDER_REPLICATE)
            mask = cv2.copyMakeBorder(shown.lungs.both.astype(np.uint8) * 255, *pad, cv2.BORDER_CONSTANT)
            cut = slice(top + pad[0], bottom + pad[0]), slice(left + pad[2], right + pad[2])
            found.append(
                Chest(
                    source=name, split=row["split"], label=row["label"], group=f"{name} {row.get('group') or cxr_nih64.patient_of(row)}",
                    canvas=canvas_of(shown.film, shown.lungs)[1],
                    otherwise=processed(shown, SETS[name]) if row["split"] == "train" and name in GROWN_ON else (),
                    grey=cv2.resize(grey[cut], (STORED, STORED), interpolation=cv2.INTER_AREA),
                    lungs=cv2.resize(mask[cut], (STORED, STORED), interpolation=cv2.INTER_AREA),
                )
            )  # fmt: skip
    ensure_disjoint((c.split, c.patient) for c in found)
    return found


def processed(shown: Seen, group: str) -> tuple[Picture, ...]:
    """The film's canvases after each kind of processing; the same film gives the same ones."""
    rng = np.random.default_rng(zlib.crc32(shown.film.grey.tobytes()))
    films = (replace(shown.film, grey=otherwise(shown.film.grey, rng)) for otherwise in PROCESSED[group])
    return tuple(canvas_of(film, shown.lungs)[1] for film in films)


# --- first step: paint what is hidden ---------------------------------------------------------------------------------------------
class Painter(nn.Module):
    """The transformer with a linear layer that paints the patches it could not see (Xie et al., SimMIM, 2022)."""

    def __init__(self, reader: ChestVit) -> None:
        super().__init__()
        self.reader = reader
        self.paint = nn.Linear(READER["width"], (PATCH // 2) ** 2)

    def loss(self, pictures: torch.Tensor) -> torch.Tensor:
        """Mean absolute error in the hidden patches, at half resolution, each scaled to mean 0 and deviation 1."""
        side = pictures.shape[-1] // PATCH
        hidden = (torch.rand(len(pictures), 1, side, side, device=pictures.device) < HIDDEN).float()
        shown = torch.where(functional.interpolate(hidden, scale_factor=PATCH) > 0, 0.5, pictures)
        painted = self.paint(self.reader.tokens(self.reader.embed(shown))[:, 1:]).float()
        target = functional.unfold(functional.avg_pool2d(pictures, 2), PATCH // 2, stride=PATCH // 2).transpose(1, 2)
        target = (target - target.mean(dim=2, keepdim=True)) / (target.std(dim=2, keepdim=True) + 0.02)
        error = (painted - target).abs().mean(dim=2)
        return error[hidden.flatten(1) > 0].mean()


def paint(data: Path, out: Path, course: Course) -> dict[str, torch.Tensor]:
    """The transformer's weights after it has painted parts of all training films, of ill patients too."""
    films: dict[str, list[npt.NDArray[np.uint8]]] = {"train": [], "val": []}
    for name in PAINTED:
        for row in rows_of(data, name):
            if row["split"] in films:
                films[row["split"]].append(table.grey(data / "images" / name / row["file"]))
    ensure_there({split: len(some) for split, some in films.items()})
    rng = np.random.default_rng(1)
    chosen = [films["val"][i] for i in rng.permutation(len(films["val"]))[:128]]
    check = torch.from_numpy(np.stack([part_of(film, rng) for film in chosen]))[:, None]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        chosen = [films["train"][int(i)] for i in rng.integers(len(films["train"]), size=BATCH)]
        return {"image": torch.from_numpy(np.stack([part_of(film, rng) for film in chosen]))[:, None]}

    def evaluate(net: nn.Module) -> dict[str, float]:
        torch.manual_seed(1)
        with torch.no_grad():
            return {"val_error": round(float(net.loss(check)), 4)}

    state = train(
        Painter(ChestVit(**READER)), draw=draw, loss_of=lambda net, batch: net.loss(batch["image"]), evaluate=evaluate,
        out=out, course=course, peak_rate=1.2e-3, weight_decay=0.05, decay=0.99, evaluate_every_s=100,
    )  # fmt: skip
    return {key.removeprefix("reader."): value for key, value in state.items() if key.startswith("reader.")}


def part_of(film: npt.NDArray[np.uint8], rng: np.random.Generator) -> Picture:
    """A part of a film, turned a little, in another window, as the pipeline evens it out."""
    rows, columns = film.shape
    zoom = rng.uniform(0.55, 1.0)
    height, width = rows * zoom, columns * float(np.clip(zoom * np.exp(rng.uniform(-0.15, 0.15)), 0.4, 1.0))
    top, left = rng.uniform(0, rows - height), rng.uniform(0, columns - width)
    turn = cv2.getRotationMatrix2D((left + width / 2, top + height / 2), rng.uniform(-6, 6), 1.0)
    scale = np.array([[CANVAS / width, 0, -left * CANVAS / width], [0, CANVAS / height, -top * CANVAS / height], [0, 0, 1]])
    matrix = (scale @ np.vstack([turn, [0, 0, 1]]))[:2]
    picture = cv2.warpAffine(film, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    return equalised(stretched(picture) ** np.float32(np.exp(rng.uniform(-0.35, 0.35))))


# --- second step: tell where something was pasted ---------------------------------------------------------------------------------
def stretched(picture: Picture) -> Picture:
    low, high = np.percentile(picture, [0.5, 99.5])
    return np.asarray(np.clip((picture - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def view(chest: Chest, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Film and lungs on the canvas, the box moved, stretched and turned a little."""
    whole = 1 + 2 * ROOM
    low, high = (ROOM - MARGIN) / whole * STORED, (1 + ROOM + MARGIN) / whole * STORED
    move = 0.07 * (high - low)
    (x0, y0), (x1, y1) = low + rng.uniform(-move, move, 2), high + rng.uniform(-move, move, 2)
    angle, centre = np.deg2rad(rng.uniform(-5, 5)), np.array([x0 + x1, y0 + y1]) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = (np.array([[x0, y0], [x1, y0], [x0, y1]]) - centre) @ turn + centre
    matrix = cv2.getAffineTransform(corners.astype(np.float32), np.array([[0, 0], [CANVAS, 0], [0, CANVAS]], np.float32))
    grey = cv2.warpAffine(chest.grey, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lungs = cv2.warpAffine(chest.lungs, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)
    return stretched(grey.astype(np.float32)), (lungs > 127).astype(np.float32)


def coarser(image: Picture, rng: np.random.Generator) -> Picture:
    """From fewer pixels, or as a JPEG: what tells files apart, not patients."""
    if rng.random() < 0.35:
        side = int(rng.uniform(40, 120))
        how = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), (CANVAS, CANVAS), interpolation=how))
    if rng.random() < 0.25:
        quality = int(rng.integers(25, 90))
        _, packed = cv2.imencode(".jpg", (np.clip(image, 0, 1) * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)
    return np.asarray(image, np.float32)


def example(pool: list[Chest], rng: np.random.Generator, share: float = 0.6) -> tuple[Picture, Picture]:
    """A normal film, in `share` of the cases with something pasted in, and how much each patch changed by it, 0 to 1."""
    before, lungs = view(pool[int(rng.integers(len(pool)))], rng)
    before = marked(before, rng) if rng.random() < 0.3 else before  # letters and wires are no anomaly
    after = before
    if rng.random() < share:
        other, _ = view(pool[int(rng.integers(len(pool)))], rng)
        after = pasted(before, lungs, other, rng)
    same = rng.bit_generator.state
    both = []
    for picture in (before, after):
        rng.bit_generator.state = same
        both.append(equalised(coarser(shaded(picture, rng, gain=0.15, bias=0.05, gamma=0.35, noise=0.03), rng)))
    change = np.abs(cv2.GaussianBlur(both[1] - both[0], (0, 0), 1.5))
    side = CANVAS // PATCH
    return both[1], np.clip(cv2.resize(change, (side, side), interpolation=cv2.INTER_AREA) / 0.1, 0, 1).ravel()


def tell(films: list[Chest], begun: dict[str, torch.Tensor], out: Path, course: Course) -> dict[str, torch.Tensor]:
    """The transformer's weights after it has learned to tell where normal films were changed."""
    normal = [c for c in films if c.split == "train" and c.normal and not c.kept_back]
    pools = [[c for c in normal if c.age_group == "child"], [c for c in normal if c.source == "cxr_adult224"] * 2]
    pools[1] += [c for c in normal if c.source == "cxr_nih64"]
    ensure_there({f"train normal of a {group}": len(pool) for group, pool in zip(("child", "adult"), pools, strict=True)})
    validation = [c for c in films if c.split == "val"]
    ensure_there({f"val of {source}": sum(c.source == source for c in validation) for source in SETS})
    canvases = torch.from_numpy(np.stack([c.canvas for c in validation]))[:, None]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        made = [example(pools[int(rng.random() < 0.5)], rng) for _ in range(BATCH)]
        return {
            "image": torch.from_numpy(np.stack([m[0] for m in made]))[:, None],
            "where": torch.from_numpy(np.stack([m[1] for m in made])),
        }

    def loss_of(net: nn.Module, batch: Batch) -> torch.Tensor:
        changed, where = (part.float() for part in net.logits(batch["image"].contiguous(memory_format=torch.channels_last)))
        most = batch["where"].topk(3, dim=1).values.mean(dim=1)
        loss: torch.Tensor = functional.binary_cross_entropy_with_logits(where, batch["where"])
        return loss + 0.4 * functional.binary_cross_entropy_with_logits(changed, most)

    def evaluate(net: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            logits = torch.cat([net.logits(part)[0] for part in canvases.split(64)]).numpy()
        figures = {}
        for source in SETS:
            of_set = np.array([c.source == source for c in validation])
            figures[f"val_auc_{source}"] = round(auc(logits[of_set], np.array([not c.normal for c in validation])[of_set]), 3)
        return figures

    net = ChestVit(**READER)
    net.load_state_dict(begun)
    return train(
        net, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course,
        peak_rate=1e-3, weight_decay=0.03, decay=0.995, evaluate_every_s=180,
    )  # fmt: skip


# --- the forests ------------------------------------------------------------------------------------------------------------------
def measured(features: list[Features]) -> Measured:
    """Many films' features as rows."""
    return Measured(*(np.stack([getattr(f, name) for f in features]) for name in Measured._fields))


def run(data: Path, out: Path, course: Course) -> None:
    """Both steps, then the forests; `data` is the folder that holds images/. The lungs come from `models/lung_field`."""
    cv2.setNumThreads(1)
    begun = paint(data, out / "painted", course.part(PAINTING))
    films = chests(data)
    reader = tell(films, begun, out, course.part(1 - PAINTING, watched=True))
    keep(grown(reader, films), out)
    note(films, out)


def note(films: list[Chest], out: Path) -> None:
    """What the card tells of the run: `notes.json` beside the weights."""
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    counts = {"learned from": False, "kept for the scale": True}
    normal = {
        name: {
            word: sum(c.kept_back is kept for c in films if c.split == "train" and c.source in GROWN_ON and c.age_group == name)
            for word, kept in counts.items()
        }
        for name in GROUPS
    }
    write(out / "notes.json", json.dumps({"steps": last["step"], "minutes": last["minutes"], "normal_films": normal}))


def shape_of_group() -> dict[str, Any]:
    """How large the parts of an age group are: arguments of `Normality`."""
    return {
        "edges": EDGES, "whole": WHOLE, "width": READER["width"], "patches": CELLS, "components": list(COMPONENTS),
        "trees": TREES, "nodes": NODES, "samples": SAMPLES, "examples": EXAMPLES,
    }  # fmt: skip


def reader_from(state: dict[str, torch.Tensor]) -> ChestVit:
    """The transformer as it is shipped: its weights went through half precision."""
    reader = ChestVit(**READER)
    reader.load_state_dict({key: value.half().float() if value.is_floating_point() else value for key, value in state.items()})
    return reader.eval()


def grown(state: dict[str, torch.Tensor], films: list[Chest]) -> dict[str, torch.Tensor]:
    """The transformer's weights and what was learned of each age group, under the names they have in the bundle."""
    reader = reader_from(state)
    whole = {f"reader.{key}": value for key, value in state.items()}
    for name in GROUPS:
        normal = [c for c in films if c.split == "train" and c.normal and c.source in GROWN_ON and c.age_group == name]
        grown_on = measured([features_of(canvas, reader) for c in normal if not c.kept_back for canvas in (c.canvas, *c.otherwise)])
        scale = measured([features_of(c.canvas, reader) for c in normal if c.kept_back])
        learned = normality_of(grown_on, scale, WEIGHTS[name])
        whole |= {f"{name}.{key}": value for key, value in learned.state_dict().items()}
    return whole


def normality_of(grown_on: Measured, scale: Measured, weights: tuple[float, float], seed: int = 0) -> Normality:
    """Projections and forests of the first films; middle, spread and percentiles of the others."""
    from sklearn.ensemble import IsolationForest

    group = Normality(**shape_of_group())
    group.weights[:] = torch.tensor(weights)
    place = grown_on.patches.mean(axis=0)
    group.place[:] = torch.from_numpy(place).half().float()  # half: as it is shipped, here and below, so that node and forests see the same
    beside = (grown_on.patches - group.place.numpy()).reshape(-1, place.shape[1])
    for i, vectors in enumerate((grown_on.edges, grown_on.whole, beside)):
        projection = group.projections[i]
        projection.fit(vectors)
        for part in (projection.mean, projection.axes):
            part[:] = part.half().float()
        forest = IsolationForest(n_estimators=TREES, max_samples=SAMPLES, random_state=seed, n_jobs=1).fit(projection.of(vectors))
        group.forests[i].take(forest)
    apart = np.stack([group.forests[i].scores(group.projections[i].of(scale[i])) for i in range(2)], axis=1)
    group.middle[:], group.spread[:] = torch.from_numpy(apart.mean(axis=0)), torch.from_numpy(apart.std(axis=0))
    for known, scores in ((group.normals, group.oddness(scale)), (group.normal_patches, group.patch_scores(scale).ravel())):
        known.scores[:] = torch.from_numpy(np.quantile(scores, (np.arange(len(known.scores)) + 0.5) / len(known.scores)))
    return group
