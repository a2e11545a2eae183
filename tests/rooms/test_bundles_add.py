"""`radnode bundles add`: what drops in without Python, what it says of it, and that a bundle it refuses leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from typer.testing import CliRunner, Result

import config
from node.assembly import House
from node.bundle import Bundle, write_sums
from node.commands.bundles import app
from node.commands.options import house
from node.domain import Job, JobState, Study
from node.errors import BundleDamaged, BundleInvalid, NodeError
from node.guests import allowed
from node.guests.description import description
from node.imaging.study import read_study
from node.ledger.jobs import Jobs
from node.router import decide
from node.runners.local import LocalRunner
from node.testing.mr_weightings import mr_weightings, weighted_tumor
from node.testing.studies import a_study
from node.viewing.film import open_film
from tests.conformance.validity import errors_of
from tests.rooms import guest_bundles
from tests.rooms.databases import sqlite
from tests.rooms.upload_desk import Desk, part10, zipped
from tests.rooms.workbench import a_job, clean_study, now, until

DCIODVFY = shutil.which("dciodvfy")
Add = Callable[..., Result]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundles' folder of a node that has none."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("RADNODE_BUNDLES_DIR", str(folder))
    monkeypatch.setenv("RADNODE_DATA_DIR", str(tmp_path / "data"))
    return folder


@pytest.fixture
def add(models: Path) -> Add:
    """The command, as at a prompt."""

    def run(path: Path, *arguments: str, mapping: Any = None, yes: bool = True) -> Result:
        if mapping is not None:
            file = models.parent / "mapping.yaml"
            file.write_text(yaml.safe_dump(mapping))
            arguments = (*arguments, "--mapping", str(file))
        return CliRunner().invoke(app, ["add", str(path), *arguments, *(["--yes"] if yes else [])])

    return run


def problems(ds: Any, folder: Path) -> list[str]:
    """What dciodvfy calls an error; nothing where it is not installed."""
    if DCIODVFY is None:
        return []
    ds.save_as(folder / "checked.dcm", enforce_file_format=True)
    return sorted(errors_of(DCIODVFY, folder / "checked.dcm"))


def reason(done: Result) -> str:
    """Why the command refused."""
    assert isinstance(done.exception, NodeError), done.output
    return str(done.exception)


class Department:
    """A ledger, a clean volume and one real worker."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root, self.models = root, models
        self.jobs = Jobs(sqlite(root), now, clean_folder=root / "clean")

    def analyses(self, name: str, datasets: list[Any], **limits: Any) -> tuple[Job, dict[str, Any], dict[str, Any]]:
        """The job, its summary, and its objects by role."""
        folder = clean_study(datasets, self.root / "clean" / "studies")
        bundle = Bundle.open(next((self.models / name).iterdir()))
        job = a_job(folder, datasets, bundle)
        self.jobs.submit(job)
        folders = {"clean_folder": self.root / "clean", "results_folder": self.root / "clean" / "results", "bundles_dir": self.models}
        with LocalRunner(self.jobs, **folders, device="cpu", warm=False, **limits) as runner:
            until(lambda: self._ended(job), runner, seconds=500)
        found = self.jobs.get(job.id)
        assert found is not None
        objects = {one.role.value: dcmread(one.path) for one in self.jobs.objects_of(job)}
        return found, self.jobs.summary_of(job.id) or {}, objects

    def _ended(self, job: Job) -> bool:
        found = self.jobs.get(job.id)
        return found is not None and found.state in (JobState.COMPLETED, JobState.CANCELED)


@pytest.fixture
def department(tmp_path: Path, models: Path) -> Department:
    return Department(tmp_path, models)


# --- what drops in ----------------------------------------------------------------------------------------------------------
def test_a_model_of_four_series_reads_them_together(tmp_path: Path, add: Add, department: Department) -> None:
    """Sagittal FLAIR and coarse T2 over the axial T1: what is found lies where the phantom has it, on the grid of the first."""
    done = add(guest_bundles.four_series(tmp_path / "zoo"), "--name", "tumour")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "4 series of a study laid over each other: T1c, T1, T2, FLAIR" in done.output
    datasets = sorted(mr_weightings(), key=lambda ds: ds.SeriesDescription != "T1 tra KM")
    truth = weighted_tumor()

    job, summary, objects = department.analyses("tumour", datasets)

    volumes = {one["name"]: one["measurements"][0]["value"] for one in summary["findings"]}
    assert volumes["Whole tumor"] == pytest.approx(truth.tumor_ml, abs=0.01)
    assert 0.6 * truth.tumor_ml < volumes["Enhancing tumor"] < truth.tumor_ml  # its core does not enhance
    assert any(note.startswith("Read together with T1 (series 1), T2 (series 2), FLAIR (series 3), laid over") for note in summary["notes"])
    [referenced] = objects["SEG"].ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == datasets[0].SeriesInstanceUID
    [evidence] = objects["SR"].CurrentRequestedProcedureEvidenceSequence
    assert {ds.SeriesInstanceUID for ds in datasets} <= {one.SeriesInstanceUID for one in evidence.ReferencedSeriesSequence}
    assert [problems(objects[role], tmp_path) for role in ("SEG", "SR")] == [[], []]
    assert len(open_film(job, department.jobs.objects_of(job)).frames) == 36


def test_a_zip_of_four_series_is_read_together_over_http(tmp_path: Path, add: Add, models: Path) -> None:
    add(guest_bundles.four_series(tmp_path / "zoo"), "--name", "tumour")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: heads, when: {modality: MR}, run: tumour, send_to: []}]")
    desk = Desk(tmp_path / "desk", bundles_dir=models, rules=rules, deidentification={"text_detection": "off"})
    try:
        whole = desk.ask("/predict", zipped(part10(mr_weightings()))).json()
        incomplete = zipped(part10(mr_weightings(without=("FLAIR sag",))))
        part, refused = (desk.ask("/predict", incomplete, **named).json() for named in ({"pipeline": "tumour"}, {}))
    finally:
        desk.close()

    assert {one["name"]: one["present"] for one in whole["findings"]} == {"Enhancing tumor": True, "Whole tumor": True}
    assert not part["analysed"]
    assert "no series is FLAIR" in part["reason"]
    assert refused["rules"]["heads"].startswith("no series is FLAIR")


def test_a_job_that_lost_a_series_says_which(tmp_path: Path, add: Add, department: Department) -> None:
    add(guest_bundles.four_series(tmp_path / "zoo"), "--name", "tumour")
    datasets = sorted(mr_weightings(without=("T2 tra",)), key=lambda ds: ds.SeriesDescription != "T1 tra KM")

    _, summary, objects = department.analyses("tumour", datasets)

    assert not summary["analysed"]
    assert "the model reads 4 series at once: no series is T2; the nearest: weighting" in summary["reason"]
    assert set(objects) == {"SR"}


def test_a_mapping_file_says_which_series_the_channels_are(tmp_path: Path, add: Add, models: Path) -> None:
    series = [{"name": f"part {n}", "when": {"series_description": [f"part {n}"]}} for n in range(4)]

    done = add(guest_bundles.four_series(tmp_path / "zoo", names=("a", "b", "c", "d")), "--name", "tumour", mapping={"series": series})

    assert done.exit_code == 0, done.output + str(done.exception)
    assert Bundle.open(next((models / "tumour").iterdir())).node["series"] == series
    for few in (series[:3], [*series, {"name": "e", "when": {"modality": "MR"}}]):
        refusal = reason(add(guest_bundles.four_series(tmp_path / f"zoo{len(few)}"), "--name", "other", mapping={"series": few}))
        assert f"the mapping file names {len(few)} series, and its network takes 4 channels" in refusal


def test_one_label_map_of_channels_that_overlap_needs_names_for_its_numbers(tmp_path: Path, add: Add) -> None:
    """By the metadata 0 is the first channel's tumour; in the map it is what is left over."""
    folder = guest_bundles.four_series(tmp_path / "zoo", label_map=True)

    assert "its postprocessing makes one label map of 2 channels that overlap" in reason(add(folder, "--name", "tumour"))
    done = add(folder, "--name", "tumour", mapping={"labels": {2: "edema", 4: "enhancing tumor"}})

    assert done.exit_code == 0, done.output + str(done.exception)
    assert "edema: present" in done.output


def test_a_bundle_of_the_zoo_drops_in_and_comes_home_as_seg_and_sr(tmp_path: Path, add: Add, models: Path, department: Department) -> None:
    """A zip with code in `scripts`, expressions and a sliding window; then a job through the worker and its guest."""
    folder = guest_bundles.bright(tmp_path / "zoo" / "spleen_ct", level=300.0)
    (folder / "large_files.yml").write_text(
        yaml.safe_dump({"large_files": [{"path": "models/model.ts", "url": "https://example/model.ts"}]})
    )
    archive = Path(shutil.make_archive(str(tmp_path / "spleen_ct"), "zip", tmp_path / "zoo"))

    done = add(archive, "--name", "spleen_ct")

    assert done.exit_code == 0, done.output + str(done.exception)
    assert "licence   Apache-2.0" in done.output
    assert "CT: a series as one volume, 1 channel, HU, resampled to 4 x 4 x 4 mm, axes RAS, at least 3 slices" in done.output
    assert "SEG and SR: segments spleen (78961009, SCT); volumes in mL" in done.output
    assert "spleen: present; Volume" in done.output
    assert subprocess.run(["sha256sum", "-c", "ALLOWED"], cwd=models, capture_output=True).returncode == 0
    assert not list(models.glob(".adding*"))

    _, summary, objects = department.analyses("spleen_ct", a_study("CT", slices=12, rows=64, slice_mm=10.0))

    assert (summary["analysed"], summary["label"]) == (True, "spleen"), summary
    [segment] = objects["SEG"].SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("spleen", "78961009")
    [finding] = summary["findings"]
    [volume] = finding["measurements"]
    voxels = sum(int(frame.sum()) for frame in objects["SEG"].pixel_array)
    assert (volume["name"], volume["unit"]) == ("Volume", "mL")
    assert volume["value"] == pytest.approx(voxels * _voxel_ml(objects["SEG"]), rel=1e-3)
    assert "Volume" in str(objects["SR"])
    for role in ("SEG", "SR"):
        assert problems(objects[role], tmp_path) == []


def _voxel_ml(seg: Any) -> float:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    row, column = (float(v) for v in measures.PixelSpacing)
    return row * column * float(measures.SpacingBetweenSlices) / 1000


def test_a_torchscript_file_with_its_configuration_inside_drops_in(tmp_path: Path, add: Add) -> None:
    done = add(guest_bundles.torchscript(tmp_path / "side.ts"), "--name", "side")

    assert done.exit_code == 0, done.output + str(done.exception)
    assert "SR: probability of left" in done.output

    assert "phantom   US" in done.output
    assert "side 0.5.1: added" in str(house(None, quiet=True).trail.tail(1))


def test_a_bundle_of_a_pipeline_of_the_nodes_own_is_told_where_it_belongs(tmp_path: Path, add: Add, models: Path) -> None:
    """Retrained weights that were added became another pipeline, without the findings and thresholds they were made with."""
    folder = guest_bundles.bright(tmp_path / "covid_ct", level=300.0)
    file = folder / "configs" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"radnode": {"pipeline": "covid_ct"}}))

    done = add(folder, "--name", "retrained")

    assert done.exit_code == 0, done.output + str(done.exception)
    assert f"copy the folder to {models / 'covid_ct' / '0.5.1'} instead" in done.output
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": "0.5.2", "radnode": {"pipeline": "unheard_of"}}))
    assert "instead" not in add(folder, "--name", "retrained").output


def test_an_onnx_detector_drops_in_with_a_mapping_file(tmp_path: Path, add: Add) -> None:
    """Nothing is in the file but the network, so the mapping file says what it is for."""
    file = guest_bundles.onnx_detector(
        tmp_path / "nodules.onnx", [[8, 8, 24, 24], [32, 16, 48, 40], [0, 0, 9, 9]], [0.9, 0.8, 0.1], [1, 1, 1]
    )
    mapping = {"task": "detection", "modality": "CR", "labels": {1: "nodule"}, "input_shape": [64, 64], "axes": "torch", "licence": "CC0"}

    done = add(file, mapping=mapping)

    assert done.exit_code == 0, done.output + str(done.exception)
    assert "SR: boxes with a probability, of nodule (27925004, SCT)" in done.output

    assert "nodule: 90 %, present" in done.output
    assert "nodule 2: 80 %, present" in done.output
    assert "nodule 3" not in done.output


def test_a_generator_is_found_whole_and_refused_because_nothing_of_it_can_be_reported(add: Add, models: Path, tmp_path: Path) -> None:
    import torch
    from monai.networks.nets import Generator

    told = guest_bundles.metadata(
        "Draw hands",
        network_data_format={
            "inputs": {"latent": {"type": "tuples", "format": "latent", "num_channels": 0, "spatial_shape": [8]}},
            "outputs": {"pred": {"type": "image", "format": "magnitude", "num_channels": 1, "channel_def": {"0": "image"}}},
        },
    )
    definition = {"latent_shape": 8, "start_shape": [4, 4, 4], "channels": [4, 1], "strides": [2, 1]}
    torch.manual_seed(1)
    config = {"network_def": {"_target_": "Generator", **definition}, "inferer": {"_target_": "SimpleInferer"}}
    bundle = guest_bundles.written(tmp_path / "gan", told, config, Generator(**definition).state_dict())  # type: ignore[arg-type]

    done = add(bundle)

    assert "the weights fit" in done.output
    assert "an image (1 x 8 x 8)" in done.output
    assert "it is intact and runs, but it draws images from random numbers" in reason(done)
    assert list(models.iterdir()) == []


# --- what does not ----------------------------------------------------------------------------------------------------------
def test_weights_that_lie_elsewhere_are_named_with_where_to_fetch_them(tmp_path: Path, add: Add, models: Path) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "models" / "model.pt").unlink()
    large = [{"path": "models/model.pt", "url": "https://example.org/model.pt", "hash_val": "f00d" * 8, "hash_type": "md5"}]
    (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": large}))

    done = add(folder)

    assert f"Fetch https://example.org/model.pt to models/model.pt (md5 {'f00d' * 8}), and add it again" in reason(done)
    assert list(models.iterdir()) == []


def test_names_that_no_object_can_hold_are_made_such_that_one_can(tmp_path: Path, add: Add, models: Path, department: Department) -> None:
    """As a template or a careless hand writes them: twice the same, in two lines, longer than a label may be."""
    names = {"0": "background", "1": "category", "2": "category", "3": "left\\right\n" + "kidney " * 12}
    told = guest_bundles.metadata()["network_data_format"]
    told["outputs"]["pred"]["channel_def"] = names
    three = guest_bundles.BRIGHT.replace("x - self.level]", "x - self.level, 2 * (x - self.level) - 200, 3 * (x - self.level) - 600]")

    done = add(guest_bundles.bright(tmp_path / "zoo", level=0.0, code=three, network_data_format=told), "--name", "parts")

    assert done.exit_code == 0, done.output + str(done.exception)
    job, summary, objects = department.analyses("parts", a_study("CT", slices=12, rows=64, slice_mm=10.0))
    assert job.state is JobState.COMPLETED, summary
    labels = [finding["name"] for finding in summary["findings"]]
    assert labels[:2] == ["category", "category (2)"]
    assert labels[2].startswith("left/right kidney kidney")
    assert len(labels[2]) <= 64
    assert {segment.SegmentLabel for segment in objects["SEG"].SegmentSequence} <= set(labels)


def test_a_zip_as_a_mac_makes_it_drops_in(tmp_path: Path, add: Add) -> None:
    guest_bundles.bright(tmp_path / "zoo" / "Spleen_CT_v0.5.1", level=300.0)
    archive = Path(shutil.make_archive(str(tmp_path / "spleen"), "zip", tmp_path / "zoo"))
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/Spleen_CT_v0.5.1/._configs", b"\0\5\x16\7")

    done = add(archive)

    assert done.exit_code == 0, done.output + str(done.exception)


@pytest.mark.parametrize(
    ("image", "modality"),
    [
        ({"modality": "CT scan", "value_range": [float("-inf"), float("inf")]}, ["CT"]),
        ({"modality": "Computed Tomography"}, ["CT"]),
        ({"modality": "MRI (T2)"}, ["MR"]),
        ({"modality": "X-ray"}, ["DX", "CR"]),
    ],
    ids=["CT scan", "in words", "MRI", "X-ray"],
)
def test_metadata_of_any_hand_is_understood(image: dict[str, Any], modality: list[str]) -> None:
    told = guest_bundles.metadata()
    told["network_data_format"]["inputs"]["image"] |= image

    assert description(told, {}, name="spleen", modality=())["intended_use"]["modality"] == modality


def test_a_version_that_is_none_is_not_called_none(tmp_path: Path, add: Add) -> None:
    assert "metadata.json has no version" in reason(add(guest_bundles.bright(tmp_path / "zoo", version=None)))


def test_one_of_several_forms_of_the_weights_is_enough(tmp_path: Path, add: Add) -> None:
    """As the zoo lists them: a state dict, the same as TorchScript; in a list that a bundle may spell another way."""
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "models" / "model.pt").unlink()
    large = [
        {"path": f"models/model.{kind}", "url": f"https://example.org/{kind}", "hash_val": "", "hash_type": ""} for kind in ("pt", "ts")
    ]
    (folder / "large-files.yaml").write_text(yaml.safe_dump({"large_files": large}))

    assert "Fetch https://example.org/pt to models/model.pt or https://example.org/ts to models/model.ts, and add it again" in reason(
        add(folder)
    )


LOADED = {"_target_": "CheckpointLoader", "load_path": "$@ckpt_dir + '/' + @ckpt_name", "load_dict": {"model": "@network"}}


@pytest.mark.parametrize(
    ("files", "config"),
    [
        (("fine_tuned.pt",), {}),
        (("fine_tuned.pt", "fine_tuned.ts"), {}),
        (("coarse.pt", "fine_tuned.pth"), {"handlers": [LOADED], "ckpt_dir": "$@bundle_root + '/models'", "ckpt_name": "fine_tuned.pth"}),
        (("search_code.pt", "fine_tuned.pt"), {"arch_ckpt": "$torch.load(@bundle_root + '/models/search_code.pt')"}),
    ],
    ids=["alone", "in two forms", "the one that is loaded", "beside what is loaded elsewhere"],
)
def test_weights_may_have_any_name(tmp_path: Path, add: Add, models: Path, files: tuple[str, ...], config: dict[str, Any]) -> None:
    """They are those that its `CheckpointLoader` names, else the only ones there are."""
    folder = guest_bundles.bright(tmp_path / "zoo", level=300.0, form="json")
    weights = (folder / "models" / "model.pt").read_bytes()
    (folder / "models" / "model.pt").unlink()
    for file in files:
        (folder / "models" / file).write_bytes(weights if file.startswith("fine_tuned.pt") else b"not these")
    inference = json.loads((folder / "configs" / "inference.json").read_text()) | config
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))

    done = add(folder, "--name", "spleen_ct")

    assert done.exit_code == 0, done.output + str(done.exception)
    assert (models / "spleen_ct" / "0.5.1" / "models" / "model.pt").read_bytes() == weights


def test_which_of_several_files_are_the_weights_is_asked_and_not_guessed(tmp_path: Path, add: Add, models: Path) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "models" / "model.pt").rename(folder / "models" / "one.pt")
    (folder / "models" / "other.pt").write_bytes(b"not these")

    assert "nobody knows which of models/one.pt, models/other.pt are its weights: call them models/model.pt" in reason(add(folder))
    assert list(models.iterdir()) == []


def test_nobody_is_sent_for_the_weights_of_what_no_node_can_use(tmp_path: Path, add: Add) -> None:
    """What a bundle takes and gives is known without its gigabytes."""
    large = [{"path": "models/model.pt", "url": "https://example.org/model.pt", "hash_val": "", "hash_type": ""}]
    latent = {"inputs": {"latent": {"type": "tuples", "format": "latent", "spatial_shape": [8]}}, "outputs": {"pred": {"type": "image"}}}
    diffusion = {"network_data_format": {}, "generator_data_format": latent, "task": "CT image synthesis", "name": "CT diffusion"}
    for number, (more, said) in enumerate(
        ((MANY, "its network takes 4 channels"), ({"network_data_format": latent}, DRAWS), (diffusion, DRAWS))
    ):
        folder = guest_bundles.bright(tmp_path / f"zoo{number}", **more)
        (folder / "models" / "model.pt").unlink()
        (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": large}))

        refusal = reason(add(folder))

        assert said in refusal
        assert "example.org" not in refusal


DRAWS = "it draws images from random numbers: it takes nothing of a study"


def test_weights_that_are_not_those_of_the_bundle_are_refused(tmp_path: Path, add: Add) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    large = [{"path": "models/model.pt", "url": "https://example.org/model.pt", "hash_val": "f00d" * 8}]
    (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": large}))

    assert "models/model.pt is not the file that large_files.yml names" in reason(add(folder))


MANY = {
    "network_data_format": {
        "inputs": {
            "image": {
                "num_channels": 4,
                "spatial_shape": [8, 8, 8],
                "modality": "MR",
                "channel_def": {"0": "image", "1": "click", "2": "T2", "3": "FLAIR"},
            }
        },
        "outputs": {"pred": {"format": "segmentation", "channel_def": {"0": "tumor"}}},
    }
}
SHAPELESS = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "modality": "CT", "spatial_shape": [8, 8, 8]}},
        "outputs": {"pred": {"type": "image", "format": "magnitude"}},
    },
    "task": "Super resolution",
    "name": "Super resolution",
}
SEVERAL = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 3, "modality": "SM", "spatial_shape": [256, 256]}},
        "outputs": {
            "nuclei": {"type": "probability", "format": "segmentation", "channel_def": {"0": "background", "1": "nuclei"}},
            "distances": {"type": "probability", "format": "regression", "channel_def": {"0": "across", "1": "down"}},
            "kinds": {"type": "probability", "format": "classification", "channel_def": {"0": "background", "1": "kind"}},
        },
    }
}
NAMELESS = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "modality": "CT", "spatial_shape": ["16*n", "16*n", "8*n"]}},
        "outputs": {"pred": {"type": "object", "format": "dict", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}},
    }
}
NOWHERE = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [8, 8, 8]}},
        "outputs": {"pred": {"format": "segmentation", "channel_def": {"0": "background", "1": "spleen"}}},
    }
}


@pytest.mark.parametrize(
    ("more", "arguments", "said"),
    [
        (
            MANY,
            [],
            "its network takes 4 channels (image, click, T2, FLAIR); where they are several series of a study, say in the mapping file",
        ),
        (SHAPELESS, [], "its output is magnitude, which can't be reported as segments, findings or measurements"),
        (SEVERAL, [], "its network gives 3 outputs at once (nuclei, distances, kinds); a node reads one"),
        (NAMELESS, [], "it does not name its outputs; name them in the mapping file: labels: {0: nodule}"),
        (NOWHERE, [], "it does not say which modality it is for; say it with --modality"),
        ({}, ["--modality", "TELEPATHY"], "the modality 'TELEPATHY' is not known"),
        ({}, ["--name", "covid_ct"], "covid_ct is the name of a pipeline with code of its own"),
        ({}, ["--name", "brain_mask"], "brain_mask is a bundle that the node's own code uses"),
        ({}, ["--name", "../up"], "'../up' is no name for a rule"),
        ({"version": "../../x"}, [], "'../../x' is no version"),
        (
            {
                "network_data_format": {
                    "inputs": {"image": {"channel_def": 3, "num_channels": 5, "modality": "CT"}},
                    "outputs": {"pred": {"format": "labels"}},
                }
            },
            [],
            "its network takes 5 channels; where they are several series",
        ),
        (
            {
                "network_data_format": {
                    "inputs": {"image": {"spatial_shape": 7, "modality": "CT"}},
                    "outputs": {"pred": {"format": "labels"}},
                }
            },
            [],
            "something unexpected",
        ),
    ],
    ids=[
        "four series",
        "no report",
        "three outputs",
        "boxes without a name",
        "no modality",
        "no such modality",
        "taken",
        "taken by a helper",
        "no name",
        "a path as version",
        "five channels",
        "no such shape",
    ],
)
def test_what_a_node_can_not_use_is_refused_with_what_to_do(
    tmp_path: Path, add: Add, models: Path, more: dict[str, Any], arguments: list[str], said: str
) -> None:
    (models / "brain_mask" / "1.0.0").mkdir(parents=True)

    done = add(guest_bundles.bright(tmp_path / "zoo", **more), *arguments)

    assert said in reason(done)
    assert [path.name for path in models.iterdir()] == ["brain_mask"]


def test_a_zip_that_leads_outside_is_refused(tmp_path: Path, add: Add) -> None:
    file = tmp_path / "evil.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("configs/metadata.json", "{}")
        archive.writestr("../outside", "x")

    assert "the zip holds a path outside itself" in reason(add(file))
    assert not (tmp_path / "outside").exists()


def test_a_folder_with_a_link_is_refused(tmp_path: Path, add: Add) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "docs" / "secret").symlink_to("/etc/passwd")

    assert "docs/secret is a link" in reason(add(folder))


@pytest.mark.parametrize(
    ("code", "limits", "said"),
    [
        ("import no_such_thing\n" + guest_bundles.BRIGHT, {}, "it needs the Python package no_such_thing, which is not installed here"),
        (
            guest_bundles.BRIGHT.replace("def forward(self, x):", "def forward(self, x):\n        import time\n        time.sleep(60)"),
            {"time_s": 2},
            "did not end within 2 s; where it may cost more, the mapping file says so: limits: {memory_mb: 12288, time_s: 4}",
        ),
    ],
    ids=["a package", "time"],
)
def test_what_a_bundle_needs_and_does_not_have_is_named(tmp_path: Path, add: Add, code: str, limits: dict[str, int], said: str) -> None:
    done = add(guest_bundles.bright(tmp_path / "zoo", code=code), mapping={"limits": limits})

    assert said in reason(done)


def test_a_bundle_that_only_runs_a_program_of_its_own_is_refused_before_anybody_fetches_its_weights(tmp_path: Path, add: Add) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "models" / "model.pt").unlink()
    (folder / "configs" / "inference.yaml").write_text("imports: [$import scripts.inference]\ninference: [$scripts.inference.main()]\n")
    large = [{"path": f"models/fold{n}.pth", "url": f"https://example.org/{n}"} for n in range(5)]
    (folder / "large_files.yaml").write_text(yaml.safe_dump({"large_files": large}))

    assert "its inference configuration has no network_def" in reason(add(folder))


# --- the list -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A guest as it lies after it was added; put there by hand, since nothing of it is run here."""
    path = guest_bundles.bright(tmp_path / "there" / "spleen_ct" / "0.5.1")
    sidecar = {"pipeline": "spleen_ct", "task": "segmentation", "takes": "volume", "dims": 3, "intended_use": {"modality": ["CT"]}}
    (path / "node.json").write_text(json.dumps(sidecar))
    write_sums(path)
    allowed.allow(path)
    return path


def test_an_intact_guest_is_allowed_and_its_digest_covers_its_code(installed: Path) -> None:
    bundle = Bundle.open(installed)

    allowed.check(bundle)

    assert bundle.digest == hashlib.sha256((installed / "SHA256SUMS").read_bytes()).hexdigest()
    assert (bundle.name, bundle.version, bundle.weights) == ("spleen_ct", "0.5.1", "models/model.pt")


def test_a_rule_names_a_guest_as_it_names_a_pipeline(installed: Path, tmp_path: Path, models: Path) -> None:
    """And one that is damaged is not there to be named, while the others are."""
    shutil.copytree(installed.parents[1], models, dirs_exist_ok=True)
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: spleens, when: {modality: CT}, run: spleen_ct}]")
    house = House(config.load(rules=rules))

    [decision] = decide(a_clean(tmp_path), house.rules, house.needs)
    takes, labels = house.needs["spleen_ct"].takes, house.bundles["spleen_ct"].labels
    flip(models / "spleen_ct" / "0.5.1" / "scripts" / "networks.py")

    assert decision.met, decision.reasons
    assert (takes, labels) == ("volume", ("spleen",))
    assert dict(House(config.load()).bundles) == {}
    done = CliRunner().invoke(app, ["verify"])
    assert (done.exit_code, "scripts/networks.py" in done.output) == (1, True)


def a_clean(folder: Path) -> Study:
    return read_study(clean_study(a_study("CT", slices=6, rows=64), folder / "clean"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        (lambda path: flip(path / "models" / "model.pt"), BundleDamaged, "models/model.pt"),
        (lambda path: flip(path / "scripts" / "networks.py"), BundleDamaged, "scripts/networks.py"),
        (lambda path: (path / "scripts" / "more.py").write_text("import os"), BundleInvalid, "scripts/more.py is not listed"),
        (lambda path: (flip(path / "scripts" / "networks.py"), write_sums(path)), BundleDamaged, "SHA256SUMS"),
        (lambda path: (path.parents[1] / "ALLOWED").unlink(), BundleInvalid, "it is not on the list ALLOWED"),
    ],
    ids=["a flipped bit of the weights", "changed code", "a new file", "changed code with new sums", "nobody added it"],
)
def test_a_changed_or_unknown_guest_does_not_load(
    installed: Path, change: Callable[[Path], Any], kind: type[NodeError], named: str
) -> None:
    change(installed)

    with pytest.raises(kind, match=named):
        allowed.check(Bundle.open(installed))
