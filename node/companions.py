"""A model that reads several series at once: which series of a study are its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from node.bundle import Bundle
from node.conditions._groups import Asked, Group, Reason, answers
from node.conditions.interface import Condition, text_of
from node.domain import CleanUid, Series, Study
from node.errors import BundleInvalid
from node.header_text import texts_of
from node.imaging.build import frames_in
from node.registry import Registry

MOST_CHANNELS = 16
KEYS = ("name", "when", "any_of", "none_of")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of the series of one channel, as a rule asks it."""

    name: str  #: e.g. "T1c"
    when: Group
    any_of: tuple[Group, ...]
    none_of: tuple[Group, ...]

    def answers(self, study: Study, series: Series) -> list[Reason]:
        """Whether the series is such a one: every reason is met."""
        return answers(study, series, self.when, self.any_of, self.none_of)


def wanted_of(told: Any) -> tuple[Wanted, ...]:
    """`[{name: T1c, when: {…}}, …]`, in the order of the network's channels. Raises ValueError with a sentence that says what is allowed."""
    if not isinstance(told, list) or not 2 <= len(told) <= MOST_CHANNELS:
        raise ValueError(f"series: a list of 2 to {MOST_CHANNELS}, as in [{{name: T1c, when: {{contrast: true}}}}, …]")
    found = tuple(_wanted(one) for one in told)
    if len({one.name for one in found}) < len(found):
        raise ValueError("series: each needs a name of its own")
    return found


def wanted_by(bundle: Bundle) -> tuple[Wanted, ...]:
    """What a bundle reads at once; nothing where one series is enough. Raises BundleInvalid."""
    told = bundle.node.get("series")
    try:
        return wanted_of(told) if told else ()
    except ValueError as why:
        raise BundleInvalid(str(why), bundle=bundle.name) from None


def channels_of(study: Study, series: Series, wanted: Sequence[Wanted]) -> tuple[list[Series], list[Reason]]:
    """The series of each channel as far as they were found, `series` being the first; and for each channel why it was met or not.

    Where `series` is not the first channel the others are not looked for. Of several that fit originals are taken before what was made of
    them, then the largest. All must lie in the first one's frame of reference (0020,0052) where both name one.
    """
    chosen, reasons = [series], _first(study, series, wanted[0])
    if not reasons[0].met:
        return chosen, reasons
    read: dict[CleanUid, str] = {}
    for one in wanted[1:]:
        tried = [
            (_reasons(study, other, series, one, read), other) for other in study if other.series_instance_uid != series.series_instance_uid
        ]
        fit = [other for why, other in tried if all(reason.met for reason in why)]
        if fit:
            best = min(fit, key=lambda other: (_derived(other), -frames_in(other), other.series_instance_uid))
            chosen.append(best)
            read[best.series_instance_uid] = one.name
            reasons.append(Reason(key="pipeline", met=True, words=f"{one.name} is the series {best.series_instance_uid}"))
        else:
            reasons.append(Reason(key="pipeline", met=False, words=f"no series is {one.name}{_nearest([why for why, _ in tried])}"))
    return chosen, reasons


def inputs_of(study: Study, series: Series, wanted: Sequence[Wanted]) -> tuple[CleanUid, ...]:
    """SOP Instance UIDs of every image that a job on the series reads, sorted."""
    read = channels_of(study, series, wanted)[0] if wanted else [series]
    return tuple(sorted(instance.sop_instance_uid for one in read for instance in one.instances))


# --- below --------------------------------------------------------------------------------------------------------------------
def _wanted(told: Any) -> Wanted:
    if not isinstance(told, Mapping) or set(told) - set(KEYS) or not {"when", "any_of"} & set(told):
        raise ValueError(f"series: each has a name and conditions; known: {', '.join(KEYS)}")
    name = told.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > 32 or not name.isprintable():
        raise ValueError("series: a name has 1 to 32 letters")
    wanted = Wanted(
        name=name.strip(),
        when=_group(told["when"]) if "when" in told else (),
        any_of=_groups(told.get("any_of", [])),
        none_of=_groups(told.get("none_of", [])),
    )
    if not wanted.when and not wanted.any_of:
        raise ValueError(f"series: nothing is asked of {wanted.name}; any series would do")
    return wanted


def _groups(told: Any) -> tuple[Group, ...]:
    return tuple(_group(one) for one in (told if isinstance(told, list) else [told]))


def _group(told: Any) -> Group:
    known = _known()
    if not isinstance(told, Mapping) or not told:
        raise ValueError("series: conditions are written as key: value, as in a rule")
    if unknown := next((str(key) for key in told if key not in known), None):
        raise ValueError(f"series: unknown condition {unknown[:40]!r}; known: {', '.join(known)}")
    return tuple(Asked(key=str(key), condition=known[str(key)].parse(value)) for key, value in told.items())


@cache
def _known() -> Registry[Condition]:
    return Registry("node.conditions", Condition)  # type: ignore[type-abstract]


def _first(study: Study, series: Series, wanted: Wanted) -> list[Reason]:
    why = wanted.answers(study, series)
    if all(reason.met for reason in why):
        return [Reason(key="pipeline", met=True, words=f"{wanted.name} is this series")]
    return [Reason(key="pipeline", met=False, words=f"it is not {wanted.name}: {_unmet(why)}")]


def _reasons(study: Study, other: Series, first: Series, wanted: Wanted, read: Mapping[CleanUid, str]) -> list[Reason]:
    """`read`: series that are channels already, by their names."""
    why = wanted.answers(study, other)
    if name := read.get(other.series_instance_uid):
        why.append(Reason(key="pipeline", met=False, words=f"it is {name} already"))
    if not frames_in(other):
        why.append(Reason(key="pipeline", met=False, words="it has no images"))
    here, there = (text_of(one.header, "FrameOfReferenceUID") for one in (first, other))
    if here and there and here != there:
        why.append(Reason(key="pipeline", met=False, words="it lies in another frame of reference"))
    return why


def _derived(series: Series) -> bool:
    """Image Type (0008,0008) value 1, PS3.3 C.7.6.1.1.2."""
    return texts_of(series.header, "ImageType")[:1] == ["DERIVED"]


def _nearest(tried: Sequence[Sequence[Reason]]) -> str:
    """What is missing in the series that lacks least; what it shows counts before where it lies."""

    def lacks(why: Sequence[Reason]) -> tuple[int, int]:
        unmet = [reason.key for reason in why if not reason.met]
        return len(unmet) - unmet.count("pipeline"), len(unmet)

    nearest = min(tried, key=lacks, default=())
    return f"; the nearest: {_unmet(nearest)}" if nearest else ""


def _unmet(why: Sequence[Reason]) -> str:
    return " and ".join(reason.words for reason in why if not reason.met)
