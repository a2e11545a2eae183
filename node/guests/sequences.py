"""Which series the channels of a network are: from a mapping file, or from the names that MR models give their channels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from node.companions import wanted_of
from node.errors import BundleRefused

EXAMPLE = "[{name: T1c, when: {weighting: T1, contrast: true}}, {name: FLAIR, when: {weighting: FLAIR}}]"
#: what descriptions say of images after contrast medium, whose header often does not
AFTER = ["gd", "gad", "gado", "ce", "cm", "km", "post", "contrast", "c+", "+c", "t1c", "t1ce", "t1gd", "t1km"]
GIVEN: list[Mapping[str, Any]] = [{"contrast": True}, {"series_description": AFTER}]
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "t1c": {"when": {"weighting": "T1"}, "any_of": GIVEN},
    "t1": {"when": {"weighting": "T1"}, "none_of": GIVEN},
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


def several(told: Any, names: Sequence[str], channels: int) -> list[dict[str, Any]]:
    """The sidecar's `series`: the mapping file's, else what the names of all channels mean; empty where one series is enough.

    Raises BundleRefused.
    """
    if told is None:
        plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
        meant = [KNOWN.get(ALSO.get(word, word)) for word in plain]
        if channels < 2 or len(names) != channels or not all(meant) or len(set(names)) < channels:
            return []
        return [{"name": name, **conditions} for name, conditions in zip(names, meant, strict=True) if conditions is not None]
    try:
        found = wanted_of(told)
    except ValueError as why:
        raise BundleRefused(f"the mapping file: {why}") from None
    if channels not in (1, len(found)):
        raise BundleRefused(f"the mapping file names {len(found)} series, and its network takes {channels} channels")
    return [dict(one) for one in told]
