"""A study as rules see it, kept in a few hundred bytes and given back: `decide` answers the same about both.

Kept are the attributes that conditions read (`Condition.reads`), the modality, the SOP classes, who sent it, and how many images
there are. Images that look alike to every rule become one image with as many frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset

from node.conditions.interface import Condition
from node.domain import Channel, CleanUid, Instance, Origin, Pseudonym, Series, Study, StudyRef
from node.registry import Registry

FUNCTIONAL = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
#: what the router asks by itself: is it an image, a localizer, how many frames, how thin, in the same space as another
ROUTER_READS = ("Rows", "Columns", "ImageType", "NumberOfFrames", "PixelMeasuresSequence", "SliceThickness", "FrameOfReferenceUID")
TOLD = "told"  #: in place of a sequence that a condition asks only whether it is there

Facts = dict[str, Any]


@cache
def asked_for() -> frozenset[str]:
    """The keywords that conditions and the router read."""
    conditions = Registry("node.conditions", Condition)  # type: ignore[type-abstract]
    read = [keyword for name in conditions for keyword in getattr(conditions[name], "reads", ())]
    return frozenset((*read, *ROUTER_READS, *FUNCTIONAL))


# --- keeping ------------------------------------------------------------------------------------------------------------
def kept(study: Study) -> str:
    """What rules can ask about a study, as JSON."""
    origin = study.origin
    return json.dumps(
        {
            "study": study.ref.study,
            "revision": study.ref.revision,
            "origin": [origin.channel.value, origin.received_at.isoformat(), origin.calling_ae, origin.called_ae],
            "series": [
                {"uid": series.series_instance_uid, "modality": series.modality, "images": _images(series.instances)} for series in study
            ],
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _images(instances: Iterable[Instance]) -> list[list[Any]]:
    """Different images in the order met: SOP class, how many, frames of all of them together (None: not told, or odd), facts."""
    found: dict[str, list[Any]] = {}
    for instance in instances:
        facts = _facts(instance.header)
        frames = _frames(facts)
        if frames is not None:
            del facts["NumberOfFrames"]
        key = json.dumps([instance.sop_class_uid, frames is None, facts])
        known = found.setdefault(key, [instance.sop_class_uid, 0, None if frames is None else 0, facts])
        known[1] += 1
        if frames is not None:
            known[2] += frames
    return list(found.values())


def _frames(facts: Facts) -> int | None:
    """Number of Frames, where it can be added up; fills in the 1 that an absent one stands for."""
    told = facts.setdefault("NumberOfFrames", [])
    if not told:
        return 1
    if len(told) == 1 and told[0].isdecimal() and told[0].isascii():
        return int(told[0])
    return None


def _facts(ds: Dataset) -> Facts:
    """The attributes that somebody asks for: texts, or for functional groups their first item."""
    out: Facts = {}
    for keyword in sorted(asked_for()):
        if keyword not in ds:
            continue
        try:
            value = ds.get(keyword)
        except (ValueError, TypeError, AttributeError):  # unreadable: a condition takes it as empty
            value = None
        out[keyword] = _plain(keyword, value)
    return out


def _plain(keyword: str, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return [value] if value else []
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, bytes) else [value]
    if not values or not isinstance(values[0], Dataset):
        return [str(one) for one in values]
    if keyword in FUNCTIONAL or keyword in _MACROS:
        return {"item": _facts(values[0])}
    return [TOLD] if any(str(item).strip() for item in values) else []


_MACROS = {"PixelMeasuresSequence", "PlaneOrientationSequence"}  #: functional groups that conditions look into, PS3.3 C.7.6.16.2


# --- giving back --------------------------------------------------------------------------------------------------------
class KeptHeader:
    """Reads like the header it was made from, as far as it was kept."""

    __slots__ = ("_facts",)

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value as text, several as a list of texts, a sequence as a list with its first item."""
        kept = self._facts.get(keyword)
        if kept is None:
            return default
        if isinstance(kept, dict):
            return [KeptHeader(kept["item"])]
        return None if not kept else kept[0] if len(kept) == 1 else kept

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._facts

    def __getattr__(self, keyword: str) -> Any:
        value = self.get(keyword)
        if value is None:
            raise AttributeError(keyword)
        return value


def given_back(text: str) -> Study:
    """The study as rules saw it."""
    facts = json.loads(text)
    channel, received_at, calling_ae, called_ae = facts["origin"]
    return Study(
        ref=StudyRef(study=CleanUid(facts["study"]), revision=facts["revision"]),
        pseudonym=Pseudonym(""),
        origin=Origin(
            channel=Channel(channel), received_at=datetime.fromisoformat(received_at), calling_ae=calling_ae, called_ae=called_ae
        ),
        folder=Path(),
        series=tuple(
            Series(
                series_instance_uid=CleanUid(one["uid"]),
                modality=one["modality"],
                instances=tuple(instance for image in one["images"] for instance in _instances(*image)),
            )
            for one in facts["series"]
        ),
    )


def _instances(sop_class_uid: str, count: int, frames: int | None, facts: Facts) -> list[Instance]:
    facts["SOPClassUID"] = [sop_class_uid]
    if frames is not None:
        facts["NumberOfFrames"], count = [str(frames)], 1
    header = cast(Dataset, KeptHeader(facts))  # conditions and the router use `get`, `in` and attributes only
    return [Instance(header=header, path=Path())] * count
