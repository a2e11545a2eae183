"""DICOM SEG beside the clean images it lies on: what readers made of our segments, one object a series and pipeline."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from node import __version__
from node.annotations.examples import Example
from node.codes import MORPHOLOGICALLY_ABNORMAL_STRUCTURE
from node.domain import VerdictSource
from node.ledger.verdicts import verdict_id
from node.provenance import MANUFACTURER, MODEL

SERIES_NUMBER = 9900


def write(examples: Sequence[Example], out: Path) -> dict[str, int]:
    """`segmentations/<series>_<pipeline>.dcm` and the images it refers to in `images/`. Gives how many SEGs, and what was left out.

    Frames of a multi-frame image without a frame of reference are left out: highdicom writes no SEG of them.
    """
    counts: Counter[str] = Counter(segmentations=0)
    ordered = sorted(examples, key=lambda one: (one.series.series_instance_uid, one.pipeline, one.name))
    for _, group in groupby(ordered, key=lambda one: (one.series.series_instance_uid, one.pipeline)):
        usable = [one for one in group if any(label.mask is not None for label in one.labels.values())]
        single = [one for one in usable if one.frames == 1]
        counts["frames of multi-frame images left out"] += len(usable) - len(single)
        if any(label.present and label.mask is not None for one in single for label in one.labels.values()):
            _write_one(single, out)
            counts["segmentations"] += 1
    return {name: count for name, count in counts.items() if count or name == "segmentations"}


def _write_one(examples: Sequence[Example], out: Path) -> None:
    first = examples[0]
    findings = sorted({name for one in examples for name, label in one.labels.items() if label.mask is not None and label.present})
    images = []
    for one in examples:
        path = out / "images" / f"{one.name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.instance.path.read_bytes())
        images.append(dcmread(path))
    masks = np.zeros((len(examples), *first.shape, len(findings)), np.uint8)
    for at, one in enumerate(examples):
        for number, name in enumerate(findings):
            label = one.labels.get(name)
            if label is not None and label.mask is not None:
                masks[at, :, :, number] = label.mask
    said = sorted({verdict for one in examples for verdict in one.verdicts})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a pseudonym is a name of one component, and is meant to be
        ds = _segmentation(first, images, masks, [_description(examples, number, name) for number, name in enumerate(findings, 1)], said)
    _dated(ds, datetime.fromisoformat(max(one.at for one in examples)))
    if hasattr(ds, "DimensionOrganizationSequence"):
        organization = _uid("dimensions", first, said)
        ds.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
        for index in ds.DimensionIndexSequence:
            index.DimensionOrganizationUID = organization
    if "FrameOfReferenceUID" not in ds:
        _flat(ds, images[0])
    path = out / "segmentations" / f"{first.series.series_instance_uid}_{first.pipeline}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)


def _segmentation(
    first: Example,
    images: Sequence[Dataset],
    masks: NDArray[np.uint8],
    descriptions: Sequence[hd.seg.SegmentDescription],
    said: Sequence[str],
) -> hd.seg.Segmentation:
    return hd.seg.Segmentation(
        source_images=list(images),
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=list(descriptions),
        series_instance_uid=_uid("series", first, said),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid("object", first, said),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=__version__,
        device_serial_number="annotations",
        content_label="READERS",
        content_description="What readers made of a result",
        series_description=f"Readers' answers {first.pipeline}"[:64],
    )


def _flat(ds: Dataset, image: Dataset) -> None:
    """Pixel Measures and a plane for images without a frame of reference: viewers go black without them, though the Standard asks for none."""
    measures, plane, position = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing") or [1, 1]
    measures.SliceThickness = 1
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    position.ImagePositionPatient = [0, 0, 0]
    [shared] = ds.SharedFunctionalGroupsSequence
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence = [position]


def _dated(ds: Dataset, moment: datetime) -> None:
    """The same answers give the same bytes: the object's times are those of the last answer, not of this export."""
    for keyword in ("ContentDate", "InstanceCreationDate"):
        setattr(ds, keyword, moment.strftime("%Y%m%d"))
    for keyword in ("ContentTime", "InstanceCreationTime"):
        setattr(ds, keyword, moment.strftime("%H%M%S"))
    ds.ContributingEquipmentSequence[-1].ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")


def _description(examples: Sequence[Example], number: int, name: str) -> hd.seg.SegmentDescription:
    code = next(one.labels[name].code for one in examples if name in one.labels)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
        segmented_property_type=code,
        algorithm_type="MANUAL",
    )


def _uid(what: str, first: Example, said: Sequence[str]) -> UID:
    """Same answers, same name."""
    return UID(f"2.25.{int(verdict_id(first.pipeline, first.series.series_instance_uid, what, ' '.join([VerdictSource.SEG, *said])), 16)}")
