"""The bundle of `xray_anomaly`: its description, its threshold, its figures and its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom

from node.bundle import Bundle
from node.imaging.enhance import denoised
from node.imaging.normality import Measured
from node.imaging.radiograph import LUNG_SIZE, Radiograph, radiograph_of
from node.pipelines.xray_anomaly import CANVAS, features_of, warmth
from training import evaluate as e
from training import robustness
from training.bundles.alike import described, image_input, maps_output
from training.datasets import cxr_pediatric224
from training.recipes import lung_field
from training.recipes.xray_anomaly import LUNG_FIELD, READER, SETS, Chest, chests, example, measured, rows_of, shape_of_group

EXACT = ("child.forests.", "adult.forests.", "child.normal", "adult.normal", "child.middle", "adult.middle", "child.spread", "adult.spread")
EVERY = 8  #: of the children's films on which it is measured how much answers move
CALLED_FROM = 0.95  #: percentile among normal films
NOISE = {"low": (0.002, 0.01), "middle": (0.005, 0.02), "high": (0.015, 0.04)}  #: gain of Poisson noise, deviation of Gaussian noise
FILM = "dicom/cr_chest/RG1_JLSN_PA_monochrome1.dcm"
LONGEST = 640  #: pixels of a film that noise is added to

LICENCE_NOTE = """The weights in this bundle were trained on chest films of Kermany et al. (Mendeley Data rscbjbr9sj, CC BY 4.0), of NIH ChestX-ray14 (free use
with citation), of the ieee8023 COVID-19 collection (licences of single images, CC BY and CC BY-NC-SA) and of Figure1-COVID (research only);
its lung stage saw outlines of v7 Labs (CC BY 4.0) too. They may be used for non-commercial research only; they are no
medical device. The configuration files are under the licence of the repository.
"""

INTENDED = (
    "Research only. Says how unlike normal films one frontal (PA or AP) chest film of a child of 1 to 5 years or of an adult is, and where, as a hint to "
    "look; shows the film with less noise and more local contrast. Not for diagnosis, not for screening, not for ruling anything out, "
    "not for lateral films or other parts of the body."
)


def complete(state: dict[str, Any]) -> dict[str, Any]:
    """What the recipe learned together with the weights of the lung stage: what the bundle holds."""
    lungs = Bundle.open(LUNG_FIELD).module().state_dict()
    return {f"lungs.{key}": value for key, value in lungs.items()} | state


def inference() -> dict[str, Any]:
    """`configs/inference.json`: networks and forests; what comes before, between and after them is in the node."""
    group = {"_target_": "node.imaging.normality.Normality", **shape_of_group()}
    reader = {"_target_": "node.imaging.chest_vit.ChestVit", **READER}
    return {
        "network_def": {
            "_target_": "node.imaging.stages.stages",
            "lungs": lung_field.NETWORK,
            "reader": reader,
            "child": group,
            "adult": group,
        }
    }


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    return described(
        version,
        packages=("safetensors", "scikit-image"),
        changelog={"1.0.0": "first weights", "1.1.0": "forests met normal films processed otherwise too"},
        name="Anomaly on chest films",
        task="Unsupervised anomaly detection and enhancement on frontal chest radiographs",
        description=(
            f"Lungs by a U-Net; on the box round them ({CANVAS} x {CANVAS}, contrast evened out) histograms of oriented gradients and a "
            f"vision transformer of {READER['depth']} blocks that learned without labels; isolation forests grown on normal films only."
        ),
        intended_use=INTENDED,
        data_source="Kermany et al. 2018 (children); NIH ChestX-ray14 and ieee8023 (adults)",
        network_data_format={
            "inputs": {"lungs": image_input(LUNG_SIZE)},
            "outputs": {"lungs": maps_output(LUNG_SIZE, "lung at the image's left edge", "lung at its right edge")},
        },
        radnode={
            "pipeline": "xray_anomaly",
            "family": "isolation forest on self-supervised features",
            "labels": ["anomaly"],
            "probability": "percentile among normal films that no forest was grown on, not the chance of a disease",
            "thresholds": {"anomaly": CALLED_FROM},
            "intended_use": {
                "modality": ["CR", "DX"],
                "body_part": ["CHEST", "THORAX", "LUNG"],
                "body_part_required": True,
                "view": ["PA", "AP"],
                "picture": "chest_radiograph",
                "ages_learned_from": "1 to 5 years, and from 18 years on",
            },
            "licence": {"name": "non-commercial research", "non_commercial": True, "text": "LICENSE"},
            "research_only": True,
        },
    )


def thresholds(bundle: Bundle, data: Path) -> dict[str, float]:
    """A percentile needs no tuning: one normal film in twenty is called."""
    return {"anomaly": CALLED_FROM}


# --- figures ----------------------------------------------------------------------------------------------------------------
def films_and_parts(bundle: Bundle, data: Path, split: str) -> tuple[list[Chest], Any]:
    parts: Any = bundle.stages(engine="openvino")
    return chests(data, (split,), parts["lungs"]), parts


def told(films: list[Chest], parts: Any) -> Measured:
    return measured([features_of(c.canvas, parts["reader"]) for c in films])


def figures(bundle: Bundle, data: Path, split: str) -> dict[str, Any]:
    """How well each set's normal films are told from the others, by all, by edges alone, by the transformer alone; and pointing."""
    films, parts = films_and_parts(bundle, data, split)
    sets: dict[str, Any] = {}
    for source, group in SETS.items():
        chosen = [c for c in films if c.source == source]
        features, normality = told(chosen, parts), parts[group]
        apart = normality.apart(features)
        odd, ill = normality.oddness(features), np.array([not c.normal for c in chosen])
        shares = np.array([normality.normals.percentile(float(value)) for value in odd])
        patients = [c.group for c in chosen]
        sets[source] = {
            "films": len(chosen),
            "normal": int((~ill).sum()),
            "refused": sum(1 for row in rows_of(data, source) if row["split"] == split) - len(chosen),
            "auc": e.figure(patients, lambda i, s=shares, t=ill: e.auc(s[i], t[i])),
            "auc_edges": e.figure(patients, lambda i, s=apart[:, 0], t=ill: e.auc(s[i], t[i])),
            "auc_transformer": e.figure(patients, lambda i, s=apart[:, 1], t=ill: e.auc(s[i], t[i])),
            "called_normal": e.figure(patients, lambda i, s=shares, t=ill: float((s[i][~t[i]] >= CALLED_FROM).mean())),
            "called_ill": e.figure(patients, lambda i, s=shares, t=ill: e.sensitivity(s[i] >= CALLED_FROM, t[i])),
            "by_label": {
                label: round(e.auc(shares[keep], ill[keep]), 3)
                for label in sorted({c.label for c in chosen if not c.normal})
                if (keep := np.array([c.label in (label, "normal") for c in chosen])).any()
            },
        }
    return {"split": split, "sets": sets, "pointing": pointing(films, parts)}


def pointing(films: list[Chest], parts: Any, rounds: int = 300) -> dict[str, Any]:
    """How often the hottest patch is one that was changed, when something was pasted into a normal film; and by chance."""
    rng = np.random.default_rng(11)
    pools = {group: [c for c in films if c.normal and SETS[c.source] == group and c.source != "cxr_nih64"] for group in ("child", "adult")}
    hits, chance, patients = [], [], []
    for _ in range(rounds):
        group = ("child", "adult")[int(rng.random() < 0.5)]
        canvas, change = example(pools[group], rng, share=1.0)
        if change.max() < 0.5:
            continue
        hot = warmth(features_of(canvas, parts["reader"]), parts[group])
        hits.append(float(change[int(hot.argmax())] >= 0.25))
        chance.append(float((change >= 0.25).mean()))
        patients.append(str(len(patients)))
    value = np.array(hits)
    return {"films": len(hits), "hits": e.figure(patients, lambda i: float(value[i].mean())), "by_chance": round(float(np.mean(chance)), 3)}


# --- checks -----------------------------------------------------------------------------------------------------------------
def checks(bundle: Bundle, data: Path) -> dict[str, Any]:
    """What the enhancement does to added noise, and how much an answer moves when the same child's film comes another way."""
    films = [f for f in cxr_pediatric224.load(data / "images" / "cxr_pediatric224") if f.split == "val"][::EVERY]
    shown = [(np.asarray(f.grey, np.float32) / np.float32(255), cxr_pediatric224.LABELS[f.label] != "normal") for f in films]
    moves = robustness.moved(robustness.xray_anomaly(bundle, "child"), CALLED_FROM, shown)
    return {"denoising": denoising(data), "moves": moves}


def real_films(data: Path) -> list[npt.NDArray[np.float32]]:
    """One film from DICOM and some pictures of films at 512 pixels, grey 0 to 1."""
    with pydicom.dcmread(data / FILM) as ds:
        film = radiograph_of(float(ds.pixel_array.max()) - ds.pixel_array.astype(np.float32))
    assert isinstance(film, Radiograph)
    shrink = LONGEST / max(film.grey.shape)
    size = (round(film.grey.shape[1] * shrink), round(film.grey.shape[0] * shrink))
    out = [np.asarray(cv2.resize(film.grey, size, interpolation=cv2.INTER_AREA), np.float32)]
    for row in list(rows_of(data, "cxr_figure1"))[::5]:
        picture = cv2.imread(str(data / "images" / "cxr_figure1" / row["file"]), cv2.IMREAD_GRAYSCALE)
        out.append(np.asarray(picture, np.float32) / np.float32(255))
    return out


def denoising(data: Path) -> dict[str, Any]:
    """PSNR in dB and SSIM of noisy films, beside those of a median and a bilateral filter, at three levels; means over the films."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    films, table = real_films(data), {}
    for level, (gain, deviation) in NOISE.items():
        rng = np.random.default_rng(7)
        rows = []
        for film in films:
            noisy = np.clip(rng.poisson(film / gain) * gain + rng.normal(0, deviation, film.shape), 0, 1).astype(np.float32)
            ways = {
                "noisy": noisy,
                "median": np.asarray(cv2.medianBlur(noisy, 3), np.float32),
                "bilateral": np.asarray(cv2.bilateralFilter(noisy, 5, 0.2, 2), np.float32),
                "ours": denoised(noisy),
            }
            rows.append(
                {k: (peak_signal_noise_ratio(film, v, data_range=1), structural_similarity(film, v, data_range=1)) for k, v in ways.items()}
            )
        table[level] = {k: [round(float(np.mean([row[k][i] for row in rows])), 3) for i in (0, 1)] for k in rows[0]}
    return {"films": len(films), "levels": table}


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """MODEL_CARD.md from the metadata and the measured figures."""
    names = {
        "cxr_pediatric224": "children of 1 to 5 years (Kermany)",
        "cxr_adult224": "adults, COVID-19 (other source than the normals)",
        "cxr_nih64": "adults, 14 kinds of finding, 64 px (NIH)",
    }
    sets = "\n".join(
        f"| {names[k]} | {v['normal']} / {v['films'] - v['normal']} | {e.written(v['auc'])} | {e.written(v['auc_edges'])} | {e.written(v['auc_transformer'])} "
        f"| {e.written(v['called_normal'])} | {e.written(v['called_ill'])} |"
        for k, v in found["sets"].items()
    )
    labels = "; ".join(f"{k.replace('_', ' ')} {v:.3f}" for one in found["sets"].values() for k, v in one["by_label"].items())
    noise = "\n".join(
        f"| {level} | " + " | ".join(f"{v[way][0]:.2f} / {v[way][1]:.3f}" for way in ("noisy", "median", "bilateral", "ours")) + " |"
        for level, v in found["denoising"]["levels"].items()
    )
    point, run = found["pointing"], meta["radnode"]["training"]
    normal = "; ".join(f"{k}: " + ", ".join(f"{n} {word}" for word, n in v.items()) for k, v in run["normal_films"].items())
    child, adult, low = (found["sets"][k] for k in ("cxr_pediatric224", "cxr_adult224", "cxr_nih64"))
    plain, even = (found["moves"][name] for name in ("as it is", "local contrast (CLAHE)"))
    return f"""# {meta["name"]} {meta["version"]}

**Research use only. Not a medical device. Licence of the weights: non-commercial research (see `LICENSE`).**

{meta["intended_use"]}

## What it does
{meta["description"]}

The film is brought to bones bright (also when only so two lungs are seen), its lungs are found, and the box round them is squeezed to a square: body size,
margins and aspect play no part. A film without two lungs is refused. The transformer learned in two steps, without labels: to paint patches that it could
not see (all training films), and to tell where something was pasted into normal films (opacities, nodules, fluid, haze, texture,
parts of other films). One forest was grown on principal components of the edges, one on those of the class token, the
attention-weighted patches and the logits. In children both count alike; in adults only the second, since edges told nothing there. A third was grown on patches, each beside the mean patch at its place, for the heatmap. Trees are kept as plain
numbers and read with numpy; they give scikit-learn's scores. The forests met every normal film as it is and processed otherwise (contrast
raised tile by tile, blurred, in children also brighter and darker): what a machine did to a film is hardly unlike. Their scale knows films as they are.

**The probability is a percentile**: the share of normal films of that age that are less unlike the others. Its scale comes from a fifth of
the normal training patients, on whom no forest was grown and nothing was pasted. *anomaly* is called from {meta["radnode"]["thresholds"]["anomaly"]:.0%}, so about one normal
film in twenty is called. Children under 6 years are held beside children of 1 to 5 years, from 18 years on beside adults;
between, or when the age is not known, both are asked and the kinder answer counts, with a remark.

The picture beside the report shows the heatmap over the **enhanced** film: noise is measured on the film, levelled (Anscombe), averaged away by
non-local means, contrast evened out (CLAHE). The stored image is never changed. The report is written from the findings by a template; where
somebody has put a captioning network into the bundle (`docs/operations.md`), its sentence is added and marked as such.

## Data
Normal films only for forests and pasting: {normal}. 8-bit, 64 to 224 px. Training: {run.get("steps", "?")} steps of 40 films in
{run.get("minutes", "?")} minutes on a share of one CPU core, after some minutes of painting; random weights at the start.

## Figures
Validation; value (95 % interval, bootstrap over patients). Nothing was set on these films, but the make-up of the features (how
many components, which forests count, how films are processed otherwise) was chosen with an eye on them. Version 1.0.0, with the same
transformer and forests that knew films only as they are: AUC 0.888, 0.763, 0.512 in these rows, 0.654 after CLAHE; normal films called 0.091, 0.109, 0.347.

| films | normal / ill | AUC | edges alone | transformer alone | normal called | ill called |
|---|---|---|---|---|---|---|
{sets}

By label, against the set's normal films: {labels}.

For scale: on Kermany's films, with normals only, isolation forest 0.81, f-AnoGAN 0.76, SALAD 0.83, SQUID 0.88 (Xiang et al., CVPR 2023); with
labels 0.97.

Something pasted into {point["films"]} normal films: the hottest patch is one that was changed in {e.written(point["hits"])}; by chance {point["by_chance"]:.3f}.

Noise added to {found["denoising"]["films"]} real films (PSNR in dB / SSIM):

| noise | as it is | median 3 x 3 | bilateral | this one |
|---|---|---|---|---|
{noise}

### The same film, come another way
{found["moves"]["as it is"]["films"]} films of children: AUC of pneumonia against normal, how much the percentile moves on average, how many films are called otherwise, how many refused.

{robustness.table(found["moves"], "percentile")}

## Where it fails, and what it is not for
- **Adults: hardly better than chance on small findings** (AUC {low["auc"]["value"]:.2f} on NIH's films of 64 px, of which {low["called_normal"]["value"]:.0%} of the normal ones are called: their
  blur is unlike; such films get a remark). The row of COVID-19 ({adult["auc"]["value"]:.2f}) compares films of two sources, and few.
- At the called percentile many ill films are missed in children too ({child["called_ill"]["value"]:.0%} are called): it is a hint to look, and its silence means nothing.
- Unlike normal is no disease: scoliosis, a rotated child, devices, clothes, other exposure are called too, as is a film of an age in between.
- It sees the lungs' box and nothing else: shoulders, abdomen and bones outside go unread.
- The heatmap is coarse (ten by ten patches); it says what differs, not where a disease ends.
- Children of one hospital, adults of one other: expect more normal films to be called elsewhere.
- Contrast raised tile by tile (CLAHE), another exposure, blur and a tighter cut move the percentile (table above). After CLAHE
  the AUC is {even["auc"]:.2f} where it was {plain["auc"]:.2f}.
- Films under 150 px, photographs of films and lateral views are outside its use; the latter are refused where the header tells.
"""
