"""What a bundle takes and gives, read from its metadata and a mapping file: the draft of the node's sidecar, `node.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from node.codes import Code
from node.conditions.interface import words_of
from node.errors import BundleRefused
from node.guests.sequences import EXAMPLE, names_of, several
from node.guests.vocabulary import PALETTE, concept, finding
from node.weighting import NAMES

TASKS = ("segmentation", "classification", "detection", "regression")
WORDS = {"segment": "segmentation", "classif": "classification", "detect": "detection", "regress": "regression", "estimat": "regression"}
MODALITIES = {
    **{
        "MRI": ("MR",),
        "T1": ("MR",),
        "T2": ("MR",),
        "FLAIR": ("MR",),
        "PET": ("PT",),
        "ULTRASOUND": ("US",),
        "MAMMOGRAPHY": ("MG",),
        "MAMMOGRAM": ("MG",),
        "OCT": ("OPT",),
        "COMPUTEDTOMOGRAPHY": ("CT",),
        "MAGNETICRESONANCE": ("MR",),
    },
    **dict.fromkeys(("XRAY", "XR", "RADIOGRAPH", "CXR", "DX", "CR", "RADIOGRAPHY"), ("DX", "CR")),
    **{name: (name,) for name in ("CT", "MR", "US", "PT", "MG", "NM", "XA", "RF", "OP", "ES", "SM", "OT", "XC", "IO", "PX", "OPT")},
}
VOLUMES = {"CT", "MR", "PT", "NM"}  #: modalities whose slices form a volume
GENERATOR = (
    "it draws images from random numbers: it takes nothing of a study, and what it gives is no segment, finding or measurement,"
    " so there is nothing that a node could report"
)
EXAMPLES = {
    "segmentation": "{1: spleen}",
    "classification": "{0: normal, 1: pneumonia}",
    "detection": "{0: nodule}",
}  #: of names for outputs
LONGEST = 64  #: characters of a segment's label
NOTHING = {"bg", "none", "unknown", "unlabeled", "clear label"}  #: what label 0 is called when it is the background
KEYS = {  #: of a mapping file
    *(
        "name",
        "version",
        "task",
        "modality",
        "takes",
        "axes",
        "values",
        "channels",
        "dims",
        "labels",
        "activation",
        "threshold",
        "thresholds",
    ),
    *("network", "preprocessing", "inferer", "postprocessing", "image_key", "pred_key", "boxes", "limits", "licence", "measurement"),
    *("input_shape", "intended_use", "title", "series"),
}

WORDS_OF: Mapping[str, tuple[Any, ...]] = {  #: keys of a mapping file that take one of a few words
    "axes": ("torch", "monai"),
    "values": ("window", "stored"),
    "activation": ("sigmoid", "softmax", "none"),
    "takes": ("volume", "image"),
    "boxes": ("relative", "pixels"),
    "dims": (2, 3),
}
LIMITS = ("time_s", "memory_mb")
USES = ("modality", "body_part", "body_part_required", "min_slices", "min_age_years", "picture", "view", "weighting")  #: of intended_use
OF_A_LABEL = ("name", "label", "type", "code", "category", "color")


def description(
    metadata: Mapping[str, Any],
    mapping: Mapping[str, Any],
    *,
    name: str,
    modality: tuple[str, ...],
    bare: bool = False,
    volume: bool = False,
) -> dict[str, Any]:
    """The draft of `node.json`.

    Parameters
    ----------
    metadata
        The bundle's own, empty for a bare file; what the zoo really writes is read, and that is not always what its specification says.
    mapping
        What the person who adds it says; it is believed more than the metadata.
    modality
        From the command line; else the mapping's, else the metadata's.
    bare
        A network came without a configuration: its axes are those of plain PyTorch unless the mapping says otherwise.
    volume
        Its inferer takes a volume whatever its network does: it goes through the slices itself.

    Raises
    ------
    BundleRefused
        When a node can't run it or report its output, with the reason; or when something is not known, with where to say it.
    """
    if unknown := sorted(set(mapping) - KEYS):
        raise BundleRefused(f"the mapping file has keys that are not known: {', '.join(unknown)}; known: {', '.join(sorted(KEYS))}")
    _check_words(mapping)
    formats = metadata.get("network_data_format") or {}
    if not formats and "generator_data_format" in metadata:  # as the zoo writes it of latent diffusion
        raise BundleRefused(GENERATOR)
    inputs, outputs = _described(formats.get("inputs")), _described(formats.get("outputs"))
    if len(inputs) > 1 and "task" not in mapping:
        raise BundleRefused(f"its network takes {len(inputs)} inputs ({', '.join(inputs)}); a node has one image to give")
    given, output = next(iter(inputs.values()), {}), next(iter(outputs.values()), {})
    task = str(mapping.get("task") or _task(metadata, given, output))
    if task not in (*TASKS, "generation"):
        raise BundleRefused(f"the task {task!r} is not known; it is one of {', '.join(TASKS)}")
    if len(outputs) > 1 and "pred" not in outputs and task in ("segmentation", "classification") and "task" not in mapping:
        raise BundleRefused(f"its network gives {len(outputs)} outputs at once ({', '.join(outputs)}); a node reads one")
    if task == "generation":
        return {"pipeline": name, "task": task, "latent": _numbers(given.get("spatial_shape")) or [1]}
    told = _modalities(mapping.get("modality"))
    if mapping.get("modality") and not told:
        raise _unknown(str(mapping["modality"]))
    modalities = modality or told or _modalities(given.get("modality"))
    if not modalities:
        raise BundleRefused("it does not say which modality it is for; say it with --modality")
    channels = int(_number("channels", mapping["channels"]) if mapping.get("channels") else _whole(given.get("num_channels")) or 1)
    shape = mapping.get("input_shape") or given.get("spatial_shape") or []
    dims = int(mapping.get("dims") or (3 if volume else len(shape) if len(shape) in (2, 3) else 3 if modalities[0] in VOLUMES else 2))
    names = names_of(given.get("channel_def"))
    series = several(mapping.get("series"), names, channels)
    channels = len(series) or channels
    if series and (asked := (series[0].get("when") or {}).get("modality")):
        modalities = tuple(words_of(asked, "modality"))  # of the series that a rule meets
    if channels != 1 and not series and not (channels == 3 and dims == 2):
        named = f" ({', '.join(names)})" if names else ""
        raise BundleRefused(
            f"its network takes {channels} channels{named}; where they are several series of a study, say in the"
            f" mapping file which, in the order of the channels: series: {EXAMPLE}. Marks beside the image can't be given"
        )
    by_slice = dims == 2 and task == "segmentation" and modalities[0] in VOLUMES
    takes = str(mapping.get("takes") or ("volume" if dims == 3 or by_slice else "image"))
    if takes == "volume" and dims == 2 and task != "segmentation":
        raise BundleRefused(
            f"a flat network gives an answer for each slice, and a {task} is one of the series; say takes: image, or dims: 3"
        )
    if series and takes != "volume":
        raise BundleRefused("a model that reads several series lays them over each other as volumes; it can't take image by image")
    labels = _labels(task, mapping, output, metadata)
    use = {"modality": list(modalities), **_use(mapping.get("intended_use") or {})}
    if takes == "volume" and dims == 3:
        use.setdefault("min_slices", 3)
    out: dict[str, Any] = {
        "pipeline": name,
        "task": task,
        "takes": takes,
        "dims": dims,
        "channels": channels,
        "values": str(mapping.get("values") or _values(given, 1 if series else channels)),
        "intended_use": use,
        "labels": [label["name"] for label in labels],
        "outputs": labels,
        "limits": _limits(mapping.get("limits") or {}),
        "thresholds": _thresholds(mapping.get("thresholds") or {}, [label["name"] for label in labels]),
    }
    if series:
        out["series"] = series
    out["labels_told"] = mapping.get("labels") is not None
    if str(given.get("format", "")).lower() == "hounsfield" and modalities[0] == "CT":
        out["unit"] = "HU"
    if mapping.get("threshold") is not None:
        out["threshold"] = _number("threshold", mapping["threshold"], most=1)
    for key in ("axes", "activation", "image_key", "pred_key", "boxes", "measurement"):
        if mapping.get(key) is not None:
            out[key] = mapping[key]
    if bare:
        out.setdefault("axes", "torch")
    if task == "regression" and not {"name", "unit"} <= set(mapping.get("measurement") or ()):
        raise BundleRefused(
            "it estimates a number; say what and in which unit in the mapping file: measurement: {name: bone age, unit: mo}"
            " (the unit in UCUM)"
        )
    return out


# --- what a person may write ---------------------------------------------------------------------------------------------------
def _check_words(mapping: Mapping[str, Any]) -> None:
    """Words of the mapping file that are not known would be passed over in silence."""
    for key, words in WORDS_OF.items():
        if mapping.get(key) is not None and mapping[key] not in words:
            raise BundleRefused(f"the mapping file says {key}: {str(mapping[key])[:40]}; it may be {' or '.join(map(str, words))}")


def _known(what: str, told: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The keys and values, all of them known."""
    if not isinstance(told, Mapping):
        raise BundleRefused(f"{what} in the mapping file must hold keys and values; known: {', '.join(keys)}")
    if unknown := sorted(str(key) for key in told if key not in keys):
        raise BundleRefused(f"{what} in the mapping file has keys that are not known: {', '.join(unknown)}; known: {', '.join(keys)}")
    return dict(told)


def _number(what: str, told: Any, *, most: float = math.inf) -> float:
    """Above 0, and not above `most`."""
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told <= most or not math.isfinite(told):
        raise BundleRefused(
            f"{what} in the mapping file is {str(told)[:40]}; it must be a number above 0{f' up to {most:g}' if most < math.inf else ''}"
        )
    return told


def _limits(told: Any) -> dict[str, float]:
    return {key: _number(f"limits: {key}", value) for key, value in _known("limits", told, LIMITS).items()}


def _thresholds(told: Any, names: list[str]) -> dict[str, float]:
    return {
        name: float(_number(f"the threshold of {name}", value, most=1)) for name, value in _known("thresholds", told, tuple(names)).items()
    }


def _use(told: Any) -> dict[str, Any]:
    """As it is asked before each series: modalities of DICOM, body parts in capitals, numbers."""
    use = _known("intended_use", told, USES)
    if "modality" in use:
        use["modality"] = list(modalities_of([use["modality"]] if isinstance(use["modality"], str) else list(use["modality"])))
    if "body_part" in use:
        parts = [use["body_part"]] if isinstance(use["body_part"], str) else list(use["body_part"])
        use["body_part"] = [str(part).upper() for part in parts]
    if "weighting" in use:
        told = [use["weighting"]] if isinstance(use["weighting"], str) else list(use["weighting"])
        use["weighting"] = [str(one).upper() for one in told]
        if strange := sorted(set(use["weighting"]) - set(NAMES)):
            raise BundleRefused(f"intended_use: weighting {strange[0][:40]!r} is not known; known: {', '.join(NAMES)}")
    for key in ("min_slices", "min_age_years"):
        if key in use:
            use[key] = _number(f"intended_use: {key}", use[key])
    return use


def _color(told: Any) -> list[int]:
    if not isinstance(told, list | tuple) or len(told) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in told):
        raise BundleRefused("a color is written as three numbers from 0 to 255, e.g. [230, 60, 40]")
    return list(told)


# --- the task ---------------------------------------------------------------------------------------------------------------
def _task(metadata: Mapping[str, Any], given: Mapping[str, Any], output: Mapping[str, Any]) -> str:
    """What comes out, in the words of its metadata."""
    takes = f"{given.get('type', '')} {given.get('format', '')}".lower()
    kind, form = str(output.get("type", "")).lower(), str(output.get("format", "")).lower()
    words = f"{metadata.get('task', '')} {metadata.get('name', '')}".lower()
    if "latent" in takes:
        return "generation"
    if "object" in kind or ("dict" in form and "box" in str(output).lower()):
        return "detection"
    if form == "segmentation" or (form in ("labels", "label", "mask") and "classif" not in words):
        return "segmentation"
    if "probabilit" in kind or form in ("classes", "classification", "probabilities", "labels", "label", "mask"):
        return "classification"
    if form == "points":
        raise BundleRefused("its output is points, which can't be reported as segments, findings or measurements")
    for word, task in WORDS.items():
        if word in words:
            return task
    if not output:
        raise BundleRefused(f"it does not say what it gives; say it in the mapping file: task: one of {', '.join(TASKS)}")
    raise BundleRefused(
        f"its output is {form or kind or 'not described'}, which can't be reported as segments, findings or measurements;"
        f" if it is in truth one of {', '.join(TASKS)}, say so in the mapping file (task: …)"
    )


# --- labels -----------------------------------------------------------------------------------------------------------------
def _labels(task: str, mapping: Mapping[str, Any], output: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry an output that is reported: its value or channel, name, codes and colour. Background is none."""
    told = mapping.get("labels")
    own = output.get("channel_def") or output.get("label_def") or metadata.get("label_classes") or metadata.get("pred_classes")
    named = _named(own if told is None else told)
    for entry in (told or {}).values() if isinstance(told, Mapping) else ():
        if isinstance(entry, Mapping):
            _known("a label", entry, OF_A_LABEL)
    if task == "regression":
        name = str((mapping.get("measurement") or {}).get("name") or "value")
        return [{"value": 0, "name": name, "type": _code(None, finding(name))}]
    if not named:
        raise BundleRefused(f"it does not name its outputs; name them in the mapping file: labels: {EXAMPLES[task]}")
    out: list[dict[str, Any]] = []
    for value, entry in named.items():
        chosen = dict(entry) if isinstance(entry, Mapping) else {"name": str(entry)}
        name = _told_apart(str(chosen.get("name") or chosen.get("label") or value), value, out)
        if name.lower() == "background" or (task == "segmentation" and value == 0 and name.lower() in NOTHING):
            continue
        meant = concept(name)
        out.append(
            {
                "value": value,
                "name": name,
                "category": _code(chosen.get("category"), meant.category),
                "type": _code(chosen.get("type") or chosen.get("code"), meant.type if task == "segmentation" else finding(name)),
                "laterality": meant.laterality.meaning if meant.laterality else "",
                "color": _color(chosen.get("color") or PALETTE[len(out) % len(PALETTE)]),
            }
        )
    if not out:
        raise BundleRefused("all its outputs are background")
    return out


def _told_apart(name: str, value: int, others: list[dict[str, Any]]) -> str:
    """A name as objects can hold it: one line, no backslash, at most 64 characters (VR LO), and of no other output."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name.replace("\\", "/")).split())[:LONGEST] or str(value)
    if any(other["name"] == name for other in others):
        name = f"{name[: LONGEST - 8]} ({value})"
    return name


def _named(told: Any) -> dict[int, Any]:
    """`{1: spleen}`, `{spleen: 1}` or `[background, spleen]`, as value → name."""
    if isinstance(told, list):
        return dict(enumerate(told))
    if not isinstance(told, Mapping):
        return {}
    if all(str(key).lstrip("-").isdigit() for key in told):
        return {int(key): entry for key, entry in sorted(told.items(), key=lambda item: int(item[0]))}
    if all(str(value).isdigit() for value in told.values()):
        return {int(value): str(key) for key, value in sorted(told.items(), key=lambda item: int(item[1]))}
    raise BundleRefused("labels are written as value: name, or as a list from 0 on")


def _code(told: Any, otherwise: Code) -> list[str]:
    """`[value, scheme, meaning]`."""
    if told is None:
        return [otherwise.value, otherwise.scheme_designator, otherwise.meaning]
    parts = list(told.values()) if isinstance(told, Mapping) else list(told) if isinstance(told, list) else []
    if len(parts) != 3 or not all(isinstance(part, str | int) for part in parts) or len(str(parts[0])) > 16 or len(str(parts[1])) > 16:
        raise BundleRefused("a code is written as [value, scheme, meaning], e.g. [78961009, SCT, Spleen]")
    return [str(part)[:64] for part in parts]


# --- odds and ends of real metadata -------------------------------------------------------------------------------------------
def _described(formats: Any) -> dict[str, dict[str, Any]]:
    return {str(name): dict(one) for name, one in formats.items() if isinstance(one, Mapping)} if isinstance(formats, Mapping) else {}


def _modalities(told: Any) -> tuple[str, ...]:
    words = told if isinstance(told, list | tuple) else re.split(r"[,/;]|\bor\b", str(told or ""))
    found: list[str] = []
    for word in words:
        whole = re.sub(r"[^A-Z0-9]", "", str(word).upper())
        for one in [whole] if whole in MODALITIES else re.findall(r"[A-Z0-9]+", str(word).upper()):  # "CT scan", "MRI (T2)"
            found += MODALITIES.get(one, ())
    return tuple(dict.fromkeys(found))


def modalities_of(words: list[str]) -> tuple[str, ...]:
    """The DICOM modalities that are meant. Raises BundleRefused when one is not known."""
    for word in words:
        if not _modalities([word]):
            raise _unknown(word)
    return _modalities(words)


def _unknown(modality: str) -> BundleRefused:
    return BundleRefused(f"the modality {modality[:16]!r} is not known; known: {', '.join(sorted(set(MODALITIES)))}")


def _values(given: Mapping[str, Any], channels: int) -> str:
    """ "window": what a reader sees, 0 to 255, for networks that learned from PNG or JPEG; "stored": HU, or values as the modality gives them."""
    span = given.get("value_range") or []
    return "window" if channels == 3 or [_whole(v) for v in span][:2] == [0, 255] else "stored"


def _whole(value: Any) -> int | None:
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):  # JSON as Python writes it knows Infinity
        return None


def _numbers(shape: Any) -> list[int]:
    return [n for n in (_whole(value) for value in shape or []) if n]
