"""One Result, many encodings: which writer makes which kind of object, and which of them a report may refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from node.codes import LABEL_MAP
from node.domain import Result, Role, Series, Study
from node.editable_sr_writer import write_editable_sr
from node.imaging.volume import Volume
from node.ko_writer import write_ko
from node.pdf_writer import write_pdf
from node.pm_writer import write_pm
from node.pr_writer import write_pr
from node.profiles import beside, wanted
from node.provenance import Provenance
from node.result_check import check
from node.rtstruct_writer import write_rtstruct
from node.sc_writer import write_keys, write_sc
from node.seg_writer import overlap, write_seg
from node.sr_writer import write_sr
from node.text_sr_writer import write_text_sr

Writes = Callable[[Study, Volume, Result, Provenance], Dataset | None]

#: what shows the result itself; none of them refers to another
SHOWING: Mapping[Role, Writes] = {
    Role.SEG: write_seg,
    Role.SEG_LABELMAP: partial(write_seg, role=Role.SEG_LABELMAP),
    Role.SEG_FRACTIONAL: partial(write_seg, role=Role.SEG_FRACTIONAL),
    Role.SC: write_sc,
    Role.KEYS: write_keys,
    Role.PR: write_pr,
    Role.PM: write_pm,
    Role.RTSTRUCT: write_rtstruct,
    Role.SR_EDITABLE: write_editable_sr,
}
SEGMENTS = (Role.SEG, Role.SEG_LABELMAP, Role.SEG_FRACTIONAL)  # the report refers to the first there is


def written(
    study: Study,
    series: Series,
    volume: Volume | None,
    result: Result,
    provenance: Provenance,
    predecessor: tuple[str, str] | None = None,
) -> dict[Role, Dataset]:
    """The objects of a job, in the order in which they may refer to each other.

    Parameters
    ----------
    volume : Volume or None
        None when the series could not be opened; only reports are written then.
    predecessor : (SOP Class UID, SOP Instance UID) or None
        The report that this result replaces.

    Raises
    ------
    ResultInvalid
        When the result does not fit its images, or says what no object can: nothing is written then.
    """
    route = provenance.job.route
    kinds = wanted(route)
    check(volume, result)
    made: dict[Role, Dataset] = {}
    if result.analysed and volume is not None:
        for role, write in SHOWING.items():
            if role not in kinds or (role is Role.SEG_LABELMAP and overlap(result.segments)):
                continue  # overlapping segments have no label map; where nothing else was asked for the report says where they are
            if (ds := write(study, volume, result, provenance)) is not None:
                made[role] = ds

    def there(role: Role) -> Mapping[Role, Dataset]:
        return {other: made[other] for other in beside(route, role) if other in made}

    if Role.PDF in kinds:
        made[Role.PDF] = write_pdf(study, volume, result, provenance, series=series)
    if Role.TEXT in kinds:
        pictures = _first(there(Role.TEXT), (Role.SC,), (Role.KEYS,))
        replaces = predecessor if predecessor and predecessor[0] == BasicTextSRStorage else None
        made[Role.TEXT] = write_text_sr(study, volume, result, provenance, pictures=pictures, series=series, predecessor=replaces)
    for role in (one for one in (Role.SR, Role.SR_ENHANCED) if one in kinds):
        seen = there(role)
        seg = next(iter(_first(_well_known(seen), SEGMENTS) or _first(seen, SEGMENTS)), None)
        replaces = predecessor if predecessor and predecessor[0] != BasicTextSRStorage else None
        shown = {"seg": seg, "sc": seen.get(Role.SC)}
        made[role] = write_sr(study, volume, result, provenance, **shown, series=series, predecessor=replaces, role=role)
    if Role.KO in kinds and volume is not None:
        ko = write_ko(study, volume, result, provenance, objects=_without_twins(there(Role.KO)))
        if ko is not None:
            made[Role.KO] = ko
    return made


def _without_twins(there: Mapping[Role, Dataset]) -> list[Dataset]:
    """One segmentation is enough to look at."""
    there = _well_known(there)
    seg = _first(there, SEGMENTS)
    return [*seg, *(ds for role, ds in there.items() if role not in SEGMENTS)]


def _well_known(there: Mapping[Role, Dataset]) -> dict[Role, Dataset]:
    """Without label maps: programs that don't know one lose a document over it."""
    return {role: ds for role, ds in there.items() if ds.SOPClassUID != LABEL_MAP}


def _first(there: Mapping[Role, Dataset], *choices: Iterable[Role]) -> list[Dataset]:
    """Of each choice the first that there is."""
    found = (next((there[role] for role in choice if role in there), None) for choice in choices)
    return [ds for ds in found if ds is not None]
