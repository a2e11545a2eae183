"""A destination is asked what it accepts before anything is sent, and the answer is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from typer.testing import CliRunner

from node.__main__ import front_door
from node.codes import LABEL_MAP
from node.destinations.dimse import Dimse, DimseSettings
from node.domain import Role
from node.errors import DeliveryFailed
from node.profiles import SOP_CLASSES, fitted
from node.sr_writer import write_sr
from node.testing.pacs import Pacs
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.orthanc_server import OrthancServer
from tests.ports import free_port

ASKED = [str(SegmentationStorage), str(SecondaryCaptureImageStorage), str(Comprehensive3DSRStorage)]


def dimse(port: int, ae_title: str = "PACS") -> Dimse:
    return Dimse("pacs", DimseSettings(host="127.0.0.1", port=port, ae_title=ae_title, timeout_s=5))


def test_an_old_pacs_says_what_it_does_not_take(tmp_path: Path):
    with Pacs(tmp_path, sop_classes=[SecondaryCaptureImageStorage], transfer_syntaxes=[ImplicitVRLittleEndian]) as pacs:
        accepted = dimse(pacs.port).probe(ASKED)

        assert pacs.received() == []

    assert accepted == {str(SecondaryCaptureImageStorage): (str(ImplicitVRLittleEndian),)}


def test_one_that_takes_nothing_has_answered(tmp_path: Path):
    with Pacs(tmp_path, sop_classes=["1.2.840.10008.5.1.4.1.1.2"]) as pacs:
        assert dimse(pacs.port).probe(ASKED) == {}


def test_a_real_orthanc_takes_all_three_and_compressed_ones(orthanc: OrthancServer):
    accepted = dimse(orthanc.dicom_port, orthanc.ae_title).probe(ASKED)

    assert set(accepted) == set(ASKED)
    assert {str(ExplicitVRLittleEndian), str(RLELossless)} <= set(accepted[str(SegmentationStorage)])


def test_one_that_is_down_has_not_answered():
    with pytest.raises(DeliveryFailed):
        dimse(free_port()).probe(ASKED)


def radnode(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    settings = tmp_path / "radnode.yaml"
    done = CliRunner().invoke(
        front_door("destinations"),
        ["destinations", *arguments, "--config", str(settings)],
        env={"RADNODE_DATA_DIR": str(tmp_path / "data")},
    )
    return done.exit_code, done.stdout or str(done.exception)


def test_the_answer_is_remembered_and_can_be_forgotten(tmp_path: Path):
    with Pacs(tmp_path / "pacs", sop_classes=[SecondaryCaptureImageStorage]) as pacs:
        (tmp_path / "radnode.yaml").write_text(
            f"destinations:\n  old: {{kind: dimse, host: 127.0.0.1, port: {pacs.port}, ae_title: PACS}}\n  disk: {{kind: folder, path: {tmp_path}}}\n"
        )
        status, said = radnode(tmp_path, "probe", "old")
    assert status == 0
    assert "not accepted" in said

    [disk, old] = sorted(json.loads(radnode(tmp_path, "list", "--json")[1]), key=lambda one: one["name"])
    assert list(old["probed"]["accepted"]) == [str(SecondaryCaptureImageStorage)]
    assert disk["probed"] is None
    assert "can't be asked" in radnode(tmp_path, "probe", "disk")[1]
    assert "known: old, disk" in radnode(tmp_path, "probe", "elsewhere")[1]

    status, said = radnode(tmp_path, "probe", "old")  # it is down now
    assert status == 1
    assert "Ask again" in said  # nobody tries again by himself
    assert json.loads(radnode(tmp_path, "list", "--json")[1])[0]["probed"]["accepted"]

    radnode(tmp_path, "forget", "old")
    assert json.loads(radnode(tmp_path, "list", "--json")[1])[0]["probed"] is None


# --- what is sent instead --------------------------------------------------------------------------------------------------------
EVERYTHING = {uid: ["1.2.840.10008.1.2.1"] for classes in SOP_CLASSES.values() for uid in classes}


def without(*classes: str) -> dict[str, list[str]]:
    return {uid: syntaxes for uid, syntaxes in EVERYTHING.items() if uid not in classes}


@pytest.mark.parametrize(
    ("kinds", "refused", "gets"),
    [
        ([Role.SEG, Role.SC, Role.SR], [], [Role.SEG, Role.SC, Role.SR]),
        ([Role.SEG, Role.SC, Role.SR], [LABEL_MAP], [Role.SEG, Role.SC, Role.SR]),
        ([Role.SEG_LABELMAP, Role.SR], [LABEL_MAP], [Role.SEG, Role.SR]),
        ([Role.SEG, Role.SR], [SegmentationStorage], [Role.SC, Role.SR]),
        ([Role.SEG, Role.SR], [Comprehensive3DSRStorage], [Role.SEG, Role.SR_ENHANCED]),
        ([Role.SEG, Role.SR], [Comprehensive3DSRStorage, EnhancedSRStorage], [Role.SEG, Role.TEXT]),
        ([Role.SR, Role.SR_EDITABLE], [], [Role.SR, Role.SR_EDITABLE]),
        ([Role.SR, Role.SR_EDITABLE], [EnhancedSRStorage], [Role.TEXT]),  # outlines without the report would mean nothing
        ([Role.SR, Role.KO], [KeyObjectSelectionDocumentStorage], [Role.SR]),
        ([Role.PDF], [EncapsulatedPDFStorage], [Role.TEXT]),
    ],
)
def test_what_is_not_taken_goes_in_another_form_and_it_is_said(kinds: list[Role], refused: list[str], gets: list[Role]):
    found, said = fitted(kinds, without(*refused))

    assert set(found) == set(gets)
    assert len(said) == len(set(kinds) - set(gets))


def test_one_that_takes_nothing_gets_what_was_asked_for_so_that_somebody_sees_it_refused():
    assert fitted([Role.SEG, Role.SR], {}) == ((Role.SEG, Role.SR), [])


def test_the_enhanced_report_has_the_same_content(tmp_path: Path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)
    result, maker = cases.infection(cases.opacity(volume.pixels.shape)), cases.provenance(study)

    plain, enhanced = (
        write_sr(study, volume, result, maker, seg=None, sc=None, series=study.series[0], role=role) for role in (Role.SR, Role.SR_ENHANCED)
    )

    assert enhanced.SOPClassUID == EnhancedSRStorage
    assert enhanced.ContentSequence == plain.ContentSequence
    assert enhanced.SOPInstanceUID != plain.SOPInstanceUID
    assert [*cases.dciodvfy_errors(enhanced, tmp_path), *iod_errors(enhanced)] == []
