"""Words for agreement: which coded value, under which concept, is an accept, a modify, a reject.

Codes first, as data with their origin. Vendors' own codes (private schemes) are understood by the meaning of concept and value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from node.codes import Code
from node.domain import Opinion

# Our own, where the Standard has none
ASSESSMENT = Code("ASSESSMENT", "99RADNODE", "Assessment of AI result")
ACCEPTED = Code("ACCEPTED", "99RADNODE", "AI result accepted")
MODIFIED = Code("MODIFIED", "99RADNODE", "AI result modified")
REJECTED = Code("REJECTED", "99RADNODE", "AI result rejected")
MISSED = Code("MISSED", "99RADNODE", "Missed by AI")

#: (value, scheme) → what it means
VALUES: Mapping[tuple[str, str], Opinion] = {
    (ACCEPTED.value, "99RADNODE"): Opinion.ACCEPT,
    (MODIFIED.value, "99RADNODE"): Opinion.MODIFY,
    (REJECTED.value, "99RADNODE"): Opinion.REJECT,
    (MISSED.value, "99RADNODE"): Opinion.MISSED,
    ("AIRA-ACCEPT", "99PACS"): Opinion.ACCEPT,  # an open PACS that speaks IHE AIRA (kcenon/pacs_system)
    ("AIRA-MODIFY", "99PACS"): Opinion.MODIFY,
    ("AIRA-REJECT", "99PACS"): Opinion.REJECT,
    ("122775", "DCM"): Opinion.ACCEPT,  # Agreement with prior findings, CID 3217
    ("122776", "DCM"): Opinion.REJECT,  # Disagreement with prior findings
}

#: meanings of concepts under which a value in words is an answer: "Assessment decision", "AI result disposition", …
_ASKS = re.compile(r"assess|agree|accept|verif|review|decision|disposition|concordan|verdict", re.I)
_REASON = re.compile(r"reason|comment|justif|descri", re.I)
_WORDS = (  # the first that fits: a "modified and accepted" region is a modified one, "not accepted" is no accept
    (Opinion.MISSED, re.compile(r"\b(missed|false negative|overlooked)\b", re.I)),
    (Opinion.REJECT, re.compile(r"\b(reject\w*|disagree\w*|discard\w*|refuted?|false positive|not (accepted|agreed|confirmed))\b", re.I)),
    (Opinion.MODIFY, re.compile(r"\b(modif\w*|edited|corrected|adjusted|changed|amended)\b", re.I)),
    (Opinion.ACCEPT, re.compile(r"\b(accept\w*|agree\w*|confirmed|approved|concordant|true (positive|negative))\b", re.I)),
)


def opinion_of(concept: Code, value: Code) -> Opinion | None:
    """What a coded answer says; None when it is none. `concept`: what was asked, `value`: what was answered."""
    known = VALUES.get((value.value, value.scheme_designator))
    if known is not None:
        return known
    if not _ASKS.search(concept.meaning) or _REASON.search(concept.meaning):
        return None
    return next((opinion for opinion, words in _WORDS if words.search(value.meaning)), None)


def is_reason(concept: Code) -> bool:
    """A coded value or text under this concept says why."""
    return bool(_REASON.search(concept.meaning))
