"""Which kinds of objects a destination gets: by the name of what stands there, or kind by kind. Data; what was seen is in docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node.domain import DEFAULT_KINDS, Role, Route

#: what each viewer or archive can really show
PROFILES: Mapping[str, tuple[Role, ...]] = {
    "default": DEFAULT_KINDS,
    "ohif": (*DEFAULT_KINDS, Role.PM, Role.PDF, Role.KEYS),  # lists GSPS and KO with a warning sign and can't open them
    "weasis": (*DEFAULT_KINDS, Role.PR, Role.KO, Role.PDF),  # draws presentation states; links in an SR are not drawn
    "slicer": (*DEFAULT_KINDS, Role.PM, Role.RTSTRUCT),  # dcmqi reads no label map
    "orthanc": (*DEFAULT_KINDS, Role.PDF, Role.KEYS),  # its own pages show pictures and documents
    "basic-pacs": (Role.SC, Role.TEXT),
    "archive": (*DEFAULT_KINDS, Role.PR, Role.KO, Role.PDF, Role.PM, Role.RTSTRUCT, Role.KEYS),
}
#: each tells a reader when nothing was found, or nothing was analysed
REPORTS = frozenset({Role.SR, Role.TEXT, Role.PDF})


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
    return found


# --- what a route asks for -------------------------------------------------------------------------------------------------
def wanted(route: Route) -> tuple[Role, ...]:
    """The kinds that a job of this route writes: all that its destinations ask for."""
    asked = {role for _, kinds in route.kinds for role in kinds}
    return tuple(role for role in Role if role in asked) or DEFAULT_KINDS


def takers(route: Route, role: Role) -> tuple[str, ...]:
    """The destinations that get objects of this kind. One that nothing is said of (an older job's) gets what the job wrote."""
    said = dict(route.kinds)
    return tuple(name for name in route.destinations if name not in said or role in said[name])


def beside(route: Route, role: Role) -> tuple[Role, ...]:
    """The kinds that lie beside an object of kind `role` wherever it goes: it may refer to them and to no others."""
    together = [set(kinds) for _, kinds in route.kinds if role in kinds]
    return tuple(one for one in wanted(route) if all(one in kinds for kinds in together))
