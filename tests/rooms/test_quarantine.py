"""A refused study is kept with its reason until somebody acts."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.domain import CleanUid, StudyRef
from node.errors import BurnedInAnnotation, InstanceUnreadable
from node.identified.quarantine import Quarantine
from tests.rooms.test_deidentifier import Wing

STUDY = CleanUid("2.25.1")


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    wing = Wing(tmp_path)
    wing.know(STUDY)
    return Quarantine(wing.engine)


def test_a_refused_study_is_listed_with_its_reason(quarantine: Quarantine) -> None:
    quarantine.set_aside(StudyRef(study=STUDY, revision=1), BurnedInAnnotation("Burned In Annotation is YES", instance="2.25.2"))

    [refusal] = quarantine.list()
    assert (refusal.study, refusal.revision, refusal.kind) == (STUDY, 1, "BurnedInAnnotation")
    assert "2.25.2" in refusal.reason
    assert quarantine.reason(STUDY) == refusal
    assert refusal.refused_at.tzinfo is not None


def test_a_second_refusal_replaces_the_first(quarantine: Quarantine) -> None:
    quarantine.set_aside(StudyRef(study=STUDY, revision=1), BurnedInAnnotation())
    quarantine.set_aside(StudyRef(study=STUDY, revision=2), InstanceUnreadable("it has no Modality"))

    [refusal] = quarantine.list()
    assert (refusal.revision, refusal.kind) == (2, "InstanceUnreadable")


def test_a_released_study_is_off_the_list(quarantine: Quarantine) -> None:
    quarantine.set_aside(StudyRef(study=STUDY, revision=1), BurnedInAnnotation())

    assert quarantine.release(STUDY)
    assert quarantine.list() == []
    assert quarantine.reason(STUDY) is None
    assert not quarantine.release(STUDY)
