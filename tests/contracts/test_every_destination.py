"""What every destination promises, met by each kind over a real or small peer on loopback."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused
from node.registry import Registry
from node.testing.pacs import Pacs
from tests.orthanc_server import OrthancServer
from tests.ports import free_port
from tests.record_systems import FhirServer, Listener, a_report

REGISTRY: Registry[Destination] = Registry("node.destinations", Destination)  # type: ignore[type-abstract]
KINDS = sorted(REGISTRY)
KEEPERS = [kind for kind in KINDS if REGISTRY[kind].keeps_objects]  #: of DICOM objects
TELLERS = [kind for kind in KINDS if not REGISTRY[kind].keeps_objects]  #: of what a report says

Holds = Callable[[str], object]  #: what the peer has of an object, by SOP Instance UID; None: nothing


def a_picture(**changes: object) -> bytes:
    """A Secondary Capture of 8 × 8 pixels, as PS3.10 bytes."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality, ds.ConversionType = "GRAY^ALICE", "4711", "OT", "WSD"
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(range(64))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def an_object(destination: Destination, **changes: object) -> bytes:
    """What a destination of the kind is for: any object, or a report."""
    return a_picture(**changes) if destination.keeps_objects else a_report(**{"SOPInstanceUID": generate_uid(), **changes})


def make(kind: str, **settings: object) -> Destination:
    cls = REGISTRY[kind]
    return cls("archive", cls.Settings.model_validate(settings))


@pytest.fixture
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Destination, Holds]]:
    """A destination of each kind with a peer that takes objects, and a look into that peer."""
    kind = request.param
    if kind == "folder":
        yield make("folder", path=tmp_path / "out"), lambda uid: next((dcmread(p) for p in tmp_path.glob(f"out/*/{uid}.dcm")), None)
    elif kind == "dimse":
        with Pacs(tmp_path / "pacs") as pacs:
            yield (
                make("dimse", host="127.0.0.1", port=pacs.port, ae_title="PACS", keep_open_s=0.2),
                lambda uid: next((ds for ds in pacs.received() if uid == ds.SOPInstanceUID), None),
            )
    elif kind == "fhir":
        with FhirServer() as records:
            yield make("fhir", url=records.url), records.report_of
    elif kind == "hl7":
        with Listener() as listener:
            yield make("hl7", host="127.0.0.1", port=listener.port), listener.message_of
    else:
        server: OrthancServer = request.getfixturevalue("orthanc")
        url = server.url if kind == "orthanc" else server.dicomweb_url

        def held(uid: str) -> Dataset | None:
            import httpx

            for found in httpx.post(f"{server.url}/tools/lookup", content=uid).json():
                return dcmread(BytesIO(httpx.get(f"{server.url}{found['Path']}/file").content))
            return None

        yield make(kind, url=url), held


each_kind = pytest.mark.parametrize("archive", KINDS, indirect=True)
each_keeper = pytest.mark.parametrize("archive", KEEPERS, indirect=True)
each_teller = pytest.mark.parametrize("archive", TELLERS, indirect=True)


def test_the_six_kinds_are_found_and_none_is_broken():
    assert {"dimse", "folder", "orthanc", "stow"} <= set(KEEPERS)
    assert {"fhir", "hl7"} <= set(TELLERS)
    assert REGISTRY.broken == {}


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_frozen_and_refuse_a_key_that_is_not_known(kind):
    config = REGISTRY[kind].Settings.model_config
    assert config["frozen"]
    assert config["extra"] == "forbid"
    assert config["hide_input_in_errors"]
    assert inspect.getdoc(REGISTRY[kind])


@each_keeper
def test_an_object_arrives_whole_under_its_name(archive):
    destination, held = archive
    sent = a_picture()
    want = dcmread(BytesIO(sent))

    answer = destination.send(sent)

    got = held(str(want.SOPInstanceUID))
    assert got is not None
    assert got.PatientName == "GRAY^ALICE"
    assert got.PixelData == want.PixelData
    assert answer
    assert "GRAY" not in answer
    assert "4711" not in answer


@each_teller
def test_what_a_report_says_arrives_and_the_answer_names_nobody(archive):
    destination, held = archive
    sent = a_report()

    answer = destination.send(sent)

    got = str(held(str(dcmread(BytesIO(sent)).SOPInstanceUID)))
    assert "4711" not in answer
    assert "GRAY" not in answer
    assert answer
    for said in ("4711", "infection, 93 %", "RESEARCH USE ONLY"):
        assert said in got


@each_teller
def test_an_object_that_says_nothing_in_words_is_passed_by(archive):
    destination, held = archive
    picture = a_picture()

    answer = destination.send(picture)

    assert "nothing to tell" in answer
    assert held(str(dcmread(BytesIO(picture)).SOPInstanceUID)) is None
    assert destination.confirm(SecondaryCaptureImageStorage, str(dcmread(BytesIO(picture)).SOPInstanceUID), "1.2.3") is None


@each_teller
def test_a_report_of_nobody_goes_nowhere(archive):
    destination, held = archive
    sent = a_report(PatientID="")

    with pytest.raises(DeliveryRefused, match="Patient ID"):
        destination.send(sent)

    assert held(str(dcmread(BytesIO(sent)).SOPInstanceUID)) is None


@each_kind
def test_the_same_object_sent_twice_is_a_success_twice(archive):
    destination, held = archive
    sent = an_object(destination)

    destination.send(sent)
    destination.send(sent)

    assert held(str(dcmread(BytesIO(sent)).SOPInstanceUID)) is not None


@each_kind
def test_confirm_says_what_the_peer_holds_or_that_it_can_not_be_asked(archive):
    destination, _ = archive
    sent = an_object(destination)
    ds = dcmread(BytesIO(sent))
    names = (str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.StudyInstanceUID))

    before = destination.confirm(*names)
    destination.send(sent)
    after = destination.confirm(*names)

    assert (before, after) in {(False, True), (None, None)}


@each_kind
def test_bytes_that_are_not_dicom_are_refused_for_good(archive):
    destination, _ = archive
    with pytest.raises(DeliveryRefused):
        destination.send(b"not DICOM at all" * 100)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_a_peer_that_is_down_is_a_failure_for_now_and_is_said_soon(kind):
    port = free_port()
    where = {"host": "127.0.0.1", "port": port}
    settings = {"dimse": {**where, "ae_title": "PACS"}, "hl7": where}.get(kind, {"url": f"http://127.0.0.1:{port}"})
    destination = make(kind, timeout_s=3, **settings)
    began = time.monotonic()

    with pytest.raises(DeliveryFailed) as failed:
        destination.send(an_object(destination))

    assert "GRAY" not in str(failed.value)
    assert time.monotonic() - began < 10


def test_a_folder_that_can_not_be_written_is_a_failure_for_now(tmp_path):
    (tmp_path / "out").write_text("a file stands where the folder should be")
    with pytest.raises(DeliveryFailed):
        make("folder", path=tmp_path / "out").send(a_picture())


def test_a_folder_names_no_file_after_a_uid_with_path_characters(tmp_path):
    evil = a_picture()
    good = str(dcmread(BytesIO(evil)).SOPInstanceUID).encode()
    evil = evil.replace(good, (b"../" * 30)[: len(good)])

    with pytest.raises(DeliveryRefused):
        make("folder", path=tmp_path / "out").send(evil)
    assert not list(tmp_path.rglob("*.dcm"))
    assert not list(tmp_path.rglob("*.part"))


# --- is anybody there? --------------------------------------------------------------------------------------------------------
@each_kind
def test_a_destination_that_is_there_answers_and_takes_nothing(archive, tmp_path):
    destination, _ = archive

    assert destination.echo()
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dimse", {"host": "127.0.0.1", "ae_title": "PACS", "timeout_s": 1}),
        ("orthanc", {"url": "http://127.0.0.1", "timeout_s": 1}),
        ("stow", {"url": "http://127.0.0.1", "timeout_s": 1}),
        ("fhir", {"url": "http://127.0.0.1", "timeout_s": 1}),
        ("hl7", {"host": "127.0.0.1", "timeout_s": 1}),
        ("folder", {}),
    ],
)
def test_a_destination_that_is_not_there_says_so(kind, settings, tmp_path):
    port = free_port()
    (tmp_path / "occupied").write_text("not a folder")
    where = {"dimse": {"port": port}, "hl7": {"port": port}, "folder": {"path": tmp_path / "occupied"}}.get(
        kind, {"url": f"http://127.0.0.1:{port}"}
    )

    with pytest.raises(DeliveryFailed) as why:
        make(kind, **{**settings, **where}).echo()

    assert why.value.detail


def test_settings_are_shown_without_secrets():
    stow = make("stow", url="https://alice:secret@pacs/dicom-web?key=hidden", token="t0ken", password="hunter2", username="alice")
    dimse = make("dimse", host="pacs", ae_title="PACS", tls={"ca_file": "ca.pem", "key_file": "key.pem"})

    shown = str(stow.described())
    for secret in ("secret", "t0ken", "hunter2", "hidden"):
        assert secret not in shown
    assert stow.described()["url"] == "https://pacs/dicom-web"
    assert stow.described()["token"] == "(set)"
    assert dimse.described()["tls"]["ca_file"] == "ca.pem"
    assert "key.pem" not in str(dimse.described())
