"""Results by QIDO-RS and WADO-RS, asked for as an archive would: by the original UIDs, with dicomweb-client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from sqlalchemy import update

from node.audit import Event
from node.ledger.tables import JobRow
from node.testing.studies import a_study
from tests.rooms.api_site import Site, a_site, doors
from tests.rooms.test_web import Server


@dataclass
class Reader:
    """A site with one finished study, its real server, and a client of it."""

    site: Site
    clean: str
    source: Dataset
    server: Server
    client: DICOMwebClient

    @property
    def study(self) -> str:
        return str(self.source.StudyInstanceUID)

    def get(self, path: str, accept: str = "*/*", role: str = "integrator") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.site.token(role)}", "Accept": accept}
        return httpx.get(f"{self.server.url}/dicom-web/{path}", headers=headers, timeout=30)

    def records(self) -> list[dict[str, Any]]:
        return [one for one in self.site.home.trail.of_study(self.clean) if one.get("what", "").startswith("DICOMweb")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with a_site(tmp_path_factory.mktemp("reader")) as site:
        clean = site.arrives(*a_study("CT", slices=4, rows=64, patient=2))
        site.works_off()
        server = Server(doors(site.home))
        client = DICOMwebClient(f"{server.url}/dicom-web", headers={"Authorization": f"Bearer {site.token('integrator')}"})
        yield Reader(site, clean, site.sources[clean], server, client)
        server.stop()


def test_the_series_of_the_results_are_listed_under_the_patients_own_study(reader: Reader) -> None:
    found = [Dataset.from_json(one) for one in reader.client.search_for_series(reader.study)]

    assert sorted(ds.Modality for ds in found) == ["OT", "SEG", "SR"]
    assert {ds.StudyInstanceUID for ds in found} == {reader.study}
    assert {ds.NumberOfSeriesRelatedInstances for ds in found} == {1}
    assert all(ds.RetrieveURL.endswith(f"/series/{ds.SeriesInstanceUID}") for ds in found)


def test_instances_are_searched_by_what_they_are(reader: Reader) -> None:
    [seg] = reader.client.search_for_instances(reader.study, search_filters={"Modality": "SEG"}, fields=["SeriesDescription", "00080070"])
    by_class = reader.client.search_for_instances(reader.study, search_filters={"SOPClassUID": seg["00080016"]["Value"][0]})
    by_name = reader.client.search_for_instances(reader.study, search_filters={"PatientName": "åström*"})
    nobody = reader.client.search_for_instances(reader.study, search_filters={"PatientName": "Müller*"})
    first, second = (reader.client.search_for_instances(reader.study, limit=1, offset=offset) for offset in (0, 1))

    assert {"0008103E", "00080070", "00280010"} <= set(seg)
    assert [one["00080018"] for one in by_class] == [seg["00080018"]]
    assert (len(by_name), nobody) == (3, [])
    assert first[0]["00080018"] != second[0]["00080018"]


def test_a_search_that_is_cut_says_how_many_more_there_are(reader: Reader) -> None:
    said = [
        reader.get(f"studies/{reader.study}/instances?{part}").headers.get("Warning", "") for part in ("limit=1", "limit=1&offset=2", "")
    ]

    assert said == ['299 radnode "There are 2 additional results that can be requested"', "", ""]


def test_a_sequence_is_shown_where_it_is_asked_for(reader: Reader) -> None:
    [found] = reader.get(f"studies/{reader.study}/instances?Modality=SEG&includefield=SegmentSequence&includefield=0040A730").json()

    assert found["00620002"]["vr"] == "SQ"
    assert found["00620002"]["Value"][0]["00620004"]["Value"] == [1]


def test_a_study_is_found_by_its_uid_with_its_patient(reader: Reader) -> None:
    [found] = reader.client.search_for_studies(search_filters={"StudyInstanceUID": reader.study})
    ds = Dataset.from_json(found)

    assert str(ds.PatientName) == "Åström^Anne-Sofie"
    assert (ds.PatientID, ds.AccessionNumber) == (reader.source.PatientID, reader.source.AccessionNumber)
    assert sorted(ds.ModalitiesInStudy) == ["OT", "SEG", "SR"]
    assert (ds.NumberOfStudyRelatedSeries, ds.NumberOfStudyRelatedInstances) == (3, 3)
    assert reader.client.search_for_studies(search_filters={"StudyInstanceUID": "1.2.3"}) == []


def test_instances_come_as_delivery_sends_them(reader: Reader) -> None:
    sent = {ds.SOPInstanceUID: ds for path in (reader.site.folder / "pacs").rglob("*.dcm") if (ds := dcmread(path))}
    whole = reader.client.retrieve_study(reader.study)
    seg = next(ds for ds in whole if ds.Modality == "SEG")
    [by_series] = reader.client.retrieve_series(reader.study, seg.SeriesInstanceUID)
    one = reader.client.retrieve_instance(reader.study, seg.SeriesInstanceUID, seg.SOPInstanceUID)

    assert {ds.SOPInstanceUID for ds in whole} == set(sent)
    for ds in whole:
        assert ds == sent[ds.SOPInstanceUID]
    assert one == by_series == seg
    assert {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} <= {
        str(ds.SOPInstanceUID) for ds in a_study("CT", slices=4, rows=64, patient=2)
    }


def test_metadata_is_all_but_the_pixels(reader: Reader) -> None:
    found = [Dataset.from_json(one) for one in reader.client.retrieve_study_metadata(reader.study)]
    seg = next(ds for ds in found if ds.Modality == "SEG")
    [again] = reader.client.retrieve_series_metadata(reader.study, seg.SeriesInstanceUID)
    one = reader.client.retrieve_instance_metadata(reader.study, seg.SeriesInstanceUID, seg.SOPInstanceUID)

    assert len(found) == 3
    assert all("PixelData" not in ds for ds in found)
    assert seg.SegmentSequence[0].SegmentLabel == "Lesion"
    assert Dataset.from_json(again) == Dataset.from_json(one) == seg


def test_one_object_may_come_alone(reader: Reader) -> None:
    ds = next(Dataset.from_json(one) for one in reader.client.search_for_instances(reader.study))
    path = f"studies/{reader.study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    answer = reader.get(path, "application/dicom")

    assert answer.headers["content-type"] == "application/dicom"
    assert dcmread(BytesIO(answer.content)).SOPInstanceUID == ds.SOPInstanceUID
    assert reader.get(f"studies/{reader.study}", "application/dicom").status_code == 406
    assert reader.get(path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90").status_code == 406
    assert reader.get(path, "image/jpeg").status_code == 406


def test_who_fetched_what_is_in_the_trail_under_the_clean_uid(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    before = len(reader.records())
    reader.get(f"studies/{reader.study}/series", role="radiologist")
    reader.get(f"studies/{reader.study}")

    searched, fetched = reader.records()[before:]
    assert (searched["what"], searched["who"]) == ("DICOMweb: results searched", "token:a-radiologist")
    assert (fetched["what"], fetched["who"], fetched["facts"]) == ("DICOMweb: results retrieved", "token:a-integrator", {"objects": "3"})
    assert {searched["event"], fetched["event"]} == {Event.INSTANCES_ACCESSED.value[0]}
    trail = "".join(reader.site.home.trail.export("json"))
    for word in (reader.study, "Åström", "PHANTOM-000"):
        assert word not in trail
        assert word not in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("studies", 400, "StudyInstanceUID"),
        ("studies?PatientID=PHANTOM-0002", 400, "sealed"),
        ("studies?StudyInstanceUID=1.2.*", 400, "StudyInstanceUID"),
        ("studies/{study}/series?Colour=red", 400, "keyword"),
        ("studies/{study}/series?00400275=x", 400, "sequence"),
        ("studies/{study}/instances?limit=many", 400, "number"),
        ("studies/{study}/series?PatientName=" + "*a" * 200, 400, "characters"),
        ("studies/1.2.3", 404, "not known"),
        ("studies/1.2.3/metadata", 404, "not known"),
        ("studies/{study}/series/1.2.3", 404, "not known"),
        ("studies/..%2F..", 404, "path"),
        ("studies/x", 422, "malformed"),
    ],
)
def test_what_can_not_be_answered_says_why(reader: Reader, path: str, status: int, words: str) -> None:
    answer = reader.get(path.format(study=reader.study))

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_of_an_unknown_study_there_is_nothing_and_of_the_shadow_neither(reader: Reader) -> None:
    assert reader.get("studies/1.2.3/series").json() == []
    _all_in_the_shadow(reader, True)
    try:
        assert reader.get(f"studies/{reader.study}/series").json() == []
    finally:
        _all_in_the_shadow(reader, False)


def _all_in_the_shadow(reader: Reader, so: bool) -> None:
    with reader.site.home.ledger.begin() as db:
        db.execute(update(JobRow).values(shadow=so))
