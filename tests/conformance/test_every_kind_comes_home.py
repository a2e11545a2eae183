"""Every encoding through both doors: made in the hall without a name, valid and whole under the patient's own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from node.destinations.dimse import Dimse, DimseSettings
from node.domain import Role
from node.identified.reidentifier import Reidentifier
from node.writers import written
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conformance.test_encodings import a_result, everything
from tests.orthanc_server import OrthancServer
from tests.rooms.test_deidentifier import Wing

NAME = "Łęcka^Żaneta"


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory):
    """Originals, the clean study's identity, and each object before and after."""
    folder = tmp_path_factory.mktemp("home")
    originals = [dcmread(path) for path in cases.ct_files(folder / "ct")]
    for ds in originals:
        ds.SpecificCharacterSet, ds.PatientName, ds.PatientID, ds.AccessionNumber = "ISO_IR 192", NAME, "MRN-4711", "ACC-99"
    wing = Wing(folder)
    study = wing.deidentify(*originals)
    volume = cases.stack(study)
    made = written(study, study.series[0], volume, a_result(volume, cases.opacity(volume.pixels.shape)), everything(study))
    nameless = {role: cases.bytes_of(ds) for role, ds in made.items()}
    again = Reidentifier(wing.identities)
    named = {role: again.name_again(part10, study.ref.study) for role, part10 in nameless.items()}
    return originals, study, wing.identities.get(study.ref.study), nameless, named


def test_no_encoding_knows_a_name_and_each_gets_the_right_one(trip, tmp_path: Path) -> None:
    originals, _, _, nameless, named = trip
    identifying = [NAME.encode(), b"MRN-4711", b"ACC-99", *(str(ds.SOPInstanceUID).encode() + b"\0" for ds in originals)]

    assert set(named) == set(Role)
    for role, part10 in named.items():
        assert not [word for word in identifying if word in nameless[role]], role
        home = dcmread(BytesIO(part10))
        assert (str(home.PatientName), home.PatientID, home.AccessionNumber) == (NAME, "MRN-4711", "ACC-99")
        assert home.StudyInstanceUID == originals[0].StudyInstanceUID
        assert iod_errors(home) == [], role
        (tmp_path / role).mkdir()
        if role is not Role.SEG_LABELMAP:  # dciodvfy does not know the class
            assert cases.dciodvfy_errors(home, tmp_path / role) == [], role


def test_nothing_of_the_hall_is_left_in_any_encoding(trip) -> None:
    _, study, identity, _, named = trip
    clean = {str(uid).encode() for uid in identity.original_uid} | {study.pseudonym.encode()}

    for role, part10 in named.items():
        assert not [word for word in clean if word in part10], role


def test_references_are_to_the_originals(trip) -> None:
    originals, _, _, _, named = trip
    known = {str(ds.SOPInstanceUID) for ds in originals} | {str(originals[0].StudyInstanceUID)}
    known |= {str(dcmread(BytesIO(part10)).SOPInstanceUID) for part10 in named.values()}

    for role, part10 in named.items():
        references = {str(e.value) for e in dcmread(BytesIO(part10)).iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert references, role
        assert references <= known, role


def test_a_real_orthanc_takes_every_kind_by_c_store(trip, orthanc: OrthancServer) -> None:
    """With the configuration that comes with the node, which lets label maps in; without it Orthanc refuses that class on the wire."""
    _, _, _, _, named = trip
    settings = DimseSettings(host="127.0.0.1", port=orthanc.dicom_port, ae_title=orthanc.ae_title, timeout_s=10, keep_open_s=0.1)
    pacs = Dimse("orthanc", settings)

    assert {role: pacs.send(part10) for role, part10 in named.items()} == dict.fromkeys(named, "C-STORE 0x0000")

    held = {orthanc.get(f"/instances/{one}/simplified-tags")["SOPInstanceUID"] for one in orthanc.instances_of(study_uid(named))}
    assert held == {str(dcmread(BytesIO(part10)).SOPInstanceUID) for part10 in named.values()}


def study_uid(named: dict[Role, bytes]) -> str:
    return str(dcmread(BytesIO(named[Role.SC])).StudyInstanceUID)
