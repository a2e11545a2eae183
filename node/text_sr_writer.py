"""Result → Basic Text SR: the answer in words, with links to the pictures, for archives and viewers that know no other report."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from node.codes import Code
from node.domain import Result, Role, Series, Study
from node.imaging.decode import frame_count
from node.imaging.volume import Frame, Volume
from node.picture import key_frames
from node.provenance import Provenance
from node.report import document, looked_at, text_report

SOURCE = Code("260753009", "SCT", "Source")
BEST_ILLUSTRATION = Code("121200", "DCM", "Illustration of ROI")


def write_text_sr(
    study: Study,
    volume: Volume | None,
    result: Result,
    provenance: Provenance,
    *,
    pictures: Sequence[Dataset],
    series: Series,
    predecessor: tuple[str, str] | None = None,
) -> Dataset:
    """The report of one Job without coordinates or coded numbers, unverified.

    Parameters
    ----------
    volume : Volume or None
        None when the series could not even be opened; then the result is "not analysed".
    pictures : data sets
        Images of this result that lie where the report goes; it links them.
    predecessor : (SOP Class UID, SOP Instance UID) or None
        The Basic Text SR that this one replaces.

    Standard: PS3.3 A.35.1; PS3.16 TID 2000.
    """
    header = volume.frames[0].instance.header if volume is not None else series.header
    links = [_link(volume.frames[at]) for at in key_frames(volume, result)] if volume is not None and result.analysed else []
    links += [
        sr.ImageContentItem(BEST_ILLUSTRATION, one.SOPClassUID, one.SOPInstanceUID, relationship_type=Relation.CONTAINS) for one in pictures
    ]
    return document(
        text_report(result, provenance, header, links),
        provenance,
        role=Role.TEXT,
        sop_class_uid=BasicTextSRStorage,
        header=header,
        images=looked_at(volume, series),
        objects=pictures,
        predecessor=predecessor,
    )


def _link(frame: Frame) -> sr.ImageContentItem:
    numbers = [frame.number] if frame_count(frame.instance.header) > 1 else None
    return sr.ImageContentItem(
        SOURCE, frame.instance.sop_class_uid, frame.instance.sop_instance_uid, numbers, relationship_type=Relation.CONTAINS
    )
