"""From a guest's answer to a result, by task; and guests that misbehave: each ends with its reason, and whoever asked lives."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from node import codes
from node.bundle import Bundle, write_sums
from node.codes import Code
from node.domain import Result
from node.errors import BundleRefused, GuestFailed, NotAnalysed
from node.guests import allowed
from node.guests.description import description
from node.guests.host import Guest, Limits, written_bytes
from node.imaging.rescale import grey_of
from node.imaging.volume import Volume
from node.pipelines._any_bundle import MOST_REGIONS, AnyBundle, kind_of
from node.pipelines.interface import Takes
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.rooms import guest_bundles


class Told:
    """A guest that gives one answer."""

    def __init__(self, facts: Mapping[str, Any], **arrays: NDArray[Any]) -> None:
        self.answer = dict(facts), arrays
        self.asked: list[NDArray[Any]] = []

    def ask(self, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        self.asked.append(arrays["pixels"])
        return self.answer


def a_guest(folder: Path, mapping: dict[str, Any], *, code: str = guest_bundles.BRIGHT, modality: str = "CT", **limits: Any) -> AnyBundle:
    """A bundle that was added with this mapping file."""
    path = guest_bundles.bright(folder / "any" / "0.5.1", code=code)
    told = guest_bundles.metadata() if mapping.get("task") == "segmentation" else {}
    sidecar = description(told, {"limits": limits, **mapping}, name="any", modality=(modality,))
    (path / "node.json").write_text(json.dumps(sidecar))
    write_sums(path)
    allowed.allow(path)
    bundle = Bundle.open(path)
    return kind_of(bundle)(bundle)


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """A small chest CT as the worker builds it."""
    from node.commands.bundles_trial import phantom

    return phantom("CT", Takes.VOLUME, tmp_path_factory.mktemp("chest"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    from node.commands.bundles_trial import phantom

    return phantom("DX", Takes.IMAGE, tmp_path_factory.mktemp("film"))


# --- which task --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "output", "task"),
    [
        ("Pathology tumor detection", {"type": "probability", "format": "classification"}, "classification"),
        ("Detection of lesions", {"type": "image", "format": "segmentation"}, "segmentation"),
        ("Nuclear segmentation and classification", {"type": "probability", "format": "segmentation"}, "segmentation"),
        ("Breast density classification", {"type": "image", "format": "labels"}, "classification"),
        ("Lung nodule CT detection", {"type": "object", "format": "dict"}, "detection"),
        ("Nodule detection", {"type": "tuples"}, "detection"),
    ],
)
def test_what_a_bundle_gives_stands_in_its_output_and_only_then_in_its_name(name: str, output: dict[str, Any], task: str) -> None:
    """As the zoo writes them."""
    told = {"name": name, "task": name, "network_data_format": {"inputs": {"image": {}}, "outputs": {"pred": output}}}

    assert description(told, {"labels": ["background", "lesion"]}, name="any", modality=("CT",))["task"] == task


def test_points_are_no_measurement_whatever_the_name_says() -> None:
    output = {"type": "tuples", "format": "points", "num_channels": 2}
    told = {"name": "Valve landmarks regression", "network_data_format": {"inputs": {"image": {}}, "outputs": {"pred": output}}}

    with pytest.raises(BundleRefused, match="its output is points, which can't be reported"):
        description(told, {}, name="any", modality=("MR",))


# --- by task ------------------------------------------------------------------------------------------------------------------
def test_labels_become_coded_segments_with_volumes_and_what_is_not_there_is_said(tmp_path: Path, chest: Volume) -> None:
    labels = np.zeros(chest.pixels.shape, np.uint16)
    labels[3:6, 10:20, 10:30] = 2
    pipeline = a_guest(tmp_path, {"task": "segmentation", "labels": {"spleen": 1, "left kidney": 2, "Thing 7": 3}})

    result = pipeline.run(chest, Told({"kind": "labels"}, labels=labels))  # type: ignore[arg-type]

    [segment] = result.segments
    assert (segment.label, segment.type.meaning, segment.number) == ("left kidney", "Kidney", 1)
    assert np.array_equal(segment.mask, labels == 2)
    assert [(f.name, f.present, f.segment) for f in result.findings] == [
        ("spleen", False, None),
        ("left kidney", True, 1),
        ("Thing 7", False, None),
    ]
    assert result.findings[1].measurements[0].value == pytest.approx(600 * (chest.voxel_ml or 0), rel=1e-3)
    assert (result.findings[1].site, result.findings[1].laterality) == (segment.type, codes.LEFT)
    assert result.findings[2].code == Code("THING_7", "99RADNODE", "Thing 7")


def test_what_is_there_has_a_volume(tmp_path: Path, chest: Volume) -> None:
    """One voxel of a fine MR is less than the third decimal of a millilitre."""
    labels = np.zeros(chest.pixels.shape, np.uint16)
    labels[3, 10, 10] = 1
    fine = replace(chest, spacing_mm=(0.5, 0.5, 0.5))
    pipeline = a_guest(tmp_path, {"task": "segmentation", "labels": {"lesion": 1}})

    result = pipeline.run(fine, Told({"kind": "labels"}, labels=labels))  # type: ignore[arg-type]

    assert [(f.present, f.measurements[0].value) for f in result.findings] == [(True, 0.000125)]


def test_masks_may_overlap(tmp_path: Path, chest: Volume) -> None:
    masks = np.zeros((2, *chest.pixels.shape), np.uint8)
    masks[0, 2:8, 10:40, 10:40] = 1
    masks[1, 3:5, 20:30, 20:30] = 1
    pipeline = a_guest(tmp_path, {"task": "segmentation", "labels": ["whole tumor", "enhancing tumor"], "modality": "CT"})

    result = pipeline.run(chest, Told({"kind": "masks"}, masks=masks))  # type: ignore[arg-type]

    assert [segment.type.meaning for segment in result.segments] == ["Neoplasm", "Enhancing Lesion"]
    assert (result.segments[0].mask & result.segments[1].mask).sum() == 200


def test_masks_whose_names_count_from_one_have_no_channel_for_the_background(tmp_path: Path, chest: Volume) -> None:
    masks = np.zeros((3, *chest.pixels.shape), np.uint8)
    for channel in range(3):
        masks[channel, channel, :10, :10] = 1
    pipeline = a_guest(tmp_path, {"task": "segmentation", "labels": {1: "liver", 2: "spleen", 3: "pancreas"}})

    result = pipeline.run(chest, Told({"kind": "masks"}, masks=masks))  # type: ignore[arg-type]

    assert [(segment.label, int(segment.mask.any(axis=(1, 2)).argmax())) for segment in result.segments] == [
        ("liver", 0),
        ("spleen", 1),
        ("pancreas", 2),
    ]


def test_what_the_network_marks_and_nobody_has_named_is_mentioned(tmp_path: Path, chest: Volume) -> None:
    """Five channels, and a description of two."""
    labels = np.zeros(chest.pixels.shape, np.uint16)
    labels[1], labels[2], labels[3] = 1, 3, 4
    one: dict[str, Any] = {"task": "segmentation", "labels": {1: "spleen"}}
    all_of_them: dict[str, Any] = {"task": "segmentation", "labels": {1: "spleen", 3: "liver", 4: "pancreas"}}

    some = a_guest(tmp_path / "some", one).run(chest, Told({"kind": "labels"}, labels=labels))  # type: ignore[arg-type]
    every = a_guest(tmp_path / "every", all_of_them).run(chest, Told({"kind": "labels"}, labels=labels))  # type: ignore[arg-type]

    assert "The bundle also marked what nobody has named: label 3, 4. It is not in this report." in some.notes
    assert not any("nobody has named" in note for note in every.notes)


def test_a_flat_network_reads_a_volume_slice_by_slice(tmp_path: Path, chest: Volume) -> None:
    labels = np.ones((1, *chest.pixels.shape[1:]), np.uint16)
    pipeline = a_guest(tmp_path, {"task": "segmentation", "dims": 2, "labels": {1: "lung"}})
    guest = Told({"kind": "labels"}, labels=labels)

    result = pipeline.run(chest, guest)  # type: ignore[arg-type]

    assert [pixels.shape for pixels in guest.asked] == [(1, *chest.pixels.shape[1:])] * len(chest.pixels)
    assert result.segments[0].mask.all()


def test_classes_that_exclude_each_other_and_classes_that_do_not(tmp_path: Path, film: Volume) -> None:
    pipeline = a_guest(
        tmp_path,
        {"task": "classification", "labels": ["normal", "Pneumothorax", "effusion"], "thresholds": {"effusion": 0.3}},
        modality="DX",
    )

    one = pipeline.run(film, Told({"values": [0.2, 0.5, 0.3], "activation": "softmax"}))  # type: ignore[arg-type]
    many = pipeline.run(film, Told({"values": [0.2, 0.6, 0.35], "activation": "sigmoid"}))  # type: ignore[arg-type]

    assert (one.label, one.confidence) == ("Pneumothorax", 0.5)
    assert [f.present for f in one.findings] == [False, True, False]
    assert [f.present for f in many.findings] == [False, True, True]
    assert many.findings[1].code == Code("36118008", "SCT", "Pneumothorax")


def test_a_network_that_learned_from_pictures_gets_what_a_reader_sees(tmp_path: Path, film: Volume) -> None:
    pipeline = a_guest(tmp_path, {"task": "classification", "labels": ["normal", "other"], "channels": 3}, modality="DX")
    guest = Told({"values": [0.2, 0.8], "activation": "softmax"})

    pipeline.run(film, guest)  # type: ignore[arg-type]

    [pixels] = guest.asked
    assert pixels.shape == (*film.pixels.shape, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_film_that_is_stored_white_on_black_is_shown_in_its_own_window(tmp_path: Path, film: Volume) -> None:
    """MONOCHROME1, and its window in the values as they are stored: the reader's picture is the same as that of its MONOCHROME2 twin."""
    pipeline = a_guest(tmp_path, {"task": "classification", "labels": ["normal", "other"], "values": "window"}, modality="DX")
    guest = Told({"values": [0.2, 0.8], "activation": "softmax"})
    stored = np.linspace(0, 4095, film.pixels.size, dtype=np.float32).reshape(film.pixels.shape)

    for photometric, values, centre in (("MONOCHROME2", stored, 900), ("MONOCHROME1", 4095 - stored, 4095 - 900)):
        header = copy.deepcopy(film.frames[0].instance.header)
        header.PhotometricInterpretation, header.WindowCenter, header.WindowWidth = photometric, centre, 400
        header.BitsStored, header.PixelRepresentation, header.RescaleSlope, header.RescaleIntercept = 12, 0, 1, 0
        pixels = grey_of(values[0], header, 1, photometric)[None]
        frame = replace(film.frames[0], instance=replace(film.frames[0].instance, header=header))
        pipeline.run(replace(film, pixels=pixels, frames=(frame,)), guest)  # type: ignore[arg-type]

    one, twin = guest.asked
    assert (one.min(), one.max()) == (0, 255)
    assert twin == pytest.approx(one, abs=1e-3)


def test_a_number_is_a_measurement_in_its_unit_and_stands_in_the_report(tmp_path: Path, film: Volume) -> None:
    mapping = {"task": "regression", "measurement": {"name": "bone age", "unit": "mo", "scale": 12}}
    pipeline = a_guest(tmp_path, mapping, modality="DX")

    result = pipeline.run(film, Told({"values": [9.5]}))  # type: ignore[arg-type]

    [finding] = result.findings
    assert (finding.measurements[0].value, finding.measurements[0].unit.value) == (114.0, "mo")
    report = written(result, film)
    assert "bone age: bone age 114 mo" in report
    assert "| bone age | mo | 114" in report
    assert "Nothing was found" not in report


def written(result: Result, volume: Volume) -> str:
    """The texts and numbers of the report."""
    study = cases.study_of([frame.instance.path for frame in volume.frames])
    ds = write_sr(study, volume, result, cases.provenance(study), seg=None, sc=None, series=volume.series)
    return " | ".join(str(item.value) for item in ds.iterall() if item.keyword in ("TextValue", "NumericValue", "CodeMeaning"))


def test_a_box_becomes_a_region_on_its_middle_frame(tmp_path: Path, chest: Volume) -> None:
    boxes = np.asarray([[10, 20, 4, 40, 60, 9], [500, 500, 4, 600, 600, 5]], np.float32)
    pipeline = a_guest(tmp_path, {"task": "detection", "dims": 3, "labels": {0: "nodule"}})

    result = pipeline.run(chest, Told({"scores": [0.9, 0.8], "labels": [0, 0]}, boxes=boxes))  # type: ignore[arg-type]

    [finding] = result.findings  # the other box lies beside the images
    assert finding.region is not None
    assert finding.region.frame == 6
    assert finding.region.outline.tolist() == [[10, 20], [40, 20], [40, 60], [10, 60], [10, 20]]


def test_of_many_boxes_every_label_keeps_its_surest_and_what_is_left_out_is_said(tmp_path: Path, chest: Volume) -> None:
    """Thirty nodules come before the one mass: it is not called absent for that."""
    boxes = np.tile(np.asarray([[10, 20, 4, 40, 60, 9]], np.float32), (31, 1))
    pipeline = a_guest(tmp_path, {"task": "detection", "dims": 3, "labels": {0: "nodule", 1: "mass"}})

    result = pipeline.run(chest, Told({"scores": [0.9] * 30 + [0.8], "labels": [0] * 30 + [1]}, boxes=boxes))  # type: ignore[arg-type]

    assert [(f.name, f.present) for f in result.findings if f.name == "mass"] == [("mass", True)]
    assert len(result.findings) == MOST_REGIONS + 1
    assert "10 more boxes reach their threshold; only the 21 surest are in this report." in result.notes


def test_one_threshold_for_all_holds_for_classes_too(tmp_path: Path, film: Volume) -> None:
    mapping = {"task": "classification", "labels": ["effusion", "mass"], "threshold": 0.3, "thresholds": {"mass": 0.7}}

    result = a_guest(tmp_path, mapping, modality="DX").run(film, Told({"values": [0.4, 0.6], "activation": "sigmoid"}))  # type: ignore[arg-type]

    assert [finding.present for finding in result.findings] == [True, False]


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_flat_network_can_not_speak_for_a_series(task: str) -> None:
    """Only its first slice would have been heard."""
    with pytest.raises(BundleRefused, match="say takes: image"):
        description({}, {"task": task, "dims": 2, "takes": "volume", "labels": ["a", "b"]}, name="any", modality=("CT",))


@pytest.mark.parametrize(
    ("mapping", "facts", "arrays"),
    [
        ({"task": "classification", "labels": ["a", "b"]}, {"values": [0.5]}, {}),
        ({"task": "classification", "labels": ["a", "b"]}, {"values": [0.5, 7.0]}, {}),
        ({"task": "classification", "labels": ["a", "b"]}, {"values": ["0.5", None]}, {}),
        ({"task": "classification", "labels": ["a", "b"]}, {"values": [0.5, float("nan")]}, {}),
        ({"task": "detection", "labels": ["a"]}, {"scores": [0.5], "labels": [0]}, {"boxes": np.zeros((3, 6), np.float32)}),
        ({"task": "regression", "measurement": {"name": "age", "unit": "a"}}, {"values": [1.0, 2.0]}, {}),
        ({"task": "segmentation"}, {"kind": "labels"}, {"labels": np.zeros((2, 2, 2), np.uint16)}),
        ({"task": "segmentation"}, {"kind": "masks"}, {"masks": np.zeros((1, 2), np.uint8)}),
        ({"task": "segmentation"}, {}, {}),
    ],
)
def test_an_answer_that_is_none_fails_the_job_and_is_never_reported(
    tmp_path: Path, chest: Volume, mapping: dict[str, Any], facts: dict[str, Any], arrays: dict[str, Any]
) -> None:
    pipeline = a_guest(tmp_path, mapping)

    with pytest.raises(GuestFailed):
        pipeline.run(chest, Told(facts, **arrays))  # type: ignore[arg-type]


def test_an_image_of_another_modality_or_without_content_is_not_analysed(tmp_path: Path, chest: Volume, film: Volume) -> None:
    pipeline = a_guest(tmp_path, {"task": "segmentation"})
    guest = Told({"kind": "labels"})

    for volume in (
        film,
        replace(chest, pixels=np.zeros_like(chest.pixels)),
        replace(chest, unit="1"),
        replace(chest, pixels=chest.pixels * np.nan),
    ):
        with pytest.raises(NotAnalysed):
            pipeline.run(volume, guest)  # type: ignore[arg-type]
    assert guest.asked == []


# --- guests that misbehave: the real process ------------------------------------------------------------------------------------
MISBEHAVING = guest_bundles.BRIGHT.replace(
    "    def forward(self, x):\n",
    """    def forward(self, x):
        top = float(x.max())
        if top > 5000:
            while True:
                pass
        if top > 4000:
            torch.ones(4 << 30, dtype=torch.uint8)
        if top > 3000:
            import os
            os._exit(7)
""",
)


def test_a_loop_a_hunger_and_a_crash_are_contained_and_the_next_series_is_analysed(tmp_path: Path, chest: Volume) -> None:
    torch.manual_seed(1)
    pipeline = a_guest(tmp_path, {"task": "segmentation"}, code=MISBEHAVING, memory_mb=3000)
    guest = Guest(pipeline.bundle)
    said = []

    def of(value: float) -> Volume:
        pixels = chest.pixels[:8, ::4, ::4].copy()
        pixels[2:6, 8:24, 8:24] = value
        assert chest.affine is not None
        return replace(chest, pixels=pixels, frames=chest.frames[:8], affine=chest.affine @ np.diag([4.0, 4.0, 1.0, 1.0]))

    guest.start()
    for value, time_s in ((6000, 2), (4500, 300)):
        guest.limits = Limits(time_s=time_s, memory_mb=3000)
        with pytest.raises(GuestFailed) as failed:
            pipeline.run(of(value), guest)
        said.append(failed.value.detail)
    sound = pipeline.run(of(300), guest)
    with pytest.raises(GuestFailed) as failed:
        pipeline.run(of(3500), guest)
    said.append(failed.value.detail)
    guest.close()

    assert said[0] == "the bundle's code did not end within 2 s"
    assert "more than 3000 MB of memory" in said[1]
    assert said[2] == "the bundle's process ended with exit status 7"
    assert sound.label == "spleen"
    assert not guest._scratch.exists()


def test_an_answer_that_nobody_waited_for_is_not_taken_for_that_to_the_next_question(
    tmp_path: Path, chest: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the scratch folder goes while it is weighed; the question before it was sent already."""
    pipeline = a_guest(tmp_path, {"task": "segmentation"})
    guest = Guest(pipeline.bundle)
    guest.start()
    bright, dark = (np.full((8, 24, 24), -50, np.float32) for _ in range(2))
    bright[2:6, 8:16, 8:16], dark[0, 0, 0] = 300, -60
    one, next_ = (replace(chest, pixels=pixels, frames=chest.frames[:8]) for pixels in (bright, dark))

    def gone(_exchange: Any) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("node.guests.host._Exchange._weigh", gone)
        with pytest.raises(FileNotFoundError):
            pipeline.run(one, guest)
    answer = pipeline.run(next_, guest)
    guest.close()

    assert answer.label == "nothing"


def test_a_scratch_file_that_goes_while_it_is_weighed_weighs_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "deep").write_bytes(b"123")

    assert written_bytes(tmp_path) == 8
