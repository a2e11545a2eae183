"""The bundle of `covid_xray`: its description, its thresholds, its figures and its model card."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.imaging.radiograph import LUNG_SIZE
from node.pipelines.covid_xray import MARGIN, SIZE, Reading, opaque, probability, read, zone_scores
from training import evaluate as e
from training import robustness
from training.bundles.alike import described, image_input, maps_output
from training.datasets import cxr_pediatric224
from training.lungs import beside
from training.recipes import lung_field
from training.recipes.covid_xray import LUNG_FIELD, NETWORK, Chest, as_seen, fields, films, seen

EVERY = 4  #: of the normal films on which it is measured how much answers move
SENSITIVITY = 0.85  #: of infected validation films of all sources, at which the threshold of infection is set

LICENCE_NOTE = """The weights in this bundle were trained on lung fields of RSNA Pneumonia 2018 (RSNA terms, attribution) and of COVID-19 collections
(ieee8023: CC BY and CC BY-NC-SA by image; SIRM), on whole films of ieee8023, of NIH ChestX-ray14 (free use with citation) and of children (Kermany et al.,
CC BY 4.0), with lung outlines by v7 Labs (CC BY 4.0); its lung stage saw Figure1-COVID (research only) too.
They may be used for non-commercial research only; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Reads one frontal (PA or AP) chest film of an adult: the two lungs, opacity as in infection (COVID-19 pneumonia or another), the "
    "opaque share of each lung, a score of six zones, and how likely the film shows infection. Not for diagnosis, not for telling "
    "COVID-19 from other pneumonia, not for children, not for lateral films."
)


def complete(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of the opacity stage together with those of the lung stage: what the bundle holds."""
    return beside("opacity", state)


def inference() -> dict[str, Any]:
    """`configs/inference.json`: the two networks; what comes before, between and after them is in the node."""
    return {"network_def": {"_target_": "node.imaging.stages.stages", "lungs": lung_field.NETWORK, "opacity": NETWORK}}


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        changelog={
            "1.1.0": "goes on from 1.0.0 with children, haze drawn into clean films, films cut off at their edges and more local contrast",
            "1.0.0": "first weights",
        },
        name="Infection on chest films",
        task="Segmentation of lungs and opacity, and probability of infection, on frontal chest radiographs",
        description=f"Two U-Nets: the lungs at {LUNG_SIZE} x {LUNG_SIZE}, then opacity and evidence of infection on the equalised lungs at {SIZE} x {SIZE}.",
        intended_use=INTENDED,
        data_source="RSNA Pneumonia 2018, ieee8023 and SIRM COVID-19 collections, NIH ChestX-ray14, Kermany et al., v7 lung outlines",
        network_data_format={
            "inputs": {"lungs": image_input(LUNG_SIZE), "opacity": image_input(SIZE)},
            "outputs": {
                "lungs": maps_output(LUNG_SIZE, "lung at the image's left edge", "lung at its right edge"),
                "opacity": maps_output(SIZE, "opacity", "evidence of infection"),
            },
        },
        radnode={
            "pipeline": "covid_xray",
            "family": "convolutional neural network",
            "labels": ["infection"],
            "thresholds": {"infection": 0.5, "opacity": 0.5, "extent_weight": 1.0, "temperature": 1.0, "bias": 0.0},
            "intended_use": {
                "picture": "chest_radiograph",
                "modality": ["CR", "DX"],
                "body_part": ["CHEST", "THORAX", "LUNG"],
                "body_part_required": True,
                "view": ["PA", "AP"],
                "min_age_years": 18,
            },
            "licence": {"name": "non-commercial research", "non_commercial": True, "text": "LICENSE"},
            "research_only": True,
        },
    )


# --- figures ----------------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def of_split(data: Path, split: str) -> list[Chest]:
    """Films of the split with lungs as the node finds them; cut fields with their own. The lung stage is that of every bundle of this version."""
    return fields(data, (split,)) + films(data, Bundle.open(LUNG_FIELD).network(engine="openvino"), (split,))


def readings(network: Any, chests: list[Chest]) -> list[Reading]:
    """What the bundle says of each, by the node's own path from the lungs on."""
    return [read(*as_seen(one), network) for one in chests]


def spots(chests: list[Chest], found: list[Reading], limit: float) -> list[npt.NDArray[np.bool_]]:
    """The opacity as the pipeline draws it."""
    return [opaque(reading, as_seen(one)[1], limit) for one, reading in zip(chests, found, strict=True)]


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """On validation: outline of best pooled Dice against boxes; temperature and bias of least log loss; the threshold of 85 % sensitivity."""
    stages = bundle.stages(engine="openvino")
    chests = of_split(data, "val")
    found = readings(stages["opacity"], chests)
    boxed = [i for i, c in enumerate(chests) if c.source == "rsna"]
    truth = [chests[i].opacity for i in boxed]

    def outline(limit: float) -> float:
        masks = spots([chests[i] for i in boxed], [found[i] for i in boxed], limit)
        return e.pooled_dice(e.counts(masks, [t for t in truth if t is not None]))

    opacity = max((0.3, 0.4, 0.5, 0.6), key=outline)
    ill = np.array([c.infected for c in chests])
    weight = balanced([c.set for c in chests], ill)
    seen_ = [(r.evidence, r.extent) for r in found]

    def chances(limits: dict[str, float]) -> npt.NDArray[np.float64]:
        return np.array([probability(evidence, extent, limits) for evidence, extent in seen_])

    def log_loss(limits: dict[str, float]) -> float:
        chance = chances(limits)
        return float(-(weight * np.log(np.clip(np.where(ill, chance, 1 - chance), 1e-6, 1))).sum())

    grid = [
        {"extent_weight": float(w), "temperature": float(t), "bias": float(b)}
        for w in (0.0, 0.5, 1.0, 2.0, 4.0)
        for t in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
        for b in np.arange(-1.5, 1.51, 0.25)
    ]
    best = min(grid, key=log_loss)
    called = np.sort(chances(best)[ill])[::-1]
    return {
        "infection": float(np.floor(called[int(np.ceil(SENSITIVITY * len(called))) - 1] * 1000) / 1000),
        "opacity": opacity,
        **best,
    }


def balanced(sets: list[str], ill: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Weights in which every set, and infected and clean films of it, count the same: what the probability is calibrated to."""
    kinds = list(zip(sets, ill.tolist(), strict=True))
    weight = np.array([1.0 / kinds.count(kind) for kind in kinds])
    return np.asarray(weight / weight.sum())


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Outlines and calls of one split, inside each source and across sources."""
    stages = bundle.stages(engine="openvino")
    chests = of_split(data, split)
    found = readings(stages["opacity"], chests)
    limits = bundle.thresholds
    chance = np.array([probability(r.evidence, r.extent, limits) for r in found])
    ill = np.array([c.infected for c in chests])
    groups = [c.group for c in chests]
    called = chance >= limits["infection"]

    def among(*where: tuple[str, str, bool | None]) -> list[int]:
        """Indices of (set, source, infected or either)."""
        return [i for i, c in enumerate(chests) if any(c.set == s and c.source == o and w in (None, c.infected) for s, o, w in where)]

    def separation(index: list[int]) -> dict[str, Any]:
        chosen = np.array(index)
        return e.figure([groups[i] for i in index], lambda i: e.auc(chance[chosen[i]], ill[chosen[i]])) | {"films": len(index)}

    field, adult, small = "cxr_lungfield256", "cxr_adult224", "cxr_nih64"
    boxed = among((field, "rsna", None))
    masks = spots([chests[i] for i in boxed], [found[i] for i in boxed], limits["opacity"])
    table = e.counts(masks, [t for t in (chests[i].opacity for i in boxed) if t is not None])
    clean = np.array([not chests[i].infected for i in boxed])
    shares = table[:, :2].sum(axis=1) / np.maximum(1, [chests[i].lungs.sum() for i in boxed])
    return {
        "split": split,
        "films": len(chests),
        "auc_inside_rsna": separation(boxed),
        "auc_inside_rsna_against_normal": separation([i for i in boxed if not chests[i].other_abnormal]),
        "auc_inside_nih64": separation(among((small, "nih", None))),
        "auc_covid_fields_against_rsna_normal": separation(
            [i for i in among((field, "covid", True), (field, "rsna", False)) if not chests[i].other_abnormal]
        ),
        "auc_covid_films_against_nih": separation(among((adult, "covid", True), (adult, "nih", False))),
        "sensitivity": e.figure(groups, lambda i: e.sensitivity(called[i], ill[i])),
        "specificity": e.figure(groups, lambda i: e.specificity(called[i], ill[i])),
        "specificity_otherwise_abnormal": round(float(np.mean([not called[i] for i in boxed if chests[i].other_abnormal])), 3),
        "calibration_error": round(calibration_error(chance, ill, balanced([c.set for c in chests], ill)), 3),
        "dice_boxes_pooled": e.figure([groups[i] for i in boxed], lambda i: e.pooled_dice(table[i])),
        "dice_boxes": e.figure([groups[i] for i in boxed], lambda i: e.lesion_dice(table[i])),
        "clean_share_percent_median": round(float(100 * np.median(shares[clean])), 2),
        "infected_share_percent_median": round(float(100 * np.median(shares[~clean])), 2),
    }


def calibration_error(
    chance: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64], bins: int = 10
) -> float:
    """Expected calibration error in bins of equal width, films weighted."""
    place = np.clip((chance * bins).astype(int), 0, bins - 1)
    total = 0.0
    for k in range(bins):
        here = place == k
        if (mass := weight[here].sum()) > 0:
            total += abs(float((weight[here] * (chance[here] - truth[here])).sum()))
            assert mass > 0
    return total


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Films of two collections that the opacity stage never saw, by the node's whole path; and how much its answer moves."""
    import csv

    stages = bundle.stages(engine="openvino")
    root = data / "images" / "cxr_figure1"
    ill, well, refused = [], [], 0
    scores = []
    with (root / "index.csv").open() as index:
        for row in csv.DictReader(index):
            if (age := row["age"].rstrip("+").strip()).replace(".", "").isdigit() and float(age) < 18:
                continue
            picture = cv2.imread(str(root / row["file"]), cv2.IMREAD_GRAYSCALE)
            ours = seen(np.asarray(picture, np.float32), stages["lungs"])
            if ours is None:
                refused += 1
                continue
            reading = read(*ours, stages["opacity"])
            chance = probability(reading.evidence, reading.extent, bundle.thresholds)
            (well if row["label"] == "normal" else ill).append(chance)
            if row["label"] != "normal":
                mask = opaque(reading, ours[1], bundle.thresholds["opacity"])
                scores.append(sum(zone_scores(mask, ours[1].right)) + sum(zone_scores(mask, ours[1].left)))
    limit = bundle.thresholds["infection"]
    return {
        "figure1": {
            "infected": len(ill),
            "called": int(sum(c >= limit for c in ill)),
            "sensitivity": e.figure([str(i) for i in range(len(ill))], lambda i: float(np.mean(np.asarray(ill)[i] >= limit))),
            "normal": len(well),
            "normal_called": int(sum(c >= limit for c in well)),
            "refused": refused,
            "severity_median": float(np.median(scores)),
        },
        "children": children(bundle, stages, data),
        "moves": robustness.moved(robustness.covid_xray(bundle), limit, robustness.films_of(data, "val", EVERY)),
    }


def children(bundle: Bundle, stages: Any, data: Path) -> dict[str, Any]:
    """Pneumonia against normal in validation films of children, whom the node refuses: one hospital with both."""
    chances, truth, groups = [], [], []
    for film in cxr_pediatric224.load(data / "images" / "cxr_pediatric224"):
        if film.split == "val" and (ours := seen(np.asarray(film.grey, np.float32), stages["lungs"])) is not None:
            reading = read(*ours, stages["opacity"])
            chances.append(probability(reading.evidence, reading.extent, bundle.thresholds))
            truth.append(cxr_pediatric224.LABELS[film.label] != "normal")
            groups.append(film.group)
    score, ill = np.array(chances), np.array(truth)
    return e.figure(groups, lambda i: e.auc(score[i], ill[i])) | {"films": len(groups)}


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    limits = meta["radnode"]["thresholds"]
    one = found["figure1"]

    def row(title: str, key: str) -> str:
        return f"| {title} | {e.written(found[key])} | {found[key]['films']} |"

    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence: non-commercial (see `LICENSE`).**

{meta["intended_use"]}

## What it does
1. The film becomes grey with bones bright, without borders, upright by Patient Orientation, and a first U-Net finds both lungs, or the film is refused
   (`node/imaging/radiograph.py`, card of `models/lung_field`).
2. Everything outside the lungs is blacked out, the grey inside becomes its rank (histogram equalisation), the box of the lungs with a margin of
   {MARGIN:.0%} goes on a {SIZE} x {SIZE} canvas, and a second U-Net (channels {", ".join(map(str, NETWORK["channels"]))}) gives two maps: opacity, and evidence of infection. The film and its
   mirror image are averaged.
3. Opacity is cut at {limits["opacity"]} and counted: share of each lung; each third of each lung's height scores 0 below 5 % opacity, 1 up to a third, 2 up to
   two thirds, 3 beyond. Six zones give 0 to 18. The zones are those of Brixia's score; **the score is not Brixia's**, which grades the kind of opacity.
4. The evidence averaged over the lungs, with {limits["extent_weight"]} times the logarithm of the mean opacity, a temperature of {limits["temperature"]} and a bias of {limits["bias"]:+.2f} (all set on
   validation, every set and infected and clean films of it counting the same), gives the probability of infection. *Infection* is called from {limits["infection"]}, where {SENSITIVITY:.0%} of the infected validation films are called.

Both networks lie in one weights file; its digest names both.

## Data
| what | used for | licence |
|---|---|---|
| RSNA Pneumonia 2018, lung fields cut by another group, boxes by radiologists clipped to the field | opacity map (weak), evidence | RSNA terms |
| the same, normal and otherwise abnormal | opacity map (empty), evidence | RSNA terms |
| COVID-19 fields and whole films (ieee8023, SIRM) | evidence; opacity map as version 1.0.0 drew it, at half weight, where it drew any: nobody outlined it | by image, some non-commercial |
| NIH ChestX-ray14, whole films, no finding, 224 px and 64 px | opacity map (empty, or of haze that was drawn in), evidence | free with citation |
| the same with Pneumonia, Consolidation or Infiltration, 64 px | evidence | free with citation |
| children of one hospital, normal and with pneumonia (Kermany et al.) | evidence; opacity map as for COVID-19 films, and as for NIH's | CC BY 4.0 |

The fields are stored **inverted** (opacity dark) and were turned. A batch holds infected and clean films of RSNA, and of NIH, in like numbers; COVID-19
collections have no clean films, so what tells them from others may be the collection. Against that: lungs only, ranks of grey only, exposure, file
format, letters and outline changed at random. Fields come without the heart and whole films with it, and a first run learned that a heart means no
opacity: so hearts are drawn into fields, and cut out of whole films, at random.
Training, from the weights of 1.0.0 (35 minutes from random ones), on one CPU core, each film shown twice and changed anew: 42 minutes, 8866 steps of 15
films; and, because that one called a clear drawn chest infected, {meta["radnode"]["training"].get("minutes", "?")} minutes more, {meta["radnode"]["training"].get("steps", "?")} steps of 17 films, with drawn chests beside. Those of the tests have
other seeds: they prove the path, not the network. What 1.1.0 learned: haze drawn into clean whole films has an outline, ill whole films keep that of
1.0.0 (without these a longer run learned that a whole film has no opacity), lungs end where the film does, local contrast is a matter of taste, and
the two looks at a film say the same.

## Figures
Validation, patients apart from training; value (95 % interval, bootstrap over patients). Thresholds, temperature and bias were set on the same films.

| AUC of infection | | films |
|---|---|---|
{row("**inside RSNA**: pneumonia against everything else", "auc_inside_rsna")}
{row("inside RSNA: pneumonia against normal", "auc_inside_rsna_against_normal")}
{row("inside NIH at 64 px: pneumonia, consolidation or infiltration against no finding", "auc_inside_nih64")}
{row("across: COVID-19 fields against normal RSNA fields", "auc_covid_fields_against_rsna_normal")}
{row("across: COVID-19 films (ieee8023) against NIH films", "auc_covid_films_against_nih")}

The figures *across* compare two collections and flatter: part of them is the collection. Those *inside* are the ones to trust.

| | |
|---|---|
| sensitivity, all sources | {e.written(found["sensitivity"])} |
| specificity, all sources | {e.written(found["specificity"])} |
| specificity in films that are abnormal in another way (RSNA) | {found["specificity_otherwise_abnormal"]:.3f} |
| expected calibration error, sets and classes counting the same | {found["calibration_error"]:.3f} |
| Dice of opacity against boxes, all pixels together | {e.written(found["dice_boxes_pooled"])} |
| Dice of opacity against boxes, films with boxes | {e.written(found["dice_boxes"])} |
| opaque share, median: films with boxes / without pneumonia | {found["infected_share_percent_median"]:.1f} % / {found["clean_share_percent_median"]:.1f} % |

Boxes are not outlines: a perfect outline inside its box would score about 0.75.

**A collection the opacity stage never saw** (Figure1-COVID, photographs and exports; its lung stage saw them without outlines), whole path of the
node: {one["called"]} of {one["infected"]} infected adults called (sensitivity {e.written(one["sensitivity"])}), {one["normal_called"]} of {one["normal"]} normal ones called, {one["refused"]} refused, median score {one["severity_median"]:.0f} of 18.

**Children**, whom the node refuses, with normal films and pneumonias of one hospital, so that no source gives the label away (Kermany et al., validation patients):
AUC of pneumonia {e.written(found["children"])}, {found["children"]["films"]} films; 0.849 by version 1.0.0, which had not learned from that hospital.

For scale: U-Nets trained on outlines of COVID-19 opacity are published with Dice 0.83 to 0.88 on their own sets (Degerli et al. 2021, Tahir et al. 2021);
such outlines were not to be had. COVID-19 against normal falls from AUC 0.99 inside to 0.70 outside in DeGrave et al. 2021.

### The same film, come another way
{found["moves"]["as it is"]["films"]} films of `cxr_adult224`: AUC of COVID-19 against normal, how much the probability moves on average, how many films are called otherwise, how many refused.

{robustness.table(found["moves"])}

## Where it fails
- **Opacity of any cause** is marked: other pneumonia, oedema, effusion, atelectasis, tumour, scar. It says nothing about which virus.
- Areas are rough: learned from boxes, and from fields from which dense consolidation had been cut away, so that the worst films are measured too small.
- Ranks of grey hide an even veil over both lungs: only its texture is left to see.
- Opacity behind the heart is told badly; below the domes it is not looked for.
- A lung opaque from top to bottom is mostly not found: the film is refused.
- Children are refused by age; where the header has no age they are not told from adults.
- Lines, electrodes and implants inside the lungs may be marked.
- A side may be called infected by its evidence alone, with nothing outlined in it.
- Blur and a black border move the probability two to three times as far as they moved that of 1.0.0.
- Subgroups by scanner, sex or age were not measured.
"""
