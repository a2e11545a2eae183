"""From the names that models give their outputs to coded concepts: the Standard's context groups, the usual other names, else a private code."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from pydicom.sr.codedict import codes as standard

from node import codes
from node.codes import Code

TISSUE = Code("85756007", "SCT", "Tissue")

#: the names that models use → those of CID 7151 Segmented Property Types
ALSO = {
    "white matter": "cerebral white matter",
    "grey matter": "cerebral gray matter",
    "gray matter": "cerebral gray matter",
    "cerebral grey matter": "cerebral gray matter",
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "cancer": "neoplasm",
    "whole tumor": "neoplasm",
    "tumor core": "neoplasm",
    "enhancing tumor": "enhancing lesion",
    "metastasis": "neoplasm secondary",
    "oedema": "edema",
    "haemorrhage": "hemorrhage",
    "bleeding": "hemorrhage",
    "urinary bladder": "bladder",
    "fat": "adipose tissue",
    "muscle": "muscle tissue",
    "bone": "bone tissue",
    "oesophagus": "esophagus",
    "ivc": "inferior vena cava",
    "postcava": "inferior vena cava",
    "vessel": "blood vessel",
    "small bowel": "small intestine",
    "portal vein and splenic vein": "portal vein",
    "brainstem": "brain stem",
    "caudate": "caudate nucleus",
    "pallidum": "globus pallidus",
    "accumbens": "nucleus accumbens",
    "thalamus proper": "thalamus",
}
SIDES = {"left": codes.LEFT, "right": codes.RIGHT, "lh": codes.LEFT, "rh": codes.RIGHT}
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178), (148, 103, 189)),
    *((255, 127, 80), (60, 179, 113), (218, 112, 214), (70, 130, 180), (189, 183, 107), (205, 92, 92), (32, 178, 170), (244, 164, 96)),
)  #: told apart by those who see colours otherwise too, as far as they go


class Concept(NamedTuple):
    """What a name means."""

    category: Code  #: Segmented Property Category, CID 7150
    type: Code
    laterality: Code | None = None


def concept(name: str) -> Concept:
    """The coded concept of an output's name; a private code with the name as its meaning where the Standard has none."""
    words = _words(name)
    sides = [SIDES[word] for word in words if word in SIDES]
    plain = " ".join(word for word in words if word not in SIDES)
    for tried in (" ".join(words), plain, plain.removesuffix("s")):
        found = _structures().get(_key(ALSO.get(tried, tried)))
        if found is not None:
            whole = tried == " ".join(words)
            return Concept(*found, laterality=sides[0] if len(sides) == 1 and not (whole and plain != tried) else None)
    last = _structures().get(_key(ALSO.get(words[-1], words[-1]))) if words else None
    if last is not None and last[0] == codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE:
        return Concept(*last)  # "liver tumor" is a neoplasm; its label says of what
    return Concept(TISSUE, private(name))


def finding(name: str) -> Code:
    """The code of something that is found or not: any concept of SNOMED CT in the Standard that is called so, else a private code."""
    plain = " ".join(_words(name))
    tried = _key(ALSO.get(plain, plain))
    return _structures()[tried][1] if tried in _structures() else _everything().get(tried) or private(name)


def private(name: str) -> Code:
    """A code of our own for a name; at most 16 characters (VR SH), the same name always the same."""
    from hashlib import sha256

    word = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") or "OUTPUT"
    value = word if len(word) <= 16 else f"{word[:9]}_{sha256(name.encode()).hexdigest()[:6].upper()}"
    return codes.private(value, name[:64])


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def _key(words: str) -> str:
    return words.replace(" ", "")


@cache
def _structures() -> dict[str, tuple[Code, Code]]:
    """CID 7151, by name without spaces: (category, type)."""
    abnormal, tissues = ({code.value for code in _group(number).values()} for number in ("cid7159", "cid7191"))
    out = {}
    for name, code in (_group("cid7151") | _group("cid7140")).items():
        category = codes.ANATOMICAL_STRUCTURE
        if code.value in abnormal:
            category = codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE
        elif code.value in tissues:
            category = TISSUE
        out[name] = (category, code)
    return out


@cache
def _everything() -> dict[str, Code]:
    return {name.lower(): getattr(standard.SCT, name) for name in standard.SCT.dir()}


def _group(name: str) -> dict[str, Code]:
    group: Any = getattr(standard, name)
    return {key.lower(): getattr(group, key) for key in group.dir()}
