"""What a report says, said again in FHIR and in HL7 v2: the same values, to the same patient, once."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom as hd
import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from node.destinations.fhir import Fhir, FhirSettings
from node.destinations.hl7 import Hl7, Hl7Settings
from node.domain import Result
from node.errors import DeliveryFailed, DeliveryRefused
from node.hl7_writer import control_id, escaped, lines_of
from node.provenance import RESEARCH
from node.report import NO_OUTLINE
from node.sr_reader import MARK, read_report
from tests.conformance import cases
from tests.record_systems import FhirServer, Listener, a_report, outcome, results
from tests.rooms.test_destinations import Authority


@pytest.fixture
def records():
    with FhirServer() as server:
        yield server


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


def to_fhir(server: FhirServer, **changes: Any) -> Fhir:
    return Fhir("records", FhirSettings.model_validate({"url": server.url, "timeout_s": 5, **changes}))


def to_hl7(listening: Listener, **changes: Any) -> Hl7:
    return Hl7("ris", Hl7Settings.model_validate({"host": "127.0.0.1", "port": listening.port, "timeout_s": 5, **changes}))


def numbers_of(part10: bytes) -> list[tuple[str, float, str]]:
    """(concept, value, unit) of every measurement, as highdicom reads the report."""
    groups = hd.sr.srread(BytesIO(part10)).content.get_planar_roi_measurement_groups()
    return [(m.name.value, float(m.value), m.unit.value) for g in groups for m in g.get_measurements()]


def message_of(listening: Listener) -> hl7.Message:
    [message] = listening.kept.values()
    return message


def obx_of(message: hl7.Message, code: str) -> list[hl7.Segment]:
    return [obx for obx in message.segments("OBX") if str(obx[3]).split("^")[0] == code]


# --- who, and when ---------------------------------------------------------------------------------------------------------------
def spoilt(**values: tuple[str, bytes]) -> bytes:
    """A report of a study whose header holds such bytes: VR and value."""
    ds = dcmread(BytesIO(a_report("nothing")))
    for keyword, (vr, value) in values.items():
        ds[keyword] = convert_raw_data_element(RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True))
    return cases.bytes_of(ds)


def test_an_id_with_a_backslash_is_one_id(records, listener):
    """DICOM reads two values; a list of Python's in place of the number would be nobody's."""
    sent = spoilt(PatientID=("LO", rb"4711\12"), AccessionNumber=("SH", rb"A1\A2"), PatientName=("PN", rb"GRAY^ALICE\GREY^ALICE"))

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report] = records.of("DiagnosticReport")
    assert report["subject"]["identifier"]["value"] == r"4711\12"
    assert report["basedOn"][0]["identifier"]["value"] == r"A1\A2"
    message = message_of(listener)
    [pid], [obr] = message.segments("PID"), message.segments("OBR")
    assert str(pid[3]) == r"4711\E\12^^^^MR"
    assert str(pid[5]) == "GRAY^ALICE^^^^^L^A~GREY^ALICE^^^^^L^A"
    assert str(obr[18]) == r"A1\E\A2"


@pytest.mark.parametrize(
    ("date", "time", "born", "in_hl7", "in_fhir"),
    [
        (b"20240229", b"101559", b"19600229", "20240229101559", "2024-02-29T10:15:59"),
        (b"20240230", b"101500", b"19990231", "", None),
        (b"20240229", b"101560", b"19990000", "20240229", "2024-02-29"),
        (b"20240229", b"1015", b"99999999", "20240229", "2024-02-29"),
        (b"00010101", b"000000", b"00010101", "", None),
    ],
)
def test_a_day_that_is_in_no_calendar_keeps_no_report_from_the_record(records, listener, date, time, born, in_hl7, in_fhir):
    sent = spoilt(StudyDate=("DA", date), StudyTime=("TM", time), PatientBirthDate=("DA", born))

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report] = records.of("DiagnosticReport")
    assert str(report.get("effectiveDateTime", ""))[: len(in_fhir or "")] == (in_fhir or "")
    message = message_of(listener)
    assert str(message.segments("OBR")[0][7]) == in_hl7
    assert str(message.segments("PID")[0][7]) == (born.decode() if born == b"19600229" else "")


def test_times_are_told_with_the_zone_of_the_images(records, listener):
    sent = spoilt(TimezoneOffsetFromUTC=("SH", b"+0900 "), StudyDate=("DA", b"20240229"), StudyTime=("TM", b"101500"))

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report] = records.of("DiagnosticReport")
    assert report["effectiveDateTime"] == "2024-02-29T10:15:00+09:00"
    assert report["issued"] == "2026-03-01T10:30:00+09:00"
    message = message_of(listener)
    assert str(message.segments("OBR")[0][7]) == "20240229101500+0900"
    assert str(message.segments("MSH")[0][7]) == "20260301103000+0900"


# --- the same values -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("result", ["infection", "nothing", "two"])
def test_numbers_and_units_equal_those_of_the_report(records, listener, result):
    sent = a_report(two_lungs() if result == "two" else result)
    want = numbers_of(sent)

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report] = records.of("DiagnosticReport")
    groups = [records.kept[one["reference"]] for one in report["result"]]
    members = [records.kept[one["reference"]] for group in groups for one in group["hasMember"]]
    in_fhir = [
        (m["code"]["coding"][0]["code"], m["valueQuantity"]["value"], m["valueQuantity"]["code"]) for m in members if "valueQuantity" in m
    ]
    in_hl7 = [
        (str(obx[3]).split("^")[0], float(str(obx[5])), str(obx[6]).split("^")[0])
        for obx in message_of(listener).segments("OBX")
        if str(obx[2]) == "NM"
    ]
    assert want
    assert in_fhir == want
    assert in_hl7 == want


def two_lungs() -> Result:
    found = results()["infection"]
    [one] = found.findings
    both = [
        replace(one, name=f"infection, {side}", segment=None, probability=value) for side, value in (("left", 0.3333), ("right", 0.061))
    ]
    return replace(found, findings=tuple(both), segments=())


def test_a_finding_that_was_looked_for_and_not_found_never_reads_as_found(records, listener):
    sent = a_report("nothing")

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [group] = [one for one in records.of("Observation") if "hasMember" in one]
    assert group["interpretation"][0]["coding"][0]["code"] == "NEG"
    assert group["valueCodeableConcept"]["text"].endswith("absent")
    assert "Nothing was found" in records.of("DiagnosticReport")[0]["conclusion"]
    assert "morphology" not in records.of("BodyStructure")[0]
    [line] = obx_of(message_of(listener), "112120")  # ground glass opacity is the question
    assert str(line[5]) == "272519000^Absent^SCT"
    assert any("Nothing was found" in str(obx[5]) for obx in obx_of(message_of(listener), "121077"))


def test_a_series_that_was_not_analysed_says_why_and_has_no_value(records, listener):
    sent = a_report("not analysed")

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report], [observation] = records.of("DiagnosticReport"), records.of("Observation")
    assert "Not analysed: The slices are 12 mm thick." in report["conclusion"]
    assert report["result"] == [{"reference": f"Observation/{observation['id']}"}]
    assert observation["dataAbsentReason"]["text"] == "Not analysed: The slices are 12 mm thick."
    assert not any(name.startswith("value") for name in observation)
    [finding] = obx_of(message_of(listener), "121071")
    assert str(finding[5]) == "Not analysed: The slices are 12 mm thick."
    assert str(finding[11]) == "X"  # table 0085: results can't be obtained


@pytest.mark.parametrize("result", ["infection", "nothing", "not analysed"])
def test_each_is_preliminary_and_says_research_use_only(records, listener, result):
    sent = a_report(result)

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    [report] = records.of("DiagnosticReport")
    assert report["status"] == "preliminary"
    assert RESEARCH in report["conclusion"]
    for one in records.of("Observation"):
        assert one["status"] == "preliminary"
        assert RESEARCH in one["note"][0]["text"]
    message = message_of(listener)
    assert str(message.segment("OBR")[25]) == "P"
    assert {str(obx[11]) for obx in message.segments("OBX")} <= {"P", "X"}
    assert any(RESEARCH in str(obx[5]) for obx in message.segments("OBX"))


@pytest.mark.parametrize("result", ["infection", "not analysed"])
def test_the_link_to_the_reading_page_goes_along_whole(records, listener, result):
    sent = a_report(result, linked=True)
    link = read_report(sent).reading_link

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    assert link.startswith("https://radnode.hospital.example/read/W")
    [form] = records.of("DiagnosticReport")[0]["presentedForm"]
    assert (form["contentType"], form["url"]) == ("text/html", link)
    [line] = obx_of(message_of(listener), "110037")
    assert str(line[5]) == link


def test_a_report_without_a_link_tells_of_none(records, listener):
    to_fhir(records).send(a_report())
    to_hl7(listener).send(a_report())

    assert "presentedForm" not in records.of("DiagnosticReport")[0]
    assert obx_of(message_of(listener), "110037") == []


def test_the_region_is_an_imaging_selection_with_the_reports_own_points(records):
    sent = a_report()
    [told] = read_report(sent).told

    to_fhir(records).send(sent)

    [selection] = records.of("Basic")
    by_url = {one["url"].rpartition(".")[2]: one for one in selection["extension"]}
    instance = {one["url"]: one for one in by_url["instance"]["extension"]}
    points = [one["valueDecimal"] for one in instance["imageRegion2D"]["extension"] if one["url"] == "coordinate"]
    assert points == list(told.outline.points)
    assert instance["uid"]["valueId"] == told.outline.sop_instance_uid
    assert by_url["seriesUid"]["valueId"] == "2.25.7002"
    [group] = [one for one in records.of("Observation") if "hasMember" in one]
    assert {"reference": f"Basic/{selection['id']}"} in group["focus"]


def test_the_mark_of_a_finding_without_a_place_is_no_region(records):
    to_fhir(records).send(a_report("nothing"))

    assert NO_OUTLINE.startswith(MARK)
    assert records.of("Basic") == []
    assert MARK not in json.dumps(records.kept)


def test_model_node_and_sources_are_told(records, listener):
    sent = a_report()

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    model = next(one for one in records.of("Device") if "parent" in one)
    assert (model["deviceName"][0]["name"], model["version"][0]["value"]) == ("covid_ct U-Net", "1.0.0")
    assert model["property"][0]["valueCode"][0]["text"] == "3f" * 32
    [provenance] = records.of("Provenance")
    sources = [one["what"]["identifier"]["value"] for one in provenance["entity"]]
    ds = dcmread(BytesIO(sent))
    assert sources[0] == f"urn:oid:{ds.SOPInstanceUID}"
    assert "urn:oid:2.25.7002" in sources
    assert {one["reference"] for one in provenance["target"]} >= {f"Observation/{one['id']}" for one in records.of("Observation")}
    assert "covid_ct U-Net 1.0.0" in str(message_of(listener).segment("OBX")[17])


# --- to the same patient, once -----------------------------------------------------------------------------------------------------
def test_patient_study_and_order_are_named_by_identifier_and_never_made(records):
    qualifiers = Dataset()
    qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = "1.2.3.4", "ISO"
    sent = a_report(AccessionNumber="A77", IssuerOfPatientID="HOSP", IssuerOfPatientIDQualifiersSequence=[qualifiers])

    to_fhir(records).send(sent)

    [report] = records.of("DiagnosticReport")
    assert report["subject"]["identifier"]["system"] == "urn:oid:1.2.3.4"
    assert report["subject"]["identifier"]["value"] == "4711"
    assert report["basedOn"][0]["identifier"]["value"] == "A77"
    assert report["imagingStudy"][0]["identifier"]["value"] == "urn:oid:2.25.7001"
    assert not records.of("Patient") + records.of("ImagingStudy") + records.of("ServiceRequest")
    assert "GRAY" not in json.dumps(records.kept)  # the number says who it is: no name travels


def test_sent_again_it_is_there_once(records, listener):
    sent = a_report()
    fhir, old = to_fhir(records), to_hl7(listener)

    for _ in range(2):
        fhir.send(sent)
        old.send(sent)

    assert set(records.versions.values()) == {2}
    assert len(records.of("DiagnosticReport")) == 1
    assert listener.raw[0] == listener.raw[1]
    assert len(listener.kept) == 1


def test_two_reports_share_devices_and_nothing_else(records):
    destination = to_fhir(records)
    destination.send(a_report())
    destination.send(a_report(SOPInstanceUID=generate_uid()))

    assert len(records.of("DiagnosticReport")) == 2
    assert len(records.of("Device")) == 2


def test_a_report_that_replaces_another_says_which(records):
    earlier, series = Dataset(), Dataset()
    earlier.ReferencedSOPClassUID, earlier.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.77"
    series.SeriesInstanceUID, series.ReferencedSOPSequence = "2.25.78", [earlier]
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = "2.25.7001", [series]

    to_fhir(records).send(a_report(PredecessorDocumentsSequence=[study]))

    [extension] = records.of("DiagnosticReport")[0]["extension"]
    assert extension["url"].endswith("diagnosticReport-replaces")
    assert extension["valueReference"]["identifier"]["value"] == "urn:oid:2.25.77"


def test_a_report_that_is_not_ours_is_refused(records):
    with pytest.raises(DeliveryRefused, match="not a report of this node's kind"):
        to_fhir(records).send(a_report(ContributingEquipmentSequence=[]))
    assert records.kept == {}


def test_a_name_keeps_its_parts_and_its_other_writings(listener):
    to_hl7(listener).send(a_report(PatientName="Yamada^Tarou^M^Dr^PhD=山田^太郎=やまだ^たろう", IssuerOfPatientID="HOSP"))

    pid = listener.kept.popitem()[1].segment("PID")
    assert [str(one) for one in pid[5]] == ["Yamada^Tarou^M^PhD^Dr^^L^A", "山田^太郎^^^^^L^I", "やまだ^たろう^^^^^L^P"]
    assert str(pid[3]) == "4711^^^HOSP^MR"


# --- words ------------------------------------------------------------------------------------------------------------------------
EVIL = "a|b^c&d~e\\f <script> Ж 肺 \\F\\"


def test_words_come_through_whatever_is_in_them(records, listener):
    [one] = results()["infection"].findings
    sent = a_report(replace(results()["infection"], findings=(replace(one, name=EVIL),), notes=(EVIL, "two\nlines")))

    to_fhir(records).send(sent)
    to_hl7(listener).send(sent)

    message = message_of(listener)
    said = [str(message.unescape(str(obx[5]))) for obx in obx_of(message, "121106")]
    assert EVIL in said
    assert "two lines" in said
    assert str(message.segment("MSH")[18]) == "UNICODE UTF-8"
    narrative = records.of("DiagnosticReport")[0]["text"]["div"]
    assert "<script>" not in narrative
    assert "肺" in narrative


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_escaped_text_has_no_delimiter_and_reads_back(text):
    message = hl7.parse("MSH|^~\\&|A\r")
    want = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())

    got = escaped(text)

    assert not set(got) & set("|^&~\r\n")
    plain = got
    for letter, code in (("|", "\\F\\"), ("^", "\\S\\"), ("&", "\\T\\"), ("~", "\\R\\")):
        if "\\" not in want:
            plain = plain.replace(code, letter)
    if "\\" not in want:
        assert plain == want
        assert str(message.unescape(got)) == want


def test_a_long_text_goes_on_in_the_next_line(listener):
    long = " ".join(f"zone {number}: {number} % of a&b" for number in range(60))

    to_hl7(listener).send(a_report(replace(results()["infection"], notes=(long,))))

    message = message_of(listener)
    lines = max((obx[5] for obx in message.segments("OBX")), key=len)
    assert len(lines) > 5
    assert all(len(str(line)) <= 199 for line in lines)
    assert " ".join(str(message.unescape(str(line))) for line in lines) == long


@given(st.text(alphabet="a \\|^&~\n", max_size=900))
@settings(max_examples=100, deadline=None)
def test_lines_lose_nothing_and_cut_no_escape(text):
    lines = lines_of(text)

    assert all(0 < len(line) <= 199 for line in lines)
    assert "".join(lines).replace(" ", "") == escaped(text).replace(" ", "")
    assert all(line.count("\\") % 2 == 0 for line in lines)


@given(st.from_regex(r"2\.25\.[1-9][0-9]{0,38}", fullmatch=True))
def test_a_control_id_fits_its_field(uid):
    assert len(control_id(uid)) == 20
    assert control_id(uid) == control_id(uid)
    assert control_id(uid).isalnum()


# --- what the other side answers ------------------------------------------------------------------------------------------------
QUOTE = "patient GRAY^ALICE 4711 is unknown"


@pytest.mark.parametrize(
    ("status", "body", "becomes", "words"),
    [
        (400, json.dumps(outcome("invalid", QUOTE)).encode(), DeliveryRefused, "HTTP 400, invalid"),
        (422, json.dumps(outcome("GRAY^ALICE", QUOTE)).encode(), DeliveryRefused, "HTTP 422"),
        (404, b"<html>no</html>", DeliveryRefused, "HTTP 404"),
        (301, b"", DeliveryRefused, "HTTP 301"),
        (401, b"", DeliveryFailed, "HTTP 401"),
        (409, json.dumps(outcome("conflict")).encode(), DeliveryFailed, "HTTP 409, conflict"),
        (429, b"", DeliveryFailed, "HTTP 429"),
        (500, json.dumps(outcome("exception", QUOTE)).encode(), DeliveryFailed, "HTTP 500, exception"),
        (503, b"", DeliveryFailed, "HTTP 503"),
        (200, b"<html>login</html>", DeliveryFailed, "not a FHIR transaction"),
        (200, json.dumps(outcome("informational")).encode(), DeliveryFailed, "not a FHIR transaction"),
        (200, b'{"type": "transaction-response", "entry": [{"response": {"status": "201"}}]}', DeliveryFailed, "every resource"),
    ],
)
def test_what_a_fhir_service_answers_becomes_sent_later_or_never(records, status, body, becomes, words):
    records.answers = [(status, body)]

    with pytest.raises(becomes, match=words) as why:
        to_fhir(records).send(a_report())

    assert "GRAY" not in str(why.value)
    assert records.kept == {}


def ack(code: str, more: str = "", *, to: str = "{id}") -> bytes:
    return b"\x0b" + f"MSH|^~\\&|RIS||RADNODE||20260301||ACK|1|P|2.5.1\rMSA|{code}|{to}|{QUOTE}\r{more}".encode() + b"\x1c\r"


@pytest.mark.parametrize(
    ("answer", "becomes", "words"),
    [
        (ack("CA"), "HL7 CA", ""),
        (ack("AE", f"ERR||PID^1|204^{QUOTE}|E\r"), DeliveryRefused, "HL7 AE, error 204"),
        (ack("AR"), DeliveryRefused, "HL7 AR"),
        (ack("AE", "ERR|||207^Application internal error|E\r"), DeliveryFailed, "HL7 AE, error 207"),
        (ack("AE", "ERR|||GRAY|E\r"), DeliveryRefused, "HL7 AE$"),
        (ack("AA", to="ANOTHER"), DeliveryFailed, "another message"),
        (ack("ZZ"), DeliveryFailed, "not an acknowledgement"),
        (b"\x0bHTTP/1.1 400 Bad Request\x1c\r", DeliveryFailed, "not an acknowledgement"),
        (b"", DeliveryFailed, "no answer"),
        (None, DeliveryFailed, "in time"),
    ],
)
def test_what_an_hl7_listener_answers_becomes_sent_later_or_never(listener, answer, becomes, words):
    listener.answers = [answer]
    destination = to_hl7(listener, timeout_s=0.5 if answer is None else 5)

    if isinstance(becomes, str):
        assert destination.send(a_report()) == becomes
        return
    with pytest.raises(becomes) as why:
        destination.send(a_report())
    assert "GRAY" not in str(why.value)
    assert why.match(words.removesuffix("$"))
    if words.endswith("$"):
        assert why.value.detail == words.removesuffix("$")


def test_a_report_that_no_message_can_hold_is_refused_before_anything_is_sent(listener):
    with pytest.raises(DeliveryRefused) as why:
        to_hl7(listener).send(a_report(AccessionNumber="A" * 300))
    assert "AAA" not in str(why.value)
    assert listener.raw == []


# --- who is there -----------------------------------------------------------------------------------------------------------------
def test_a_token_or_a_password_is_sent_and_never_told(records):
    to_fhir(records, token="abc-secret").send(a_report())
    to_fhir(records, username="radnode", password="secret").send(a_report())

    assert records.headers[0]["Authorization"] == "Bearer abc-secret"
    assert records.headers[1]["Authorization"].startswith("Basic ")
    assert "secret" not in repr(FhirSettings(url=records.url, token="abc-secret"))


def test_over_tls_a_fhir_service_must_be_signed_by_the_authority_that_is_named(tmp_path):
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "stranger")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.signs("records"))
    with FhirServer(tls=server) as records:
        assert to_fhir(records, ca_file=str(authority.file)).send(a_report()).startswith("FHIR")
        for wrong in ({"ca_file": str(stranger.file)}, {}):
            with pytest.raises(DeliveryFailed):
                to_fhir(records, **wrong).send(a_report())
        assert set(records.versions.values()) == {1}


def test_over_tls_an_hl7_listener_and_the_node_show_who_they_are(tmp_path):
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.signs("ris"))
    server.load_verify_locations(authority.file)
    server.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.signs("radnode")
    known = {"ca_file": str(authority.file)}
    with Listener(tls=server) as listening:
        assert to_hl7(listening, tls={**known, "cert_file": cert, "key_file": key}).send(a_report()) == "HL7 AA"
        for wrong in (known, None):
            with pytest.raises(DeliveryFailed):
                to_hl7(listening, tls=wrong, timeout_s=1).send(a_report())
        assert len(listening.raw) == 1
