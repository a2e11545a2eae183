"""The conformance statement says what the node is built from, and `docs/conformance.md` is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node import scp
from node.__main__ import front_door
from node.commands.conformance import CREATED
from node.domain import Role
from node.profiles import SOP_CLASSES

DOC = Path(__file__).parents[2] / "docs" / "conformance.md"


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return _printed({"RADNODE_DATA_DIR": str(tmp_path)})


def _printed(environment: dict[str, str]) -> str:
    done = CliRunner().invoke(front_door("conformance"), ["conformance"], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_document_is_what_the_node_prints(printed: str):
    """Written anew by `radnode conformance > docs/conformance.md`."""
    assert DOC.read_text(encoding="utf-8") == printed


def test_every_answer_of_the_storage_scp_is_in_it(printed: str):
    source = Path(scp.__file__).read_text(encoding="utf-8")
    statuses = re.findall(r"^[A-Z_]+ = (0x[0-9A-F]{4})$", source, re.MULTILINE)

    given = {status for status in statuses if status != "0x0101"}  # that one says "no data set", PS3.7 E.1

    assert len(given) >= 8
    assert given == set(re.findall(r"^\| (0x[0-9A-F]{4}) \| \S", printed.split("4.2.2 Delivery")[0], re.MULTILINE))


def test_every_sop_class_and_transfer_syntax_of_the_door_is_in_it(printed: str):
    assert {uid for uid in scp.STORAGE_SOP_CLASSES | scp.TRANSFER_SYNTAXES if f"`{uid}`" not in printed} == set()


def test_every_kind_of_object_is_in_it():
    assert set(CREATED) == set(SOP_CLASSES) == set(Role)


def test_it_speaks_of_the_settings_it_is_given(tmp_path: Path):
    settings = tmp_path / "radnode.yaml"
    settings.write_text(
        "scp: {ae_title: LUNGS, callers: [{ae_title: CT1, addresses: [10.0.0.0/8]}]}\n"
        "deidentification: {clean_graphics: true}\n"
        "destinations: {archive: {kind: dimse, host: pacs, ae_title: ARCHIVE}}\n"
    )

    said = _printed({"RADNODE_CONFIG": str(settings), "RADNODE_DATA_DIR": str(tmp_path)})

    assert "| AE title | `LUNGS`" in said
    assert "`CT1` (10.0.0.0/8)" in said
    assert "Clean Graphics" in said
    assert "`archive` (dimse)" in said
    assert "the settings of this installation" in said
