"""A record system and a RIS on the same floor: the node tells both what it found, and the one on duty what it refused."""

from __future__ import annotations

from pathlib import Path

from node.testing.studies import a_study, write_study
from tests.record_systems import FhirServer, Listener
from tests.rooms.test_notices import SECRET, Hook
from tests.stories.conftest import BREAST
from tests.stories.department import NodeProcess, store, wait_for


def test_a_finding_reaches_the_record_and_a_refusal_the_one_on_duty(tmp_path: Path) -> None:
    duty = Hook()
    with FhirServer() as records, Listener() as ris:
        node = NodeProcess(
            tmp_path / "node",
            destinations={
                "record": {"kind": "fhir", "url": records.url, "patient_system": "urn:oid:1.2.3"},
                "ris": {"kind": "hl7", "host": "127.0.0.1", "port": ris.port},
            },
            notifications={"webhooks": [{"name": "duty", "url": duty.url, "secret": SECRET}], "every_s": 0.5},
            deidentification={"text_detection": "off"},
        )
        node.rules({**BREAST, "send_to": ["record", "ris"]})
        [image] = a_study("US", patient=2, kind="malignant")
        [declared] = a_study("US", patient=3, kind="benign", BurnedInAnnotation="YES")
        node.start()
        try:
            store(write_study([image, declared], tmp_path / "in"), node.dicom_port)
            [report] = wait_for("the report in the record", lambda: records.of("DiagnosticReport"))
            [message] = wait_for("the message in the RIS", lambda: list(ris.kept.values()))
            wait_for("its confirmation", lambda: node.status()["deliveries"]["record"]["CONFIRMED"])
            wait_for("a notice", lambda: duty.got)
        finally:
            node.stop()
            duty.server.shutdown()
            duty.server.server_close()

    assert report["subject"]["identifier"]["value"] == image.PatientID
    assert report["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{image.StudyInstanceUID}"
    assert str(message.segment("PID")[3]).startswith(image.PatientID)
    probabilities = {one["valueQuantity"]["value"] for one in records.of("Observation") if one.get("valueQuantity", {}).get("code") == "%"}
    in_the_message = {float(str(obx[5])) for obx in message.segments("OBX") if str(obx[6]).startswith("%")}
    assert probabilities == in_the_message != set()
    told = b"".join(body for _, body in duty.got).decode()
    assert "1 study in quarantine: BurnedInAnnotation" in told
    assert str(declared.PatientID) not in told
