"""Which kinds of objects a destination gets: by the name of what stands there, or kind by kind. Data; what was seen is in docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydicom.uid import (
    BasicTextSRStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from node.codes import LABEL_MAP
from node.domain import DEFAULT_KINDS, Role, Route

#: what each viewer or archive can really show
PROFILES: Mapping[str, tuple[Role, ...]] = {
    "default": DEFAULT_KINDS,
    "ohif": (*DEFAULT_KINDS, Role.PM, Role.PDF, Role.KEYS, Role.SR_EDITABLE),  # lists GSPS and KO with a warning sign and can't open them
    "weasis": (*DEFAULT_KINDS, Role.PR, Role.KO, Role.PDF),  # draws presentation states; links in an SR are not drawn
    "slicer": (*DEFAULT_KINDS, Role.PM, Role.RTSTRUCT),  # older dcmqi reads no label map
    "orthanc": (*DEFAULT_KINDS, Role.PDF, Role.KEYS),  # its own pages show pictures and documents
    "basic-pacs": (Role.SC, Role.TEXT),
    "archive": (*DEFAULT_KINDS, Role.PR, Role.KO, Role.PDF, Role.PM, Role.RTSTRUCT, Role.KEYS),
}
#: transfer syntaxes of segmentations (`seg_syntax.SYNTAXES`), the best first, for a destination that was asked and takes them; viewers read
#: plain ones best, an archive keeps them long
PACKED: Mapping[str, tuple[str, ...]] = {"archive": ("jpeg-ls", "deflated")}
#: each tells a reader when nothing was found, or nothing was analysed
REPORTS = frozenset({Role.SR, Role.SR_ENHANCED, Role.TEXT, Role.PDF})

#: what an object of each kind may be, PS3.4 Annex B.5
SOP_CLASSES: Mapping[Role, tuple[str, ...]] = {
    Role.SEG: (SegmentationStorage, LABEL_MAP),  # a label map only where viewers cut frames of single bits wrongly
    Role.SEG_LABELMAP: (LABEL_MAP,),
    Role.SEG_FRACTIONAL: (SegmentationStorage,),
    Role.SC: (SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage),
    Role.KEYS: (SecondaryCaptureImageStorage,),
    Role.SR: (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage),
    Role.SR_ENHANCED: (EnhancedSRStorage,),
    Role.SR_EDITABLE: (Comprehensive3DSRStorage, ComprehensiveSRStorage),
    Role.TEXT: (BasicTextSRStorage,),
    Role.PDF: (EncapsulatedPDFStorage,),
    Role.PR: (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    Role.KO: (KeyObjectSelectionDocumentStorage,),
    Role.PM: (ParametricMapStorage,),
    Role.RTSTRUCT: (RTStructureSetStorage,),
}
#: what goes nowhere without another: an answer to bare outlines is understood by what the SR says
WITH: Mapping[Role, Role] = {Role.SR_EDITABLE: Role.SR}
#: what goes in place of a kind that a destination does not take: the first of these that it does
INSTEAD: Mapping[Role, tuple[Role, ...]] = {
    Role.SEG: (Role.SC, Role.KEYS),
    Role.SEG_LABELMAP: (Role.SEG, Role.SC, Role.KEYS),
    Role.SEG_FRACTIONAL: (Role.SEG_LABELMAP, Role.SC, Role.KEYS),
    Role.SC: (Role.KEYS,),
    Role.KEYS: (Role.PDF,),
    Role.SR: (Role.SR_ENHANCED, Role.TEXT, Role.PDF, Role.KEYS),
    Role.SR_ENHANCED: (Role.TEXT, Role.PDF, Role.KEYS),
    Role.TEXT: (Role.PDF, Role.KEYS),
    Role.PDF: (Role.TEXT, Role.KEYS),
    Role.PR: (Role.SC, Role.KEYS),
    Role.KO: (),
    Role.SR_EDITABLE: (),
    Role.PM: (Role.SC, Role.KEYS),
    Role.RTSTRUCT: (Role.SEG, Role.SC),
}


def kinds_of(profile: str | Sequence[str]) -> tuple[Role, ...]:
    """The kinds of a profile's name, or of a list of kinds.

    Raises
    ------
    ValueError
        Saying what is wrong and what is known, for whoever wrote the setting.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise ValueError(f"{profile[:40]!r} is no profile; known: {', '.join(PROFILES)}, or a list of {', '.join(Role)}")
        return PROFILES[profile]
    if not isinstance(profile, list | tuple):
        raise ValueError(f"a profile's name ({', '.join(PROFILES)}) or a list of {', '.join(Role)}")
    wrong = [str(kind)[:40] for kind in profile if kind not in set(Role)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no profile ({', '.join(PROFILES)}) and no kind of object; known: {', '.join(Role)}")
    found = tuple(role for role in Role if role in profile)
    if not REPORTS & set(found):
        raise ValueError(f"name a report too ({', '.join(sorted(REPORTS))}): without one nobody hears why a series was not analysed")
    for role in found:
        if role in WITH and WITH[role] not in found:
            raise ValueError(f"name {WITH[role]} too: {role} goes nowhere without it")
    return found


# --- what a destination takes ----------------------------------------------------------------------------------------------
def fitted(kinds: Sequence[Role], accepted: Mapping[str, Sequence[str]]) -> tuple[tuple[Role, ...], list[str]]:
    """The kinds that a destination gets which accepts these SOP Classes only, and in words what became of the others.

    One that accepts nothing at all gets what was asked for: what it refuses is seen then, and nothing is silent.
    """
    if not any(_taken(role, accepted) for role in Role):
        return tuple(kinds), []
    fit, said = {role for role in kinds if _taken(role, accepted)}, []
    for role in kinds:
        if role in fit:
            continue
        other = next((one for one in INSTEAD[role] if _taken(one, accepted)), None)
        fit |= {other} if other else set()
        said.append(f"no {role} is taken: {other if other else 'nothing'} in its place")
    return tuple(role for role in Role if role in fit), said


def _taken(role: Role, accepted: Mapping[str, Sequence[str]]) -> bool:
    needed = SOP_CLASSES[role][:1] if role is Role.SEG else SOP_CLASSES[role]
    return all(uid in accepted for uid in needed) and (role not in WITH or _taken(WITH[role], accepted))


# --- what a route asks for -------------------------------------------------------------------------------------------------
def wanted(route: Route) -> tuple[Role, ...]:
    """The kinds that a job of this route writes: all that its destinations ask for."""
    asked = {role for _, kinds in route.kinds for role in kinds}
    return tuple(role for role in Role if role in asked) or DEFAULT_KINDS


def takers(route: Route, role: Role, sent_on: Iterable[str] = ()) -> tuple[str, ...]:
    """The destinations that get objects of this kind, those that a finding sends the result on to among them.

    One that nothing is said of (an older job's) gets what the job wrote.
    """
    said = dict(route.kinds)
    return tuple(name for name in dict.fromkeys((*route.destinations, *sent_on)) if name not in said or role in said[name])


def beside(route: Route, role: Role) -> tuple[Role, ...]:
    """The kinds that lie beside an object of kind `role` wherever it goes: it may refer to them and to no others."""
    together = [set(kinds) for _, kinds in route.kinds if role in kinds]
    return tuple(one for one in wanted(route) if all(one in kinds for kinds in together))
