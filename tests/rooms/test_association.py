"""An answer that pynetdicom's own thread takes away comes back to who waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, Association, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from node.association import keep_answers
from node.testing.pacs import Pacs
from node.testing.studies import a_study
from tests.ports import free_port

LATE_S, LATER_S, PATIENCE_S = 0.1, 0.2, 2.0


class Late(threading.Event):
    """Lets its waiter go on late, as a busy machine does."""

    def wait(self, timeout: float | None = None) -> bool:
        there = super().wait(timeout)
        time.sleep(LATE_S)
        return there


def held_up(ae: AE, port: int, title: str) -> Association:
    """An association whose own thread is late whenever it is let go on, and who waits for an answer later still."""
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
    association = keep_answers(ae.associate("127.0.0.1", port, ae_title=title))
    assert association.is_established
    association._reactor_checkpoint, get = Late(), association.dimse.get_msg
    association._reactor_checkpoint.set()

    def get_later(block: bool = False) -> tuple[int | None, Any]:
        if block:
            time.sleep(LATER_S)
        return get(block)

    association.dimse.get_msg = get_later
    return association


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path) as pacs:
        yield pacs


def test_every_answer_to_c_store_arrives(pacs: Pacs) -> None:
    slices = a_study("CT", slices=5, rows=64)
    ae = AE("SCANNER")
    ae.add_requested_context(slices[0].SOPClassUID, slices[0].file_meta.TransferSyntaxUID)
    association = held_up(ae, pacs.port, pacs.ae_title)

    answers = [association.send_c_store(ds) for ds in slices]
    association.release()

    assert [answer.get("Status") for answer in answers] == [0x0000] * 5


def test_an_answer_that_nobody_waits_for_is_not_taken_for_the_next_one() -> None:
    first, second = a_study("CT", slices=2, rows=64)

    def stored(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID != first.SOPInstanceUID:
            return 0xA700
        twice = C_STORE()
        twice.MessageIDBeingRespondedTo, twice.Status = event.request.MessageID, 0x0000
        twice.AffectedSOPClassUID, twice.AffectedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
        event.assoc.dimse.send_msg(twice, event.context.context_id)
        return 0x0000

    port, archive, ae = free_port(), AE("ARCHIVE"), AE("NODE")
    archive.add_supported_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    server = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, stored)])
    try:
        association = keep_answers(ae.associate("127.0.0.1", port, ae_title="ARCHIVE"))
        assert association.send_c_store(first).Status == 0x0000
        time.sleep(LATER_S)  # the second answer to it comes
        assert association.send_c_store(second).Status == 0xA700
        association.release()
    finally:
        server.shutdown()


def test_several_answers_keep_their_order() -> None:
    def found(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(4):
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID = "STUDY", f"1.2.3.{number}"
            yield 0xFF00, match

    port, archive, ae = free_port(), AE("ARCHIVE"), AE("NODE")
    archive.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
    server = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, found)])
    try:
        association = held_up(ae, port, "ARCHIVE")
        for _ in range(3):
            told = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
            assert [match.StudyInstanceUID for _, match in told if match] == [f"1.2.3.{number}" for number in range(4)]
            assert told[-1][0].Status == 0x0000
        association.release()
    finally:
        server.shutdown()
