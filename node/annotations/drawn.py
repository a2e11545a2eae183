"""What somebody drew on the images of a result, and what that says of it: the model's own outlines come first, as a proposal.

An outline that stays says accept, one that was moved says modify, one that is gone says reject, a new one says missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from node.annotations.examples import MARK
from node.assessment.answers import SAME, Answer
from node.assessment.masks import Planes
from node.assessment.outlines import dice_of
from node.assessment.told import Ours, Told
from node.domain import CleanUid, Opinion, ReaderRegion
from node.errors import VerdictRefused

MOST, MOST_POINTS = 100, 500
FINE = 1.0  #: pixels that an outline may be off when its corners are thinned out

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One region: (column, row) in pixels, the top left pixel's centre at (0.5, 0.5)."""

    uid: str  #: Tracking UID of the proposal that it was; empty: it is new
    finding: str
    image: str
    frame: int
    outline: Outline = field(repr=False)


def proposals(ours: Ours, job: str, sizes: Mapping[str, tuple[int, int]]) -> list[Drawn]:
    """Our outlines of what we say is there. `sizes`: (rows, columns) by image. Each part of a mask is one of its own."""
    masks = ours.planes(job)
    found: list[Drawn] = []
    for told in (one for one in ours.told.values() if one.job == job and one.present is not False):
        for image, frame, outline in _outlines(told, masks.get(told.segment, {}), sizes):
            found.append(Drawn(uid=told.tracking_uid, finding=told.finding, image=image, frame=frame, outline=outline))
    return found


def answers(job: str, before: Sequence[Drawn], drawn: Sequence[Drawn], sizes: Mapping[str, tuple[int, int]], reason: str) -> list[Answer]:
    """What the drawing says, finding by finding. Raises VerdictRefused for what is no region of these images."""
    if len(drawn) > MOST:
        raise VerdictRefused(f"there are more than {MOST} regions")
    for one in drawn:
        _check(one, sizes)
    known = {one.uid: one.finding for one in before}
    said: list[Answer] = []
    for uid, finding in known.items():
        was, now = ([one for one in some if one.uid == uid] for some in (before, drawn))
        if not now:
            said.append(Answer(job=job, opinion=Opinion.REJECT, tracking_uid=uid, reason=reason))
        elif _same(was, now):
            said.append(Answer(job=job, opinion=Opinion.ACCEPT, tracking_uid=uid, reason=reason))
        else:
            first, *others = sorted(now, key=lambda one: -_area(one.outline))
            said.append(Answer(job=job, opinion=Opinion.MODIFY, tracking_uid=uid, reason=reason, region=_region(first)))
            said += [_missed(job, one, finding, reason) for one in others]  # an answer has one region
    said += [_missed(job, one, one.finding, reason) for one in drawn if one.uid not in known]
    return said


# --- below ------------------------------------------------------------------------------------------------------------------
def _outlines(told: Told, planes: Planes, sizes: Mapping[str, tuple[int, int]]) -> list[tuple[str, int, Outline]]:
    if planes:
        return [(image, frame, part) for (image, frame), mask in planes.items() if image in sizes for part in _parts(mask)]
    if told.outline is None or told.image not in sizes:
        return []
    if float(told.outline[:, 0].max()) <= MARK * sizes[told.image][1]:
        return []  # a bar at the edge stands for a finding without a place
    points = told.outline[:-1] if np.array_equal(told.outline[0], told.outline[-1]) else told.outline
    return [(told.image, told.frame, _points(points))] if len(points) > 2 else []


def _parts(mask: NDArray[np.bool_]) -> list[Outline]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thinned = [cv2.approxPolyDP(one, FINE, True)[:, 0].astype(np.float64) + 0.5 for one in contours]
    return [_points(one) for one in sorted(thinned, key=len, reverse=True) if len(one) > 2]


def _points(points: NDArray[np.float64]) -> Outline:
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in points)


def _same(was: Sequence[Drawn], now: Sequence[Drawn]) -> bool:
    rest = list(now)
    for one in was:
        found = next((other for other in rest if (other.image, other.frame) == (one.image, one.frame) and _alike(one, other)), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest


def _alike(one: Drawn, other: Drawn) -> bool:
    if one.outline == other.outline:
        return True
    dice = dice_of(_closed(one.outline), _closed(other.outline))
    return dice is not None and dice >= SAME


def _closed(outline: Outline) -> NDArray[np.float64]:
    return np.asarray([*outline, outline[0]], np.float64)


def _area(outline: Outline) -> float:
    x, y = np.asarray(outline).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _region(one: Drawn) -> ReaderRegion:
    return ReaderRegion(image=CleanUid(one.image), frame=one.frame, outline=(*one.outline, one.outline[0]))


def _missed(job: str, one: Drawn, finding: str, reason: str) -> Answer:
    return Answer(job=job, opinion=Opinion.MISSED, finding=finding, reason=reason, region=_region(one))


def _check(one: Drawn, sizes: Mapping[str, tuple[int, int]]) -> None:
    if one.image not in sizes:
        raise VerdictRefused("a region lies on an image that was not analysed")
    rows, columns = sizes[one.image]
    if not 3 <= len(one.outline) <= MOST_POINTS:
        raise VerdictRefused(f"a region has 3 to {MOST_POINTS} corners")
    if any(not (0 <= x <= columns and 0 <= y <= rows) for x, y in one.outline) or _area(one.outline) < 1:
        raise VerdictRefused("a region lies within the image and covers at least a pixel")
