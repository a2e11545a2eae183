"""What every report of a result has: its context, the answer in words, what was looked at, and references by study and series."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard

from node.codes import IMAGING, Code
from node.domain import Finding, Instance, Result, Role, Series
from node.imaging.volume import Volume
from node.picture import headline, said
from node.provenance import RESEARCH, Provenance

PROCEDURES = {  # Procedure Reported when the images name none, CID 100
    "CT": standard.LN.CTUnspecifiedBodyRegion,
    "MR": standard.LN.MRIUnspecifiedBodyRegion,
    "PT": standard.LN.PETUnspecifiedBodyRegion,
    "NM": standard.LN.NMUnspecifiedBodyRegion,
    "CR": standard.LN.XRUnspecifiedBodyRegion,
    "DX": standard.LN.XRUnspecifiedBodyRegion,
}
NORMAL = {"normal"}  #: labels that are no finding
NO_OUTLINE = "A finding without a place has a short mark at the left edge of the key image, so that viewers show its numbers: no outline."


def told(result: Result) -> list[Finding]:
    """Findings that something is said about; a label that was not trained stands in the summary only."""
    return [f for f in result.findings if f.probability is not None or f.present is not None or f.measurements]


def found(result: Result) -> bool:
    """Whether there is anything to look at: a finding that is present, or was measured without being decided. Normal is no finding."""
    return any(f.present or (f.present is None and f.measurements) for f in result.findings if f.name not in NORMAL)


# --- in words: TID 2000 ---------------------------------------------------------------------------------------------------
def text_report(result: Result, provenance: Provenance, header: Dataset, images: Sequence[sr.ImageContentItem] = ()) -> Dataset:
    """The answer as a page of text, and the images that show it."""
    root = sr.ContainerContentItem(standard.LN.DiagnosticImagingReport, template_id="2000")
    summary = sr.ContainerContentItem(standard.LN.Summary, relationship_type=Relation.CONTAINS)
    summary.ContentSequence = texts(result, provenance)
    findings = sr.ContainerContentItem(standard.LN.Findings, relationship_type=Relation.CONTAINS)
    findings.ContentSequence = sr.ContentSequence([sr.TextContentItem(standard.DCM.Finding, headline(result), Relation.CONTAINS), *images])
    root.ContentSequence = sr.ContentSequence([*context(provenance, header), summary, findings])
    return root


# --- every report ----------------------------------------------------------------------------------------------------------
def document(
    root: Dataset,
    provenance: Provenance,
    *,
    role: Role,
    sop_class_uid: str,
    header: Dataset,
    images: Sequence[Instance],
    objects: Sequence[Dataset] = (),
    predecessor: tuple[str, str] | None = None,
) -> Dataset:
    """The object around a content tree: complete, unverified, preliminary.

    Parameters
    ----------
    header : data set
        An image of the series that was looked at: patient and study.
    images, objects
        What the tree refers to: images of the patient, objects of this result.
    predecessor : (SOP Class UID, SOP Instance UID) or None
        The report this one replaces.

    Notes
    -----
    Referenced Request Sequence is left out: its Accession Number would name the order, and the hall does not know it. The study's own
    Accession Number comes back on the way home.

    Standard: PS3.3 C.17.2.
    """
    ds = provenance.new_object(role, sop_class_uid=sop_class_uid, modality="SR", source=header)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.CompletionFlagDescription = RESEARCH
    ds.PerformedProcedureCodeSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = [evidence(images, objects, ds.StudyInstanceUID)]
    if predecessor is not None:
        ds.PredecessorDocumentsSequence = [_replaced(predecessor, ds.StudyInstanceUID, provenance)]
    for element in root:
        ds[element.tag] = element
    return ds


def context(provenance: Provenance, header: Dataset) -> list[sr.ContentItem]:
    """Language (TID 1204), the device that observed (TID 1004), what procedure (TID 1500 row 4)."""
    procedure = sr.CodeContentItem(standard.DCM.ProcedureReported, _procedure(header), Relation.HAS_CONCEPT_MOD)
    language = sr.LanguageOfContentItemAndDescendants(sr.CodedConcept("en-US", "RFC5646", "English (United States)"))
    return [*language, *provenance.observer(), procedure]


def _procedure(header: Dataset) -> Code:
    for item in header.get("ProcedureCodeSequence") or ():
        if item.get("CodeValue") and item.get("CodingSchemeDesignator") and item.get("CodeMeaning"):
            return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
    return PROCEDURES.get(str(header.get("Modality") or ""), IMAGING)


def texts(result: Result, provenance: Provenance, *, marks: bool = False) -> sr.ContentSequence:
    """The overall answer, then every finding in words, remarks, and what the report is not.

    `marks`: findings without a place are marked at the edge of an image, and the words say so.
    """
    maker = provenance.maker
    lines = [(standard.DCM.Conclusion, f"{provenance.job.route.pipeline}: {headline(result).rstrip('.')}.")]
    if result.analysed and not any(finding.present or (finding.present is None and finding.measurements) for finding in result.findings):
        lines.append((standard.DCM.Conclusion, "Nothing was found of what the model looks for."))
    lines += [(standard.DCM.Finding, said(finding)) for finding in result.findings]
    if marks and any(finding.region is None and finding.segment is None for finding in told(result)):
        lines.append((standard.DCM.Comment, NO_OUTLINE))
    lines += [(standard.DCM.Comment, note) for note in result.notes]
    lines.append((standard.DCM.Comment, f"Model {maker.name} {maker.version}, weights SHA-256 {maker.digest}."))
    if link := provenance.job.reading_link:
        lines += [(standard.DCM.Comment, provenance.link_said(link)), (standard.DCM.URI, link.url)]
    lines.append((standard.DCM.Comment, f"{RESEARCH}. Made by software, not verified by a person."))
    return sr.ContentSequence([sr.TextContentItem(name, text, Relation.CONTAINS) for name, text in lines])


def looked_at(volume: Volume | None, series: Series) -> list[Instance]:
    """What was looked at, each instance once: the volume's images; the whole series when it was read image by image, or not at all."""
    if volume is None or (len(volume.frames) == 1 and len(series.instances) > 1):
        used = tuple(instance for instance in series.instances if "Rows" in instance.header) or series.instances
    else:
        used = tuple(frame.instance for frame in volume.frames)
    beside = () if volume is None else tuple(instance for one in volume.beside for instance in one.series.instances)
    return list({instance.sop_instance_uid: instance for instance in (*used, *beside)}.values())


def evidence(images: Sequence[Instance], results: Sequence[Dataset], study_instance_uid: str) -> Dataset:
    """Hierarchical SOP Instance Reference Macro, PS3.3 C.17.2.1: every object the report refers to, by series."""
    by_series: dict[str, list[tuple[str, str]]] = {}
    for instance in images:
        by_series.setdefault(str(instance.header.SeriesInstanceUID), []).append((instance.sop_class_uid, instance.sop_instance_uid))
    for ds in results:
        by_series.setdefault(str(ds.SeriesInstanceUID), []).append((ds.SOPClassUID, ds.SOPInstanceUID))
    return hierarchy(study_instance_uid, by_series)


def _replaced(predecessor: tuple[str, str], study_instance_uid: str, provenance: Provenance) -> Dataset:
    """PS3.3 C.17.2: the report this one replaces. Its series follows from its name."""
    return hierarchy(study_instance_uid, {provenance.series_uid(predecessor[1]): [predecessor]})


def hierarchy(study_instance_uid: str, by_series: dict[str, list[tuple[str, str]]]) -> Dataset:
    """References (SOP Class, SOP Instance UID) by Series Instance UID. PS3.3 Table C.17-3."""
    top = Dataset()
    top.StudyInstanceUID = study_instance_uid
    top.ReferencedSeriesSequence = []
    for series_instance_uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_instance_uid
        item.ReferencedSOPSequence = []
        for sop_class_uid, sop_instance_uid in references:
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
            item.ReferencedSOPSequence.append(reference)
        top.ReferencedSeriesSequence.append(item)
    return top
