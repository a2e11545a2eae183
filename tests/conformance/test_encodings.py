"""One result in every encoding: valid, readable by other programs, the same bytes twice, and the same numbers everywhere."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np
import pypdfium2 as pdfium
import pytest
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless
from skimage.draw import polygon2mask

from node import codes
from node.domain import Finding, Measurement, Region, Result, Role, Study
from node.errors import ResultInvalid
from node.imaging.contours import closed_contours
from node.imaging.decode import frame_count
from node.imaging.volume import Volume
from node.profiles import PROFILES
from node.provenance import Provenance
from node.seg_syntax import packed
from node.seg_writer import write_seg
from node.writers import written
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conformance.test_seg import real
from tests.conftest import need

REAL = {
    "chest CT": "ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm",
    "brain MR": "mr_brain_tumor_btp/PGBM_01*",
    "enhanced CT": "enhanced/eCT_Supplemental.dcm",
    "enhanced MR": "enhanced/philips_enhanced_mr_8f.dcm",
    "CR with low values white": "cr_chest/RG1_J2KI_PA_monochrome1.dcm",
    "ultrasound": "wrapped/us_breast/us_00.dcm",
    "colour ultrasound": "us/philips_ob_rle.dcm",
    "mammogram": "mg/*.dcm",
}
STILL = {"CR with low values white", "ultrasound", "colour ultrasound", "mammogram"}
SOURCES = ["phantom", "clip", *REAL]
NO_FRAME_OF_REFERENCE = STILL | {"clip", "enhanced MR"}
COLOUR = {"clip", "colour ultrasound"}


def everything(study: Study) -> Provenance:
    """A maker whose job is asked for every kind."""
    mark = cases.provenance(study)
    route = replace(mark.job.route, destinations=("all",), kinds=(("all", tuple(Role)),))
    return replace(mark, job=replace(mark.job, route=route))


def a_result(volume: Volume, mask: np.ndarray) -> Result:
    """One segment with its probability, its volume in mL as the voxels have it, and a finding with a region of its own."""
    found = cases.infection(mask)
    assert found.heatmap is not None
    size = Measurement(name=codes.VOLUME, value=float(mask.sum()) * (volume.voxel_ml or 0.001), unit=codes.MILLILITER)
    box = np.array([[2, 2], [30, 2], [30, 20], [2, 20]], np.float32)
    second = Finding(name="nodule", code=codes.LESION, probability=0.123, present=True, region=Region(frame=0, outline=box))
    return replace(
        found,
        findings=(replace(found.findings[0], measurements=(size,)), second),
        heatmap=replace(found.heatmap, segment=1),
    )


class Case:
    """A source, a result on it, and every object of that result as a receiver has it."""

    def __init__(self, study: Study, volume: Volume, mask: np.ndarray) -> None:
        self.study, self.volume, self.mask = study, volume, mask
        self.result, self.mark = a_result(volume, mask), everything(study)
        self.made = self.write()
        self.bytes = {role: cases.bytes_of(ds) for role, ds in self.made.items()}
        self.read = {role: dcmread(BytesIO(data)) for role, data in self.bytes.items()}

    def write(self) -> dict[Role, Dataset]:
        return written(self.study, self.study.series[0], self.volume, self.result, self.mark)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """Each source once for all tests of this file."""

    @cache
    def of(name: str) -> Case:
        folder = tmp_path_factory.mktemp("source")
        if name == "phantom":
            study = cases.study_of(cases.ct_files(folder))
            volume = cases.stack(study)
            return Case(study, volume, cases.opacity(volume.pixels.shape))
        if name == "clip":
            study = cases.study_of([cases.cine_file(folder / "clip.dcm")])
            volume = cases.cine(study)
        else:
            shared: Path = request.getfixturevalue("shared")
            study = cases.study_of(real(shared, REAL[name])[:20])
            volume = cases.still(study) if name in STILL else cases.stack(study)
        return Case(study, volume, cases.ball(volume.pixels.shape[:3], (0.5, 0.1, 0.3), (0.9, 0.2, 0.15)))

    return of


# --- every kind --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_object_is_valid_on_every_kind_of_source(case, tmp_path, name):
    made = case(name)

    missing = set(Role) - set(made.made)
    assert missing == ({Role.RTSTRUCT} if name in NO_FRAME_OF_REFERENCE else set()) | ({Role.PM} if name in COLOUR else set())
    for role, ds in made.read.items():
        (tmp_path / role).mkdir()
        errors = cases.dciodvfy_errors(ds, tmp_path / role)
        # dciodvfy does not know the class of label maps yet, and says nothing else of them
        assert errors == (["Error - Information Object Not found"] if ds.get("SegmentationType") == "LABELMAP" else []), role
        file = str(tmp_path / role / f"{ds.Modality}.dcm")
        dump = subprocess.run([need("dcmdump", "dcmtk"), "-q", "+P", "0008,0018", file], capture_output=True, text=True)
        assert dump.returncode == 0
        assert ds.SOPInstanceUID in dump.stdout


@pytest.mark.parametrize("name", SOURCES)
def test_dicom_validator_finds_every_module_and_attribute_in_its_place(case, name):
    """By tables that are not dciodvfy's, label maps included."""
    assert {role: errors for role, ds in case(name).read.items() if (errors := iod_errors(ds))} == {}


@pytest.mark.parametrize("name", ["phantom", "colour ultrasound"])
def test_the_same_work_gives_the_same_bytes_in_every_encoding(case, name):
    made = case(name)

    again = {role: cases.bytes_of(ds) for role, ds in made.write().items()}

    assert [role for role in Role if again.get(role) != made.bytes.get(role)] == []


@pytest.mark.parametrize("name", ["phantom", "clip", "enhanced CT"])
def test_every_reference_is_to_an_image_of_the_study_or_an_object_beside_it(case, name):
    made = case(name)
    images = {i.sop_instance_uid: frame_count(i.header) for i in made.study.series[0].instances}
    objects = {ds.SOPInstanceUID for ds in made.read.values()}

    for ds in made.read.values():
        for item in ds.iterall():
            if item.keyword == "ReferencedSOPInstanceUID":
                assert item.value in {*images, *objects, ds.StudyInstanceUID}
            if item.keyword == "SeriesInstanceUID":
                assert item.value in {made.study.series[0].series_instance_uid, *(o.SeriesInstanceUID for o in made.read.values())}
            if item.keyword == "ReferencedFrameNumber":
                numbers = [item.value] if item.VM == 1 else item.value
                assert all(1 <= int(number) <= max(images.values()) for number in numbers)


def test_each_object_is_a_series_of_its_own_that_says_pipeline_version_and_content(case):
    made = case("phantom").read

    numbers = {role: int(ds.SeriesNumber) for role, ds in made.items()}
    assert len(set(numbers.values())) == len(made)
    assert min(numbers.values()) > 9000
    assert len({ds.SeriesInstanceUID for ds in made.values()}) == len({ds.SOPInstanceUID for ds in made.values()}) == len(made)
    descriptions = {ds.SeriesDescription for ds in made.values()}
    assert len(descriptions) == len(made)
    assert all(text.startswith("AI covid_ct 1.0.0 ") and text.endswith(" - RESEARCH") for text in descriptions)


# --- the same numbers ------------------------------------------------------------------------------------------------------------
def numbers_of(report: Dataset) -> dict[str, float]:
    """Concept meaning → value of every NUM."""
    found = {}

    def walk(item: Dataset) -> None:
        if item.get("ValueType") == "NUM" and item.MeasuredValueSequence:
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = float(item.MeasuredValueSequence[0].NumericValue)
        for child in item.get("ContentSequence", ()):
            walk(child)

    walk(report)
    return found


def text_of(document: Dataset) -> str:
    """The words of an encapsulated page, and that it has only one."""
    pdf = pdfium.PdfDocument(document.EncapsulatedDocument)
    return "\n".join(page.get_textpage().get_text_bounded() for page in pdf)


@pytest.mark.parametrize("name", ["phantom", "chest CT", "brain MR", "enhanced CT"])
def test_probability_and_volume_are_the_same_in_report_page_segmentation_and_contours(case, name):
    made = case(name)
    said = numbers_of(made.read[Role.SR])
    page = text_of(made.read[Role.PDF])
    words = json.dumps(made.read[Role.TEXT].to_json_dict())

    assert said["Probability of infection"] == 93.0
    assert said["Probability of nodule"] == 12.3
    assert "93 %" in page
    assert "12.3 %" in page
    assert "infection (lung): 93 %, present" in words
    printed = re.search(r"Volume: ([0-9.e+]+) mL", page)
    assert printed
    assert float(printed[1]) == said["Volume"]

    voxels = {role: pixels_of(made.read[role]) for role in (Role.SEG, Role.SEG_LABELMAP)}
    assert {role: int((stored > 0).sum()) for role, stored in voxels.items()} == dict.fromkeys(voxels, int(made.mask.sum()))
    assert made.volume.voxel_ml is not None
    assert int(made.mask.sum()) * made.volume.voxel_ml == pytest.approx(said["Volume"], rel=1e-5)
    drawn = volume_of_contours(made.read[Role.RTSTRUCT], made.volume)
    assert drawn == pytest.approx(said["Volume"], rel=0.03)  # corners of pixels are cut


def pixels_of(ds: Dataset) -> np.ndarray:
    pixels = ds.pixel_array
    return pixels if pixels.ndim == 3 else pixels[None]


def volume_of_contours(ds: Dataset, volume: Volume) -> float:
    """mL inside the contours: area by the shoelace formula, times the distance between slices."""
    assert volume.spacing_mm is not None
    area = 0.0
    for contour in ds.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        area += abs(np.linalg.norm(sum(np.cross(a, b) for a, b in zip(points, np.roll(points, -1, 0), strict=True)))) / 2
    return area * volume.spacing_mm[0] / 1000


@pytest.mark.parametrize("name", ["phantom", "brain MR", "CR with low values white"])
def test_fractions_and_map_hold_the_heat_map_value_for_value(case, name):
    made = case(name)
    heat = made.result.heatmap.values
    fractions, values = made.read[Role.SEG_FRACTIONAL], made.read[Role.PM]

    assert (fractions.SegmentationFractionalType, fractions.MaximumFractionalValue) == ("PROBABILITY", 255)
    read = hd.imread(BytesIO(made.bytes[Role.PM]))
    for ds, stored, tolerance in (
        (fractions, pixels_of(fractions) / 255, 0.5 / 255 + 1e-6),
        (values, np.asarray(read.pixel_array).reshape(int(values.NumberOfFrames), *heat.shape[1:]), 0),
    ):
        back = np.zeros_like(heat)
        where = {(f.instance.sop_instance_uid, f.number): n for n, f in enumerate(made.volume.frames)}
        for plane, group in zip(stored, ds.PerFrameFunctionalGroupsSequence, strict=True):
            source = group.DerivationImageSequence[0].SourceImageSequence[0]
            back[where[source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1))]] = plane
            assert plane.any()  # empty frames are left out
        np.testing.assert_allclose(back, heat, atol=tolerance)
    [mapping] = values.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (float(mapping.RealWorldValueSlope), float(mapping.RealWorldValueIntercept)) == (1, 0)


# --- segmentations ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("role", [Role.SEG_LABELMAP, Role.SEG_FRACTIONAL])
def test_a_compressed_segmentation_holds_the_same_voxels(case, syntax, role):
    made = case("phantom")

    small = dcmread(BytesIO(packed(made.bytes[role], [syntax])))

    assert small.file_meta.TransferSyntaxUID == syntax
    assert small.SOPInstanceUID == made.read[role].SOPInstanceUID
    np.testing.assert_array_equal(pixels_of(small), pixels_of(made.read[role]))


def test_segments_that_overlap_have_no_label_map(case):
    made = case("phantom")
    result = replace(made.result, segments=(*made.result.segments, cases.lesion(made.mask, 2, "Same place")))

    with pytest.raises(ResultInvalid, match="overlap"):
        write_seg(made.study, made.volume, result, made.mark, role=Role.SEG_LABELMAP)
    others = written(made.study, made.study.series[0], made.volume, result, made.mark)
    assert set(others) == set(Role) - {Role.SEG_LABELMAP}


def test_a_heat_map_that_is_no_probability_leaves_fractions_to_the_mask(case):
    made = case("phantom")
    result = replace(made.result, heatmap=replace(made.result.heatmap, segment=None))

    ds = cases.reread(write_seg(made.study, made.volume, result, made.mark, role=Role.SEG_FRACTIONAL))

    assert ds.SegmentationFractionalType == "OCCUPANCY"
    assert int((ds.pixel_array == 255).sum()) == int(made.mask.sum())
    assert set(np.unique(ds.pixel_array)) == {0, 255}


# --- contours -----------------------------------------------------------------------------------------------------------------
def painted(outlines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie in one of the contours."""
    return np.any([polygon2mask(shape, outline[:, ::-1]) for outline in outlines], axis=0)


def test_contours_in_the_patient_paint_the_mask_again(case):
    made = case("chest CT")
    ds = made.read[Role.RTSTRUCT]
    [segment] = made.read[Role.SEG].SegmentSequence
    assert segment.TrackingID in ds.StructureSetROISequence[0].ROIDescription
    inverse = np.linalg.inv(made.volume.affine)
    where = {f.instance.sop_instance_uid: n for n, f in enumerate(made.volume.frames)}
    outlines: dict[int, list[np.ndarray]] = {}
    for contour in ds.ROIContourSequence[0].ContourSequence:
        points = np.column_stack([np.array(contour.ContourData, float).reshape(-1, 3), np.ones(contour.NumberOfContourPoints)])
        voxels = (inverse @ points.T).T[:, :3]
        at = where[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(voxels[:, 2], at, atol=0.02)
        outlines.setdefault(at, []).append(voxels[:, :2])

    assert set(outlines) == set(np.flatnonzero(made.mask.any(axis=(1, 2))))
    for at, found in outlines.items():
        np.testing.assert_array_equal(painted(found, made.mask.shape[1:]), made.mask[at])


def test_holes_and_parts_are_closed_contours():
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:15, 10:15] = mask[18:21, 8:12] = False
    mask[30:33, 30:38] = mask[36, 3] = True

    outlines = list(closed_contours(mask))

    assert len(outlines) == 3
    area = sum(abs(np.dot(o[:, 0], np.roll(o[:, 1], -1)) - np.dot(np.roll(o[:, 0], -1), o[:, 1])) / 2 for o in outlines)
    assert area == pytest.approx(mask.sum(), abs=4)  # an eighth of a pixel at every corner
    np.testing.assert_array_equal(painted(outlines, mask.shape), mask)


# --- presentation states and key objects -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["phantom", "CR with low values white", "enhanced CT", "clip", "colour ultrasound"])
def test_a_presentation_state_draws_the_outline_where_the_mask_is(case, tmp_path, name):
    made = case(name)
    ds = made.read[Role.PR]

    colours = name in COLOUR
    assert ("ICCProfile" in ds, "PresentationLUTShape" in ds) == (colours, not colours)
    where = {(f.instance.sop_instance_uid, f.number): n for n, f in enumerate(made.volume.frames)}
    drawn = 0
    for annotation in ds.GraphicAnnotationSequence:
        [image] = annotation.ReferencedImageSequence
        at = where[image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber", 1))]
        for shape in annotation.get("GraphicObjectSequence", ()) if annotation.GraphicLayer == "AI_SEGMENT_1" else ():
            points = np.array(shape.GraphicData).reshape(-1, 2)
            inside = points - 0.5
            assert made.mask[at][inside[:, 1].round().astype(int), inside[:, 0].round().astype(int)].mean() > 0.95
            assert shape.TrackingUID == made.read[Role.SEG].SegmentSequence[0].TrackingUID
            drawn += 1
    assert drawn >= 1
    words = [text.UnformattedTextValue for a in ds.GraphicAnnotationSequence for text in a.get("TextObjectSequence", ())]
    assert any(word.startswith("infection (lung): 93 %") for word in words)
    assert any("RESEARCH USE ONLY" in word for word in words)
    [area] = ds.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [made.volume.pixels.shape[2], made.volume.pixels.shape[1]]


@pytest.mark.parametrize(("name", "window"), [("phantom", (-600, 1500)), ("CR with low values white", None)])
def test_dcmtk_finds_nothing_wrong_with_a_grey_presentation_state_and_shows_the_image_through_it(case, tmp_path, name, window):
    made = case(name)
    state = tmp_path / "state.dcm"
    state.write_bytes(made.bytes[Role.PR])

    checked = subprocess.run([need("dcmpschk", "dcmtk"), str(state)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "rror" not in checked.stdout + checked.stderr
    if window:
        [voi] = made.read[Role.PR].SoftcopyVOILUTSequence
        assert (float(voi.WindowCenter), float(voi.WindowWidth)) == window
        first = made.read[Role.PR].ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID
        image = next(i.path for i in made.study.series[0].instances if i.sop_instance_uid == first)
        shown = tmp_path / "shown.pgm"
        drawn = subprocess.run([need("dcmp2pgm", "dcmtk"), "-p", str(state), str(image), str(shown)], capture_output=True, text=True)
        assert drawn.returncode == 0, drawn.stderr
        grey = cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE)
        hu = made.volume.pixels[made.result.heatmap.frames[0]]
        expected = ((hu - (window[0] - window[1] / 2)) / window[1]).clip(0, 1) * 255
        assert np.abs(cv2.resize(grey, expected.shape[::-1]).astype(float) - expected).mean() < 12
    else:
        assert made.read[Role.PR].PresentationLUTShape == "INVERSE"


def test_a_film_with_low_values_white_and_no_window_is_not_flat_in_its_presentation_state(tmp_path):
    """Films that use a sixteenth of the values that they may: without a window of its own the state would show them all white."""
    path = cases.cine_file(tmp_path / "film.dcm", frames=1)
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = (
        "CR",
        "MONOCHROME1",
        1,
        16,
        16,
        15,
    )
    stored = np.tile(np.linspace(3900, 100, 128), (96, 1)).astype("<u2")  # dark at the left
    ds.PixelData = stored.tobytes()
    for keyword in ("PlanarConfiguration", "NumberOfFrames", "FrameTime", "FrameIncrementPointer"):
        del ds[keyword]
    ds.save_as(path)
    study = cases.study_of([path])
    state, shown = tmp_path / "state.dcm", tmp_path / "shown.pgm"
    made = written(study, study.series[0], cases.still(study), Result(analysed=True, label="nothing"), everything(study))
    state.write_bytes(cases.bytes_of(made[Role.PR]))

    drawn = subprocess.run([need("dcmp2pgm", "dcmtk"), "-p", str(state), str(path), str(shown)], capture_output=True, text=True)

    assert drawn.returncode == 0, drawn.stderr
    grey = cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE)
    row = grey[grey.shape[0] // 2].astype(int)
    assert row[: len(row) // 10].max() < 40
    assert row[-len(row) // 10 :].min() > 215


def test_a_state_on_an_image_with_many_findings_keeps_its_labels_apart(case):
    made = case("phantom")
    masks = np.zeros((40, *made.mask.shape), bool)
    for n in range(40):
        masks[n, 3, 8 + n : 11 + n, 8 + n : 11 + n] = True
    result = replace(
        made.result, findings=(), segments=tuple(cases.lesion(m, n, f"Lesion {n}") for n, m in enumerate(masks, 1)), heatmap=None
    )

    ds = written(made.study, made.study.series[0], made.volume, result, made.mark)[Role.PR]

    boxes = [
        (*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner)
        for annotation in ds.GraphicAnnotationSequence
        for text in annotation.get("TextObjectSequence", ())
        if text.BoundingBoxAnnotationUnits == "PIXEL"
    ]
    assert 12 <= len(boxes) <= 40  # as many as there is room for
    for n, one in enumerate(boxes):
        for other in boxes[n + 1 :]:
            assert one[3] <= other[1] + 1e-3 or other[3] <= one[1] + 1e-3 or one[2] <= other[0] or other[2] <= one[0]
    assert all(0 <= box[1] < box[3] <= 64 for box in boxes)


def test_key_objects_are_the_key_slices_and_what_was_made_of_them(case, tmp_path):
    made = case("phantom")
    ds = made.read[Role.KO]

    assert ds.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    referenced = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in ds.ContentSequence if "ReferencedSOPSequence" in item]
    slices = [made.volume.frames[at].instance.sop_instance_uid for at in (0, *made.result.heatmap.frames)]
    assert referenced[: len(slices)] == slices
    assert set(referenced[len(slices) :]) == {
        o.SOPInstanceUID for role, o in made.read.items() if role not in (Role.KO, Role.SEG_LABELMAP, Role.SEG_FRACTIONAL)
    }
    [study] = ds.CurrentRequestedProcedureEvidenceSequence
    evidence = {r.ReferencedSOPInstanceUID for series in study.ReferencedSeriesSequence for r in series.ReferencedSOPSequence}
    assert evidence == set(referenced)
    for role in (Role.KO, Role.TEXT, Role.SR):
        (tmp_path / "report.dcm").write_bytes(made.bytes[role])
        dump = subprocess.run([need("dsrdump", "dcmtk"), "+Pl", str(tmp_path / "report.dcm")], capture_output=True, text=True)
        assert dump.returncode == 0, dump.stderr
        assert "RESEARCH USE ONLY" in dump.stdout


def test_documents_stay_readable_where_the_segmentation_is_a_label_map(tmp_path):
    """On images whose frames do not end with a byte. DCMTK, and every PACS that is made with it, loses a document over an image it does not know."""
    study = cases.study_of(cases.ct_files(tmp_path / "ct", size=63, columns=61))
    volume = cases.stack(study)
    mask = cases.opacity(volume.pixels.shape)

    made = written(study, study.series[0], volume, a_result(volume, mask), everything(study))
    route = replace(everything(study).job.route, kinds=(("pacs", (Role.SEG, Role.SC, Role.SR, Role.KO)),))
    alone = replace(everything(study), job=replace(everything(study).job, route=route))
    few = written(study, study.series[0], volume, a_result(volume, mask), alone)

    assert made[Role.SEG].SOPClassUID == codes.LABEL_MAP
    for role, ds in [*made.items(), *few.items()]:
        if role in (Role.SR, Role.SR_ENHANCED, Role.SR_EDITABLE, Role.TEXT, Role.KO):
            (tmp_path / "report.dcm").write_bytes(cases.bytes_of(ds))
            dump = subprocess.run([need("dsrdump", "dcmtk"), str(tmp_path / "report.dcm")], capture_output=True, text=True)
            assert dump.returncode == 0, (role, dump.stderr)
    assert few[Role.SEG].SOPInstanceUID in evidence_of(few[Role.SR])


def evidence_of(ds: Dataset) -> list[str]:
    """SOP Instance UIDs of everything that a document is about."""
    [study] = ds.CurrentRequestedProcedureEvidenceSequence
    return [str(r.ReferencedSOPInstanceUID) for series in study.ReferencedSeriesSequence for r in series.ReferencedSOPSequence]


def test_evidence_names_an_image_once_however_many_findings_lie_on_it(tmp_path):
    study = cases.study_of([cases.cine_file(tmp_path / "one.dcm", frames=1)])
    volume = cases.still(study)

    made = written(
        study, study.series[0], volume, a_result(volume, cases.ball((1, 96, 128), (0, 0.1, 0.3), (1, 0.2, 0.15))), everything(study)
    )

    for role in (Role.SR, Role.SR_EDITABLE, Role.TEXT, Role.KO):
        assert len(evidence_of(made[role])) == len(set(evidence_of(made[role]))), role


@pytest.mark.parametrize(
    ("change", "then"),
    [
        ({"BodyPartExamined": "CHEST/ABD."}, {"BodyPartExamined": None}),
        ({"BodyPartExamined": "chest"}, {"BodyPartExamined": "CHEST"}),
        ({"FrameOfReferenceUID": ""}, {"SOPClassUID": ComprehensiveSRStorage}),
    ],
)
def test_what_is_wrong_in_the_images_is_not_wrong_in_their_results(tmp_path, change, then):
    paths = cases.ct_files(tmp_path / "ct")
    with config.disable_value_validation():
        for path in paths:
            ds = dcmread(path)
            ds.update(change)
            ds.save_as(path)
        study = cases.study_of(paths)
        volume = cases.stack(study)
        made = written(study, study.series[0], volume, a_result(volume, cases.opacity(volume.pixels.shape)), everything(study))

    for role, ds in made.items():
        (tmp_path / role).mkdir()
        assert [*cases.dciodvfy_errors(cases.reread(ds), tmp_path / role), *iod_errors(cases.reread(ds))] == [] or role is Role.SEG_LABELMAP
    shown = made[Role.SR] if "SOPClassUID" in then else made[Role.SC]
    assert {keyword: shown.get(keyword) for keyword in then} == then


def test_where_nothing_was_found_no_slice_is_called_important(case):
    made = case("phantom")
    quiet = replace(made.result, findings=(replace(made.result.findings[0], present=False, segment=None),), segments=(), heatmap=None)

    others = written(made.study, made.study.series[0], made.volume, quiet, made.mark)

    assert set(others) == {Role.SC, Role.KEYS, Role.PR, Role.PDF, Role.TEXT, Role.SR, Role.SR_ENHANCED}
    assert "Nothing was decided to be present" in text_of(others[Role.PDF])


# --- the page to print ------------------------------------------------------------------------------------------------------------
def test_the_page_says_what_where_how_sure_and_by_whom_and_names_nobody(case, tmp_path):
    made = case("chest CT")
    document = made.read[Role.PDF]
    words = text_of(document)

    for expected in (
        "AI covid_ct: infection, 93 %",
        "RESEARCH USE ONLY",
        "covid_ct U-Net 1.0.0",
        cases.DIGEST,
        "Slice ",
        "not verified by a person",
    ):
        assert expected in words
    assert document.BurnedInAnnotation == "NO"
    identifying = {made.study.ref.study, made.study.pseudonym, str(document.PatientName), str(document.PatientID)}
    identifying |= {str(i.sop_instance_uid) for i in made.study.series[0].instances}
    assert not [word for word in identifying if word and word in words]
    [page] = pdfium.PdfDocument(document.EncapsulatedDocument)
    paper = page.render(scale=1).to_numpy()
    margin = np.concatenate([paper[:, :40].ravel(), paper[:, -40:].ravel()])
    assert margin.min() == 255  # nothing runs into the edge
    (tmp_path / "document.dcm").write_bytes(made.bytes[Role.PDF])
    drawn = subprocess.run([need("dcm2pdf", "dcmtk"), str(tmp_path / "document.dcm"), str(tmp_path / "page.pdf")], capture_output=True)
    assert drawn.returncode == 0
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_series_that_was_not_analysed_gets_reports_with_the_reason_and_nothing_else(case, tmp_path):
    made = case("phantom")
    result = Result(analysed=False, reason="the slices are not axial; the model has only seen axial ones")

    for volume in (made.volume, None):
        others = written(made.study, made.study.series[0], volume, result, made.mark)

        assert set(others) == {Role.PDF, Role.TEXT, Role.SR, Role.SR_ENHANCED}
        assert "the slices are not axial" in text_of(others[Role.PDF]).replace("\r\n", " ")
        for role, ds in others.items():
            (tmp_path / role).mkdir(exist_ok=True)
            assert [*cases.dciodvfy_errors(ds, tmp_path / role), *iod_errors(ds)] == []


# --- bad input ---------------------------------------------------------------------------------------------------------------------
def test_words_of_any_script_come_back_as_they_were(case, tmp_path):
    made = case("phantom")
    name = "肺結節 легкое ü עין"
    segments = (replace(made.result.segments[0], label=name),)
    result = replace(made.result, findings=(replace(made.result.findings[0], name=name),), segments=segments, label=name, notes=(name,))

    others = written(made.study, made.study.series[0], made.volume, result, made.mark)

    for role, ds in others.items():
        (tmp_path / role).mkdir()
        if role is not Role.SEG_LABELMAP:
            assert [*cases.dciodvfy_errors(ds, tmp_path / role), *iod_errors(ds)] == [], role
        assert cases.reread(ds).SpecificCharacterSet == "ISO_IR 192"
    assert cases.reread(others[Role.SEG]).SegmentSequence[0].SegmentLabel == name
    assert cases.reread(others[Role.RTSTRUCT]).StructureSetROISequence[0].ROIName == name
    assert cases.reread(others[Role.PR]).GraphicLayerSequence[1].GraphicLayerDescription == name
    assert name in json.dumps(cases.reread(others[Role.TEXT]).to_json_dict(), ensure_ascii=False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: replace(r, findings=(replace(r.findings[0], measurements=(Measurement(name=codes.VOLUME, value=float("nan"), unit=codes.MILLILITER),)),)), "not a number"),
        (lambda r: replace(r, findings=(replace(r.findings[1], region=Region(frame=99, outline=np.zeros((4, 2), np.float32))),)), "frame"),
        (lambda r: replace(r, findings=(replace(r.findings[0], name="x" * 300),)), "longer than 64"),
        (lambda r: replace(r, segments=(replace(r.segments[0], label="x" * 300),)), "longer than 64"),
        (lambda r: replace(r, segments=(replace(r.segments[0], label="a\\b"),)), "backslash"),
        (lambda r: replace(r, segments=(replace(r.segments[0], mask=r.segments[0].mask[:, ::2]),)), "grid"),
        (lambda r: replace(r, heatmap=replace(r.heatmap, values=r.heatmap.values[:4])), "grid"),
        (lambda r: replace(r, heatmap=replace(r.heatmap, values=np.full_like(r.heatmap.values, np.nan))), "no number"),
        (lambda r: replace(r, findings=(replace(r.findings[0], segment=7),)), "segment"),
        (lambda r: replace(r, findings=(replace(r.findings[0], probability=1.2),)), "probability"),
        (lambda r: replace(r, segments=(replace(r.segments[0], label="left\nlung"),)), "control character"),
        (lambda r: replace(r, segments=(replace(r.segments[0], label=" "),)), "no label"),
        (lambda r: replace(r, findings=(replace(r.findings[0], name=""),)), "no name"),
    ],
    ids=["NaN", "no such frame", "300 characters", "300 characters in a label", "backslash", "mask", "heat map", "NaN heat", "no such segment", "120 %", "two lines", "no label", "no name"],
)  # fmt: skip
@pytest.mark.parametrize("profile", ["default", "basic-pacs", "archive"])
def test_what_no_object_can_say_is_refused_before_anything_is_written(case, change, why, profile):
    made = case("phantom")
    route = replace(made.mark.job.route, kinds=(("all", PROFILES[profile]),))
    mark = replace(made.mark, job=replace(made.mark.job, route=route))

    with pytest.raises(ResultInvalid, match=why):
        written(made.study, made.study.series[0], made.volume, change(made.result), mark)
