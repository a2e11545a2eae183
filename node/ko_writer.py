"""Result → Key Object Selection: the slices that matter and what was made of them, so that a reader gets there with one click."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import KeyObjectSelectionDocumentStorage

from node.codes import Code
from node.domain import Result, Role, Study
from node.imaging.decode import frame_count
from node.imaging.volume import Volume
from node.picture import headline, key_frames, place, said
from node.provenance import RESEARCH, Provenance
from node.report import evidence, found

SOURCE = Code("260753009", "SCT", "Source")


def write_ko(study: Study, volume: Volume, result: Result, provenance: Provenance, *, objects: Sequence[Dataset]) -> Dataset | None:
    """The key slices, then the objects of the result that lie beside them; None when nothing was found: no slice matters then.

    Standard: PS3.3 A.35.4; PS3.16 TID 2010, titled (113000, DCM, "Of Interest").
    """
    if not result.analysed or not found(result):
        return None
    shown = key_frames(volume, result)
    images = [volume.frames[at].instance for at in shown]
    ds = provenance.new_object(Role.KO, sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO", source=images[0].header)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = [
        evidence(list({i.sop_instance_uid: i for i in images}.values()), objects, ds.StudyInstanceUID)
    ]

    root = sr.ContainerContentItem(codes.DCM.OfInterest, template_id="2010")
    items: list[sr.ContentItem] = list(provenance.observer())
    items.append(sr.TextContentItem(codes.DCM.KeyObjectDescription, _description(volume, result, provenance, shown), Relation.CONTAINS))
    items += [_image(volume, at) for at in shown]
    items += [_object(one) for one in objects]
    root.ContentSequence = sr.ContentSequence(items)
    for element in root:
        ds[element.tag] = element
    return ds


def _description(volume: Volume, result: Result, provenance: Provenance, shown: Sequence[int]) -> str:
    present = [said(finding) for finding in result.findings if finding.present]
    where = "; ".join(place(volume, at) for at in shown)
    return f"{provenance.job.route.pipeline}: {headline(result)}. {' '.join(f'{one}.' for one in present)} Where it shows best: {where}. {RESEARCH}."


def _image(volume: Volume, at: int) -> sr.ContentItem:
    frame = volume.frames[at]
    numbers = [frame.number] if frame_count(frame.instance.header) > 1 else None
    return sr.ImageContentItem(
        SOURCE, frame.instance.sop_class_uid, frame.instance.sop_instance_uid, numbers, relationship_type=Relation.CONTAINS
    )


def _object(ds: Dataset) -> sr.ContentItem:
    """IMAGE for what has pixels, else COMPOSITE."""
    kind = sr.ImageContentItem if "Rows" in ds else sr.CompositeContentItem
    return kind(SOURCE, ds.SOPClassUID, ds.SOPInstanceUID, relationship_type=Relation.CONTAINS)
