"""Networks of our own: any backbone by its name, patients of whom little is known, and how sure a network says it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydicom.dataset import Dataset
from safetensors.torch import save_file

from node.bundle import Bundle, write_sums
from node.errors import BundleInvalid
from node.imaging.clinical import clinical_of, row_of
from node.networks.backbones import NAMES, Backbone
from node.networks.clinical import ClinicalTokens
from node.networks.image_and_clinical import ImageAndClinical

FIELDS: list[dict[str, Any]] = [
    {"name": "age_years", "mean": 50, "scale": 20},
    {"name": "sex", "values": ["F", "M"]},
    {"name": "view", "values": ["PA", "AP"]},
    {"name": "weight_kg", "mean": 75, "scale": 20},
    {"name": "height_m", "mean": 1.7, "scale": 0.1},
    {"name": "temperature_c", "mean": 37.5, "scale": 1},
    {"name": "spo2_percent", "mean": 94, "scale": 6},
]
NOTHING = [math.nan] * len(FIELDS)


def small(**changes: Any) -> ImageAndClinical:
    torch.manual_seed(1)
    options = {"backbone": "small", "clinical": FIELDS, "labels": ["normal", "covid"], "severity": ["death"], "width": 32, **changes}
    return ImageAndClinical(**options).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))


# --- backbones ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_names_its_backbone_and_the_node_builds_it_without_asking_the_net(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Random weights saved, described, loaded again strictly: the same answers."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("weights were asked for"))
    made = small(backbone=name)
    definition = {
        "_target_": "node.networks.image_and_clinical.ImageAndClinical",
        "backbone": name,
        "clinical": FIELDS,
        "labels": ["normal", "covid"],
        "severity": ["death"],
        "width": 32,
    }
    bundle = written(tmp_path, definition, made)
    given = torch.rand(1, 1, 64, 64), torch.tensor([NOTHING])

    logits = bundle.module()(*given)

    assert logits.shape == (1, 3)
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits, made(*given), atol=1e-5)


def test_an_underscore_in_a_backbones_name_is_a_dash() -> None:
    assert Backbone("EfficientNet_B3").channels == Backbone("efficientnet-b3").channels


def test_a_backbone_that_is_not_there_is_named_as_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="densenet121"):
        Backbone("vgg16")
    definition = {"_target_": "node.networks.image_and_clinical.ImageAndClinical", "backbone": "vgg16", "clinical": [], "labels": ["x"]}
    with pytest.raises(BundleInvalid, match="can't be built"):
        written(tmp_path, definition, small()).module()


def written(folder: Path, definition: dict[str, Any], network: torch.nn.Module) -> Bundle:
    """A bundle of one network."""
    import json

    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0", "name": "test"}))
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "models" / "model.safetensors")
    write_sums(folder)
    return Bundle.open(folder)


# --- what is known of the patient -------------------------------------------------------------------------------------------------
def test_what_is_told_changes_the_answer_and_what_is_not_told_need_not_be_there(image: torch.Tensor) -> None:
    network = small()
    feverish = torch.tensor([[61.0, 1.0, 1.0, 80.0, 1.8, 39.2, 86.0]] * 2)

    unknown, told = network(image, torch.tensor([NOTHING] * 2)), network(image, feverish)

    assert torch.isfinite(unknown).all()
    assert not torch.allclose(unknown, told, atol=1e-4)


def test_one_patients_missing_values_do_not_touch_another(image: torch.Tensor) -> None:
    network = small()
    known = [61.0, 1.0, 1.0, 80.0, 1.8, 39.2, 86.0]

    together = network(image, torch.tensor([known, NOTHING]))

    assert torch.allclose(together[:1], network(image[:1], torch.tensor([known])), atol=1e-5)
    assert torch.allclose(together[1:], network(image[1:], torch.tensor([NOTHING])), atol=1e-5)


def test_missing_values_give_no_gradient_that_is_not_a_number(image: torch.Tensor) -> None:
    network = small().train()

    network(image, torch.tensor([[61.0, *NOTHING[1:]], NOTHING])).sum().backward()

    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert network.tokens.unknown.grad.abs().sum() > 0


def test_every_field_has_a_token_of_its_own_for_not_known() -> None:
    tokens = ClinicalTokens(FIELDS, 16)(torch.tensor([NOTHING]))

    assert tokens.shape == (1, len(FIELDS), 16)
    assert len({tuple(one.tolist()) for one in tokens[0]}) == len(FIELDS)


def test_a_header_and_what_was_said_beside_it_become_one_row() -> None:
    header = Dataset()
    header.PatientAge, header.PatientSex, header.PatientWeight, header.ViewPosition = "061Y", "F", "82", "AP"

    told = clinical_of(header, {"temperature": 38.9, "SpO2": "91", "sex": "male", "shoe_size": 43})

    assert told == {"age_years": 61.0, "weight_kg": 82.0, "temperature_c": 38.9, "spo2_percent": 91.0, "sex": "M", "view": "AP"}
    row = row_of(told, FIELDS)
    assert row[:4] == [61.0, 1.0, 1.0, 82.0]
    assert math.isnan(row[4])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientAge", "000Y"),
        ("PatientAge", ""),
        ("PatientWeight", "0"),
        ("PatientSize", "174"),
        ("PatientSex", "O"),
        ("ViewPosition", "LL"),
    ],
)
def test_values_that_cannot_be_meant_are_not_known(keyword: str, value: str) -> None:
    header = Dataset()
    setattr(header, keyword, value)

    assert clinical_of(header) == {}


@pytest.mark.parametrize("told", [{"age": "old"}, {"temperature": math.nan}, {"spo2": 9}, {"weight": None}, {"height": [1.7]}])
def test_nonsense_said_beside_the_image_is_left_out(told: dict[str, Any]) -> None:
    assert clinical_of(Dataset(), told) == {}


# --- how sure -----------------------------------------------------------------------------------------------------------------------
def test_dropout_passes_differ_from_each_other_and_not_from_one_asking_to_the_next(image: torch.Tensor) -> None:
    network, told = small(), torch.tensor([NOTHING] * 2)

    first, again, other = (network.passes(image, told, count=12, seed=seed) for seed in (7, 7, 8))

    assert first.shape == (12, 2, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.std(dim=0) > 0).all()
    assert torch.equal(network(image, told), network(image, told))


def test_without_dropout_every_pass_is_the_plain_answer(image: torch.Tensor) -> None:
    network, told = small(dropout=0.0), torch.tensor([NOTHING] * 2)

    assert torch.allclose(network.passes(image, told, count=3), network(image, told).expand(3, -1, -1), atol=1e-6)


def test_looking_into_a_network_leaves_it_as_it_was(image: torch.Tensor) -> None:
    """Grad-CAM puts the module it was given back into the mode it found it in: that must not be training."""
    from monai.visualize import GradCAM

    network, told = small(), torch.tensor([NOTHING])
    before = network(image[:1], told)

    cam = GradCAM(nn_module=network.of(told), target_layers="network.backbone")(image[:1].requires_grad_(), class_idx=1)

    assert cam.shape == (1, 1, 64, 64)
    assert not any(module.training for module in network.modules())
    assert torch.equal(network(image[:1], told), before)
