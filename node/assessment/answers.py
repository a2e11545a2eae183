"""What one object of a reader says, answer by answer. Pure: what came home on one side, what we told on the other."""

from __future__ import annotations

from dataclasses import dataclass

from node.domain import Opinion, ReaderRegion

KEPT, EMPTIED, REMOVED = "kept as it was", "its segment was emptied", "its segment was removed"
BY_LABEL, BY_FINDING = "known by its label", "known by its finding on that image"
OURS = frozenset({KEPT, EMPTIED, REMOVED, BY_LABEL, BY_FINDING})  #: reasons that are our own words
SAME = 0.995  #: Dice of two outlines that are the same but for rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict without who, when and where it is kept."""

    job: str
    opinion: Opinion
    tracking_uid: str = ""
    finding: str = ""
    reason: str = ""
    region: ReaderRegion | None = None
    dice: float | None = None
    form: str = ""  #: of a page: one that is sent twice says what was missed once
