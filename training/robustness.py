"""How much an answer moves when the same chest film comes another way: other exposure, other file, other frame, something written on it.

`python -m training.robustness PIPELINE --bundle DIR --data DIR [--split val] [--every 2]` prints a table: for each change the AUC of ill against
normal films of `cxr_adult224`, how much the probability moves on average, how many films are called otherwise, how many refused.
Nothing that is changed here has to do with the patient, so a perfect model would not move at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from node.bundle import Bundle
from node.errors import OutsideIntendedUse
from training.augment_xray import marked
from training.datasets import cxr_adult224
from training.evaluate import auc

Picture = npt.NDArray[np.float32]
Score = Callable[[Picture], float | None]  #: chance that a film (rows, columns) is ill; None where it is refused
app = typer.Typer(add_completion=False, help="How much an answer moves when the same film comes another way.")


# --- the changes ------------------------------------------------------------------------------------------------------------
def _jpeg(film: Picture, quality: int) -> Picture:
    _, packed = cv2.imencode(".jpg", np.asarray(film * 255, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)


def _sized(film: Picture, across: float, down: float) -> Picture:
    return np.asarray(cv2.resize(film, None, fx=across, fy=down, interpolation=cv2.INTER_AREA), np.float32)


def _turned(film: Picture, degrees: float) -> Picture:
    rows, columns = film.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(film, turn, (columns, rows), borderMode=cv2.BORDER_CONSTANT), np.float32)


def _cut(film: Picture, share: float) -> Picture:
    down, across = (round(share * side) for side in film.shape)
    return np.ascontiguousarray(film[down : film.shape[0] - down, across : film.shape[1] - across])


def _even(film: Picture) -> Picture:
    return np.asarray(cv2.createCLAHE(3.0, (8, 8)).apply(np.asarray(film * 255, np.uint8)), np.float32) / np.float32(255)


CHANGES: Mapping[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "as it is": lambda film, rng: film,
    "grey values inverted": lambda film, rng: np.float32(1) - film,
    "gamma 0.6": lambda film, rng: film ** np.float32(0.6),
    "gamma 1.6": lambda film, rng: film ** np.float32(1.6),
    "narrow window": lambda film, rng: np.clip((film - np.float32(0.15)) / np.float32(0.7), 0, 1),
    "12-bit range, offset": lambda film, rng: film * np.float32(2800) + np.float32(900),
    "local contrast (CLAHE)": lambda film, rng: _even(film),
    "JPEG quality 30": lambda film, rng: _jpeg(film, 30),
    "noise": lambda film, rng: np.clip(film + rng.normal(0, 0.03, film.shape).astype(np.float32), 0, 1),
    "blur": lambda film, rng: np.asarray(cv2.GaussianBlur(film, (0, 0), 1.2), np.float32),
    "half the pixels": lambda film, rng: _sized(film, 0.5, 0.5),
    "squeezed to 4:5": lambda film, rng: _sized(film, 0.8, 1.0),
    "turned by 5 degrees": lambda film, rng: _turned(film, 5),
    "a twelfth cut off all round": lambda film, rng: _cut(film, 1 / 12),
    "black border": lambda film, rng: np.pad(film, 24),
    "letters and wires": lambda film, rng: marked(film, rng),
}  #: of a film (rows, columns), float32, 0 to 1


# --- the answers ------------------------------------------------------------------------------------------------------------
def chest_xray(bundle: Bundle) -> Score:
    """One less the chance of *normal*, nothing told of the patient."""
    from node.imaging.facing import Facing
    from node.pipelines.chest_xray import NORMAL, ChestXray, answers, calibrated, seen

    pipeline = ChestXray(bundle)
    model, size = pipeline.load("cpu"), int(bundle.input_shapes["image"][-1])
    fields = len(model.findings.tokens.fields)

    def score(film: Picture) -> float | None:
        at = seen(film, Facing(), model.lungs, size)
        if isinstance(at, str):
            return None
        logits, _ = answers(model.findings, at.canvas, [np.nan] * fields)
        names = (*model.findings.labels, *model.findings.severity)
        return 1 - float(calibrated(logits, names, bundle.thresholds)[names.index(NORMAL)])

    return score


def covid_xray(bundle: Bundle) -> Score:
    """The chance of infection."""
    from node.pipelines.covid_xray import CovidXray, probability, read

    pipeline = CovidXray(bundle)
    model = pipeline.load("cpu")

    def score(film: Picture) -> float | None:
        try:
            radiograph, lungs, _ = pipeline._seen(film, model["lungs"])
        except OutsideIntendedUse:
            return None
        reading = read(radiograph, lungs, model["opacity"])
        return probability(reading.evidence, reading.extent, bundle.thresholds)

    return score


def xray_anomaly(bundle: Bundle, group: str = "adult") -> Score:
    """The percentile among normal films of a group."""
    from node.pipelines.xray_anomaly import XrayAnomaly, canvas_of, features_of, percentile, seen

    model = XrayAnomaly(bundle).load("cpu")

    def score(film: Picture) -> float | None:
        try:
            shown = seen(film, model.lungs)
        except OutsideIntendedUse:
            return None
        return percentile(features_of(canvas_of(shown.film, shown.lungs)[1], model.reader), model.groups[group])

    return score


PIPELINES: Mapping[str, tuple[Callable[[Bundle], Score], Callable[[Mapping[str, float]], float]]] = {
    "chest_xray": (chest_xray, lambda limits: 1 - limits["normal"]),
    "covid_xray": (covid_xray, lambda limits: limits["infection"]),
    "xray_anomaly": (xray_anomaly, lambda limits: limits["anomaly"]),
}  #: how ill a film is, and from where on it is called so


def moved(score: Score, threshold: float, films: list[tuple[Picture, bool]], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Of each change: `films`, `auc`, `moved` (mean absolute difference of the chance), `called_otherwise` and `refused` (counts).

    Parameters
    ----------
    films : (film, float32 (rows, columns), 0 to 1, bones bright; whether it is ill)
    """
    found: dict[str, dict[str, Any]] = {}
    plain: list[float | None] = []
    for name, change in CHANGES.items():
        rng = np.random.default_rng(seed)
        chances = [score(np.asarray(change(film, rng), np.float32)) for film, _ in films]
        plain = plain or chances
        read = [(c, p, ill) for c, p, (_, ill) in zip(chances, plain, films, strict=True) if c is not None and p is not None]
        now, before, truth = (np.array(part) for part in zip(*read, strict=True)) if read else (np.zeros(0),) * 3
        found[name] = {
            "films": len(films),
            "auc": round(auc(now, truth.astype(bool)), 3) if read else None,
            "moved": round(float(np.abs(now - before).mean()), 3) if read else None,
            "called_otherwise": int(((now >= threshold) != (before >= threshold)).sum()),
            "refused": sum(c is None for c in chances),
        }
    return found


def table(found: Mapping[str, Mapping[str, Any]], answer: str = "chance") -> str:
    """Rows of Markdown, one for each change; `answer` is what the pipeline says of a film."""
    rows = [f"| {name} | {one['auc']} | {one['moved']} | {one['called_otherwise']} | {one['refused']} |" for name, one in found.items()]
    return "\n".join([f"| the film | AUC | {answer} moves by | called otherwise | refused |", "|---|---|---|---|---|", *rows])


def films_of(data: Path, split: str, every: int) -> list[tuple[Picture, bool]]:
    """Films of `cxr_adult224`, one in `every` of the normal ones."""
    films = [one for one in cxr_adult224.load(data / "images" / "cxr_adult224") if one.split == split]
    ill, normal = ([f for f in films if (cxr_adult224.LABELS[f.label] != "normal") is yes] for yes in (True, False))
    return [(f.grey, True) for f in ill] + [(f.grey, False) for f in normal[::every]]


@app.command()
def robustness(
    pipeline: Annotated[str, typer.Argument(help=", ".join(PIPELINES))],
    bundle: Annotated[Path, typer.Option(help="the bundle's folder")],
    data: Annotated[Path, typer.Option(help="folder with images/")],
    split: Annotated[str, typer.Option(help="which rows of index.csv")] = "val",
    every: Annotated[int, typer.Option(help="one in so many normal films")] = 1,
) -> None:
    """Print how much the answers of BUNDLE move."""
    if pipeline not in PIPELINES:
        raise typer.BadParameter(f"no answers of {pipeline} are measured; there are {', '.join(PIPELINES)}")
    cv2.setNumThreads(1)
    held = Bundle.open(bundle)
    scored, threshold = PIPELINES[pipeline]
    typer.echo(table(moved(scored(held), threshold(held.thresholds), films_of(data, split, every))))


if __name__ == "__main__":
    app()
