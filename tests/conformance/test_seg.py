"""SEG: valid, read back voxel for voxel, on the images it was computed from, and in the shape that viewers draw."""

from __future__ import annotations

import subprocess
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import perf_counter

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from node import codes
from node.domain import Instance, Role
from node.errors import ResultInvalid
from node.imaging.volume import Frame, Volume
from node.seg_syntax import packed
from node.seg_writer import write_seg
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conftest import need


@pytest.fixture
def ct(tmp_path):
    """A study, its volume, and where its opacity is."""
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)
    return study, volume, cases.opacity(volume.pixels.shape)


def written(study, volume, result, tmp_path, **options):
    """The SEG as a receiver has it."""
    ds = write_seg(study, volume, result, cases.provenance(study), **options)
    path = tmp_path / "seg.dcm"
    ds.save_as(path, enforce_file_format=True)
    return dcmread(path), hd.seg.segread(path)


def masks_by_source(ds, seg, volume: Volume) -> dict[int, np.ndarray]:
    """Segment number → (frames, rows, columns), put back by what each frame says it comes from."""
    where = {(str(f.instance.sop_instance_uid), f.number): i for i, f in enumerate(volume.frames)}
    out: dict[int, np.ndarray] = {}
    frames = seg.pixel_array.reshape(int(ds.NumberOfFrames), ds.Rows, ds.Columns)
    for stored, group in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        at = where[source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1))]
        for number in (
            [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
            if "SegmentIdentificationSequence" in group
            else [item.SegmentNumber for item in ds.SegmentSequence]
        ):
            mask = out.setdefault(number, np.zeros(volume.pixels.shape[:3], bool))
            mask[at] |= stored == number if "SegmentIdentificationSequence" not in group else stored > 0
    return out


# --- what a receiver finds ---------------------------------------------------------------------------------------------------
def test_a_segmentation_of_a_ct_is_valid_and_reads_back_voxel_for_voxel(ct, tmp_path):
    study, volume, mask = ct

    ds, seg = written(study, volume, cases.infection(mask), tmp_path)

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    assert ds.SegmentationType == "BINARY"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.NumberOfFrames == mask.any(axis=(1, 2)).sum() < len(mask)
    np.testing.assert_array_equal(masks_by_source(ds, seg, volume)[1], mask)
    geometry = seg.get_volume(combine_segments=True, relabel=False)
    assert geometry.spacing == pytest.approx((5.0, 1.5, 1.5))


def test_every_frame_lies_where_its_image_lies(ct, tmp_path):
    study, volume, mask = ct
    positions = {i.sop_instance_uid: [float(v) for v in i.header.ImagePositionPatient] for i in study.series[0].instances}

    ds, _ = written(study, volume, cases.infection(mask), tmp_path)

    for group in ds.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient] == positions[source]
    assert ds.FrameOfReferenceUID == study.series[0].header.FrameOfReferenceUID
    referenced = {i.ReferencedSOPInstanceUID for i in ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == set(positions)
    assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == study.series[0].series_instance_uid


def test_a_segment_says_what_it_shows_and_who_found_it(ct, tmp_path):
    study, volume, mask = ct
    result = cases.infection(mask)
    maker = cases.provenance(study)

    ds, seg = written(study, volume, result, tmp_path)

    described = seg.get_segment_description(1)
    assert described.segmented_property_type == codes.LESION
    assert described.segmented_property_category == codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE
    assert described.segment_label == "Infection"
    assert described.tracking_uid == maker.tracking_uid(result.findings[0])
    [algorithm] = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("covid_ct U-Net", "1.0.0")
    assert cases.DIGEST in algorithm.AlgorithmParameters
    shown = hd.color.CIELabColor.from_dicom_value(ds.SegmentSequence[0].RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(shown, (230, 159, 0))).max() <= 2


@pytest.mark.parametrize("kind", ["organ", "lesion"])
def test_a_segment_is_as_left_as_its_finding(ct, tmp_path, kind):
    """Programs read codes: two segments that are both "kidney" are told apart by the words of their label alone."""
    study, volume, mask = ct
    result = cases.infection(mask)
    [finding] = (replace(one, laterality=codes.LEFT) for one in result.findings)
    if kind == "organ":
        result = replace(result, segments=(replace(result.segments[0], category=codes.ANATOMICAL_STRUCTURE, type=codes.LUNG),))

    ds = cases.reread(write_seg(study, volume, replace(result, findings=(finding,)), cases.provenance(study)))

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    [segment] = ds.SegmentSequence
    [region], [shown] = segment.AnatomicRegionSequence, segment.SegmentedPropertyTypeCodeSequence
    assert [one.CodeMeaning for one in region.AnatomicRegionModifierSequence] == ["Left"]
    modifiers = shown.get("SegmentedPropertyTypeModifierCodeSequence", ())
    assert [one.CodeMeaning for one in modifiers] == (["Left"] if kind == "organ" else [])


def test_it_stands_in_the_patient_s_own_study_in_a_series_of_its_own(ct, tmp_path):
    study, volume, mask = ct
    header = study.series[0].header

    ds, _ = written(study, volume, cases.infection(mask), tmp_path)

    for keyword in ("PatientID", "PatientName", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyDescription"):
        assert ds[keyword].value == header[keyword].value
    assert ds.SeriesInstanceUID != header.SeriesInstanceUID
    assert ds.SeriesNumber > 9000
    assert (ds.SeriesDate, ds.SeriesTime) == ("20260301", "103000")
    assert "covid_ct" in ds.SeriesDescription
    assert "RESEARCH" in ds.SeriesDescription


def test_the_clean_headers_are_not_touched_and_not_shared(ct, tmp_path):
    study, volume, mask = ct
    before = [i.header.to_json() for i in study.series[0].instances]

    ds = write_seg(study, volume, cases.infection(mask), cases.provenance(study))
    for element in ds:
        if element.VR not in ("SQ", "OB"):
            element.value = None

    assert [i.header.to_json() for i in study.series[0].instances] == before


def test_the_same_work_gives_the_same_bytes(ct):
    study, volume, mask = ct
    result = cases.infection(mask)

    once = write_seg(study, volume, result, cases.provenance(study))
    again = write_seg(study, volume, result, cases.provenance(study))
    other = write_seg(study, volume, result, cases.provenance(study, digest="4e" * 32))

    assert cases.bytes_of(once) == cases.bytes_of(again)
    assert other.SOPInstanceUID != once.SOPInstanceUID


def test_nothing_found_gives_no_segmentation(ct):
    study, volume, mask = ct
    result = cases.infection(mask)

    assert write_seg(study, volume, replace(result, segments=()), cases.provenance(study)) is None
    assert write_seg(study, volume, replace(result, segments=(cases.lesion(mask & False),)), cases.provenance(study)) is None


# --- the shapes that viewers cut right ------------------------------------------------------------------------------------------
def two(mask: np.ndarray, *, overlapping: bool):
    """Two segments."""
    half = mask & (np.arange(mask.shape[2]) < 0.72 * mask.shape[2])
    return (cases.lesion(mask if overlapping else mask & ~half), cases.lesion(half, 2, "Core", (0, 114, 178)))


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "kind"),
    [
        (64, 64, {"BINARY"}),  # whole bytes, even length
        (24, 25, {"BINARY"}),  # whole bytes; an odd number of frames would make an odd length
        (50, 50, {"LABELMAP", "FRACTIONAL"}),  # half a byte left over: 1-bit frames would be drawn shifted
    ],
)
def test_frames_of_any_size_are_cut_right(tmp_path, rows, columns, kind, overlapping):
    study = cases.study_of(cases.ct_files(tmp_path / "ct", size=rows, columns=columns))
    volume = cases.stack(study)
    segments = two(cases.opacity(volume.pixels.shape), overlapping=overlapping)

    ds, seg = written(study, volume, replace(cases.infection(segments[0].mask), segments=segments), tmp_path)

    assert ds.SegmentationType in kind
    assert ds.SegmentsOverlap == ("YES" if overlapping else "NO")
    if ds.SegmentationType == "BINARY":
        assert ds.NumberOfFrames * rows * columns // 8 % 2 == 0
    found = masks_by_source(ds, seg, volume)
    for segment in segments:
        np.testing.assert_array_equal(found[segment.number], segment.mask)
    assert iod_errors(ds) == []
    errors = cases.dciodvfy_errors(ds, tmp_path)
    if ds.SegmentationType == "LABELMAP":
        assert all("Information Object Not found" in e for e in errors)  # dciodvfy of 2022 does not know the class
        assert ds.PixelPaddingValue == 0
        assert [s.SegmentNumber for s in ds.SegmentSequence] == [1, 2]
    else:
        assert errors == []


def test_an_odd_number_of_odd_frames_gets_an_empty_one(tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct", size=24, columns=25))
    volume = cases.stack(study)
    mask = cases.opacity(volume.pixels.shape)
    assert mask.any(axis=(1, 2)).sum() % 2 == 1

    ds, seg = written(study, volume, cases.infection(mask), tmp_path)

    assert ds.NumberOfFrames == mask.any(axis=(1, 2)).sum() + 1
    assert len(ds.PixelData) == ds.NumberOfFrames * 75
    np.testing.assert_array_equal(masks_by_source(ds, seg, volume)[1], mask)


def test_an_ultrasound_clip_keeps_its_frame_numbers_and_a_flat_geometry(tmp_path):
    study = cases.study_of([cases.cine_file(tmp_path / "clip.dcm")])
    volume = cases.cine(study)
    mask = cases.ball(volume.pixels.shape[:3], (0, 0.1, 0.1), (0.7, 0.3, 0.2))

    ds, seg = written(study, volume, cases.infection(mask, site=codes.BREAST), tmp_path)

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.12, 0.12]
    assert [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(masks_by_source(ds, seg, volume)[1], mask)


@pytest.mark.parametrize(
    ("transfer_syntax", "size"), [(DeflatedExplicitVRLittleEndian, 64), (RLELossless, 50), (RLELossless, 63), (JPEGLSLossless, 63)]
)
def test_it_can_be_compressed_for_archives_that_unpack_it(tmp_path, transfer_syntax, size):
    study = cases.study_of(cases.ct_files(tmp_path / "ct", size=size))
    volume = cases.stack(study)
    mask = cases.opacity(volume.pixels.shape)
    plain = cases.bytes_of(write_seg(study, volume, cases.infection(mask), cases.provenance(study)))

    (tmp_path / "seg.dcm").write_bytes(packed(plain, [transfer_syntax]))

    ds, seg = dcmread(tmp_path / "seg.dcm"), hd.seg.segread(tmp_path / "seg.dcm")
    assert ds.file_meta.TransferSyntaxUID == transfer_syntax
    assert (tmp_path / "seg.dcm").stat().st_size < len(plain)
    np.testing.assert_array_equal(masks_by_source(ds, seg, volume)[1], mask)
    if transfer_syntax != JPEGLSLossless:  # what DCMTK makes of it
        unpack = ["dcmdrle" if transfer_syntax == RLELossless else "dcmconv", "+te", tmp_path / "seg.dcm", tmp_path / "unpacked.dcm"]
    else:
        unpack = ["dcmdjpls", "+te", tmp_path / "seg.dcm", tmp_path / "unpacked.dcm"]
    subprocess.run([need(unpack[0], "dcmtk"), *unpack[1:]], check=True, capture_output=True)
    unpacked, before = dcmread(tmp_path / "unpacked.dcm"), dcmread(BytesIO(plain))
    assert unpacked.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert unpacked.PixelData == before.PixelData
    assert unpacked.SOPInstanceUID == before.SOPInstanceUID


def test_one_bit_frames_are_deflated_where_bytes_would_be_run_length_coded(ct):
    study, volume, mask = ct
    plain = cases.bytes_of(write_seg(study, volume, cases.infection(mask), cases.provenance(study)))

    assert packed(plain, [RLELossless]) == packed(plain, [JPEGLSLossless]) == plain
    assert dcmread(BytesIO(packed(plain, [RLELossless, DeflatedExplicitVRLittleEndian]))).file_meta.TransferSyntaxUID.is_deflated


def test_only_a_transfer_syntax_that_the_destination_takes_is_chosen(ct):
    study, volume, mask = ct
    plain = cases.bytes_of(write_seg(study, volume, cases.infection(mask), cases.provenance(study), role=Role.SEG_LABELMAP))
    liked = [JPEGLSLossless, DeflatedExplicitVRLittleEndian, RLELossless]

    def chosen(accepted):
        return dcmread(BytesIO(packed(plain, liked, accepted))).file_meta.TransferSyntaxUID

    assert chosen(None) == JPEGLSLossless
    assert chosen([str(RLELossless), str(DeflatedExplicitVRLittleEndian)]) == DeflatedExplicitVRLittleEndian
    assert chosen([str(ExplicitVRLittleEndian)]) == chosen([]) == ExplicitVRLittleEndian


# --- what is not written ------------------------------------------------------------------------------------------------------------
def test_a_mask_on_another_grid_is_refused(ct):
    study, volume, mask = ct
    for wrong in (mask[:-1], mask[:, ::2, ::2], mask.transpose(1, 2, 0)):
        with pytest.raises(ResultInvalid, match="grid"):
            write_seg(study, volume, replace(cases.infection(mask), segments=(cases.lesion(wrong),)), cases.provenance(study))


def test_a_volume_that_lies_elsewhere_than_its_images_is_refused(ct):
    study, volume, mask = ct
    shifted, upside_down, turned = (volume.affine.copy() for _ in range(3))
    shifted[2, 3] += 5
    upside_down[:3, 3] += 7 * upside_down[:3, 2]
    upside_down[:3, 2] *= -1
    turned[:3, [0, 1]] = turned[:3, [1, 0]]
    for affine in (shifted, upside_down, turned):
        with pytest.raises(ResultInvalid):
            write_seg(study, replace(volume, affine=affine), cases.infection(mask), cases.provenance(study))


def test_segment_numbers_with_a_gap_are_refused(ct):
    study, volume, mask = ct
    with pytest.raises(ResultInvalid, match="1, 2, 3"):
        write_seg(study, volume, replace(cases.infection(mask), segments=(cases.lesion(mask, 2),)), cases.provenance(study))


# --- real images ----------------------------------------------------------------------------------------------------------------------
STACKS = ["ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm", "mr_brain_tumor_btp/PGBM_01*", "mr_brain_t1_brainchop"]
MULTIFRAME = ["enhanced/eCT_Supplemental.dcm", "enhanced/philips_enhanced_mr_8f.dcm"]
STILLS = ["wrapped/us_breast/us_00.dcm", "us/philips_ob_rle.dcm", "us/aloka_16bit_palette.dcm", "cr_chest/RG1_J2KI_PA_monochrome1.dcm"]
STILLS += ["wrapped/cr_chest/cr_01.dcm", "mg/*.dcm"]


def real(shared: Path, name: str) -> list[Path]:
    """Files of a real series."""
    found = sorted(path for path in (shared / "data" / "dicom").glob(name) if "mask" not in path.name)
    files = sorted(found[0].glob("*.dcm")) if found[0].is_dir() else found[:1]
    assert files, name
    return files


@pytest.mark.parametrize("name", [*STACKS, *MULTIFRAME, *STILLS])
def test_real_images_get_a_valid_segmentation_that_reads_back(shared, tmp_path, name):
    study = cases.study_of(real(shared, name))
    volume = cases.still(study) if name in STILLS else cases.stack(study)
    mask = cases.ball(volume.pixels.shape[:3], (0.5, 0.1, 0.3), (0.9, 0.2, 0.15))

    ds, seg = written(study, volume, cases.infection(mask), tmp_path)

    assert iod_errors(ds) == []
    errors = cases.dciodvfy_errors(ds, tmp_path)
    assert ds.SegmentationType == "LABELMAP" or errors == []
    np.testing.assert_array_equal(masks_by_source(ds, seg, volume)[1], mask)
    dump = subprocess.run([need("dcmdump", "dcmtk"), "-q", str(tmp_path / "seg.dcm")], capture_output=True, text=True)
    assert dump.returncode == 0
    assert "ReferencedSeriesSequence" in dump.stdout


def test_three_hundred_slices_take_seconds(tmp_path):
    [first] = cases.study_of(cases.ct_files(tmp_path / "ct", slices=1, size=512)).series[0].instances
    headers = [deepcopy(first.header) for _ in range(300)]
    for i, header in enumerate(headers):
        header.SOPInstanceUID, header.ImagePositionPatient = f"2.25.300{i}", [-384, -80.25, 100 + i]
    instances = tuple(Instance(header=header, path=first.path) for header in headers)
    study = cases.study_of([first.path])
    study = replace(study, series=(replace(study.series[0], instances=instances),))
    affine = np.array([[1.5, 0, 0, -384], [0, 1.5, 0, -80.25], [0, 0, 1, 100], [0, 0, 0, 1]])
    volume = Volume(
        series=study.series[0],
        pixels=np.broadcast_to(np.float32(0), (300, 512, 512)),
        unit="HU",
        frames=tuple(Frame(instance=instance) for instance in instances),
        affine=affine,
        spacing_mm=(1.0, 1.5, 1.5),
    )
    mask = np.zeros((300, 512, 512), bool)
    mask[20:280, 100:300, 200:400] = True
    result = replace(cases.infection(mask[:1]), segments=(cases.lesion(mask),), heatmap=None)

    began = perf_counter()
    ds = write_seg(study, volume, result, cases.provenance(study))
    ds.save_as(tmp_path / "seg.dcm", enforce_file_format=True)

    assert perf_counter() - began < 10  # 0.6 s on a quiet machine
    assert ds.NumberOfFrames == 260
    np.testing.assert_array_equal(hd.seg.segread(tmp_path / "seg.dcm").pixel_array[0], mask[20])
