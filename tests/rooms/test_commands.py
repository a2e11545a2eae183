"""The front door as its users find it: what each command says, leaves, and exits with."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import typer
import yaml
from pydicom import dcmread

from config import load
from node.__main__ import COMMANDS, HIDDEN, front_door
from node.assembly import House
from node.audit import Action, AuditEvent, Event
from node.testing.studies import a_study, write_study
from tests.conftest import ROOT
from tests.ports import free_port
from tests.rooms.test_scp import small_disk

BREAST_RULE = {"name": "breast", "when": {"modality": "US"}, "run": "breast_ultrasound", "send_to": "pacs"}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file with one rule and one destination."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": [BREAST_RULE]}))
    path = tmp_path / "radnode.yaml"
    content = {
        "data_dir": str(tmp_path / "data"),
        "rules": str(tmp_path / "rules.yaml"),
        "destinations": {"pacs": {"kind": "folder", "path": str(tmp_path / "pacs")}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def radnode(*words: str | Path, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RADNODE_")}
    command = [sys.executable, "-m", "node", *map(str, words), *(["--config", str(config)] if config else [])]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_an_unknown_command_is_wrong_usage():
    assert radnode("prozess").returncode == 2


def test_the_list_of_commands_says_of_each_what_it_says_itself():
    said = radnode("--help").stdout
    listed = re.findall(r"^  ([a-z]+) ", said.partition("Commands:")[2], re.MULTILINE)

    assert listed == [name for name in COMMANDS if name not in HIDDEN]
    for name in listed:
        itself = typer.main.get_command(front_door(name)).commands[name].help
        sentence = itself.partition("\n")[0].partition(". ")[0].removesuffix(".") + "."
        assert "".join(f"{name}{sentence}".split()) in "".join(said.split())


def test_a_command_is_carried_out_behind_two_hyphens_too(settings: Path):
    done = radnode("--", "status", config=settings)

    assert done.returncode == 0
    assert "studies" in done.stdout.lower()


def test_a_mistyped_setting_is_named_and_exits_with_2(tmp_path: Path):
    config = tmp_path / "radnode.yaml"
    config.write_text("scp: {prot: 1}")

    done = radnode("status", config=config)

    assert done.returncode == 2
    assert "scp.prot" in done.stderr
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


def test_process_leaves_results_with_their_names_and_a_summary(settings: Path, tmp_path: Path):
    [source] = a_study("US", patient=4, kind="malignant")
    write_study([source], tmp_path / "study")
    (tmp_path / "study" / "notes.txt").write_text("not DICOM")

    done = radnode("process", tmp_path / "study", "--out", tmp_path / "out", config=settings)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("breast_ultrasound: malignant")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    [job] = summary["jobs"]
    assert [finding["name"] for finding in job["findings"]] == ["normal", "benign", "malignant"]
    assert sum(summary["files_left_out"].values()) == 1
    written = {path.name: dcmread(path) for path in (tmp_path / "out").glob("*.dcm")}
    assert set(written) == {f"breast_ultrasound-1-{role}.dcm" for role in ("SEG", "SC", "SR")}
    for result in written.values():
        assert result.PatientName == source.PatientName
        assert result.StudyInstanceUID == source.StudyInstanceUID


def test_process_with_a_pipeline_that_does_not_fit_says_why_and_did_not_do_what_was_asked(settings: Path, tmp_path: Path):
    write_study(a_study("CR", slices=20, patient=3), tmp_path / "study")

    done = radnode("process", tmp_path / "study", "--out", tmp_path / "out", "--pipeline", "breast_ultrasound", config=settings)

    assert done.returncode == 1
    assert "not run: the pipeline breast_ultrasound takes US, not CR\n" in done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["not_run"]
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_process_by_rules_that_meet_nothing_did_what_was_asked(settings: Path, tmp_path: Path):
    write_study(a_study("CT", slices=2, rows=64, Modality="NM"), tmp_path / "study")

    done = radnode("process", tmp_path / "study", "--out", tmp_path / "out", config=settings)

    assert done.returncode == 0
    assert "no rule met a series" in done.stdout


def test_process_of_a_folder_without_dicom_says_so_and_leaves_nothing(settings: Path, tmp_path: Path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("no image here")

    done = radnode("process", tmp_path / "study", "--out", tmp_path / "out", config=settings)

    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("radnode: There is no DICOM object in the folder")
    assert list((tmp_path / "out").iterdir()) == []


def test_explain_names_the_rule_and_the_reason(settings: Path, tmp_path: Path):
    write_study(a_study("CT", slices=2, rows=64), tmp_path / "study")

    done = radnode("explain", tmp_path / "study", config=settings)

    assert done.returncode == 0, done.stderr
    assert "breast" in done.stdout
    assert "not run" in done.stdout
    assert "CT" in done.stdout


def test_explain_of_nothing_but_refused_studies_did_not_do_what_was_asked(settings: Path, tmp_path: Path):
    write_study(a_study("CT", slices=2, rows=64, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), tmp_path / "study")

    done = radnode("explain", tmp_path / "study", config=settings)

    assert done.returncode == 1
    assert "refused before any rule is asked" in done.stderr
    assert done.stderr.endswith("nothing to explain: every study was refused\n")


def test_a_rules_file_with_an_unknown_key_names_its_line(settings: Path, tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("rules:\n  - name: x\n    when: {modality: CT}\n    rum: covid_ct\n")

    done = radnode("rules", "check", bad, config=settings)

    assert done.returncode == 2
    assert "line 4" in done.stderr
    assert "run" in done.stderr
    assert radnode("rules", "check", tmp_path / "rules.yaml", config=settings).returncode == 0


def test_every_bundle_is_listed_by_the_name_that_rules_and_commands_take():
    listed = json.loads(radnode("bundles", "list", "--json").stdout)

    assert {facts["pipeline"] for facts in listed} >= {"brain_mask", "breast_ultrasound"}
    assert all(facts["folder"] == f"{facts['pipeline']}/{facts['version']}" for facts in listed)


def test_a_flipped_byte_in_a_bundle_is_found(tmp_path: Path):
    shutil.copytree(ROOT / "models" / "breast_ultrasound", tmp_path / "models" / "breast_ultrasound")
    config = tmp_path / "radnode.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "bundles_dir": str(tmp_path / "models")}))
    assert radnode("bundles", "verify", config=config).returncode == 0
    weights = tmp_path / "models" / "breast_ultrasound" / "1.1.0" / "models" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))

    done = radnode("bundles", "verify", config=config)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": [{**BREAST_RULE, "send_to": []}]}))
    rules = radnode("rules", "check", tmp_path / "rules.yaml", config=config)

    assert done.returncode == 1
    assert "model.safetensors" in done.stdout
    assert rules.returncode == 2
    assert "the pipeline 'breast_ultrasound' is installed but damaged" in rules.stderr


def test_a_folder_loses_its_names_and_gets_them_back(settings: Path, tmp_path: Path):
    sources = a_study("CT", slices=3, rows=64, patient=2)
    files = write_study(sources, tmp_path / "in" / "Doe Jane")

    away = radnode("deidentify", tmp_path / "in", tmp_path / "clean", config=settings)
    back = radnode("reidentify", tmp_path / "clean", tmp_path / "home", config=settings)

    assert (away.returncode, back.returncode) == (0, 0), away.stderr + back.stderr
    assert "Doe" not in " ".join(str(path) for path in (tmp_path / "clean").rglob("*"))
    for path in (tmp_path / "clean").rglob("*.dcm"):
        assert dcmread(path).PatientName != sources[0].PatientName
    assert [(tmp_path / "home" / "Doe Jane" / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]
    trail = radnode("audit", "tail", "--json", config=settings)
    assert "re-identification" in trail.stdout


@pytest.mark.parametrize("command", ["deidentify", "reidentify"])
def test_a_folder_does_not_go_into_itself(settings: Path, tmp_path: Path, command: str):
    write_study(a_study("CT", slices=1, rows=64), tmp_path / "in" / "study")

    for target in (tmp_path / "in", tmp_path):
        done = radnode(command, tmp_path / "in", target, config=settings)
        assert done.returncode == 2
        assert "another folder" in done.stderr
    assert not list(tmp_path.rglob("report.json"))


def test_a_folder_that_may_not_be_read_has_its_line(settings: Path, tmp_path: Path):
    locked = tmp_path / "in" / "DOE JANE"
    locked.mkdir(parents=True)
    write_study(a_study("US", slices=1, rows=64), tmp_path / "in" / "open")
    locked.chmod(0)
    as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []  # root may read every folder
    command = [
        *as_anybody,
        sys.executable,
        "-m",
        "node",
        "deidentify",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--config",
        str(settings),
    ]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    locked.chmod(0o700)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert done.returncode == 1, done.stderr
    assert (report["deidentified"], report["refused"]) == (1, 1)
    assert "DOE" not in (json.dumps(report) + done.stdout + done.stderr).upper()


@pytest.mark.parametrize("left", ["unreadable", "missing", "short"])
def test_a_key_that_can_not_be_read_is_a_wrong_setting(settings: Path, tmp_path: Path, left: str):
    key = tmp_path / "master.key"
    if left == "unreadable":
        key.mkdir()
    elif left == "short":
        key.write_text("c2hvcnQ=")
    settings.write_text(settings.read_text() + f"\nvault: {{master_key_file: {key}}}\n")

    done = radnode("keys", "list", config=settings)

    assert done.returncode == 2
    assert str(key) in done.stderr
    assert "openssl rand" in done.stderr
    assert "c2hvcnQ" not in done.stderr


def test_a_secret_file_that_the_node_may_not_read_is_named(settings: Path, tmp_path: Path):
    """As in a container whose secrets belong to another user."""
    secret = tmp_path / "secrets" / "radnode_web__hook_secret"
    secret.parent.mkdir()
    secret.write_text("SECRETVALUE")
    secret.chmod(0)
    as_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    done = subprocess.run(
        [*as_anybody, sys.executable, "-m", "node", "status", "--config", str(settings)],
        cwd=ROOT,
        env={**os.environ, "RADNODE_SECRETS_DIR": str(secret.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 2
    assert f"{secret} can't be read: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def place_for_all() -> Iterator[Path]:
    """A folder that everybody may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
@pytest.mark.parametrize(("words", "status"), [(["tokens", "create", "x", "--role", "auditor"], 1), (["gateway"], 2)])
def test_who_is_not_the_nodes_user_is_told_so(place_for_all: Path, words: list[str], status: int):
    """The first start was by root, and now the service's user comes; or an administrator forgot to be the service's user."""
    file = place_for_all / "radnode.yaml"
    file.write_text(f"data_dir: {place_for_all / 'data'}\nscp: {{port: {free_port()}}}\nweb: {{port: {free_port()}}}\n")
    home = House(load(file))
    home.check()
    home.trail.record(AuditEvent(event=Event.APPLICATION_ACTIVITY, action=Action.EXECUTE, what="by root"))
    home.close()
    for path in (home.clean, *home.clean.iterdir()):
        os.chown(path, 65534, 65534)
    for path in (home.identified, *home.identified.iterdir()):
        if not path.name.startswith("audit."):
            os.chown(path, 65534, 65534)
    reading_all = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # where the tests and Python lie

    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *reading_all, sys.executable, "-m", "node", *words, "--config", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == status, done.stderr
    assert "the user that the node runs as" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_nothing_in_it_is_said_to_hold_nothing(settings: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()

    assert radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings).stdout == "no files\n"


@pytest.mark.parametrize("uid", ["", ".", "..", "../../keep", "1.2.3"])
def test_what_is_no_study_here_is_not_purged(settings: Path, tmp_path: Path, uid: str):
    write_study(a_study("US", slices=1, rows=64), tmp_path / "in")
    assert radnode("deidentify", tmp_path / "in", tmp_path / "away", config=settings).returncode == 0
    kept = tmp_path / "data" / "keep" / "film.dcm"
    clean = tmp_path / "data" / "clean" / "studies" / "2.25.1" / "film.dcm"
    for path in (kept, clean):
        path.parent.mkdir(parents=True)
        path.write_text("a film")

    done = radnode("purge", "--study", uid, config=settings)

    assert done.returncode == 1
    assert "nothing was purged" in done.stderr
    assert kept.exists()
    assert clean.exists()


def test_a_folder_that_can_not_be_made_is_a_wrong_setting(settings: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    settings.write_text(settings.read_text().replace(str(tmp_path / "data"), str(tmp_path / "file" / "data")))

    for command in ("status", "serve"):
        done = radnode(command, config=settings)
        assert done.returncode == 2, done.stderr
        assert "data_dir" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("taken", "says"), [("web", "HTTP port can't be opened"), ("scp", "DICOM port can't be opened")])
def test_a_port_that_somebody_else_has_stops_the_start_and_is_named(settings: Path, taken: str, says: str):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        ports = {"scp": free_port(), "web": free_port(), taken: other.getsockname()[1]}
        settings.write_text(settings.read_text() + yaml.safe_dump({room: {"port": port} for room, port in ports.items()}))

        done = radnode("serve", config=settings)

    assert done.returncode == 1
    assert says in done.stderr
    assert f"{taken}.port" in done.stderr


@pytest.mark.parametrize("words", [["demo"], ["process", "."], ["bundles", "evaluate", "covid_xray", "--data", "."]])
def test_a_file_is_no_place_for_results(tmp_path: Path, words: list[str]):
    (tmp_path / "out").write_text("")

    assert radnode(*words, "--out", tmp_path / "out").returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        ["deidentify", "in", "file/out"],
        ["process", "in", "--out", "file/out"],
        ["proof", "verify", "in", "--key", "no.pem"],
    ],
)
def test_a_place_that_can_not_be_used_is_said_in_a_sentence(settings: Path, tmp_path: Path, words: list[str]):
    write_study(a_study("US", slices=1, rows=64), tmp_path / "in")
    (tmp_path / "in" / "report.json").write_text('{"digests": {}}')
    (tmp_path / "file").write_text("")

    done = radnode(*[tmp_path / word if word in {"in", "file/out", "no.pem"} else word for word in words], config=settings)

    assert done.returncode == 1
    assert f"{tmp_path / words[-1]}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_called_after_a_patient_is_not_named(settings: Path, tmp_path: Path):
    write_study(a_study("US", slices=1, rows=64), tmp_path / "in" / "DOE JANE")
    assert radnode("deidentify", tmp_path / "in", tmp_path / "clean", config=settings).returncode == 0
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "DOE JANE").write_text("a file where a folder belongs")

    done = radnode("reidentify", tmp_path / "clean", tmp_path / "home", config=settings)

    assert done.returncode == 1
    assert f"{tmp_path / 'home'}: " in done.stderr
    assert "DOE" not in done.stderr


def test_a_full_disk_is_said_in_a_sentence(settings: Path, tmp_path: Path):
    write_study(a_study("CT", slices=3, rows=512), tmp_path / "in")
    with small_disk(tmp_path / "out", "1m"):
        done = radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings)
        left = list((tmp_path / "out").iterdir())

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert left == []


def a_folder_at_work(settings: Path, source: Path, out: Path) -> subprocess.Popen[bytes]:
    """`radnode deidentify` in the middle of 300 slices."""
    write_study(a_study("CT", slices=300, rows=64), source)
    at_work = subprocess.Popen(
        [sys.executable, "-m", "node", "deidentify", str(source), str(out), "--config", str(settings)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(out.glob(".radnode-*/*.dcm")):
        assert at_work.poll() is None
        time.sleep(0.01)
    return at_work


def test_a_folder_that_was_broken_off_holds_nothing_that_nobody_searched(settings: Path, tmp_path: Path):
    out = tmp_path / "out"
    at_work = a_folder_at_work(settings, tmp_path / "in", out)
    at_work.terminate()

    assert at_work.wait(60) != 0
    assert list(out.iterdir()) == []


def test_what_a_killed_process_left_in_a_folder_goes_with_the_next_one(settings: Path, tmp_path: Path):
    out = tmp_path / "out"
    at_work = a_folder_at_work(settings, tmp_path / "in", out)
    helpers = psutil.Process(at_work.pid).children(recursive=True)
    at_work.kill()
    at_work.wait(60)
    assert psutil.wait_procs(helpers, timeout=30)[1] == []
    [left] = out.glob(".radnode-*")
    shutil.copytree(left, out / ".radnode-alive")
    (tmp_path / "few").mkdir()
    shutil.copy(next((tmp_path / "in").rglob("*.dcm")), tmp_path / "few")

    alive = os.open(out / ".radnode-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    done = radnode("deidentify", tmp_path / "few", out, config=settings)
    os.close(alive)

    assert done.returncode == 0, done.stderr
    assert list(out.glob(".radnode*")) == [out / ".radnode-alive"]
    assert list((out / ".radnode-alive").iterdir())


def test_a_destination_of_no_known_kind_is_a_wrong_setting(settings: Path):
    settings.write_text(settings.read_text().replace("kind: folder", "kind: ftp"))

    done = radnode("status", config=settings)

    assert done.returncode == 2
    assert "destinations.pacs.kind: known: dimse" in done.stderr


def test_tokens_are_shown_once_and_can_be_disabled(settings: Path):
    token = radnode("tokens", "create", "pacs", "--role", "integrator", config=settings).stdout.strip()

    listed = radnode("tokens", "list", config=settings).stdout
    assert "pacs" in listed
    assert token not in listed
    assert radnode("tokens", "disable", "pacs", config=settings).returncode == 0
    assert "disabled" in radnode("tokens", "list", config=settings).stdout
    assert radnode("tokens", "create", "x", "--role", "emperor", config=settings).returncode == 2


def test_status_of_a_node_that_has_done_nothing(settings: Path):
    facts = json.loads(radnode("status", "--json", config=settings).stdout)

    assert facts["studies"]["RECEIVING"] == 0
    assert facts["deliveries"]["pacs"]["QUEUED"] == 0
    assert set(facts["pipelines"]) == {"covid_ct", "covid_xray", "chest_xray", "breast_ultrasound", "brain_mri", "xray_anomaly"}


def test_the_attribute_table_is_what_the_documentation_shows(settings: Path):
    page, _, measured = (ROOT / "docs" / "deidentification.md").read_text().partition("\n## Measured")

    assert radnode("deidentification", config=settings).stdout.strip() == page.strip()
    assert "bench/deidentify_peers.py" in measured  # figures beside other tools, which no table of ours can print


def test_a_refused_study_is_listed_and_a_box_that_is_none_is_wrong_usage(settings: Path):
    assert radnode("quarantine", "list", config=settings).stdout == "Nothing is in quarantine.\n"

    done = radnode("quarantine", "mask", "2.25.1", "--instance", "2.25.2", "--box", "0,0,10", config=settings)
    assert done.returncode == 2
    assert "X,Y,W,H" in done.stderr

    done = radnode("quarantine", "release", "2.25.1", "--reason", "seen", config=settings)
    assert done.returncode == 1
    assert "radnode quarantine list" in done.stderr
