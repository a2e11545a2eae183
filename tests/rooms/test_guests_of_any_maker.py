"""Files as strangers have them, of any exporter: what is taken for what it is, and what is refused with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from node.bundle import Bundle, write_sums
from node.commands import bundles_add
from node.errors import BundleRefused, NodeError
from node.guests import allowed, host
from node.guests._process.monai_bundle import Ready
from node.guests._process.refusal import Refusal
from node.guests.arrival import read_metadata, unpack, with_weights
from node.guests.description import description
from node.guests.host import nameless_bytes
from tests.rooms import guest_bundles
from tests.rooms.test_bundles_add import Add, add, models, reason  # noqa: F401 fixtures
from tests.rooms.test_guest_bundles import asked

SEGMENTS = {"modality": "US", "task": "segmentation", "labels": {1: "lesion"}}
CLASSES = {"modality": "US", "task": "classification", "labels": {1: "malignant"}}
CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
IMAGE = np.full((1, 48, 64), 20, np.float32)
IMAGE[0, 10:30, 20:50] = 200


def network(path: Path, *nodes: Any, out: str, kind: int = TensorProto.FLOAT, takes: int = TensorProto.FLOAT, **more: Any) -> Path:
    """An ONNX file; `half`, `twenty` and `nought` are numbers that its nodes may name."""
    shape = more.get("shape", ["n", 1, "h", "w"])
    given = helper.make_tensor_value_info("image", takes, shape)
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in out.split()]
    held = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in (("half", 0.5), ("twenty", 20), ("nought", 0))]
    made = helper.make_model(
        helper.make_graph(list(nodes), "of the tests", [given], outputs, held), opset_imports=[helper.make_opsetid("", 17)]
    )
    made.ir_version = 9
    onnx.save(made, str(path))
    return path


ABOVE = helper.make_node("Sub", ["image", "half"], ["above"])


def taken(path: Path, mapping: dict[str, Any]) -> Ready:
    """What arrives, as its process has it."""
    to = path.parent / "arrived"
    bare = unpack(path, to, mapping)
    sidecar = description(read_metadata(to), mapping, name="guest", modality=(), bare=bare)
    with_weights(to)
    return Ready.load(to, sidecar, "cpu")


def marked(ready: Ready, pixels: NDArray[Any] = IMAGE) -> bool:
    """Whether it marks the bright rectangle and nothing else."""
    _, arrays = asked(ready, pixels, affine=None, dims=2)
    return bool(np.array_equal(arrays["labels"][0] == 1, pixels.reshape(48, 64, -1)[..., 0] > 100))


# --- ONNX ----------------------------------------------------------------------------------------------------------------------
def test_weights_beside_an_onnx_file_come_along_and_nothing_else(tmp_path: Path) -> None:
    """As torch.onnx writes it: `net.onnx` and `net.onnx.data`."""
    file = network(tmp_path / "net.onnx", ABOVE, out="above")
    (tmp_path / "letter").write_text("private")
    onnx.save_model(onnx.load(str(file)), str(file), save_as_external_data=True, location="net.onnx.data", size_threshold=0)

    assert marked(taken(file, SEGMENTS))
    assert sorted(one.name for one in (tmp_path / "arrived" / "models").iterdir()) == ["model.onnx", "net.onnx.data"]


def test_weights_that_are_not_beside_an_onnx_file_are_asked_for(tmp_path: Path) -> None:
    file = network(tmp_path / "net.onnx", ABOVE, out="above")
    onnx.save_model(onnx.load(str(file)), str(file), save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    (tmp_path / "net.onnx.data").unlink()

    with pytest.raises(Refusal, match=r"keeps its weights in a file of its own, net\.onnx\.data: put that beside it"):
        taken(file, SEGMENTS)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1, 224, 224, 3], "takes its channels last"),
        (["n", 224, 224, 1], "takes its channels last"),
        ([4, 1, 64, 64], "takes 4 images at once"),
    ],
)
def test_an_order_of_axes_that_the_node_does_not_give_is_refused_with_what_to_do(tmp_path: Path, shape: list[Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        taken(network(tmp_path / "net.onnx", ABOVE, out="above", shape=shape), SEGMENTS)


def test_a_network_of_whole_numbers_is_not_given_shares_of_one(tmp_path: Path) -> None:
    """They would all be 0, and nothing would ever be found."""
    nodes = (helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT), helper.make_node("Sub", ["cast", "twenty"], ["above"]))
    file = network(tmp_path / "net.onnx", *nodes, out="above", takes=TensorProto.UINT8)

    with pytest.raises(Refusal, match="takes whole numbers, and is given values within 0 to 1; say in the mapping file"):
        marked(taken(file, SEGMENTS))
    (tmp_path / "arrived").rename(tmp_path / "before")
    assert marked(taken(file, {**SEGMENTS, "preprocessing": [{"_target_": "ScaleIntensityd", "keys": "image", "maxv": 255}]}))


def test_yes_and_no_of_each_pixel_are_a_mask(tmp_path: Path) -> None:
    nodes = (ABOVE, helper.make_node("Greater", ["above", "nought"], ["yes"]))

    assert marked(taken(network(tmp_path / "net.onnx", *nodes, out="yes", kind=TensorProto.BOOL), SEGMENTS))


def test_the_number_of_a_class_is_not_taken_for_how_sure_the_network_is(tmp_path: Path) -> None:
    """Class 0 would become a probability of one half, and be reported as found."""
    mean = [helper.make_node("GlobalAveragePool", ["image"], ["mean"]), helper.make_node("Flatten", ["mean"], ["flat"])]
    nodes = (*mean, helper.make_node("ArgMax", ["flat"], ["class"], axis=1, keepdims=0))
    ready = taken(network(tmp_path / "net.onnx", *nodes, out="class", kind=TensorProto.INT64), CLASSES)

    with pytest.raises(Refusal, match="gives the number of a class and not how sure it is"):
        asked(ready, IMAGE, affine=None, dims=2)


def test_which_of_several_outputs_is_meant_is_asked_and_not_guessed(tmp_path: Path) -> None:
    file = network(tmp_path / "net.onnx", helper.make_node("Neg", ["image"], ["inverse"]), ABOVE, out="inverse above")

    with pytest.raises(Refusal, match=r"gives 2 outputs at once \(inverse, above\); say in the mapping file which one is meant \(pred_key"):
        marked(taken(file, SEGMENTS))
    (tmp_path / "arrived").rename(tmp_path / "before")
    assert marked(taken(file, {**SEGMENTS, "pred_key": "above"}))


def test_a_picture_is_no_number_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"its output has the shape \(1, 48, 64\): not one number for each class"):
        asked(taken(network(tmp_path / "net.onnx", ABOVE, out="above"), CLASSES), IMAGE, affine=None, dims=2)


def test_a_damaged_onnx_file_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"torn")

    with pytest.raises(Refusal, match=r"^model\.onnx is damaged or no ONNX file$"):
        taken(file, SEGMENTS)


# --- torch ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_script_of_another_precision_gets_what_it_can_compute_with(tmp_path: Path, kind: torch.dtype) -> None:
    conv = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.constant_(conv.bias, -0.5)  # type: ignore[arg-type]
    torch.jit.save(torch.jit.script(conv).to(kind), str(tmp_path / "net.ts"))

    assert marked(taken(tmp_path / "net.ts", SEGMENTS))


@pytest.mark.parametrize("name", ["net.pt2", "net.pt"])
def test_a_program_of_torch_export_is_called_so(tmp_path: Path, name: str) -> None:
    torch.export.save(torch.export.export(torch.nn.Conv2d(1, 1, 1).eval(), (torch.rand(1, 1, 8, 8),)), tmp_path / "net.pt2")
    (tmp_path / "net.pt2").rename(tmp_path / name)

    with pytest.raises(BundleRefused, match=r"a program of torch\.export, which is not read here; save it as TorchScript or ONNX"):
        taken(tmp_path / name, SEGMENTS)


def test_safetensors_whose_header_has_the_length_that_a_pickle_begins_with(tmp_path: Path) -> None:
    """One in 32 begins with the byte 0x80, as pickles do."""
    file = tmp_path / "net.safetensors"
    save_file(torch.nn.Conv2d(1, 1, 1).state_dict(), file)
    assert file.read_bytes()[:1] == b"\x80"

    assert taken(file, {**SEGMENTS, "network": CONV}).told["network"] == "Conv2d"


@pytest.mark.parametrize("head", ["module.", "model.module.", "model._orig_mod.", "net.model.module."])
def test_a_network_is_found_however_deep_it_was_saved(tmp_path: Path, head: str) -> None:
    """As Lightning, several GPUs and torch.compile leave it."""
    weights = torch.nn.Conv2d(1, 1, 1).state_dict()
    torch.save({"state_dict": {head + name: tensor for name, tensor in weights.items()}}, tmp_path / "net.ckpt")

    assert taken(tmp_path / "net.ckpt", {**SEGMENTS, "network": CONV}).told["network"] == "Conv2d"


def test_a_network_that_takes_colour_gets_it_unasked(tmp_path: Path) -> None:
    """Three channels are what segmentation_models_pytorch has by default."""
    torch.save(torch.nn.Conv2d(3, 1, 1).state_dict(), tmp_path / "net.pth")
    ready = taken(tmp_path / "net.pth", {**SEGMENTS, "network": {**CONV, "in_channels": 3}})

    assert ready.sidecar["channels"] == 3


# --- zips and folders ----------------------------------------------------------------------------------------------------------
def zipped(folder: Path, file: Path, under: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                archive.write(one, under + one.relative_to(folder).as_posix())
    return file


def test_a_bundle_s_zip_with_a_folder_called_code_is_no_script(tmp_path: Path) -> None:
    folder = guest_bundles.bright(tmp_path / "zoo")
    (folder / "code").mkdir()
    (folder / "code" / "more.py").write_text("")

    assert not unpack(zipped(folder, tmp_path / "zoo.zip", "zoo/"), tmp_path / "arrived", {})
    assert (tmp_path / "arrived" / "scripts" / "networks.py").is_file()


def test_names_of_any_script_are_sealed_too(tmp_path: Path) -> None:
    folder = guest_bundles.bright(tmp_path / "脾臓 Bündel", form="json")
    (folder / "docs" / "résumé 図.md").write_text("x")

    write_sums(folder)

    assert "docs/résumé 図.md" in Bundle.open(folder).sums


def torn(path: Path) -> None:
    """A byte of the first member is another one."""
    data = bytearray(path.read_bytes())
    data[data.find(b"Apache License")] ^= 1
    path.write_bytes(data)


def locked(path: Path) -> None:
    """Every member is marked as encrypted."""
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + flags] |= 1
    path.write_bytes(data)


def doubled(path: Path) -> None:
    """A name is that of a file and of a folder."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("docs", "a file")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(torn, "the zip is damaged"), (locked, "the zip asks for a password"), (doubled, "can't be read or copied: Is a directory")],
)
def test_a_zip_that_can_not_be_unpacked_is_refused_in_a_sentence(tmp_path: Path, add: Add, spoil: Any, said: str) -> None:  # noqa: F811
    file = zipped(guest_bundles.bright(tmp_path / "zoo"), tmp_path / "zoo.zip")
    spoil(file)

    assert said in reason(add(file))


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\n", "a0: &a0 [0]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))]
)
def test_a_configuration_that_never_ends_is_refused(tmp_path: Path, add: Add, text: str) -> None:  # noqa: F811
    """A few lines of YAML can stand for more than a memory holds."""
    file = guest_bundles.bright(tmp_path / "zoo") / "configs" / "inference.yaml"
    file.write_text(text + file.read_text())

    assert "grows without end" in reason(add(tmp_path / "zoo"))


def test_metadata_nested_without_end_is_refused(tmp_path: Path, add: Add) -> None:  # noqa: F811
    (guest_bundles.bright(tmp_path / "zoo") / "configs" / "metadata.json").write_text("[" * 200_000)

    assert "nested too deep" in reason(add(tmp_path / "zoo"))


# --- the mapping file ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("axes: Torch", "axes: Torch; it may be torch or monai"),
        ("values: hu", "values: hu; it may be window or stored"),
        ("activation: sigmod", "activation: sigmod; it may be sigmoid or softmax or none"),
        ("takes: series", "takes: series; it may be volume or image"),
        ("boxes: relativ", "boxes: relativ; it may be relative or pixels"),
        ("modality: TELEPATHY", "the modality 'TELEPATHY' is not known"),
        ("channels: rgb", "channels in the mapping file is rgb; it must be a number above 0"),
        ("dims: 4", "dims: 4; it may be 2 or 3"),
        ("threshold: 50", "threshold in the mapping file is 50; it must be a number above 0 up to 1"),
        ("thresholds: {spleeen: 0.3}", "thresholds in the mapping file has keys that are not known: spleeen; known: spleen"),
        ("limits: {time: 5}", "limits in the mapping file has keys that are not known: time; known: time_s, memory_mb"),
        ("limits: {memory_mb: lots}", "limits: memory_mb in the mapping file is lots; it must be a number above 0"),
        ("intended_use: {max_slices: 20}", "intended_use in the mapping file has keys that are not known: max_slices"),
        ("intended_use: {min_age_years: adult}", "min_age_years in the mapping file is adult"),
        ("labels: {1: {name: x, typ: [1, 2, 3]}}", "a label in the mapping file has keys that are not known: typ"),
        ("labels: {1: {name: x, color: red}}", "a color is written as three numbers"),
    ],
)
def test_a_word_that_is_not_known_is_not_passed_over(told: str, said: str) -> None:
    """It would change nothing, and nobody would know."""
    with pytest.raises(NodeError, match=said.replace("(", r"\(")):
        description(guest_bundles.metadata(), yaml.safe_load(told), name="spleen", modality=())


def test_what_it_is_meant_for_is_understood_as_it_is_written() -> None:
    """A text is no list of letters, and body parts stand in capitals in DICOM."""
    mapping = {"intended_use": {"modality": "ct", "body_part": "abdomen", "body_part_required": True, "min_slices": 20}}

    use = description(guest_bundles.metadata(), mapping, name="spleen", modality=())["intended_use"]

    assert use == {"modality": ["CT"], "body_part": ["ABDOMEN"], "body_part_required": True, "min_slices": 20}


# --- several at once -----------------------------------------------------------------------------------------------------------
def test_what_two_people_add_at_the_same_time_is_on_the_list_both(tmp_path: Path) -> None:
    folders = [tmp_path / f"guest_{number}" / "1.0.0" for number in range(24)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "SHA256SUMS").write_text("")

    with ThreadPoolExecutor(12) as people:
        list(people.map(allowed.allow, folders))

    assert len((tmp_path / "ALLOWED").read_text().splitlines()) == 24


def test_a_version_that_somebody_else_added_meanwhile_stays(tmp_path: Path) -> None:
    staged, bundles = tmp_path / "staged" / "guest" / "1.0.0", tmp_path / "bundles"
    for folder, text in ((staged, "ours"), (bundles / "guest" / "1.0.0", "theirs")):
        folder.mkdir(parents=True)
        (folder / "SHA256SUMS").write_text(text)

    with pytest.raises(BundleRefused, match="can't be written: Directory not empty"):
        bundles_add._install(staged, bundles)

    assert (bundles / "guest" / "1.0.0" / "SHA256SUMS").read_text() == "theirs"
    assert [one.name for one in bundles.iterdir()] == ["guest"]


def test_a_damaged_version_that_is_added_again_is_said_to_be_removed_first(tmp_path: Path) -> None:
    there, staged = (guest_bundles.bright(tmp_path / folder / "spleen" / "1.0.0", form="json") for folder in ("bundles", "staged"))
    for folder in (there, staged):
        write_sums(folder)
        allowed.allow(folder)
    before = bundles_add._what_else(there, staged)

    (there / "models" / "model.pt").write_bytes(b"torn")

    assert before == ""
    assert bundles_add._what_else(there, staged) == f", and damaged: remove {there}, and add it again"


# --- what a guest may use up ---------------------------------------------------------------------------------------------------
def test_what_has_no_name_any_more_is_weighed_too(tmp_path: Path) -> None:
    """A file that is removed while it is open, and one in memory."""
    before = nameless_bytes(os.getpid())
    with tempfile.TemporaryFile(dir=tmp_path) as removed, os.fdopen(os.memfd_create("of the tests"), "wb") as memory:
        for file in (removed, memory):
            file.write(bytes(1 << 20))
            file.flush()

        assert nameless_bytes(os.getpid()) - before >= 2 << 20


def test_threads_without_end_are_the_end_of_a_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MOST_THREADS", 8)
    code = (
        "import threading, time\nfor _ in range(16): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        try:
            with pytest.raises(host._Trouble, match="started more than 8 threads"):
                host._Exchange(guest, tmp_path, [], 30, 4096).carry()
        finally:
            guest.kill()
