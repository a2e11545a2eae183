"""The nouns of the hall. None of them has a person's name; their named twins live in `identified/named.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.codes import Code
from node.off_peak import Window

Pseudonym = NewType("Pseudonym", str)  #: a patient everywhere outside the identified wing
CleanUid = NewType("CleanUid", str)  #: a UID of the hall: keyed hash of the original, in 2.25


# --- how things came ---------------------------------------------------------------------------------------------------
class Channel(StrEnum):
    """The door an instance came through."""

    DIMSE = "dimse"
    STOW = "stow"
    ORTHANC = "orthanc"
    FOLDER = "folder"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How an instance came. Sending and Receiving AE Title, PS3.10 Table 7.1-1."""

    channel: Channel
    received_at: datetime
    calling_ae: str = ""
    called_ae: str = ""
    peer: str = ""  #: network address, or the name of the Orthanc in the settings


# --- Study, Series, Instance: PS3.3 information entities ------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRef:
    """Which study, as it stood at which revision. A late image makes the next revision."""

    study: CleanUid
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One SOP Instance without a name: its header (no Pixel Data) and where its file lies."""

    header: Dataset = field(repr=False)
    path: Path

    @property
    def sop_instance_uid(self) -> CleanUid:
        return CleanUid(str(self.header.SOPInstanceUID))

    @property
    def sop_class_uid(self) -> str:
        return str(self.header.SOPClassUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The instances of one Series Instance UID, in no promised order: `imaging` orders them in space."""

    series_instance_uid: CleanUid
    modality: str
    instances: tuple[Instance, ...]

    @property
    def header(self) -> Dataset:
        """The first instance's header: what rules ask of a series."""
        return self.instances[0].header


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One de-identified study at one revision."""

    ref: StudyRef
    pseudonym: Pseudonym
    origin: Origin
    folder: Path  #: holds `study.json` and one folder a series
    series: tuple[Series, ...]

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)


# --- what becomes of a result ---------------------------------------------------------------------------------------------
class Role(StrEnum):
    """What an object of a result is for: its kind. One object, one series. New kinds come last: Series Numbers count along."""

    SEG = "SEG"
    SC = "SC"
    SR = "SR"
    PR = "PR"  #: Grayscale or Color Softcopy Presentation State
    KO = "KO"  #: Key Object Selection
    PDF = "PDF"  #: Encapsulated PDF
    PM = "PM"  #: Parametric Map
    RTSTRUCT = "RTSTRUCT"
    TEXT = "TEXT"  #: Basic Text SR
    KEYS = "KEYS"  #: Secondary Capture: one page with the key images
    SEG_LABELMAP = "SEG-LABELMAP"
    SEG_FRACTIONAL = "SEG-FRACTIONAL"
    SR_ENHANCED = "SR-ENHANCED"  #: the SR as Enhanced SR, for those who take no Comprehensive one
    SR_EDITABLE = "SR-EDITABLE"  #: outlines alone, in the words of OHIF's own measurements, to be taken over and changed there


DEFAULT_KINDS = (Role.SEG, Role.SC, Role.SR)  #: what a destination without a profile gets


# --- rules and jobs -------------------------------------------------------------------------------------------------------
class Priority(StrEnum):
    """STAT is served before ROUTINE, PS3.3 C.30.2 Scheduled Procedure Step Priority."""

    STAT = "STAT"
    ROUTINE = "ROUTINE"


class JobState(StrEnum):
    """Unified Procedure Step states, PS3.4 CC.1.1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendIf:
    """What a job found sends its objects to more destinations."""

    finding: str  #: its name, as `/predict` shows it
    low: float = 0.0  #: of its probability, both included
    high: float = 1.0
    present: bool | None = None  #: the decision at the bundle's threshold; None: either
    destinations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule met a series: this pipeline, these destinations, because."""

    rule: str
    series: CleanUid
    pipeline: str
    destinations: tuple[str, ...]
    priority: Priority = Priority.ROUTINE
    reasons: tuple[str, ...] = ()
    kinds: tuple[tuple[str, tuple[Role, ...]], ...] = ()  #: what each destination gets; empty: `DEFAULT_KINDS` for all
    between: tuple[Window, ...] = ()  #: when its job may start; empty: at once
    send_if: tuple[SendIf, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Who computed it. Algorithm Identification Macro, PS3.3 Table 10-19; TID 4019."""

    name: str
    version: str
    digest: str  #: SHA-256 of the weights, hexadecimal
    family: Code
    source: str = "Radnode"


class VersionState(StrEnum):
    """What an installed version of a pipeline's bundle is for. Exactly one version of a pipeline is active."""

    ACTIVE = "active"  #: its results go home
    SHADOW = "shadow"  #: runs beside the active one; its results are kept and delivered nowhere
    RETIRED = "retired"  #: does not run


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLink:
    """Where a result is read and answered without a password, and how long."""

    url: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A Route being carried out. `id` derives from its inputs, pipeline, version and digest: same work, same name."""

    id: str
    study: StudyRef
    pseudonym: Pseudonym
    folder: Path  #: the clean study's folder
    route: Route
    algorithm: Algorithm
    inputs: tuple[CleanUid, ...]  #: SOP Instance UIDs of the series, sorted
    state: JobState = JobState.SCHEDULED
    attempts: int = 0
    reason: str = ""
    predecessor: str = ""  #: id of the job whose result this one replaces, or empty
    not_before: datetime | None = None  #: it waits until then; None: it may start at once
    shadow: bool = False  #: of a version in the shadow: nothing is delivered, and no report names it as predecessor
    told: Mapping[str, float | str] = field(default_factory=dict)  #: of the patient, beside the images: goes before the header
    reading_link: ReadingLink | None = None  #: what its reports carry; made once, so that a retry writes the same bytes
    picture: bool = False  #: made of pictures that know no place in a patient (PNG, JPEG): one by itself is a whole volume


# --- what a pipeline found ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number about a finding. Becomes a NUM content item (TID 300)."""

    name: Code  #: what was measured, e.g. (118565006, SCT, "Volume")
    value: float
    unit: Code  #: UCUM, e.g. mL


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where on one image: a closed outline, (points, 2) float array of (column, row) in pixels, top left pixel's centre at (0.5, 0.5).

    `frame` counts along the volume's first axis from 0. Becomes a SCOORD POLYLINE (PS3.3 C.18.6).
    """

    frame: int
    outline: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for: a coded concept, its probability, where. TID 1500: Finding (121071, DCM)."""

    name: str  #: the label as `/predict` shows it, e.g. "infection"
    code: Code
    probability: float | None  #: 0 to 1; None: the label was not trained, and nothing is said about it
    present: bool | None  #: the decision at the bundle's threshold; None when not trained
    site: Code | None = None
    laterality: Code | None = None
    measurements: tuple[Measurement, ...] = ()
    region: Region | None = None  #: on the key image
    segment: int | None = None  #: number of the Segment that shows it, if any


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A mask and what it shows. Segment Description, PS3.3 C.8.20.2."""

    number: int  #: 1, 2, 3 … without gaps
    label: str
    mask: NDArray[np.bool_]  #: (frames, rows, columns), on the grid of the volume it was computed from
    category: Code
    type: Code
    color: tuple[int, int, int]  #: RGB, 0 to 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Where the model looked, on the volume's grid: float32 (frames, rows, columns), 0 to 1."""

    title: str
    values: NDArray[np.float32]
    frames: tuple[int, ...]  #: those worth showing, most telling first
    segment: int | None = None  #: the values are the chance that the pixel belongs to this segment; None: they say something else
    over: NDArray[np.float32] | None = None  #: what it is painted over, 0 to 1, on the same grid; None: the image itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one Job found. With `analysed` false there are no findings, and `reason` says why: never silence."""

    analysed: bool
    reason: str = ""
    label: str = ""  #: the headline, e.g. "infection" or "benign"
    confidence: float | None = None
    findings: tuple[Finding, ...] = ()
    segments: tuple[Segment, ...] = ()
    heatmap: Heatmap | None = None
    notes: tuple[str, ...] = ()  #: quality remarks a reader should see
    facts: dict[str, Any] = field(default_factory=dict)  #: processing parameters, JSON values only


# --- what a reader says of it ---------------------------------------------------------------------------------------------
class Opinion(StrEnum):
    """A reader's answer to a finding, or to a whole result. IHE AIRA: accept, modify, reject; and what the model did not see."""

    ACCEPT = "accept"
    MODIFY = "modify"  #: it is there, elsewhere or of another extent
    REJECT = "reject"
    MISSED = "missed"  #: the reader found it, the model did not


class VerdictSource(StrEnum):
    """How the answer came home."""

    SR = "SR"
    SEG = "SEG"
    PAGE = "page"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRegion:
    """Where a reader sees a finding: an outline on one image, or a segment of a SEG that lies on the clean volume."""

    image: CleanUid = CleanUid("")  #: SOP Instance UID
    frame: int = 1  #: within the image, from 1
    outline: tuple[tuple[float, float], ...] = ()  #: (column, row) in pixels, top left pixel's centre at (0.5, 0.5)
    file: Path | None = None  #: below the clean volume
    segment: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A reader's agreement with a finding or correction of it, by Tracking UID. `id` derives from who said what of which."""

    id: str
    job: str
    opinion: Opinion
    source: VerdictSource
    at: datetime  #: when the node heard it
    tracking_uid: str = ""  #: (0062,0021), (112040, DCM); empty: the result as a whole
    finding: str = ""  #: its name
    reader: str = ""  #: a keyed hash of who it was; empty: nobody is named
    reason: str = ""
    object: CleanUid = CleanUid("")  #: the SR or SEG that says so; empty: the page
    region: ReaderRegion | None = None
    dice: float | None = None  #: of the reader's region with ours, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenObject:
    """One DICOM object of a result, still without a name, as a file on the clean volume."""

    job: str
    study: CleanUid
    role: Role
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
