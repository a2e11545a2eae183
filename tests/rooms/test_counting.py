"""How many instances does the source hold? A real Orthanc is asked, by C-FIND and by QIDO-RS."""

from __future__ import annotations

import pytest
from pydicom.uid import generate_uid

from config import SourceSettings
from node.identified.counting import expected_instances
from node.testing.pacs import Pacs
from tests.contracts.test_every_destination import a_picture
from tests.orthanc_server import OrthancServer
from tests.ports import free_port


@pytest.fixture
def archive(orthanc: OrthancServer) -> OrthancServer:
    return orthanc


@pytest.fixture(params=["dimse", "qido"])
def source(request: pytest.FixtureRequest, archive: OrthancServer) -> SourceSettings:
    if request.param == "qido":
        return SourceSettings(kind="qido", url=archive.dicomweb_url)
    return SourceSettings(kind="dimse", host="127.0.0.1", port=archive.dicom_port, ae_title=archive.ae_title)


def test_the_source_tells_the_number_of_instances_over_all_series(source, archive):
    study = generate_uid()
    series = [generate_uid(), generate_uid()]
    for number in range(5):
        archive.upload(a_picture(StudyInstanceUID=study, SeriesInstanceUID=series[number % 2]))
    archive.upload(a_picture())

    assert expected_instances(source, study) == 5


def test_a_study_that_the_source_does_not_hold_has_no_count(source):
    assert expected_instances(source, generate_uid()) is None


def test_a_caller_that_orthanc_does_not_know_gets_no_count_and_no_error(archive):
    study = generate_uid()
    archive.upload(a_picture(StudyInstanceUID=study))
    source = SourceSettings(kind="dimse", host="127.0.0.1", port=archive.dicom_port, ae_title=archive.ae_title)

    assert expected_instances(source, study, calling_ae_title="STRANGER") is None
    assert expected_instances(source, study) == 1


@pytest.mark.parametrize("kind", ["dimse", "qido"])
def test_a_source_that_is_down_has_no_count_and_stops_nothing(kind):
    port = free_port()
    source = SourceSettings(kind=kind, host="127.0.0.1", port=port, ae_title="NONE", url=f"http://127.0.0.1:{port}", timeout_s=2)

    assert expected_instances(source, generate_uid()) is None


def test_a_source_that_can_only_store_has_no_count(tmp_path):
    with Pacs(tmp_path) as pacs:
        source = SourceSettings(kind="dimse", host="127.0.0.1", port=pacs.port, ae_title="PACS", timeout_s=3)
        assert expected_instances(source, generate_uid()) is None
