"""Which series the channels of a network are: from a mapping file, or from the names that MR models give their channels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from node.companions import wanted_of
from node.errors import BundleRefused

EXAMPLE = "[{name: T1c, when: {weighting: T1, contrast: true}}, {name: FLAIR, when: {weighting: FLAIR}}]"
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "t1c": {"when": {"weighting": "T1", "contrast": True}},
    "t1": {"when": {"weighting": "T1", "contrast": False}},
    "t2": {"when": {"weighting": "T2"}},
    "flair": {"when": {"weighting": "FLAIR"}},
    "pd": {"when": {"weighting": "PD"}},
    "dwi": {"when": {"weighting": "DWI"}},
    "adc": {"when": {"weighting": "ADC"}},
    "swi": {"when": {"weighting": "SWI"}},
    "ct": {"when": {"modality": "CT"}},
    "pet": {"when": {"modality": "PT"}},
}
ALSO: Mapping[str, str] = {  #: other names of the same
    **dict.fromkeys(("t1ce", "t1gd", "t1gad", "t1post", "t1contrast"), "t1c"),
    **dict.fromkeys(("t1n", "t1w", "t1pre", "t1native"), "t1"),
    **dict.fromkeys(("t2f", "t2flair", "fl"), "flair"),
    **{"t2w": "t2", "pdw": "pd", "hbv": "dwi", "diffusion": "dwi", "adcmap": "adc", "pt": "pet"},
}


def names_of(told: Any) -> list[str]:
    """The names of an input's channels (`channel_def`) in the order of their numbers, however its metadata has written them down."""
    if isinstance(told, list):
        return [" ".join(str(name).split()) for name in told]
    if not isinstance(told, Mapping):
        return []
    numbered = all(str(key).isdecimal() for key in told)
    return [" ".join(str(told[key]).split()) for key in (sorted(told, key=lambda key: int(str(key))) if numbered else told)]


def several(told: Any, names: Sequence[str], channels: int) -> list[dict[str, Any]]:
    """The sidecar's `series`: the mapping file's, else what the names of all channels mean; empty where one series is enough.

    Raises BundleRefused.
    """
    if told is None:
        plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
        meant = [ALSO.get(word, word) for word in plain]
        if channels < 2 or len(names) != channels or not set(meant) <= set(KNOWN) or len(set(meant)) < channels:
            return []
        return [{"name": name, **KNOWN[word]} for name, word in zip(names, meant, strict=True)]
    try:
        found = wanted_of(told)
    except ValueError as why:
        raise BundleRefused(f"the mapping file: {why}") from None
    if channels not in (1, len(found)):
        raise BundleRefused(f"the mapping file names {len(found)} series, and its network takes {channels} channels")
    return [dict(one) for one in told]
