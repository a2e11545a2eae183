"""Faces leave the volumes of heads; brains, and whatever is no head, stay as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import RLELossless

from config import Settings
from node.assembly import House
from node.domain import Instance, Series, Study
from node.errors import RecognizableFeatures
from node.identified.clean_file import repainted
from node.identified.defacing import METHOD, Faces
from node.identified.deidentifier import FEATURES, LEFT_OUT, Deidentifier
from node.identified.faces import Told, told
from node.identified.folders import Folders
from node.identified.named import ReceivedInstance
from node.identified.profile import Profile
from node.imaging.build import build_volume
from node.imaging.decode import stored_frames
from node.testing.phantom_ct_head import BROW_MM, HeadCt, ct_head
from node.testing.studies import a_study, ct_head_study, ct_instances, uid_of, write_study
from tests.rooms.test_deidentifier import ORIGIN, Wing

BUNDLE = Path(__file__).parents[2] / "models" / "brain_mask" / "1.0.0"


class Room(Wing):
    """The wing with a choice about faces."""

    def __init__(self, folder: Path, choice: str = "deface") -> None:
        super().__init__(folder)
        self.faces = Faces(choice, BUNDLE)  # type: ignore[arg-type]
        self.deidentifier = Deidentifier(Profile(), self.clean_uids, self.identities, self.volume, faces=self.faces)
        self.folders = Folders(
            self.engine,
            self.identities,
            self.keyring,
            folder / "sealed",
            profile=Profile(),
            clean_uids=self.clean_uids,
            faces=self.faces,
            workers=2,
        )


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def volume(study: Study) -> NDArray[np.float32]:
    """The only series of a study in the reader's units, the lowest slice first."""
    [series] = study.series
    return np.asarray(build_volume(series).pixels)


def anterior_skin(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first voxels of the body (slices from below, rows from the front) that a look from the front meets."""
    z, x = np.nonzero(body.any(axis=1))
    out = np.zeros(body.shape, bool)
    out[z, body.argmax(axis=1)[z, x], x] = True
    return out


def received(path: Path) -> ReceivedInstance:
    """A file as it comes through the door."""
    ds = dcmread(path, stop_before_pixels=True)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    return ReceivedInstance(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        data=data[start:],
        origin=ORIGIN,
    )


# --- a head CT whose answer is known -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nod", [0.0, 12.0, -12.0])
def test_a_ct_head_loses_its_face_and_keeps_its_brain(room: Room, nod: float):
    """Every brain voxel has its value; the skin from brow to chin is air; the back of the head is as it was."""
    head = ct_head(nod_deg=nod)
    study = room.deidentify(*ct_head_study(nod_deg=nod))

    after = volume(study)
    assert np.array_equal(after[head.brain], head.hu[head.brain])
    face = face_region(head, nod)
    assert face.sum() > 500
    assert (after[face] <= -990).mean() > 0.93
    z, y = heights(head, "axial")
    behind, vertex = head.body & (y > 60.0), head.body & (z > 75.0)
    assert np.array_equal(after[behind | vertex], head.hu[behind | vertex])


@pytest.mark.parametrize("nod", [0.0, 12.0, -12.0])
def test_a_ct_head_loses_its_ears(room: Room, nod: float):
    """What stands out beside the skull is air on both sides."""
    head = ct_head(nod_deg=nod)
    study = room.deidentify(*ct_head_study(nod_deg=nod))

    after = volume(study)
    x, (own_z, own_y) = across(head), own_axes(head, nod)
    for side in (-1.0, 1.0):
        ear = ((side * x - 74.0) / 12.0) ** 2 + ((own_y - 18.0) / 17.0) ** 2 + ((own_z + 6.0) / 30.0) ** 2 < 1.0
        ear &= side * x > 72.0
        assert (head.hu[ear] > -300).mean() > 0.8
        assert (after[ear] <= -990).mean() > 0.97


def across(head: HeadCt) -> NDArray[np.float64]:
    """x in mm of every voxel."""
    x = np.arange(head.hu.shape[2]) * head.spacing_mm[2] + head.origin_mm[0]
    return np.broadcast_to(x, head.hu.shape)


def face_region(head: HeadCt, nod: float) -> NDArray[np.bool_]:
    """The anterior skin of the phantom between chin and brow, in the head's own axes."""
    own_z, own_y = own_axes(head, nod)
    skin = anterior_skin(head.body)
    return np.asarray(skin & (own_z < BROW_MM) & (own_z > -105.0) & (own_y < -40.0) & (np.abs(across(head)) < 55.0))


def own_axes(head: HeadCt, nod: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """z and y of every voxel in mm, in axes that nod with the head."""
    z, y = heights(head, "axial")
    turn = np.radians(nod)
    return z * np.cos(turn) - y * np.sin(turn), y * np.cos(turn) + z * np.sin(turn)


def test_the_header_says_what_was_done_and_the_study_folder_too(room: Room):
    """Recognizable Visual Features is NO and 113102 stands beside the other methods, in every image of the series."""
    study = room.deidentify(*ct_head_study())

    for instance in study.series[0].instances:
        assert instance.header.RecognizableVisualFeatures == "NO"
        codes = [item.CodeValue for item in instance.header.DeidentificationMethodCodeSequence]
        assert codes[0] == "113100"
        assert codes.count("113102") == 1
    [said] = json.loads((study.folder / FEATURES).read_text())
    assert said["done"] == "defaced"


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "oblique"])
def test_it_does_not_matter_how_the_slices_lie(room: Room, plane: str):
    """The same head cut another way loses the same face."""
    head = ct_head()
    datasets = cut(ct_head_study(), head, plane)
    study = room.deidentify(*datasets)

    [series] = study.series
    found = build_volume(series)
    assert found.affine is not None
    before = cut_volume(head, plane)
    brain = cut_volume(head, plane, mask=True)
    order = slice(None) if np.array_equal(found.pixels[brain], before[brain]) else slice(None, None, -1)
    after = found.pixels[order]
    assert np.array_equal(after[brain], before[brain])
    z, y = heights(head, plane)
    face = (before > -300) & (z < 0) & (z > -80) & (y < -80)
    assert face.sum() > 500
    assert (after[face] <= -990).mean() > 0.93


def cut_volume(head: HeadCt, plane: str, *, mask: bool = False) -> NDArray[np.float32]:
    """(slices, rows, columns) of the phantom cut in a plane."""
    source = head.brain if mask else head.hu
    if plane == "sagittal":
        return np.asarray(source.transpose(2, 0, 1)[:, ::-1])
    if plane == "coronal":
        return np.asarray(source.transpose(1, 0, 2)[:, ::-1])
    return np.asarray(source)


def heights(head: HeadCt, plane: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """z and y in mm of every voxel of `cut_volume`, as drawn."""
    z, y = (
        np.arange(n) * s + o for n, s, o in zip(head.hu.shape[:2], head.spacing_mm[:2], (head.origin_mm[2], head.origin_mm[1]), strict=True)
    )
    shape = head.hu.shape
    zz, yy = np.broadcast_to(z[:, None, None], shape), np.broadcast_to(y[None, :, None], shape)
    if plane == "sagittal":
        return zz.transpose(2, 0, 1)[:, ::-1], yy.transpose(2, 0, 1)[:, ::-1]
    if plane == "coronal":
        return zz.transpose(1, 0, 2)[:, ::-1], yy.transpose(1, 0, 2)[:, ::-1]
    return zz, yy


def cut(axial: Sequence[Dataset], head: HeadCt, plane: str) -> list[Dataset]:
    """The series cut another way; `oblique`: the same slices, with a patient who lies turned by 12 degrees about the long axis."""
    slices = cut_volume(head, plane)
    dz, dy, dx = head.spacing_mm
    ox, oy, oz = head.origin_mm
    top = oz + (head.hu.shape[0] - 1) * dz
    out = []
    for k, pixels in enumerate(slices):
        ds = deepcopy(axial[0])
        ds.SOPInstanceUID, ds.InstanceNumber = uid_of("cut", plane, k), k + 1
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = (pixels.astype(np.int32) + 1024).astype(np.uint16).tobytes()
        if plane == "sagittal":
            place, along, spacing, thick = (ox + k * dx, oy, top), (0, 1, 0, 0, 0, -1), (dz, dy), dx
        elif plane == "coronal":
            place, along, spacing, thick = (ox, oy + k * dy, top), (1, 0, 0, 0, 0, -1), (dz, dx), dy
        else:
            c, s = np.cos(np.radians(12.0)), np.sin(np.radians(12.0))
            place = (ox * c - oy * s, ox * s + oy * c, oz + k * dz)
            along, spacing, thick = (c, s, 0, -s, c, 0), (dy, dx), dz
        ds.ImagePositionPatient = [f"{v:.7g}" for v in place]
        ds.ImageOrientationPatient = [f"{v:.9g}" for v in along]
        ds.PixelSpacing, ds.SliceThickness = [f"{v:.9g}" for v in spacing], f"{thick:.9g}"
        ds.SpacingBetweenSlices = ds.SliceThickness
        del ds.SliceLocation
        out.append(ds)
    return out


def test_a_head_that_no_tag_names_is_found_by_its_skull(room: Room):
    """Descriptions are empty and the body part says chest, as after a careless protocol."""
    study = room.deidentify(*ct_head_study(StudyDescription="", SeriesDescription="", ProtocolName="", BodyPartExamined="CHEST"))

    assert study.series[0].instances[0].header.RecognizableVisualFeatures == "NO"


def test_a_multi_frame_head_too(room: Room):
    """Enhanced CT: one object, many frames, geometry in functional groups."""
    head = ct_head()
    study = room.deidentify(enhanced(head))

    after = volume(study)
    assert np.array_equal(after[head.brain], head.hu[head.brain])
    assert (after[face_region(head, 0.0)] <= -990).mean() > 0.93


def enhanced(head: HeadCt) -> Dataset:
    """The phantom as one Enhanced CT object, as far as geometry and pixels go (PS3.3 A.38.1)."""
    ds = ct_head_study()[0]
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation", "RescaleSlope"):
        del ds[keyword]
    del ds.RescaleIntercept
    del ds.SpacingBetweenSlices
    shared = Dataset()
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [f"{s:.9g}" for s in head.spacing_mm[1:]]
    measures.SliceThickness = f"{head.spacing_mm[0]}"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1024, 1, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    shared.PixelValueTransformationSequence = Items([rescale])
    ds.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for k in range(head.hu.shape[0]):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{v:.9g}" for v in (*head.origin_mm[:2], head.origin_mm[2] + k * head.spacing_mm[0])]
        frame.PlanePositionSequence = Items([place])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Items(frames)
    ds.NumberOfFrames = len(frames)
    ds.PixelData = (head.hu.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    return ds


# --- what is no face stays, what can't be treated is refused ---------------------------------------------------------------------------
def test_a_chest_ct_stays_as_it_is(tmp_path: Path):
    """Byte for byte what it is without the option."""
    datasets = a_study("CT", slices=24, rows=96)
    there = [Room(tmp_path / choice, choice).deidentify(*datasets) for choice in ("keep", "deface")]

    one, other = ([i.path.read_bytes() for i in study.series[0].instances] for study in there)
    assert one == other


def test_refuse_refuses_a_head_and_lets_a_chest_pass(tmp_path: Path):
    """The reason names the series by its clean UID, and nothing is left where a worker could see it."""
    room = Room(tmp_path, "refuse")
    with pytest.raises(RecognizableFeatures) as why:
        room.deidentify(*ct_head_study())
    assert "2.25." in str(why.value)
    assert not list(room.volume.rglob("*.dcm"))

    room.deidentify(*a_study("CT", slices=24, rows=96))


def test_a_face_without_a_brain_is_refused(room: Room):
    """A scan of the jaws: it shows a face, and what must stay can't be told."""
    datasets = [ds for ds in ct_head_study() if float(ds.ImagePositionPatient[2]) < -30]
    with pytest.raises(RecognizableFeatures, match="brain"):
        room.deidentify(*datasets)
    assert not list(room.volume.rglob("*.dcm"))


def test_a_thin_transverse_slab_shows_no_face(room: Room):
    """Four slices of a head go on untouched, and claim nothing."""
    study = room.deidentify(*ct_head_study()[30:34])

    [said] = json.loads((study.folder / FEATURES).read_text())
    assert said["done"] == "untouched"
    assert "RecognizableVisualFeatures" not in study.series[0].header


def test_a_single_sagittal_slice_shows_a_profile(room: Room):
    [middle] = cut(ct_head_study(), ct_head(), "sagittal")[64:65]
    with pytest.raises(RecognizableFeatures):
        room.deidentify(middle)


def test_a_localizer_of_a_head_is_left_out(room: Room):
    """It shows a profile and is of no use to a model; the series beside it goes on."""
    scout = cut(ct_head_study(), ct_head(), "sagittal")[64]
    scout.ImageType, scout.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], uid_of("scout")
    study = room.deidentify(*ct_head_study(), scout)

    assert len(study.series) == 1
    [left] = json.loads((study.folder / LEFT_OUT).read_text())
    assert "profile" in left["reason"]


def test_what_says_it_shows_nothing_is_believed(room: Room):
    """So a second run changes nothing: the first one says NO."""
    study = room.deidentify(*ct_head_study(RecognizableVisualFeatures="NO"))

    assert np.array_equal(volume(study), ct_head().hu)


def test_a_photograph_of_a_face_is_refused_when_it_says_so(room: Room):
    [image] = a_study("US", RecognizableVisualFeatures="YES")
    with pytest.raises(RecognizableFeatures):
        room.deidentify(image)


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"BodyPartExamined": "HEAD"}, Told.HEAD),
        ({"BodyPartExamined": "SPINE", "SeriesDescription": "t2 c-spine sag"}, Told.HEAD),
        ({"BodyPartExamined": "KNEE", "StudyDescription": "MR brain and knee"}, Told.OTHER),
        ({"StudyDescription": "MRT Schädel"}, Told.HEAD),
        ({"SeriesDescription": "thorax 5.0"}, Told.OTHER),
        ({"SeriesDescription": "t1 sag"}, Told.SILENT),
        ({"RecognizableVisualFeatures": "YES", "BodyPartExamined": "CHEST"}, Told.HEAD),
    ],
)
def test_what_the_header_says(keywords: dict[str, str], part: Told):
    header = Dataset()
    for keyword, value in keywords.items():
        setattr(header, keyword, value)
    assert told(header) is part


def test_the_setting_is_off_unless_it_is_set(tmp_path: Path):
    """The house hands the choice and the network on."""
    assert not House(Settings(data_dir=tmp_path)).faces.on
    chosen = House(Settings(data_dir=tmp_path, deidentification={"recognizable_features": "deface"})).faces
    assert chosen.choice == "deface"
    assert chosen.bundle == BUNDLE


def test_the_same_head_gives_the_same_bytes(tmp_path: Path):
    one, other = (Room(tmp_path / name).deidentify(*ct_head_study()) for name in ("one", "other"))
    for a, b in zip(one.series[0].instances, other.series[0].instances, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()


# --- pixels written anew -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("MR_small_RLE.dcm", "1.2.840.10008.1.2.5"),
        ("MR_small_jp2klossless.dcm", "1.2.840.10008.1.2.4.90"),
        ("MR_small_jpeg_ls_lossless.dcm", "1.2.840.10008.1.2.4.80"),
        ("JPEG2000.dcm", "1.2.840.10008.1.2.4.90"),  # lossy before
        ("MR_small.dcm", "1.2.840.10008.1.2.1"),
        ("MR_small_implicit.dcm", "1.2.840.10008.1.2"),
    ],
)
def test_only_the_painted_pixels_change_whatever_the_transfer_syntax(tmp_path: Path, name: str, becomes: str):
    """A square of one frame is painted; all other stored values, and what the object says of its past, stay."""
    square_painted(Path(get_testdata_file(name)), tmp_path, becomes)


def square_painted(source: Path, tmp_path: Path, becomes: str) -> None:
    """Paint a square on the first frame and compare everything."""
    path = tmp_path / "in.dcm"
    dcmread(source).save_as(path, enforce_file_format=True)
    instance = Instance(header=dcmread(path, stop_before_pixels=True), path=path)
    frames = range(1, int(instance.header.get("NumberOfFrames", 1)) + 1)
    square = np.zeros((instance.header.Rows, instance.header.Columns), bool)
    square[3:9, 2:8] = True

    clean, changed = repainted(instance, lambda number: (square, 7) if number == 1 else None, method=METHOD)

    after = tmp_path / "out.dcm"
    after.write_bytes(b"".join(clean.file()))
    there = Instance(header=dcmread(after, stop_before_pixels=True), path=after)
    assert changed
    assert str(there.header.file_meta.TransferSyntaxUID) == becomes
    assert there.header.get("LossyImageCompression") == instance.header.get("LossyImageCompression")
    assert there.header.RecognizableVisualFeatures == "NO"
    both = zip(stored_frames(instance, frames), stored_frames(there, frames), strict=True)
    for number, ((old, _), (new, _)) in enumerate(both, 1):
        expected = old.copy()
        if number == 1:
            expected[square] = 7
        assert np.array_equal(new, expected)


# --- folders -----------------------------------------------------------------------------------------------------------------------------
def test_a_folder_of_heads_comes_home_byte_for_byte(room: Room, tmp_path: Path):
    """More files than one process takes at once, native and compressed: no face in what leaves, the originals when they come back."""
    source = tmp_path / "in"
    write_study(ct_head_study(), source / "native")
    compressed = ct_instances(ct_head(slice_mm=5.0), patient=2, name="compressed")
    for ds in compressed:
        ds.BodyPartExamined = "HEAD"
        ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
        ds.compress(RLELossless, generate_instance_uid=False)
    write_study(compressed, source / "rle")
    write_study(a_study("CT", slices=4, rows=64, patient=3), source / "chest")

    report = room.folders.deidentify(source, tmp_path / "clean")

    assert report["refused"] == 0
    assert report["deidentified"] == report["files"]
    assert report["defaced"] == len(compressed) + len(ct_head_study())
    files = sorted((tmp_path / "clean").rglob("*.dcm"))
    assert len(files) == report["files"]
    assert not [path for path in (tmp_path / "clean").iterdir() if path.name.startswith(".")]
    rle = [path for path in files if dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == RLELossless]
    assert len(rle) == len(compressed)
    after = np.asarray(build_volume(series_of(rle)).pixels)
    head = ct_head(slice_mm=5.0)
    assert np.array_equal(after[head.brain], head.hu[head.brain])
    assert (after[face_region(head, 0.0)] <= -990).mean() > 0.93

    back = room.folders.reidentify(tmp_path / "clean", tmp_path / "home")

    assert back["restored"] == report["files"]
    for path in source.rglob("*.dcm"):
        assert (tmp_path / "home" / path.relative_to(source)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_a_compressed_head_stays_in_its_transfer_syntax(room: Room, tmp_path: Path, syntax: str):
    """JPEG-LS and JPEG 2000, signed values: lossless before, lossless after, frames without face are the same bytes."""
    head = ct_head(slice_mm=6.0)
    datasets = ct_instances(head, name=f"compressed {syntax}")
    for k, ds in zip(reversed(range(len(datasets))), datasets, strict=True):
        ds.BodyPartExamined, ds.RescaleIntercept = "HEAD", 0
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
        ds.PixelData = head.hu[k].tobytes()
        ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
        ds.compress(syntax, generate_instance_uid=False)
    paths = write_study(datasets, tmp_path / "in")
    room.know(room.clean_uids.of(datasets[0].StudyInstanceUID))
    study = room.deidentifier.deidentify(identified(room, datasets, paths))

    assert {str(i.header.file_meta.TransferSyntaxUID) for i in study.series[0].instances} == {syntax}
    after = volume(study)
    assert np.array_equal(after[head.brain], head.hu[head.brain])
    assert (after[face_region(head, 0.0)] == -1000).mean() > 0.93


def identified(room: Room, datasets: Sequence[Dataset], paths: Sequence[Path]):
    study = room.study(datasets[0])
    return type(study)(ref=study.ref, instances=lambda: (received(path) for path in paths), count=len(paths))


def series_of(paths: Sequence[Path]) -> Series:
    instances = tuple(Instance(header=dcmread(path, stop_before_pixels=True), path=path) for path in paths)
    return Series(series_instance_uid=instances[0].header.SeriesInstanceUID, modality=instances[0].header.Modality, instances=instances)
