"""A bundle opens only when every file is what it says, and its weights only ever load as data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from safetensors.torch import save_file

from node.bundle import SUMS, Bundle, bundles_in, write_sums
from node.errors import BundleDamaged, BundleInvalid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small bundle whose network is one convolution of known weights."""
    path = tmp_path / "edges" / "1.2.0"
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    metadata = {
        "version": "1.2.0",
        "name": "Edges on anything",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "spatial_shape": [16, 16]}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "edge"}}},
        },
        "radnode": {
            "pipeline": "edges",
            "labels": ["edge"],
            "thresholds": {"edge": 0.25},
            "intended_use": {"modality": ["CT"], "min_slices": 3},
            "licence": {"name": "CC0", "non_commercial": False},
        },
    }
    (path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_network(path, {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": "@width", "padding": 1})
    save_file(
        {"weight": torch.arange(18.0).reshape(2, 1, 3, 3).half(), "bias": torch.tensor([1.0, -1.0]).half()},
        path / "models" / "model.safetensors",
    )
    write_sums(path)
    return path


def write_network(path: Path, definition: object) -> None:
    (path / "configs" / "inference.json").write_text(json.dumps({"width": 3, "network_def": definition}))
    write_sums(path)


def test_an_intact_bundle_says_what_it_is_and_computes(folder: Path) -> None:
    bundle = Bundle.open(folder)

    assert (bundle.name, bundle.version, bundle.labels) == ("edges", "1.2.0", ("edge",))
    assert bundle.thresholds == {"edge": 0.25}
    assert bundle.intended_use == {"modality": ["CT"], "min_slices": 3}
    assert bundle.input_shape == (1, 16, 16)
    assert bundle.digest == bundle.sums["models/model.safetensors"]
    assert bundle.algorithm.digest == bundle.digest
    answer = bundle.network()(torch.ones(1, 1, 3, 3))
    assert answer[0, 0, 1, 1].item() == sum(range(9)) + 1.0
    assert answer[0, 1, 1, 1].item() == sum(range(9, 18)) - 1.0
    assert answer.dtype == torch.float32


def test_the_sums_can_be_checked_by_sha256sum(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 3


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.safetensors"])
def test_one_flipped_bit_in_any_file_is_found_and_the_file_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0x01
    (folder / name).write_bytes(data)

    with pytest.raises(BundleDamaged) as refused:
        Bundle.open(folder)
    assert refused.value.facts["file"] == name


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "models" / "model.safetensors").unlink()
    with pytest.raises(BundleDamaged) as refused:
        Bundle.open(folder)
    assert refused.value.facts["file"] == "models/model.safetensors"


def test_weights_exchanged_after_opening_are_not_loaded(folder: Path) -> None:
    bundle = Bundle.open(folder)
    data = bytearray((folder / "models" / "model.safetensors").read_bytes())
    data[-1] ^= 0x01
    (folder / "models" / "model.safetensors").write_bytes(data)

    with pytest.raises(BundleDamaged):
        bundle.network()


@pytest.mark.parametrize("name", ["../../outside.txt", "/etc/hostname", "models/../../../outside.txt"])
def test_a_path_outside_the_bundle_is_refused(folder: Path, name: str) -> None:
    with (folder / SUMS).open("a") as sums:
        sums.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(BundleInvalid, match="outside"):
        Bundle.open(folder)


def test_a_link_that_leads_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "models" / "model.safetensors", tmp_path / "elsewhere.safetensors")
    (folder / "models" / "model.safetensors").unlink()
    os.symlink(tmp_path / "elsewhere.safetensors", folder / "models" / "model.safetensors")
    with pytest.raises(BundleInvalid, match="outside"):
        Bundle.open(folder)


def test_a_line_that_is_no_digest_is_refused(folder: Path) -> None:
    (folder / SUMS).write_text("not a digest  configs/metadata.json\n")
    with pytest.raises(BundleInvalid):
        Bundle.open(folder)


def test_a_file_that_is_used_must_be_listed(folder: Path) -> None:
    kept = [line for line in (folder / SUMS).read_text().splitlines() if "model.safetensors" not in line]
    (folder / SUMS).write_text("\n".join(kept) + "\n")
    with pytest.raises(BundleInvalid, match="lists none of"):
        Bundle.open(folder)


def test_a_folder_without_sums_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match=SUMS):
        Bundle.open(tmp_path)


def test_a_network_of_any_other_callable_is_not_built(folder: Path) -> None:
    write_network(folder, {"_target_": "subprocess.getoutput", "cmd": "true"})
    with pytest.raises(BundleInvalid, match="may be built from"):
        Bundle.open(folder).network()


def test_an_expression_is_not_evaluated(folder: Path) -> None:
    write_network(folder, {"_target_": "torch.nn.Conv2d", "in_channels": "$__import__('os').getpid()", "out_channels": 2, "kernel_size": 3})
    with pytest.raises(BundleInvalid, match="expression"):
        Bundle.open(folder).network()


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    write_network(folder, {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 4, "kernel_size": 3})
    with pytest.raises(BundleInvalid, match="do not fit"):
        Bundle.open(folder).network()


def test_a_pickle_that_would_run_code_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (folder / "models" / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "models" / "model.pt")
    write_sums(folder)
    with pytest.raises(BundleInvalid, match="weights_only"):
        Bundle.open(folder).network()
    assert not (tmp_path / "sprung").exists()


def test_a_state_dict_loads_as_well(folder: Path) -> None:
    (folder / "models" / "model.safetensors").unlink()
    torch.save({"state_dict": {"weight": torch.ones(2, 1, 3, 3), "bias": torch.zeros(2)}}, folder / "models" / "model.pt")
    write_sums(folder)
    assert Bundle.open(folder).network()(torch.ones(1, 1, 3, 3))[0, 0, 1, 1].item() == 9.0


def test_the_other_engine_gives_the_same_answer(folder: Path) -> None:
    bundle = Bundle.open(folder)
    picture = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) / 50
    ours = torch.sigmoid(bundle.network(engine="openvino")(picture))
    theirs = torch.sigmoid(bundle.network()(picture))
    assert ours.shape == theirs.shape == (3, 2, 16, 16)
    assert float((ours - theirs).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({}, ""),
        ({"Modality": "CT", "PatientAge": "058Y", "BodyPartExamined": "CHEST"}, ""),
        ({"Modality": "OT"}, ""),
        ({"Modality": "MR"}, "made for CT, not for MR"),
        ({"Modality": "CT", "PatientAge": "012Y"}, "from 18 years on"),
        ({"Modality": "CT", "PatientAge": "011M"}, "from 18 years on"),
        ({"Modality": "CT", "PatientAge": "81"}, ""),
        ({"Modality": "CT", "PatientAge": "000Y"}, ""),
        ({"Modality": "CT", "BodyPartExamined": "chest_to_pelvis"}, ""),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, "another body part"),
    ],
)
def test_a_header_outside_the_intended_use_is_refused_with_the_reason(folder: Path, header: dict[str, str], reason: str) -> None:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["radnode"]["intended_use"] = {"modality": ["CT"], "body_part": ["CHEST"], "body_part_required": True, "min_age_years": 18}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_sums(folder)
    image = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real headers hold ages that the Standard does not allow
        image.update(
            {tag_for_keyword(name): DataElement(tag_for_keyword(name), dictionary_VR(name), value) for name, value in header.items()}
        )

    why = Bundle.open(folder).refusal(image)

    assert reason in why
    assert bool(why) == bool(reason)


@pytest.mark.parametrize(
    ("description", "reason"),
    [("T1 tra KM", ""), ("Schädel", ""), ("FLAIR tra", "made for T1-weighted images, not for FLAIR"), ("ep2d_diff_ADC", "not for ADC")],
)
def test_an_mr_series_of_another_weighting_is_refused_where_it_says_so(folder: Path, description: str, reason: str) -> None:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["radnode"]["intended_use"] = {"modality": ["MR"], "weighting": ["T1"]}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_sums(folder)
    image = Dataset()
    image.Modality, image.SeriesDescription = "MR", description

    why = Bundle.open(folder).refusal(image)

    assert reason in why
    assert bool(why) == bool(reason)


def test_bundles_are_found_in_their_folder(folder: Path) -> None:
    assert list(bundles_in(folder.parents[1])) == [folder]


def test_importing_the_reader_does_not_import_torch() -> None:
    code = "import sys, node.bundle; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def staged(folder: Path) -> Path:
    """A bundle of two networks: one doubles a picture of 4 x 4, the other negates one of 2 x 2."""
    convolution = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1, "bias": False}
    shapes = {name: {"num_channels": 1, "spatial_shape": [size, size]} for name, size in (("first", 4), ("second", 2))}
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    network = {"_target_": "node.imaging.stages.stages", "first": convolution, "second": convolution}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": network}))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0", "network_data_format": {"inputs": shapes}}))
    weights = {f"{name}.weight": torch.full((1, 1, 1, 1), value) for name, value in (("first", 2.0), ("second", -1.0))}
    save_file(weights, folder / "models" / "model.safetensors")
    write_sums(folder)
    return folder


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_bundle_of_several_networks_hands_them_out_by_name(tmp_path: Path, engine: str) -> None:
    stages = Bundle.open(staged(tmp_path / "two")).stages(engine=engine)

    assert set(stages) == {"first", "second"}
    assert torch.allclose(stages["first"](torch.ones(2, 1, 4, 4)), torch.full((2, 1, 4, 4), 2.0))
    assert torch.allclose(stages["second"](torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), -1.0))


def test_a_bundle_of_one_network_has_no_stages(folder: Path) -> None:
    with pytest.raises(BundleInvalid, match="not several"):
        Bundle.open(folder).stages()


def test_a_model_zoo_bundle_runs(shared: Path, tmp_path: Path) -> None:
    """A real MONAI Model Zoo bundle, as published: its network from short names and references, its weights strictly."""
    source = shared / "data" / "weights" / "monai_mednist_gan"
    path = tmp_path / "mednist_gan"
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.pt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path / name)
    write_sums(path)

    hand = Bundle.open(path).network()(torch.zeros(1, 64))

    assert hand.shape == (1, 1, 64, 64)
    assert float(hand.std()) > 0.01
