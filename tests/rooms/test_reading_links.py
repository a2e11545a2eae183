"""From the report in the archive to the reader's answer: the link on the printed page, opened in a browser."""

from __future__ import annotations

import ctypes
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdf
import pytest
import zxingcpp
from playwright.sync_api import expect, sync_playwright
from pydicom import Dataset, dcmread

from config import Settings
from node import inference
from node.assembly import House, now
from node.domain import Opinion, VerdictSource
from node.gateway import Gateway
from node.imaging.study import read_study
from node.testing.studies import a_study
from node.warm_models import WarmModels
from tests.conftest import need
from tests.ports import free_port
from tests.rooms.test_try_and_read import RULES, Clinic


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """A node whose reports carry a link, and an archive that holds one of its results."""
    folder, port = tmp_path_factory.mktemp("clinic"), free_port()
    (folder / "rules.yaml").write_text(RULES)
    clinic = Clinic(
        folder,
        port=port,
        rules=folder / "rules.yaml",
        intake={"settle_after_s": 0, "min_free_mb": 0},
        deidentification={"text_detection": "off"},
        destinations={"archive": {"kind": "folder", "path": str(folder / "archive"), "profile": ["SR", "PDF"]}},
        web={"address": f"http://127.0.0.1:{port}/", "reading_links": "report", "reading_link_days": 7},
    )
    clinic.complaints = []
    clinic.analyses(folder)
    clinic.house.outbox.send_due()
    clinic.archive = {ds.Modality: ds for ds in map(dcmread, (folder / "archive").rglob("*.dcm"))}
    with sync_playwright() as playwright:
        clinic.browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        yield clinic
        clinic.browser.close()
    clinic.close()


def links_of(document: Dataset) -> list[tuple[str, str]]:
    """Words that can be pressed on the pages, and where each leads, as PDFium reads them."""
    found = []
    opened = pdfium.PdfDocument(document.EncapsulatedDocument)
    for page in opened:
        at, link, rect = ctypes.c_int(0), pdf.FPDF_LINK(), pdf.FS_RECTF()
        while pdf.FPDFLink_Enumerate(page, at, link):
            action = pdf.FPDFLink_GetAction(link)
            size = pdf.FPDFAction_GetURIPath(opened, action, None, 0)
            buffer = ctypes.create_string_buffer(size)
            pdf.FPDFAction_GetURIPath(opened, action, buffer, size)
            pdf.FPDFLink_GetAnnotRect(link, rect)
            words = page.get_textpage().get_text_bounded(rect.left, rect.bottom, rect.right, rect.top)
            found.append((words.strip(), buffer.value.decode()))
    return found


def test_the_link_on_the_delivered_page_opens_the_result_and_takes_an_answer(clinic: Clinic) -> None:
    [(words, url)] = links_of(clinic.archive["DOC"])
    assert words == "Open the reading page"

    page = clinic.window()
    page.goto(url)
    expect(page.get_by_role("table", name="Findings of breast_ultrasound")).to_contain_text("malignant")
    expect(page.locator("canvas")).to_have_attribute("data-slice", "0")
    page.get_by_role("button", name="Accept: malignant").click()

    expect(page.get_by_role("status").first).to_contain_text("Your answer is kept.")
    [heard] = clinic.house.verdicts.heard()
    said = heard.verdict
    assert (said.job, said.opinion, said.finding, said.source) == (clinic.job, Opinion.ACCEPT, "malignant", VerdictSource.PAGE)
    page.context.close()
    assert clinic.complaints == []


def test_paper_and_the_structured_report_lead_to_the_same_place(clinic: Clinic) -> None:
    [(_, url)] = links_of(clinic.archive["DOC"])
    paper = pdfium.PdfDocument(clinic.archive["DOC"].EncapsulatedDocument)[0]

    assert [code.text for code in zxingcpp.read_barcodes(paper.render(scale=4).to_numpy())] == [url]  # as a telephone reads it
    assert [element.value for element in clinic.archive["SR"].iterall() if element.keyword == "TextValue"].count(url) == 1


def test_the_link_names_the_job_and_nobody(clinic: Clinic) -> None:
    """The objects are named again on their way out; what is in the link was there before."""
    document = clinic.archive["DOC"]
    [(_, url)] = links_of(document)

    token = url.removeprefix(f"{clinic.url}/read/")

    said = token.partition(".")[0]
    job, finding, until = json.loads(urlsafe_b64decode(said + "=" * (-len(said) % 4)))
    assert (job, finding) == (clinic.job, "")
    assert until == int(clinic.house.jobs.get(clinic.job).reading_link.until.timestamp())
    patient = a_study("US", patient=2, kind="malignant")[0]
    assert document.PatientName == patient.PatientName
    for known in (*str(patient.PatientName).split("^"), patient.PatientID, patient.StudyInstanceUID, patient.SOPInstanceUID, clinic.study):
        assert str(known) not in token + job


def test_a_retry_on_another_day_writes_the_same_bytes(clinic: Clinic, tmp_path: Path) -> None:
    home = clinic.house
    job = home.jobs.get(clinic.job)
    later = replace(job.reading_link, url="https://elsewhere/read/other", until=job.reading_link.until + timedelta(days=1))
    home.jobs.submit(replace(job, reading_link=later))  # routed again by hand
    (tmp_path / "node_uid").write_bytes((home.results / "node_uid").read_bytes())

    made, _ = inference.carry_out(
        home.jobs.get(clinic.job),
        clean_folder=home.clean,
        results_folder=tmp_path,
        bundles_dir=home.settings.bundles_dir,
        device="cpu",
        loaded=WarmModels(),
        written_at=home.jobs.scheduled_at(clinic.job),
    )

    assert {one.object.role for one in made} >= {"SR", "PDF"}
    for one in made:
        assert one.object.path.read_bytes() == (home.results / clinic.job / one.object.path.name).read_bytes()


def test_the_link_ends_when_the_page_says(clinic: Clinic) -> None:
    job = clinic.house.jobs.get(clinic.job)
    text = pdfium.PdfDocument(clinic.archive["DOC"].EncapsulatedDocument)[0].get_textpage().get_text_bounded()

    assert timedelta(days=7) - timedelta(hours=1) < job.reading_link.until - now() <= timedelta(days=7)
    assert f"until {job.reading_link.until.astimezone():%Y-%m-%d %H:%M}" in " ".join(text.split())


def test_nothing_leads_anywhere_unless_it_is_asked_for(tmp_path: Path) -> None:
    plain = House(Settings(data_dir=tmp_path, web={"address": "https://radnode.hospital.example"}))

    assert plain.report_link("f" * 32) is None
    assert plain.reading_link("f" * 32).url.startswith("https://radnode.hospital.example/read/")


def test_a_version_in_the_shadow_has_no_link(clinic: Clinic) -> None:
    """Its results go nowhere, so nobody could come by one."""
    job = clinic.house.jobs.get(clinic.job)
    study, gateway = read_study(clinic.house.clean / job.folder), Gateway(clinic.house)

    bundle = clinic.house.bundles[job.route.pipeline]

    assert gateway._job(study, job.route, bundle).reading_link is not None
    assert gateway._job(study, job.route, bundle, shadow=True).reading_link is None
