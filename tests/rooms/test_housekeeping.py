"""What happens again and again: a failure is said once, in words where they are ours."""

from __future__ import annotations

import logging

import pytest

from node.errors import SourceFailed
from node.housekeeping import Chore, Housekeeping


def test_a_chore_that_fails_says_why_and_says_it_again_when_the_reason_is_another(caplog: pytest.LogCaptureFixture) -> None:
    reasons = ["HTTP 401", "HTTP 401", "HTTP 500"]

    def ask() -> None:
        if reasons:
            raise SourceFailed(reasons.pop(0), orthanc="hospital")

    chore = Chore(name="catch up", every_s=60, do=ask)
    housekeeping = Housekeeping([chore])
    with caplog.at_level(logging.ERROR, "node"):
        for _ in range(3):
            housekeeping._do(chore)

    assert [record.because for record in caplog.records] == ["HTTP 401", "HTTP 500"]
    assert "catch up" in housekeeping.failing
    housekeeping._do(chore)
    assert housekeeping.failing == {}


def test_of_an_error_that_is_not_ours_only_its_kind_and_place_are_said(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("GRAY^ALICE")

    with caplog.at_level(logging.ERROR, "node"):
        Housekeeping([chore := Chore(name="settle", every_s=60, do=fail)])._do(chore)

    [record] = caplog.records
    assert not hasattr(record, "because")
    assert "GRAY" not in record.getMessage()
