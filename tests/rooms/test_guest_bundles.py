"""What a guest's process makes of a bundle: its own transforms and inferer, answers on the grid of the images. Met here without the process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from pydicom import dcmread

from node.domain import CleanUid, Instance, Series
from node.errors import BundleRefused
from node.guests._process.answers import Given, answered
from node.guests._process.endings import ending
from node.guests._process.monai_bundle import Ready
from node.guests._process.refusal import Refusal
from node.guests.arrival import slices_itself, unpack, with_weights
from node.guests.description import description
from node.imaging.build import build_volume
from tests.rooms import guest_bundles

SEGMENTATION = {"task": "segmentation", "dims": 3}
#: column, row, frame → LPS: an oblique acquisition, 2 x 2 x 5 mm, rows counting to the front
OBLIQUE = np.asarray([[1.96, 0.1, -0.9, -40], [0.2, -1.98, 0.5, 30], [0.3, 0.2, 4.89, -60], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def fresh_scripts() -> Iterator[None]:
    """Each bundle has a package `scripts` of its own; a real process sees one bundle only."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] in ("scripts", "own_package")]:
        del sys.modules[name]


def a_volume() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(frames, rows, columns) and where it is bright: a block that touches no border, different along each axis."""
    mask = np.zeros((14, 40, 32), bool)
    mask[4:10, 8:20, 14:28] = True
    return np.where(mask, 200.0, -50.0).astype(np.float32), mask


def asked(ready: Ready, pixels: NDArray[Any], affine: Any = OBLIQUE, **facts: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    told = {"dims": 3, "affine": None if affine is None else np.asarray(affine).tolist(), "spacing_mm": None, **facts}
    return ready.answer(told, {"pixels": pixels})


def dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize(("form", "invert"), [("yaml", True), ("json", False)], ids=["Invertd, yaml", "no Invertd, json"])
def test_a_mask_comes_back_to_the_grid_of_the_images(tmp_path: Path, form: str, invert: bool) -> None:
    """Reoriented and resampled to 4 mm, in windows of 16, through the bundle's own code; then back, by Invertd or by the affine."""
    path = guest_bundles.bright(tmp_path / "bundle", form=form, invert=invert)
    pixels, mask = a_volume()

    ready = Ready.load(path, SEGMENTATION, "cpu")
    facts, arrays = asked(ready, pixels)

    assert ready.told["inferer"] == "SlidingWindowInferer"
    assert ready.told["spacing_mm"] == [4.0, 4.0, 4.0]
    assert "LoadImaged" not in ready.told["preprocessing"]
    assert "SaveImaged" not in ready.told["postprocessing"]
    assert facts == {"kind": "labels"}
    assert arrays["labels"].shape == mask.shape
    assert dice(arrays["labels"] == 1, mask) > 0.9


def test_a_network_of_monai_with_random_weights_runs_and_always_says_the_same(tmp_path: Path) -> None:
    ready = Ready.load(guest_bundles.unet(tmp_path / "bundle"), SEGMENTATION, "cpu")
    pixels, mask = a_volume()

    one, other = (asked(ready, pixels)[1]["labels"] for _ in range(2))

    assert ready.told["network"] == "UNet"
    assert one.shape == mask.shape
    assert set(np.unique(one)) <= {0, 1}
    assert np.array_equal(one, other)


def test_a_transformer_of_the_zoo_runs_although_its_bundle_names_an_argument_of_former_days(tmp_path: Path) -> None:
    from monai.networks.nets import SwinUNETR

    told: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "use_checkpoint": True}
    torch.manual_seed(1)
    network = SwinUNETR(**told).eval()
    config = guest_bundles.inference({"_target_": "SwinUNETR", "spatial_dims": 3, "img_size": 96, **told}, spacing=1.0)
    config["window"] = 64
    bundle = guest_bundles.written(tmp_path / "bundle", guest_bundles.metadata(), config, network.state_dict())

    ready = Ready.load(bundle, {"task": "segmentation", "dims": 3}, "cpu")
    pixels = np.random.default_rng(1).random((64, 64, 64), np.float32)
    _, arrays = asked(ready, pixels, affine=np.diag([-1.0, -1.0, 1.0, 1.0]))

    with torch.no_grad():
        expected = network(torch.from_numpy(pixels.transpose(2, 1, 0).copy())[None, None])[0].argmax(0).numpy().transpose(2, 1, 0)
    assert 0 < expected.mean() < 1
    assert np.array_equal(arrays["labels"], expected)


def test_a_series_without_patient_axes_is_taken_as_it_lies(tmp_path: Path) -> None:
    ready = Ready.load(guest_bundles.bright(tmp_path / "bundle"), SEGMENTATION, "cpu")
    pixels, mask = a_volume()

    _, arrays = asked(ready, pixels, affine=None, spacing_mm=(5.0, 2.0, 2.0))

    assert dice(arrays["labels"] == 1, mask) > 0.9


@pytest.mark.parametrize("channels", [{"channel_dim": -1}, {"channel_dim": "no_channel"}, {"_target_": "AddChanneld"}])
def test_where_a_reader_has_its_channels_means_nothing_to_an_image_that_has_them_first(tmp_path: Path, channels: dict[str, Any]) -> None:
    """As in the zoo's endoscopic bundles, where LoadImaged gives a JPEG with its channels last, and in those of before MONAI 1.0."""
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"][1] |= channels
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    pixels, mask = a_volume()

    _, arrays = asked(Ready.load(path, SEGMENTATION, "cpu"), pixels)

    assert dice(arrays["labels"] == 1, mask) > 0.9


def test_what_macros_bring_from_other_files_is_the_bundle_s_own_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preprocessing in a file of its own, which reads images of a format that nobody here reads; the code in a package of another name."""
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    (path / "scripts").rename(path / "own_package")
    config = json.loads((path / "configs" / "inference.json").read_text().replace("scripts.networks", "own_package.networks"))
    config["preprocessing"]["transforms"][0]["reader"] = "own_package.networks.NoReader"
    (path / "configs" / "common.json").write_text(json.dumps({"before": config["preprocessing"]}))
    config["preprocessing"] = "%configs/common.json::before"
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    monkeypatch.chdir(path)
    pixels, mask = a_volume()

    _, arrays = asked(Ready.load(path, SEGMENTATION, "cpu"), pixels)

    assert dice(arrays["labels"] == 1, mask) > 0.9


# --- what does not fit is refused by name ---------------------------------------------------------------------------------
def test_weights_of_another_network_are_refused_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = guest_bundles.unet(tmp_path / "bundle")
    weights = torch.load(path / "models" / "model.pt", weights_only=True)["model"]
    first = next(iter(weights))
    torch.save({first: weights[first][:2], "head.weight": torch.ones(1)}, path / "models" / "model.pt")

    with pytest.raises(Refusal) as refused:
        Ready.load(path, SEGMENTATION, "cpu")

    assert "model.pt does not fit the network that the bundle describes: missing: model.0.conv.unit0.conv.bias" in str(refused.value)
    assert "not in the network: head.weight" in str(refused.value)
    assert f"of another shape: {first} is (2, 1, 3, 3, 3), the network has (4, 1, 3, 3, 3)" in str(refused.value)


@pytest.mark.parametrize(
    ("more", "fits"), [({}, True), ({"std": torch.ones(3)}, False)], ids=["a module of Lightning", "one that normalises as well"]
)
def test_a_network_within_something_else_is_found_and_what_is_beside_it_is_named(tmp_path: Path, more: dict[str, Any], fits: bool) -> None:
    """What else was saved may belong to the preprocessing, so nobody leaves it out unasked."""
    path = guest_bundles.unet(tmp_path / "bundle")
    weights = torch.load(path / "models" / "model.pt", weights_only=True)["model"]
    torch.save({"state_dict": {f"net.{name}": tensor for name, tensor in weights.items()} | more}, path / "models" / "model.pt")

    if fits:
        assert Ready.load(path, SEGMENTATION, "cpu").told["network"] == "UNet"
    else:
        with pytest.raises(Refusal, match=r"the network that the bundle describes: not in the network: std$"):
            Ready.load(path, SEGMENTATION, "cpu")


class Surprise:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch /tmp/a-pickle-ran",)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: torch.save({"model": {"level": Surprise()}}, path / "models" / "model.pt"), "could run code"),
        (lambda path: (path / "models" / "model.pt").write_bytes(b"PK\x03\x04" + bytes(60)), "model.pt is damaged"),
        (lambda path: (path / "models" / "model.pt").write_bytes(bytes(60)), "neither a state dict of torch nor safetensors"),
        (lambda path: (path / "models" / "model.pt").unlink(), "it has none of models/model.safetensors"),
        (lambda path: (path / "configs" / "inference.json").write_text("{"), "configs/inference.json can't be read"),
        (lambda path: (path / "configs" / "inference.json").write_text("{}"), "has no network_def"),
    ],
    ids=["pickle", "torn", "zeros", "gone", "no JSON", "no network"],
)
def test_a_broken_bundle_is_refused_with_the_reason(tmp_path: Path, spoil: Any, reason: str) -> None:
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    spoil(path)

    with pytest.raises(Refusal, match=reason):
        Ready.load(path, SEGMENTATION, "cpu")

    assert not Path("/tmp/a-pickle-ran").exists()


@pytest.mark.parametrize("after", [{"softmax": True, "argmax": True}, {"sigmoid": True, "threshold": 0.5}, {}])
def test_an_answer_that_is_no_number_is_refused_and_not_reported_as_nothing(tmp_path: Path, after: dict[str, Any]) -> None:
    """Argmax and threshold make background of a NaN."""
    path = guest_bundles.bright(tmp_path / "bundle", form="json", code=guest_bundles.BRIGHT.replace("self.level - x", "x.sqrt()"))
    config = json.loads((path / "configs" / "inference.json").read_text())
    kinds = {"softmax": "Activationsd", "sigmoid": "Activationsd", "argmax": "AsDiscreted", "threshold": "AsDiscreted"}
    config["postprocessing"]["transforms"] = [{"_target_": kinds[key], "keys": "pred", key: value} for key, value in after.items()]
    (path / "configs" / "inference.json").write_text(json.dumps(config))

    with pytest.raises(Refusal, match="the network answered what is no number"):
        asked(Ready.load(path, SEGMENTATION, "cpu"), a_volume()[0])


def test_a_mask_of_another_resolution_is_not_brought_back_as_if_it_were_of_the_same(tmp_path: Path) -> None:
    """Invertd takes every array for one of the grid that the preprocessing made."""
    code = guest_bundles.BRIGHT.replace("dim=1)", "dim=1)[..., ::2, ::2, ::2]")
    path = guest_bundles.bright(tmp_path / "bundle", code=code)
    without = guest_bundles.bright(tmp_path / "other", code=code, invert=False)
    pixels, mask = a_volume()

    with pytest.raises(Refusal, match=r"voxels for an image of \(.*\): its Invertd would put them elsewhere"):
        asked(Ready.load(path, SEGMENTATION, "cpu"), pixels)
    _, arrays = asked(Ready.load(without, SEGMENTATION, "cpu"), pixels)

    assert dice(arrays["labels"] == 1, mask) > 0.6


def test_a_bundle_that_names_a_gpu_outright_runs_where_there_is_none(tmp_path: Path) -> None:
    """And reads what else it has beside its weights: a search wrote its architecture as arrays of numpy."""
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    torch.save({"code": np.arange(6.0).reshape(2, 3), "best": np.float64(0.5)}, path / "models" / "search_code.pt")
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["searched"] = "$torch.load(@bundle_root + '/models/search_code.pt', map_location=torch.device('cuda'))"
    config["preprocessing"]["transforms"].append(
        {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x + float(@searched['code'].max()) - 5"}
    )
    config["preprocessing"]["transforms"].append({"_target_": "EnsureTyped", "keys": "image", "device": "cuda:0"})
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    pixels, mask = a_volume()

    _, arrays = asked(Ready.load(path, SEGMENTATION, "cpu"), pixels)

    assert dice(arrays["labels"] == 1, mask) > 0.8


def test_an_inferer_that_asks_for_clicks_is_refused_with_what_it_asks_for(tmp_path: Path) -> None:
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    (path / "scripts" / "clicks.py").write_text(CLICKS)
    config = json.loads((path / "configs" / "inference.json").read_text()) | {"inferer": {"_target_": "scripts.clicks.Clicked"}}
    (path / "configs" / "inference.json").write_text(json.dumps(config))

    with pytest.raises(
        Refusal, match="its inferer asks for more than an image: point_coords, point_labels; a job has nothing of it to give"
    ):
        Ready.load(path, SEGMENTATION, "cpu")


CLICKS = """
from monai.inferers import Inferer

class Clicked(Inferer):
    def __call__(self, inputs, network, point_coords, point_labels, labels=None, *more, **others):
        return network(inputs)
"""


def test_a_flat_network_whose_inferer_goes_through_the_slices_gets_the_volume(tmp_path: Path) -> None:
    """Its metadata describes what the network takes, one slice; its inferer takes them all."""
    path = guest_bundles.bright(tmp_path / "bundle", form="json")
    config = json.loads((path / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"] = config["preprocessing"]["transforms"][-1:]
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 2}
    (path / "configs" / "inference.json").write_text(json.dumps(config))
    told = guest_bundles.metadata()
    told["network_data_format"]["inputs"]["image"]["spatial_shape"] = [16, 16]
    pixels, mask = a_volume()

    sidecar = description(told, {}, name="spleen", modality=(), volume=slices_itself(path))
    _, arrays = asked(Ready.load(path, sidecar, "cpu"), pixels)

    assert (sidecar["dims"], sidecar["takes"]) == (3, "volume")
    assert dice(arrays["labels"] == 1, mask) == 1.0


def test_weights_that_are_no_numbers_are_refused_and_named(tmp_path: Path) -> None:
    path = guest_bundles.bright(tmp_path / "bundle")
    torch.save({"level": torch.tensor([float("nan")])}, path / "models" / "model.pt")

    with pytest.raises(Refusal, match=r"model\.pt is damaged: values that are no numbers in: level"):
        Ready.load(path, SEGMENTATION, "cpu")


def test_an_image_with_other_channels_than_the_network_has_is_refused(tmp_path: Path) -> None:
    ready = Ready.load(guest_bundles.unet(tmp_path / "bundle"), SEGMENTATION, "cpu")

    with pytest.raises(Refusal, match="the network does not take"):
        asked(ready, np.random.default_rng(1).random((8, 20, 20, 3), np.float32))


def test_weights_are_known_by_what_they_are_and_not_by_their_suffix(tmp_path: Path) -> None:
    """Many a `.pt` is safetensors in truth."""
    from safetensors.torch import save_file

    path = guest_bundles.bright(tmp_path / "bundle")
    save_file({"level": torch.tensor([100.0])}, path / "models" / "model.pt")
    pixels, mask = a_volume()

    _, arrays = asked(Ready.load(path, SEGMENTATION, "cpu"), pixels)

    assert dice(arrays["labels"] == 1, mask) > 0.9


# --- the other tasks, and the other forms ---------------------------------------------------------------------------------
def on_disk(folder: Path, weights: Path, config: dict[str, Any], suffix: str) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    weights.rename(folder / "models" / f"model.{suffix}")
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder


RESIZED = {
    "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [64, 64]}]},
    "inferer": {"_target_": "SimpleInferer"},
}


@pytest.mark.parametrize("axes", ["torch", "monai"])
def test_boxes_come_back_to_the_pixels_of_the_image(tmp_path: Path, axes: str) -> None:
    """An image of 128 rows and 256 columns was squeezed into 64 x 64; corners on the network's grid, x first."""
    boxes = [[16.0, 8.0, 32.0, 24.0], [0.0, 0.0, 64.0, 64.0]]
    file = guest_bundles.onnx_detector(tmp_path / "d.onnx", boxes, [0.3, 0.9], [1, 2])
    ready = Ready.load(on_disk(tmp_path / "bundle", file, RESIZED, "onnx"), {"task": "detection", "dims": 2, "axes": axes}, "cpu")

    facts, arrays = asked(ready, np.ones((1, 128, 256), np.float32), affine=None, dims=2, spacing_mm=(0.0, 0.5, 0.25))

    assert facts["labels"] == [2, 1]
    assert facts["scores"] == pytest.approx([0.9, 0.3])
    assert arrays["boxes"][:, [0, 1, 3, 4]] == pytest.approx(np.asarray([[0, 0, 256, 128], [64, 16, 128, 48]]), abs=1e-3)
    assert arrays["boxes"][:, [2, 5]].tolist() == [[0, 1], [0, 1]]


DETECTOR = """
import torch

class Corner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(1))

class Detector:
    least = 2.0

    def __init__(self, network):
        self.network = network

    def __call__(self, inputs, network):
        where = (inputs[0, 0] > float(network.level)).nonzero().float()
        box = torch.cat([where.amin(0), where.amax(0) + 1])
        far = torch.tensor([-9.0, -9, -9, -5, -5, -5])
        return [{"box": torch.stack([box, far]), "label": torch.tensor([0, 0]), "label_scores": torch.tensor([0.9, 0.8]) - self.least}]
"""


def test_a_detector_of_monai_is_asked_before_its_boxes_become_world_coordinates(tmp_path: Path) -> None:
    """Its thresholds are set by what the evaluator requires; boxes beside the image are clipped away by its own postprocessing."""
    path = guest_bundles.bright(tmp_path / "bundle", code=DETECTOR)
    config = guest_bundles.inference({"_target_": "scripts.networks.Corner"})
    config["detector"] = {"_target_": "scripts.networks.Detector", "network": "@network"}
    config["detector_ops"] = ["$setattr(@detector, 'least', 0.0)"]
    config["inferer"] = "$@detector"
    config["evaluator"]["_requires_"] = "@detector_ops"
    boxes = {"box_keys": "box", "box_ref_image_keys": "image"}
    config["postprocessing"]["transforms"] = [
        {"_target_": "ClipBoxToImaged", **boxes, "label_keys": ["label", "label_scores"], "remove_empty": True},
        {"_target_": "AffineBoxToWorldCoordinated", **boxes, "affine_lps_to_ras": True},
        {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
    ]
    config["postprocessing"]["transforms"][0]["_target_"] = "monai.apps.detection.transforms.dictionary.ClipBoxToImaged"
    (path / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    pixels, mask = a_volume()
    straight = np.diag([2.0, 2.0, 5.0, 1.0])

    ready = Ready.load(path, {"task": "detection", "dims": 3}, "cpu")
    facts, arrays = asked(ready, pixels, affine=straight)

    frames, rows, columns = np.nonzero(mask)
    expected = [columns.min(), rows.min(), frames.min(), columns.max() + 1, rows.max() + 1, frames.max() + 1]
    assert facts["scores"] == pytest.approx([0.9])
    assert arrays["boxes"].tolist() == [pytest.approx(expected, abs=2.0)]  # a voxel of the 4 mm that it saw


def test_a_classifier_says_probabilities_even_when_its_bundle_would_only_decide(tmp_path: Path) -> None:
    file = guest_bundles.torchscript(tmp_path / "c.ts")
    config = json.loads(_extra(file, "inference.json"))
    ready = Ready.load(on_disk(tmp_path / "bundle", file, config, "ts"), {"task": "classification", "dims": 2}, "cpu")
    right = np.zeros((1, 50, 80), np.float32)
    right[:, :, 40:] = 100.0

    facts, _ = asked(ready, right, affine=None, dims=2)

    assert facts["activation"] == "softmax"
    assert sum(facts["values"]) == pytest.approx(1.0)
    assert np.argmax(facts["values"]) == 1


def said_of(channels: list[float], **sidecar: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What becomes of a flat network's answer: the same numbers at each of two by two pixels, nothing of its own after it."""
    image = MetaTensor(torch.zeros(1, 2, 2), affine=torch.eye(4))
    out = torch.tensor(channels).reshape(1, -1, 1, 1).expand(1, -1, 2, 2)
    told = {"task": "segmentation", "dims": 2, **sidecar}
    return answered(told, out, {"image": image}, "image", "pred", Compose([]), Given(source=image, affine=image.affine, shape=(2, 2)))


def outputs(*values: int) -> list[dict[str, Any]]:
    return [{"value": value, "name": f"organ {value}"} for value in values]


@pytest.mark.parametrize(("named", "label"), [((0, 1, 2), 0), ((1, 2), 0), ((1, 2, 3), 1)])
def test_names_that_count_from_one_for_every_channel_leave_none_to_the_background(named: tuple[int, ...], label: int) -> None:
    """Three channels, the first the likeliest."""
    _, arrays = said_of([9.0, 0.0, 0.0], outputs=outputs(*named))

    assert arrays["labels"].tolist() == [[[label] * 2] * 2]


def test_names_for_channels_that_are_not_there_are_refused() -> None:
    with pytest.raises(Refusal, match="gives 2 channels, and labels up to 3 are named"):
        said_of([9.0, 0.0], outputs=outputs(1, 2, 3))


@pytest.mark.parametrize(("thresholds", "seen"), [({}, [0, 1]), ({"organ 1": 0.3}, [1, 1]), ({"organ 2": 0.8}, [0, 0])])
def test_a_mask_has_the_threshold_of_its_label(thresholds: dict[str, float], seen: list[int]) -> None:
    facts, arrays = said_of([0.4, 0.7], activation="none", ends_with="sigmoid", outputs=outputs(1, 2), thresholds=thresholds)

    assert facts["kind"] == "masks"
    assert arrays["masks"][:, 0, 0, 0].tolist() == seen


def _extra(file: Path, name: str) -> str:
    import zipfile

    with zipfile.ZipFile(file) as archive:
        return archive.read(next(one for one in archive.namelist() if one.endswith(f"extra/{name}"))).decode()


def test_a_classifier_s_decision_is_left_out_wherever_its_bundle_keeps_it(tmp_path: Path) -> None:
    """A list under another key, made into one by an expression; and a group within it."""
    file = guest_bundles.torchscript(tmp_path / "c.ts")
    config = json.loads(_extra(file, "inference.json"))
    softmax, decision = config["postprocessing"]["transforms"]
    config["after"] = [{"_target_": "Compose", "transforms": [softmax, decision]}]
    config["postprocessing"] = "$monai.transforms.Compose(@after)"

    ready = Ready.load(on_disk(tmp_path / "bundle", file, config, "ts"), {"task": "classification", "dims": 2}, "cpu")
    facts, _ = asked(ready, np.eye(60, dtype=np.float32)[None], affine=None, dims=2)

    assert len(facts["values"]) == 3
    assert sum(facts["values"]) == pytest.approx(1.0)


def test_one_logit_becomes_a_probability_by_the_sigmoid(tmp_path: Path) -> None:
    file = guest_bundles.onnx_classifier(tmp_path / "b.onnx")
    config = {"preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [32, 32]}]}}
    ready = Ready.load(on_disk(tmp_path / "bundle", file, config, "onnx"), {"task": "classification", "dims": 2, "axes": "torch"}, "cpu")

    facts, _ = asked(ready, np.full((1, 40, 60), 0.6, np.float32), affine=None, dims=2)

    assert facts["values"] == pytest.approx([1 / (1 + np.exp(-2.0))], abs=1e-4)


class Activated(torch.nn.Module):
    """Ends with its own softmax, or with a sigmoid at each pixel, or one hidden behind something else."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.end == "softmax":
            return torch.softmax(torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1), dim=1)
        return torch.sigmoid(x - 0.5) if self.end == "sigmoid" else torch.sigmoid(x - 0.5).clamp(0.0, 1.0)


def activated(folder: Path, end: str, **sidecar: Any) -> Ready:
    torch.jit.save(torch.jit.trace(Activated(end), torch.rand(1, 1, 8, 8)), str(folder / "n.ts"))  # type: ignore[no-untyped-call]
    config = {"preprocessing": {"_target_": "Compose", "transforms": []}}
    return Ready.load(on_disk(folder / "bundle", folder / "n.ts", config, "ts"), {"dims": 2, "axes": "torch", **sidecar}, "cpu")


def test_probabilities_are_not_softened_once_more(tmp_path: Path) -> None:
    facts, _ = asked(activated(tmp_path, "softmax", task="classification"), np.ones((1, 8, 8), np.float32), affine=None, dims=2)

    assert facts["values"] == pytest.approx([0.881, 0.119], abs=1e-3)


SMP = {"encoder_name": "mobilenet_v2", "encoder_depth": 3, "decoder_channels": [8, 8, 8], "in_channels": 1, "classes": 1}
HALVES = np.repeat([[[0.0, 1.0]]], 8, axis=1).repeat(4, axis=2).astype(np.float32)


@pytest.mark.parametrize("told", [{}, {"activation": "sigmoid"}, {"activation": "none"}])
def test_a_sigmoid_at_the_end_of_a_script_is_the_only_one(tmp_path: Path, told: dict[str, str]) -> None:
    """A second one would leave all of them above one half: the whole image would be marked."""
    _, arrays = asked(activated(tmp_path, "sigmoid", task="segmentation", **told), HALVES, affine=None, dims=2)

    assert np.array_equal(arrays["labels"], HALVES == 1.0)


def test_whether_values_from_0_to_1_are_probabilities_is_asked_and_not_guessed(tmp_path: Path) -> None:
    for name in ("open", "told"):
        (tmp_path / name).mkdir()

    with pytest.raises(Refusal, match="say in the mapping file whether they are probabilities"):
        asked(activated(tmp_path / "open", "hidden", task="segmentation"), HALVES, affine=None, dims=2)
    told = activated(tmp_path / "told", "hidden", task="segmentation", activation="none")
    _, arrays = asked(told, HALVES, affine=None, dims=2)

    assert np.array_equal(arrays["labels"], HALVES == 1.0)


def test_a_sigmoid_at_the_end_of_an_onnx_file_is_the_only_one(tmp_path: Path) -> None:
    file = guest_bundles.onnx_classifier(tmp_path / "b.onnx", end="Sigmoid")
    config = {"preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Resized", "keys": "image", "spatial_size": [32, 32]}]}}
    ready = Ready.load(on_disk(tmp_path / "bundle", file, config, "onnx"), {"task": "classification", "dims": 2, "axes": "torch"}, "cpu")

    facts, _ = asked(ready, np.full((1, 40, 60), 0.6, np.float32), affine=None, dims=2)

    assert facts["values"] == pytest.approx([1 / (1 + np.exp(-2.0))], abs=1e-4)


@pytest.mark.parametrize(("activation", "ends"), [("sigmoid", "sigmoid"), ("softmax2d", "softmax"), (None, "")])
def test_what_a_network_of_smp_ends_with_is_seen(activation: str | None, ends: str) -> None:
    import segmentation_models_pytorch as smp

    assert ending(smp.Unet(encoder_weights=None, **{**SMP, "classes": 2}, activation=activation)) == ends
    assert ending(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.Softmax(1))) == "softmax"
    assert ending(torch.nn.Sequential(torch.nn.Sigmoid(), torch.nn.Linear(4, 2))) == ""


# --- weights of segmentation_models_pytorch, MeshNets of brainchop ------------------------------------------------------------


@pytest.mark.parametrize("form", ["save_pretrained", "a state dict and the network's name", "a state dict and no word of pre-training"])
def test_a_model_of_smp_drops_in(tmp_path: Path, form: str) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(1)
    network = smp.Unet(encoder_weights=None, **SMP).eval()
    mapping: dict[str, Any] = {"input_shape": [64, 64], "preprocessing": RESIZED["preprocessing"]}
    if form == "save_pretrained":
        came = tmp_path / "lesions"
        network.save_pretrained(str(came))
    else:
        came = tmp_path / "lesions.pth"
        torch.save(network.state_dict(), came)
        mapping["network"] = {"_target_": "segmentation_models_pytorch.Unet", **SMP}  # which then asks the net for those of ImageNet
        if form == "a state dict and the network's name":
            mapping["network"]["encoder_weights"] = "imagenet"
    unpack(came, tmp_path / "bundle", mapping)
    pixels = np.random.default_rng(1).random((1, 64, 64), np.float32)

    ready = Ready.load(tmp_path / "bundle", {"task": "segmentation", "dims": 2, "axes": "torch"}, "cpu")
    _, arrays = asked(ready, pixels, affine=None, dims=2)

    with torch.no_grad():
        expected = network(torch.from_numpy(pixels)[None])[0, 0] >= 0
    assert np.array_equal(arrays["labels"][0], expected.numpy())


def test_weights_without_their_network_are_refused_with_what_to_write(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "lesions.pth")

    with pytest.raises(BundleRefused, match="holds weights and not the network; name it in the mapping file"):
        unpack(tmp_path / "lesions.pth", tmp_path / "bundle", {})


def test_a_pointer_in_place_of_the_weights_is_refused_with_how_to_fetch_them(tmp_path: Path) -> None:
    path = guest_bundles.bright(tmp_path / "zoo")
    (path / "models" / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:f00d\nsize 19304\n")

    unpack(path, tmp_path / "bundle", {})

    with pytest.raises(BundleRefused, match="a pointer of Git LFS and not the weights; fetch them with `git lfs pull`"):
        with_weights(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("metadata.json", '{\n"version": ', r"metadata\.json is not JSON: line 2: Expecting value"),
        ("inference.yaml", "a: 1\n---\nb: 2\n", r"inference\.yaml is not YAML: but found another document"),
        ("inference.yaml", "- 1\n", r"inference\.yaml must hold keys and values"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_what_is_wrong_in_it(tmp_path: Path, file: str, content: str, reason: str) -> None:
    path = guest_bundles.bright(tmp_path / "zoo")
    (path / "configs" / file).write_text(content)

    with pytest.raises(BundleRefused, match=reason):
        unpack(path, tmp_path / "bundle", {"inferer": {"_target_": "SimpleInferer"}})


LAYERS = [{"in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 2, "stride": 1, "dilation": 2}]
LAST = {"in_channels": 2, "out_channels": 3, "kernel_size": 1, "padding": 0, "stride": 1, "dilation": 1}


def test_a_meshnet_of_brainchop_becomes_a_bundle(tmp_path: Path) -> None:
    """Weights are named `model.0.weight` there; one layer and a last one, so that the whole volume takes a second."""
    from safetensors.torch import save_file

    folder = tmp_path / "gwm"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"header": "Grey and white", "bnorm": False, "bias": True, "layers": [*LAYERS, LAST]}))
    (folder / "colormap.json").write_text(json.dumps({"labels": ["background", "White Matter", "Grey Matter"]}))
    first = torch.zeros(2, 1, 3, 3, 3)
    first[:, 0, 1, 1, 1] = 1.0
    last = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).reshape(3, 2, 1, 1, 1)
    save_file(
        {"model.0.weight": first, "model.0.bias": torch.zeros(2), "model.2.weight": last, "model.2.bias": torch.tensor([0.5, 0.1, -0.5])},
        folder / "model.safetensors",
    )
    unpack(folder, tmp_path / "bundle", {})
    pixels, mask = a_volume()

    ready = Ready.load(tmp_path / "bundle", SEGMENTATION, "cpu")
    _, arrays = asked(ready, pixels)

    assert ready.told["orientation"] == "LIA"
    assert dice(arrays["labels"] == 2, mask) > 0.9
    assert json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())["name"] == "Grey and white"


@pytest.mark.skipif(not os.environ.get("RADNODE_TEST_EVERY_FILE"), reason="half a minute of CPU: set RADNODE_TEST_EVERY_FILE=1")
def test_the_published_meshnet_finds_white_and_grey_matter_on_a_real_head(tmp_path: Path, shared: Path) -> None:
    """As brainchop finds them in its own program."""
    head, weights = shared / "data/dicom/mr_brain_t1_brainchop", shared / "data/weights/brainchop_meshnet/model5_gw_ae"
    unpack(weights, tmp_path / "bundle", {})
    instances = tuple(Instance(header=dcmread(path, stop_before_pixels=True), path=path) for path in head.rglob("*.dcm"))
    uid = CleanUid(str(instances[0].header.SeriesInstanceUID))
    volume = build_volume(Series(series_instance_uid=uid, modality="MR", instances=instances))

    ready = Ready.load(tmp_path / "bundle", SEGMENTATION, "cpu")
    _, arrays = asked(ready, volume.pixels, affine=volume.affine)

    white, grey = (float((arrays["labels"] == value).sum()) * (volume.voxel_ml or 0) for value in (1, 2))
    assert white == pytest.approx(503, rel=0.01)
    assert grey == pytest.approx(751, rel=0.01)
