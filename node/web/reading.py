"""What pages ask readers and hear from them: handed in by assembly, without a name in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.annotations.worth import Worth
from node.assessment.answers import Answer
from node.assessment.told import Ours
from node.ledger.reading_links import Linked
from node.ledger.verdicts import Heard


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingParts:
    """Links, what we told, what was answered, and a way to answer."""

    open: Callable[[str], Linked]  #: what a signed link names; raises LinkRefused
    told: Callable[[str], Ours | None]  #: of a job's study; reads the objects that were sent
    heard: Callable[[str], Sequence[Heard]]  #: answers about a job, the oldest first
    answer: Callable[..., Heard]  #: (job, opinion, reason, who, tracking_uid=, missed=, form=); raises VerdictRefused
    answers: Callable[[str, Sequence[Answer], str], Sequence[Heard]]  #: (job, answers, who): all or none; raises VerdictRefused
    reader_of: Callable[[str], str]  #: the keyed hash under which a reader's answers are kept
    worth: Callable[[], Sequence[Worth]]  #: results that nobody answered, the least certain first
    shows_images: Callable[[str], bool]  #: whether a pipeline looks at each image by itself
