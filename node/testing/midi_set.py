"""A set of studies with an answer key, of the kind of the MIDI-B challenge: what each attribute and each text in the pixels must become.

All of it is made here: people, texts, pictures. The key (`answers.json`, and the ink of the burned-in texts as a PNG an instance) is
written by what planted the values and knows nothing of a profile's code; `midi_grade` holds any tool's output against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import cv2
from pydicom.dataset import Dataset

from node.testing.burned_text import Burned, Canvas
from node.testing.midi_answers import Do, Expected
from node.testing.midi_header import Place, header
from node.testing.midi_image import image
from node.testing.midi_people import Person, person

ANSWERS = "answers.json"
#: studies of a patient: how many instances of which kind; a patient has two to four of them
STUDIES = (("CT", 3), ("US", 3), ("CR", 2), ("SC", 2), ("MR", 2), ("US LOOP", 1), ("MG", 2), ("DX", 1))
#: how many in ten have identity burned into them
MARKED_IN_TEN = {"CT": 5, "US": 8, "US LOOP": 9, "CR": 7, "DX": 5, "SC": 9}


def write_midi_set(files: Path, key: Path, *, patients: int, seed: int = 1, kinds: Sequence[str] = ()) -> int:
    """Studies of so many patients below `files`, the answers below `key`; how many instances. The same arguments give the same set.

    `kinds` limits it to some of `STUDIES`.
    """
    key.mkdir(parents=True, exist_ok=True)
    answers: dict[str, Any] = {"patients": {}, "instances": {}}
    number = 0
    for who, place, random in _places(patients, seed, kinds):
        number += 1
        planter = header(place, random)
        marked = random.randrange(10) < MARKED_IN_TEN.get(place.kind, 0)
        canvas = image(place, planter.ds, random, marked=marked)
        path = (
            files / f"{who.name.latin[0]}_{who.patient_id}" / f"{place.kind.lower().replace(' ', '_')}{place.study}" / f"{number:05d}.dcm"
        )
        _write(planter.ds, path)
        answers["patients"][who.key] = list(who.identifiers)
        answers["instances"][str(number)] = {
            "file": str(path.relative_to(files)),
            "patient": who.key,
            "kind": place.kind,
            "sop_instance_uid": str(planter.ds.SOPInstanceUID),
            "says": str(planter.ds.get("BurnedInAnnotation", "")),
            "image_type": "\\".join(planter.ds.ImageType),
            "actions": [asdict(expected) for expected in (*planter.key, *_pixel_actions(canvas))],
            "texts": [_text(burned) for burned in canvas.burned],
        }
        if canvas.burned:
            cv2.imwrite(str(key / f"{number:05d}.png"), canvas.glyphs)
    (key / ANSWERS).write_text(json.dumps(answers, indent=1, ensure_ascii=False))
    return number


def _places(patients: int, seed: int, kinds: Sequence[str]) -> Iterator[tuple[Person, Place, Random]]:
    number = 0
    offered = [study for study in STUDIES if not kinds or study[0] in kinds]
    for who_number in range(patients):
        random = Random(f"{seed} {who_number}")  # noqa: S311 a test set is no secret
        who = person(who_number, random)
        day = date(2019, 1, 7) + timedelta(days=random.randrange(1500))
        for study in range(1, 1 + min(len(offered), random.choice((2, 3, 4)))):
            kind, instances = offered[(who_number + 3 * study) % len(offered)]
            first = number + 1
            for _ in range(instances):
                number += 1
                yield who, Place(person=who, kind=kind, study=study, number=number, first=first, day=day), random
            day += timedelta(days=random.randrange(1, 200))


def _pixel_actions(canvas: Canvas) -> Iterator[Expected]:
    for number, burned in enumerate(canvas.burned, 1):
        if burned.line.identifying:
            yield Expected(do=Do.PIXELS_HIDDEN, at=str(number), words=(burned.line.text,))
    yield Expected(do=Do.PIXELS_RETAINED, at="PixelData")


def _text(burned: Burned) -> dict[str, Any]:
    style = burned.style
    return {
        **asdict(burned.line),
        "height_px": burned.height_px,
        "box": list(burned.box),
        "face": str(style.face),
        "contrast": style.contrast,
        "colour": list(style.colour),
        "plate": style.plate,
    }


def _write(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
