"""Pascal VOC: an XML file an image with its boxes, lists of each split, and masks with a class a colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
from PIL import Image

from node.annotations.examples import SPLITS, Example
from node.annotations.pictures import box_of, parts_of, rendered, write_png


def write(examples: Sequence[Example], out: Path) -> dict[str, int]:
    """`Annotations/`, `JPEGImages/` (PNG: nothing is lost), `SegmentationClass/`, `ImageSets/Main/`, `classes.txt`. Gives how many boxes."""
    findings = sorted({name for one in examples for name in one.labels})
    for folder in ("Annotations", "JPEGImages", "SegmentationClass", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in findings))
    boxes = 0
    names: dict[str, list[str]] = {split: [] for split, _ in SPLITS}
    for one in examples:
        name = f"{one.pipeline}_{one.name}"
        names[one.split].append(name)
        pixels = rendered(one)
        write_png(out / "JPEGImages" / f"{name}.png", pixels)
        root = _annotation(one, name, channels=3 if pixels.ndim == 3 else 1)
        boxes += len(root.findall("object"))
        indent(root)
        ElementTree(root).write(out / "Annotations" / f"{name}.xml", encoding="utf-8", xml_declaration=True)
        _write_classes(one, findings, out / "SegmentationClass" / f"{name}.png")
    for split, listed in names.items():
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))
    return {"boxes": boxes}


def _annotation(one: Example, name: str, *, channels: int) -> Element:
    root = Element("annotation")
    _told(root, {"folder": "JPEGImages", "filename": f"{name}.png"})
    _told(SubElement(root, "source"), {"database": "Radnode", "patient": one.pseudonym})
    _told(SubElement(root, "size"), {"width": one.shape[1], "height": one.shape[0], "depth": channels})
    _told(root, {"segmented": int(any(label.mask is not None for label in one.labels.values()))})
    for label in one.labels.values():
        for part in parts_of(label.mask) if label.mask is not None else ():
            box, found = box_of(part), SubElement(root, "object")
            _told(found, {"name": label.finding, "pose": "Unspecified", "truncated": 0, "difficult": 0})
            ends = {"xmin": box.left + 1, "ymin": box.top + 1, "xmax": box.right, "ymax": box.bottom}  # counted from 1, ends included
            _told(SubElement(found, "bndbox"), ends)
    return root


def _told(parent: Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        SubElement(parent, tag).text = str(value)


def _write_classes(one: Example, findings: Sequence[str], path: Path) -> None:
    """Palette PNG: 0 background, 1 … the classes in the order of `classes.txt`. Where two overlap the later class is seen."""
    classes = np.zeros(one.shape, np.uint8)
    for label in one.labels.values():
        if label.mask is not None:
            classes[label.mask] = findings.index(label.finding) + 1
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette(_palette())
    picture.save(path)


def _palette() -> list[int]:
    """The colours of VOC: bits of the class, three by three, from the highest bit of red, green and blue down."""
    colours = []
    for number in range(256):
        red = green = blue = 0
        for bit in range(8):
            three = number >> 3 * bit
            red, green, blue = (value | (three >> place & 1) << 7 - bit for place, value in enumerate((red, green, blue)))
        colours += [red, green, blue]
    return colours
