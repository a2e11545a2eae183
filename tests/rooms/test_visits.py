"""A study on a visit, whatever goes wrong: models that hang or crash, clients that leave, too many at once. Nothing of it stays."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node.client import Radnode, Refused
from node.testing import canary_study
from node.testing.studies import a_study
from tests.rooms.upload_desk import Desk, Heard, part10, until, zipped
from tests.rooms.workbench import bundle

ODD = re.compile(rb"qx[a-z]{6,8}|q\0x\0(?:[a-z]\0){6,8}", re.IGNORECASE)  # as bytes, and as UTF-16
ROUTES = [{"name": "chest", "when": {"modality": "CT"}, "run": "works", "send_to": []}]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A node whose pipelines misbehave as their names say."""
    folder = tmp_path_factory.mktemp("visits")
    for name in ("works", "hangs", "crashes", "raises", "refuses", "looks_at_images", "takes_its_time"):
        bundle(folder / "models", name)
    (folder / "models" / "takes_its_time" / "1.0.0" / "seconds").write_text("1.5")
    rules = folder / "rules.yaml"
    rules.write_text(json.dumps({"rules": ROUTES}))
    desk = Desk(
        folder,
        faulty=True,
        bundles_dir=folder / "models",
        rules=rules,
        web={"max_upload_mb": 8},
        predict={"timeout_s": 8, "wait_s": 120, "most_at_once": 2, "max_files": 30},
        deidentification={"text_detection": "off"},
    )
    yield desk
    desk.close()


@pytest.fixture(autouse=True)
def nothing_stays(desk: Desk) -> Iterator[None]:
    """After each test, whatever it did: no file of the visit, no study, no job, and a seat for the next one."""
    yield
    until("the visit's end", lambda: not desk.left())
    overview = desk.house.overview()
    assert sum(overview["studies"].values()) == 0
    assert sum(overview["jobs"].values()) == 0
    assert not desk.house.studies.exists() or not list(desk.house.studies.rglob("*.dcm"))
    assert not list((desk.house.identified / "spool").glob("*"))


@pytest.fixture(scope="module")
def ct() -> list[bytes]:
    return part10(a_study("CT", slices=6, rows=64))


def test_a_series_in_a_zip_is_routed_by_the_rules_and_answered(desk: Desk, ct: list[bytes]) -> None:
    answer = desk.ask("/predict", zipped(ct))

    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["pipeline"], said["rule"], said["analysed"], said["label"]) == ("works", "chest", True, "lesion")
    assert said["model"]["version"] == "1.0.0"
    assert len(said["model"]["digest"]) == 64
    assert "Research use only" in said["disclaimer"]
    [finding] = said["findings"]
    assert finding["code"] == {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
    assert finding["measurements"][0]["unit"] == "%"


def test_the_access_is_audited_under_the_tokens_name_and_a_clean_uid(desk: Desk, ct: list[bytes]) -> None:
    desk.ask("/predict", *ct, role="integrator")

    last = desk.audited()[-1]
    assert last["who"] == "token:a-integrator"
    assert last["what"] == "predict: analysed by works 1.0.0"
    assert last["study"].startswith("2.25.")
    assert last["study"] != str(dcmread(io.BytesIO(ct[0])).StudyInstanceUID)
    assert last["event_meaning"] == "DICOM Instances Accessed"


def test_no_name_lies_on_the_disk_or_is_logged_or_answered_and_the_capture_has_it_again(desk: Desk) -> None:
    canary = canary_study(slices=6, rows=64)
    files = part10(canary.datasets)
    assert ODD.search(files[0])
    heard = Heard()
    loggers = [logging.getLogger(), logging.getLogger("node")]
    for logger in loggers:
        logger.addHandler(heard)
    try:
        packed = zipped({f"QXDOKATORA {number}.dcm": file for number, file in enumerate(files)})
        answer = desk.ask("/predict", packed, clinical='{"age": 61}')
        home = desk.ask("/heatmap", packed, accept="application/dicom")
    finally:
        for logger in loggers:
            logger.removeHandler(heard)

    assert answer.json()["analysed"], answer.text
    assert not ODD.search(answer.content)
    assert not ODD.search("\n".join(heard.lines).encode())
    for path in desk.house.settings.data_dir.rglob("*"):
        assert not ODD.search(str(path).encode())
        assert not path.is_file() or not ODD.search(path.read_bytes()), path.name
    capture = dcmread(io.BytesIO(home.content))
    assert capture.PatientName == canary.datasets[0].PatientName
    assert capture.StudyInstanceUID == canary.datasets[0].StudyInstanceUID
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID in {ds.SOPInstanceUID for ds in canary.datasets}


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [("hangs", "did not end within 8 s"), ("crashes", "SIGSEGV"), ("raises", "the pipeline failed")],
)
def test_a_model_that_fails_is_a_problem_and_the_node_lives(desk: Desk, ct: list[bytes], pipeline: str, words: str) -> None:
    answer = desk.ask("/predict", *ct, pipeline=pipeline)

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert desk.audited()[-1]["what"] == "predict: PredictionFailed"
    assert desk.ask("/predict", *ct, pipeline="works").json()["analysed"]


def test_a_study_outside_of_the_intended_use_is_an_answer_and_no_picture(desk: Desk, ct: list[bytes]) -> None:
    said = desk.ask("/predict", *ct, pipeline="refuses").json()
    assert said["analysed"] is False
    assert said["reason"]
    assert said["findings"] == []

    child = desk.ask("/predict", *ct, pipeline="works", clinical='{"age": 5}').json()
    assert child["analysed"] is False
    assert "from 18 years on" in child["reason"]

    picture = desk.ask("/heatmap", *ct, pipeline="refuses")
    assert picture.status_code == 422
    assert said["reason"] in picture.json()["detail"]


def test_a_heatmap_is_a_png_unless_the_capture_is_asked_for(desk: Desk, ct: list[bytes]) -> None:
    png = desk.ask("/heatmap", zipped(ct))
    assert png.headers["content-type"] == "image/png"
    assert png.content.startswith(b"\x89PNG")

    assert desk.ask("/heatmap", zipped(ct), accept="text/html").status_code == 406


def test_a_client_that_leaves_in_the_middle_of_the_upload_leaves_nothing(desk: Desk, ct: list[bytes]) -> None:
    with _connection(desk, 5_000_000) as client:
        client.sendall(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + ct[0] * 20)
    until("its seat", lambda: desk.visits._seats._value == 2)


def test_a_client_that_leaves_while_the_model_works_leaves_nothing(desk: Desk, ct: list[bytes]) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="pipeline"\r\n\r\ntakes_its_time\r\n'
    body += b"".join(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + file + b"\r\n" for file in ct)
    body += b"--x--\r\n"
    before = len(desk.audited())
    with _connection(desk, len(body)) as client:
        client.sendall(body)
        until("the visit", desk.left)

    until("the audit trail", lambda: len(desk.audited()) > before)
    assert desk.audited()[-1]["what"].startswith("predict: ")
    until("its seat", lambda: desk.visits._seats._value == 2)


def test_more_than_the_node_has_seats_for_are_asked_to_come_again(desk: Desk, ct: list[bytes]) -> None:
    answers: list[int] = []
    two = [
        threading.Thread(target=lambda: answers.append(desk.ask("/predict", *ct, pipeline="takes_its_time").status_code)) for _ in range(2)
    ]
    for one in two:
        one.start()
    until("both", lambda: desk.visits._seats._value == 0)

    third = desk.ask("/predict", *ct)

    for one in two:
        one.join()
    assert third.status_code == 503
    assert int(third.headers["retry-after"]) > 0
    assert answers == [200, 200]


# --- bad input ------------------------------------------------------------------------------------------------------------------
def test_uploads_that_can_not_be_used_are_answered_with_what_to_do(desk: Desk, ct: list[bytes]) -> None:
    other = part10(a_study("CT", slices=2, rows=64, patient=2))
    cases = [
        (desk.ask("/predict"), 415, "multipart/form-data"),
        (desk.ask("/predict", b""), 422, "empty"),
        (desk.ask("/predict", b"%PDF-1.7"), 422, "no kind"),
        (desk.ask("/predict", ct[0][:400]), 422, "File 1 can't be read as DICOM"),
        (desk.ask("/predict", ct[0], other[0]), 422, "2 studies"),
        (desk.ask("/predict", *ct, pipeline="nothing"), 422, "no pipeline of that name"),
        (desk.ask("/predict", *ct, clinical="{"), 422, "not JSON"),
        (desk.ask("/predict", *ct, clinical="[" * 60_000), 422, "not JSON"),
        (desk.ask("/predict", *ct, clinical='{"shoe": 43}'), 422, "not known"),
        (desk.ask("/predict", *ct, shoe="43"), 422, "field that is not known"),
        (desk.ask("/predict", *part10(a_study("MR", slices=2, rows=64))), 422, "No rule meets"),
        (desk.ask("/predict", *[ct[0]] * 31), 413, "more than 30 files"),
        (desk.ask("/predict", bytes(9 << 20)), 413, "larger than 8 MB"),
        (desk.ask("/predict", zipped([bytes(128) + b"DICM" + bytes(9 << 20)])), 413, "larger than 8 MB"),
    ]
    for answer, status, words in cases:
        assert answer.status_code == status, (words, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]
    assert "works" in cases[5][0].json()["pipelines"]
    assert "age_years" in cases[8][0].json()["known"]


def test_ten_gigabytes_are_refused_before_they_come(desk: Desk) -> None:
    with _connection(desk, 10 << 30) as client:
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0]


def test_a_body_without_its_length_is_stopped_at_the_limit(desk: Desk) -> None:
    with _connection(desk, None) as client:
        client.settimeout(30)
        try:
            for _ in range(10):
                client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        except OSError:
            pass  # it stopped listening
        assert b" 4" in client.recv(4096).split(b"\r\n")[0]


def test_only_those_who_may_are_let_in(desk: Desk, ct: list[bytes]) -> None:
    for role, status in (("radiologist", 200), ("integrator", 200), ("admin", 200), ("auditor", 403), ("privacy", 403)):
        assert desk.get("/meta", role).status_code == status
        for path in ("/predict", "/heatmap"):
            assert desk.ask(path, *ct, role=role, pipeline="works").status_code == status
    desk.tokens["stranger"] = "wrong"
    assert desk.ask("/predict", *ct, role="stranger").status_code == 401


def test_a_picture_is_decoded_apart_and_a_damaged_one_refused(desk: Desk) -> None:
    damaged = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\0\0\0\0" + bytes(50)
    assert "declares" not in desk.ask("/predict", damaged, pipeline="works").text
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\0\0\0\0"
    for file in (damaged, huge):
        assert desk.ask("/predict", file).status_code == 422


def test_the_client_gives_answers_pictures_and_problems(desk: Desk, ct: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "series.zip"
    file.write_bytes(zipped(ct))
    with Radnode(desk.url, desk.tokens["integrator"]) as node:
        answer = node.predict([file], clinical={"age": 61})
        assert (answer.pipeline, answer.analysed) == ("works", True)
        assert answer["lesion"].probability == answer.confidence
        assert answer["lesion"].code == ("52988006", "SCT", "Lesion")
        assert node.heatmap([file]).startswith(b"\x89PNG")
        assert node.heatmap([file], dicom=True)[128:132] == b"DICM"
        assert "works" in [one["name"] for one in node.meta()["pipelines"]]
        with pytest.raises(Refused, match="no pipeline of that name") as why:
            node.predict([file], pipeline="nothing")
    assert why.value.status == 422
    assert "works" in why.value.more["pipelines"]


def _connection(desk: Desk, length: int | None) -> socket.socket:
    """An upload of which the headers are sent."""
    client = socket.create_connection(("127.0.0.1", desk.port), timeout=30)
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    client.sendall(
        f"POST /predict HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {desk.tokens['radiologist']}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n{size}\r\n\r\n".encode()
    )
    return client
