"""The bundle of `chest_xray`: its description, its thresholds, its figures and its model card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from node.bundle import Bundle
from node.imaging.facing import Facing
from node.imaging.radiograph import LUNG_SIZE
from node.networks.explanation import grad_cam
from node.pipelines.chest_xray import CODES, LAYER, PASSES, ChestXray, Seen, calibrated, headline_of, of_patient, seen
from training import evaluate as e
from training import robustness
from training.bundles.alike import classes_output, described, image_input, maps_output
from training.bundles.covid_xray import balanced
from training.datasets import chest_rows, cxr_figure1
from training.datasets.chest_rows import LABELS, OUTPUTS, SEVERITY, Row
from training.lungs import beside, found_in, lung_bundle
from training.recipes.chest_xray import BATCH, FIELDS, FIRST_SOURCE, NETWORK, SETS, SIZE, against_normal, known_values, logits_of, rows_of

TRAINED = ("normal", "pneumonia", "covid")
CHILDREN = (
    "cxr_pediatric224"  #: the node refuses them; a collection with normal and ill films of its own that nothing here was trained or set on
)
NAMES = {"normal": "normal", "pneumonia": "pneumonia_opacity", "covid": "covid"}  #: labels as the sets call them
EVERY = 4  #: of the normal films on which it is measured how much answers move
TITLES = {
    "cxr_lungfield256": "lung fields cut by others (RSNA; COVID-19 of ieee8023 and SIRM)",
    "cxr_adult224": "whole films (NIH; COVID-19 of ieee8023)",
    "cxr_nih64": "whole films of 64 px (NIH)",
    "cxr_pediatric224": "whole films of children (Kermany), never trained on",
    "cxr_figure1": "whole films (Figure 1), never trained on",
}

LICENCE_NOTE = """The weights in this bundle were trained on lung fields of RSNA Pneumonia 2018 (attribution: RSNA, NIH ChestX-ray14), on COVID-19 films
of the ieee8023 collection and SIRM (licences of single images, CC BY and CC BY-NC-SA), and on films of NIH ChestX-ray14 (free use with
citation: Wang et al., CVPR 2017). The lung network in it also has learned from Figure1-COVID (research only), Kermany et al. (CC BY 4.0)
and outlines by v7 Labs (CC BY 4.0). They may be used for non-commercial research only; they are no medical device.
The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Says of one frontal chest film of an adult how likely it is normal, shows pneumonia (an opacity as RSNA's readers call "
    "it) or COVID-19, with what is known of the patient (age, sex, view position). Fracture and cancer are declared and not trained: nothing "
    "is said about them. Not for diagnosis, not for screening, not for children, not for lateral films, not instead of a PCR."
)
COVID_REMARK = (
    "COVID-19 was learned from other sources than the normal films, so a network may tell sources apart instead: on films from elsewhere "
    "expect clearly less than the model card's inner figures."
)
SEVERITY_REMARK = "Severity (intensive care, intubation, death) is not told: too few patients are known to the training data for it to be better than chance."


def inference() -> dict[str, Any]:
    """`configs/inference.json`: both networks; what stands between them is `node/imaging/radiograph.py` and `lung_field.py`."""
    definition = {"_target_": "node.imaging.stages.stages", "lungs": lung_bundle().inference["network_def"], "findings": NETWORK}
    return {"network_def": definition}


def complete(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The findings network's weights and the lung network's."""
    return beside("findings", state)


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        changelog={
            "1.1.0": "sees the lungs whole, behind the heart and where they are dense; learned from boxes too, and from harder changes",
            "1.0.0": "first weights",
        },
        name="Chest film findings",
        task="Multi-label classification of frontal chest radiographs with clinical data",
        description=(
            f"A small residual network on the lungs ({SIZE} x {SIZE}, cut out, equalised by rank); its places ask tokens of age, sex and view by "
            "attention; a sigmoid for each label, trained only by rows that tell the label, and a severity head for COVID-19."
        ),
        intended_use=INTENDED,
        data_source="RSNA Pneumonia 2018; ieee8023 COVID-19 collection, SIRM; NIH ChestX-ray14",
        image_classes="one grey frontal chest film",
        label_classes=", ".join(LABELS),
        pred_classes="logits of " + ", ".join(OUTPUTS),
        network_data_format={
            "inputs": {"image": image_input(SIZE), "lungs": image_input(LUNG_SIZE)},
            "outputs": {
                "lungs": maps_output(LUNG_SIZE, "lung at the image's left edge", "lung at its right edge"),
                "findings": classes_output(*OUTPUTS),
            },
        },
        radnode={
            "pipeline": "chest_xray",
            "family": "convolutional neural network with attention to clinical data",
            "labels": list(CODES),
            "trained": list(TRAINED),
            "severity": [],  # outputs whose numbers may stand in a report: none is better than chance yet
            "clinical": [one["name"] for one in FIELDS],
            "covid_remark": COVID_REMARK,
            "severity_remark": SEVERITY_REMARK,
            "thresholds": dict.fromkeys(TRAINED, 0.5),
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


@lru_cache(maxsize=2)
def films_of(data: Path, split: str) -> tuple[Row, ...]:
    """One split of every set that is trained on."""
    return tuple(rows_of(data, SETS, (split,)))


# --- thresholds -------------------------------------------------------------------------------------------------------------
def targets_of(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """(rows, outputs): 0, 1, NaN."""
    return np.stack([row.targets for row in rows])


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """On the validation films of all sets: temperature and offset of least log loss for each label, then the chance of best balanced accuracy.

    Every set, and films with and without the label in it, count the same: a chance of a half is as likely as not, for every label.
    """
    rows = films_of(data, "val")
    logits, truths = logits_of(bundle.stages()["findings"], rows), targets_of(rows)
    found: dict[str, float] = {}
    for name in (*TRAINED, "other"):
        k = OUTPUTS.index(name)
        told = ~np.isnan(truths[:, k])
        truth = truths[told, k] > 0.5
        weight = balanced([row.source for row, one in zip(rows, told, strict=True) if one], truth)
        temperature, offset = fitted(logits[told, k], truth, weight)
        found[f"temperature_{name}"], found[f"offset_{name}"] = temperature, offset
        if name in TRAINED:
            chances = calibrated(logits[told][:, [k]], [name], found)[:, 0]
            found[name] = best_threshold(chances, truth, weight)
    return found


def fitted(
    logits: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """(temperature, offset) of least log loss; the temperature stays between a third and three."""

    def log_loss(both: npt.NDArray[np.float64]) -> float:
        scaled = logits / np.exp(both[0]) + both[1]
        return float(np.average(np.logaddexp(0, np.where(truth, -scaled, scaled)), weights=weight))

    found = minimize(log_loss, np.zeros(2), method="L-BFGS-B", bounds=[(-1.1, 1.1), (-4, 4)]).x
    return round(float(np.exp(found[0])), 3), round(float(found[1]), 3)


def best_threshold(chances: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64] | None = None) -> float:
    """The chance at which sensitivity and specificity are best on average."""
    weight = np.ones(len(chances)) if weight is None else weight
    at = np.unique(chances.round(3))
    ill, well = weight[truth], weight[~truth]
    scores = [float(np.average(chances[truth] >= t, weights=ill) + np.average(chances[~truth] < t, weights=well)) for t in at]
    return float(at[int(np.argmax(scores))])


# --- figures ----------------------------------------------------------------------------------------------------------------
def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """Films of one split of every set that is trained on, at the bundle's thresholds."""
    network = bundle.stages()["findings"]
    found: dict[str, Any] = {"split": split, "sets": {}}
    for source in SETS:
        rows = [row for row in films_of(data, split) if row.source == source]
        if rows:
            found["sets"][source] = of_rows(bundle, network, rows)
    return found


def of_rows(bundle: Bundle, network: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """AUC with and without what is known of the patient, sensitivity, specificity, calibration, and what was called."""
    limits, truths = bundle.thresholds, targets_of(rows)
    logits, image_only = logits_of(network, rows), logits_of(network, rows, clinical=False)
    chances = calibrated(logits, OUTPUTS, limits)
    found: dict[str, Any] = {
        "films": len(rows),
        "patients": len({row.group for row in rows}),
        "counts": {name: sum(row.label == name for row in rows) for name in sorted({row.label for row in rows})},
        "labels": {},
        "against_normal": against_normal(logits, rows),
        "called": called_of(bundle, chances, rows),
    }
    for name in (*TRAINED, "other"):
        k = OUTPUTS.index(name)
        told = ~np.isnan(truths[:, k])
        truth = truths[told, k] > 0.5
        if not truth.any() or truth.all():
            continue
        groups = [row.group for row, kept in zip(rows, told, strict=True) if kept]
        plain, alone, likely = logits[told, k], image_only[told, k], chances[told, k]
        one: dict[str, Any] = {
            "positive": int(truth.sum()),
            "negative": int((~truth).sum()),
            "auc": e.figure(groups, lambda i, s=plain, t=truth: e.auc(s[i], t[i])),  # type: ignore[misc]
            "auc_image_only": e.figure(groups, lambda i, s=alone, t=truth: e.auc(s[i], t[i])),  # type: ignore[misc]
            "calibration_error": round(e.calibration_error(likely, truth), 3),
        }
        if name in TRAINED:
            called = likely >= limits[name]
            one["sensitivity"] = e.figure(groups, lambda i, c=called, t=truth: e.sensitivity(c[i], t[i]))  # type: ignore[misc]
            one["specificity"] = e.figure(groups, lambda i, c=called, t=truth: e.specificity(c[i], t[i]))  # type: ignore[misc]
        found["labels"][name] = one
    return found


def called_of(bundle: Bundle, chances: npt.NDArray[np.float64], rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Of each label of the set, how its films are called."""
    pipeline, table = ChestXray(bundle), {}
    for row, each in zip(rows, chances, strict=True):
        likely = dict(zip(OUTPUTS, each, strict=True))
        label, _ = headline_of(likely, pipeline.decided(likely))
        counted = table.setdefault(row.label, {})
        counted[label] = counted.get(label, 0) + 1
    return table


def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Two collections that were never trained on, what clinical data alone tell, severity, and where the network looks."""
    stages = bundle.stages(engine="openvino")
    network, lungs = stages["findings"], stages["lungs"]
    figure1 = chest_rows.figure1_films(data / "images" / "cxr_figure1", lambda grey: found_in(grey, lungs))
    children = chest_rows.child_films(data / "images" / CHILDREN, lambda grey: found_in(grey, lungs), ("val",))
    return {
        "figure1": of_rows(bundle, network, figure1),
        "children": of_rows(bundle, network, children),
        "clinical_only": clinical_only(data),
        "severity": severity_of(network, data),
        "looking": looking(bundle, network, lungs, data),
        "moves": robustness.moved(robustness.chest_xray(bundle), 1 - bundle.thresholds["normal"], robustness.films_of(data, "val", EVERY)),
    }


def clinical_only(data: Path) -> dict[str, Any]:
    """Logistic regression on age, sex and view of the lung fields: with the mean for what is missing, and with a mark that it is missing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = rows_of(data, (FIRST_SOURCE,))
    known = known_values([row for row in rows if row.split == "train"])
    mean_age = float(np.mean(known["age_years"]))
    told = np.array(
        [
            [
                float(row.told.get("age_years", mean_age)),
                {"M": 1.0, "F": 0.0}.get(str(row.told.get("sex")), 0.5),
                {"AP": 1.0, "PA": 0.0}.get(str(row.told.get("view")), 0.5),
                *(float(name not in row.told) for name in known),
            ]
            for row in rows
        ]
    )
    truths, training = targets_of(rows), np.array([row.split == "train" for row in rows])
    found: dict[str, Any] = {}
    for name in TRAINED:
        k = OUTPUTS.index(name)
        has = ~np.isnan(truths[:, k])
        for title, columns in (("mean", slice(0, 3)), ("marked_missing", slice(None))):
            model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
            model.fit(told[has & training][:, columns], truths[has & training, k] > 0.5)
            kept = has & ~training
            score, truth = model.decision_function(told[kept][:, columns]), truths[kept, k] > 0.5
            groups = [row.group for row, one in zip(rows, kept, strict=True) if one]
            found.setdefault(name, {})[title] = e.figure(groups, lambda i, s=score, t=truth: e.auc(s[i], t[i]))  # type: ignore[misc]
    return found


def severity_of(network: Any, data: Path) -> dict[str, Any]:
    """AUC of the severity head on validation patients, each film once."""
    films = sorted((row for row in films_of(data, "val") if row.label == "covid"), key=lambda row: row.source)
    rows = {row.name: row for row in films}  # a film that stands in two sets counts once, as the set of lung fields tells more of it
    some = list(rows.values())
    logits, truths = logits_of(network, some), targets_of(some)
    found: dict[str, Any] = {}
    for name in SEVERITY:
        k = OUTPUTS.index(name)
        told = ~np.isnan(truths[:, k])
        truth = truths[told, k] > 0.5
        found[name] = {"yes": int(truth.sum()), "no": int((~truth).sum())}
        if truth.any() and not truth.all():
            groups = [row.group for row, kept in zip(some, told, strict=True) if kept]
            found[name] |= e.figure(groups, lambda i, s=logits[told, k], t=truth: e.auc(s[i], t[i]))  # type: ignore[misc]
    return found


def looking(bundle: Bundle, network: Any, lungs: Any, data: Path) -> dict[str, float]:
    """How much of the heatmaps for COVID-19 lies outside the lungs, over the films of `cxr_figure1`."""
    pipeline, shares = ChestXray(bundle), []
    for one in cxr_figure1.load(data / "images" / "cxr_figure1"):
        film = seen(one.grey, Facing(), lungs, SIZE)
        if isinstance(film, Seen):
            alone = of_patient(network, [np.nan] * len(FIELDS))
            cam = grad_cam(alone, LAYER, film.canvas[None], OUTPUTS.index("covid"))
            shares.append(pipeline.outside(cam, film))
    return {
        "films": len(shares),
        "mean_outside": round(float(np.mean(shares)), 3),
        "films_above_half": int((np.array(shares) > 0.5).sum()),
    }


# --- the card ---------------------------------------------------------------------------------------------------------------
def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    limits, run = meta["radnode"]["thresholds"], meta["radnode"]["training"]
    sets = {**found["sets"], "cxr_figure1": found["figure1"], CHILDREN: found["children"]}
    rows, called = [], []
    for source, one in sets.items():
        for name, label in one["labels"].items():
            decided = f"{e.written(label['sensitivity'])} | {e.written(label['specificity'])}" if "sensitivity" in label else "– | –"
            rows.append(
                f"| {source} | {name} | {label['positive']} / {label['negative']} | {e.written(label['auc'])} | "
                f"{e.written(label['auc_image_only'])} | {decided} | {label['calibration_error']:.3f} |"
            )
        for truth, counted in one["called"].items():
            names = ", ".join(f"{name} {n}" for name, n in sorted(counted.items(), key=lambda each: -each[1]))
            called.append(f"| {source} | {truth} | {names} |")
    alone = [f"| {name} | {e.written(one['mean'])} | {e.written(one['marked_missing'])} |" for name, one in found["clinical_only"].items()]
    severity = [
        f"| {name} | {one['yes']} / {one['no']} | {e.written(one) if 'value' in one else 'not measurable'} |"
        for name, one in found["severity"].items()
    ]
    crossing = [
        f"| {source} | {name} | {one['positive']} / {one['normal']} | {e.written(one)} |"
        for source, each in run.get("across", {}).items()
        for name, one in each.items()
    ]
    inside = [
        f"| {source} | {name} | {one['positive']} / {one['normal']} | {e.written(one)} |"
        for source, each in sets.items()
        for name, one in each["against_normal"].items()
    ]
    first = run.get("first")
    begun = run.get("begun", "Random weights at the start; ")
    after_first = ""
    if first:
        begun += f"first {first['steps']} steps on `{FIRST_SOURCE}` alone ({first['minutes']} minutes), then "
        after_first = (
            f"The network after its first part, which had seen `{FIRST_SOURCE}` alone (told nothing of the patient; patients it had trained on left "
            "out; all films of the other sets):\n\n| set | finding | films / normal films | AUC against normal |\n|---|---|---|---|\n"
            + "\n".join(crossing)
            + "\n"
        )
    listed = "\n".join(f"- `{source}`: {title}" for source, title in TITLES.items())
    called_from = ", ".join(f"{name} {limits[name]:.2f}" for name in TRAINED)
    look = found["looking"]

    def table(lines: list[str]) -> str:
        return "\n".join(lines)

    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence of the weights: non-commercial research (see `LICENSE`).**

{meta["intended_use"]}

## What it does
A copy of the lung-field network (`models/lung_field`) finds the lungs; a film on which it does not believe two lungs is refused. They go whole, behind
the heart and where they are dense, on a {SIZE} x {SIZE} canvas, **every pixel as its rank among the lungs' pixels, all else black**: no exposure, window,
border, marker or letter is left. {meta["description"]} Film and mirror image are averaged. A field that is not known has an embedding of its own,
trained by hiding known values at random; where a set lacks a value, one was drawn from the whole training set, so that "not known" is no sign of a source.

Each label has a temperature and an offset, set on validation; called from: {called_from}. A finding is never called where *normal* is likelier, and
*normal* only when nothing else is. {PASSES} passes with dropout (fixed seed) tell how sure the network is: their standard deviation stands beside each probability, and a finding
over which normal is likelier in a fifth of them does not head the report (*unclear* does). Grad-CAM for each trained label; the heatmap shown
is that of the leading finding. **Fracture and cancer: the outputs exist, no data at hand supports them, they are reported as not trained.**
An output for other abnormalities is trained and told in the facts only.

Other backbones (`resnet18`, `resnet34`, `resnet50`, `densenet121`, `efficientnet-b3`) are a word in `network_def`; these weights are those of `small`.

## Data
{listed}

COVID-19 patients that stand in two sets are in the same split of both. Children and lateral films were left out. COVID-19 rows train no pneumonia target (nobody
looked for it), pneumonia rows no "other". RSNA's fields were cut without the heart and without dense consolidation: hearts are drawn into them, and cut out of whole films, at
random. Radiologists' boxes (RSNA) tell the eyes where an opacity is.
{begun}{run.get("steps", "?")} steps on all three sets ({run.get("minutes", "?")} minutes of a share of one CPU core), {sum(n for *_, n in BATCH)} films a step.

## Figures
Value (95 % interval, bootstrap over patients). Validation films; thresholds, temperatures and offsets were set on the same films (not on `cxr_figure1` and `cxr_pediatric224`).
"Image only": the same network told nothing of the patient. Calibration error in ten bins.

| set | label | yes / no | AUC | AUC, image only | sensitivity | specificity | calibration error |
|---|---|---|---|---|---|---|---|
{table(rows)}

What is called:

| set | truth | called |
|---|---|---|
{table(called)}

### COVID-19 and pneumonia against normal, within and across sources
COVID-19 and normal films come from different collections in every large set, so a figure inside a set may be one of telling collections apart.

The shipped network (difference of two logits):

| set | finding | films / normal films | AUC against normal |
|---|---|---|---|
{table(inside)}

{after_first}
`cxr_pediatric224` holds normal films and pneumonias of one hospital that nothing here has learned from: of children, whom the node refuses, but no source gives their label away.
`cxr_figure1` holds both kinds from one collection too, and only a handful of normal ones: its intervals say how little that proves.
For scale: a network of this kind fell from 0.995 inside to 0.70 outside (DeGrave, Janizek and Lee, Nature Machine Intelligence 3:610, 2021).

### Clinical data alone
Logistic regression on age, sex and view of `{FIRST_SOURCE}`. The second column marks what is missing, which only COVID-19 films lack: **that mark is a leak**, and
the network gets none.

| label | the mean for what is missing | with marks |
|---|---|---|
{table(alone)}

View position is strong because the ill are filmed in bed (AP): it is told or not told, never asked for.

### Severity
COVID-19 films of validation patients:

| outcome | yes / no | AUC |
|---|---|---|
{table(severity)}

With so few, the head is no better than chance, and of death the training films tell only that patients lived: **its numbers stand in no report**. The head is there
to be trained further; a bundle that names outcomes in `radnode.severity` has them reported beside COVID-19.

### Where it looks
Grad-CAM for COVID-19 on {look["films"]} films of `cxr_figure1`: {look["mean_outside"]:.0%} of its mass lies outside the lungs on average; more than half on {look["films_above_half"]} films. A
report says so when it is more than half.

### The same film, come another way
{found["moves"]["as it is"]["films"]} films of `cxr_adult224`, told nothing of the patient: AUC of COVID-19 against normal by the chance of *normal*, how much that chance moves, how many films
change sides at its threshold, how many are refused.

{robustness.table(found["moves"])}

## Where it fails, and what it is not for
- **Source and label are confounded for COVID-19.** Take its figures inside a set for an upper bound.
- Dense consolidation was cut out of the lung fields that it learned from; what a drawn heart fills up again is all it knows of it.
- Rank equalisation hides whether a whole lung is evenly denser: diffuse disease without structure is hard to see for it.
- Pneumonia means what RSNA's readers boxed as an opacity, and labels mined from reports in `cxr_nih64`.
- **"Normal" means none of what was trained.** Masses, nodules, fractures, a pneumothorax or a device may be called normal. The NEMA test film RG1, with large round
  masses in both lungs, and the drawn films of `node/testing/phantom_chest_xray.py` with haze in the lungs are called *unclear*.
- Probabilities are those of a mixture in which films with and without a label are as many, not of a clinic: where few are ill, they are too high.
- **Where the lungs are taken for wider or narrower, the answer moves**: other local contrast, a film cut close to the lungs, coarse grain (table above).
- Normal films of 64 px are often called ill: blur hides the vessels.
- Never seen: children, lateral and oblique films, films after surgery on a lung.
"""
