"""The radiologist's answer comes home: an SR or SEG of a viewer, sent to the node like any instance, is a verdict on our finding."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from highdicom.seg import segread
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from typer.testing import CliRunner

import config
from node.__main__ import front_door
from node.annotations.examples import split_of
from node.assembly import House
from node.codes import LABEL_MAP
from node.domain import Opinion, VerdictSource
from node.errors import ExportRefused, LinkRefused, NothingToDo, VerdictRefused
from node.evaluation.images import cases_in
from node.gateway import Gateway
from node.testing.studies import a_study, write_study
from node.web import agreement
from tests import readers
from tests.conformance.cases import dciodvfy_errors
from tests.conftest import ROOT

PIPELINE = "breast_ultrasound"


class Department:
    """One node in this process, which delivers to a folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        rule = {"name": "breast", "when": {"modality": "US"}, "run": PIPELINE, "send_to": "pacs"}
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
        self.config = folder / "radnode.yaml"
        content = {
            "data_dir": str(folder / "data"),
            "bundles_dir": str(ROOT / "models"),
            "rules": str(folder / "rules.yaml"),
            "deidentification": {"text_detection": "off"},
            "intake": {"settle_after_s": 0, "min_free_mb": 64},
            "destinations": {"pacs": {"kind": "folder", "path": str(folder / "pacs")}},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(content))
        self.house = House(config.load(self.config))
        self.house.check()
        self.gateway = Gateway(self.house)
        self.runner = self.house.runner(inline=True)

    def takes(self, *datasets: Dataset) -> None:
        """Instances arrive and are seen through to the archive."""
        inbox = self.folder / "inbox"
        shutil.rmtree(inbox, ignore_errors=True)
        write_study(list(datasets), inbox)
        with suppress(NothingToDo):  # it was here before
            self.house.take_folder(inbox)
        self.gateway.settle()
        self.runner.run_waiting()
        self.gateway.hand_over()
        self.house.outbox.send_due()

    def delivered(self, image: Dataset) -> dict[str, Dataset]:
        """What lies in the archive of a study, by modality."""
        found = [dcmread(path) for path in sorted((self.folder / "pacs").rglob("*.dcm"))]
        return {ds.Modality: ds for ds in found if ds.StudyInstanceUID == image.StudyInstanceUID}

    def command(self, *words: str) -> str:
        done = CliRunner().invoke(front_door(words[0]), [*words, "--config", str(self.config)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def verdicts(self, image: Dataset) -> list[Any]:
        return self.house.verdicts.heard(study=self.house.clean_uids.of(image.StudyInstanceUID))

    def close(self) -> None:
        self.runner.close()
        self.house.outbox.close()
        self.house.close()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    found = Department(tmp_path_factory.mktemp("answers"))
    yield found
    found.close()


def answers(department: Department, image: Dataset, *datasets: Dataset) -> list[Any]:
    """What is heard of these objects: the verdicts that are new."""
    before = {heard.verdict.id for heard in department.verdicts(image)}
    department.takes(*datasets)
    return [heard.verdict for heard in department.verdicts(image) if heard.verdict.id not in before]


@pytest.fixture(scope="module")
def result(department: Department) -> tuple[Dataset, dict[str, Dataset]]:
    """A malignant finding that was delivered; several stories answer it."""
    return a_result(department, 2)


def a_result(department: Department, patient: int, kind: str = "malignant") -> tuple[Dataset, dict[str, Dataset]]:
    [image] = a_study("US", patient=patient, kind=kind)
    department.takes(image)
    return image, department.delivered(image)


def test_a_rejecting_assessment_comes_home_as_a_verdict_without_a_name(department: Department) -> None:
    image, results = a_result(department, 1)
    uid = readers.tracking_uids(results["SR"])[f"{PIPELINE} malignant 1"]
    jobs = len(department.house.jobs.all())

    department.takes(
        readers.aira_report(results["SR"], "reject", tracking_uid=uid, reason=f"False positive, a cyst, says {image.PatientName}")
    )

    [heard] = department.verdicts(image)
    verdict = heard.verdict
    assert (verdict.opinion, verdict.finding, verdict.tracking_uid) == (Opinion.REJECT, "malignant", uid)
    assert (heard.pipeline, heard.version, verdict.source) == (PIPELINE, "1.1.0", VerdictSource.SR)
    assert "cyst" in verdict.reason.lower()
    assert verdict.reader == department.house.clean_uids.reader("RÖNTGEN^Wilma^^Dr.")
    everything = json.dumps([str(heard), department.command("audit", "export", "--format", "json")])
    for name in (*str(image.PatientName).replace("^", " ").split(), str(image.PatientID), "Wilma", "ntgen"):
        assert name not in everything
    assert f"a reader's SR: reject of {verdict.finding}" in everything
    named = [str(image.PatientID), "Wilma", "Jörg", "Lüdenscheidt", str(image.SOPInstanceUID)]
    for path in department.house.clean.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(word.encode(charset) in data for word in named for charset in ("utf-8", "latin-1")), path.name
    assert list((department.house.assessments.folder / heard.study).glob("*.dcm"))
    assert len(department.house.jobs.all()) == jobs  # no new work
    assert department.house.intake.state_counts()["SETTLED"] == 0
    assert department.house.quarantine.list() == []


def test_an_assessment_of_a_whole_result_counts_once(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result
    accepting = readers.aira_report(results["SR"], "accept")

    [verdict] = answers(department, image, accepting)

    assert (verdict.opinion, verdict.tracking_uid, verdict.finding) == (Opinion.ACCEPT, "", "")
    assert answers(department, image, accepting) == []  # sent again
    [ref] = [ref for ref in department.house.intake.refs() if ref.study == department.house.clean_uids.of(image.StudyInstanceUID)]
    before = department.command("audit", "export", "--format", "json")
    assert department.house.reading_room.hear(ref)  # as after a crash midway
    assert [heard.verdict for heard in department.verdicts(image)] == [verdict]
    assert department.command("audit", "export", "--format", "json").count("a reader's") == before.count("a reader's")


def test_a_region_that_was_moved_in_ohif_is_a_modification(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result
    uid = next(iter(readers.tracking_uids(results["SR"]).values()))

    [verdict] = answers(department, image, readers.ohif_report(results["SR"], lambda points: np.add(points, (6, 0))))

    assert (verdict.opinion, verdict.tracking_uid, verdict.reader) == (Opinion.MODIFY, uid, "")
    assert 0.5 < verdict.dice < 0.98
    assert verdict.region.image == department.house.clean_uids.of(image.SOPInstanceUID)
    assert len(verdict.region.outline) > 5


def test_a_group_that_was_kept_is_accepted_and_a_new_one_was_missed(
    department: Department, result: tuple[Dataset, dict[str, Dataset]]
) -> None:
    image, results = result
    report = readers.ohif_report(results["SR"], lambda points: points, more=[readers.a_new_group(results["SR"])])

    kept, missed = sorted(answers(department, image, report), key=lambda verdict: verdict.opinion)

    assert (kept.opinion, kept.dice) == (Opinion.ACCEPT, 1.0)
    assert (missed.opinion, missed.tracking_uid) == (Opinion.MISSED, "")
    assert missed.region.outline


@pytest.mark.parametrize("editor", ["slicer", "ohif"])
def test_a_segment_that_was_edited_is_a_modification_with_its_dice(
    department: Department, result: tuple[Dataset, dict[str, Dataset]], editor: str
) -> None:
    image, results = result
    seg = results["SEG"]
    before = seg.pixel_array.astype(bool)
    before = before if before.ndim == 3 else before[None]
    after = np.roll(before, 5, axis=2)

    [verdict] = answers(department, image, readers.edited_seg(seg, lambda mask: np.roll(mask, 5, axis=2), [image], editor=editor))

    assert (verdict.opinion, verdict.source) == (Opinion.MODIFY, VerdictSource.SEG)
    assert verdict.tracking_uid == seg.SegmentSequence[0].TrackingUID
    assert verdict.dice == pytest.approx(2 * (before & after).sum() / (before.sum() + after.sum()))
    clean = segread(verdict.region.file)
    assert (clean.pixel_array.reshape(after.shape) == after).all()
    assert "Wilma" not in str(clean)
    assert str(image.PatientID) not in str(clean)
    assert image.SOPInstanceUID not in str(clean)


def test_an_edited_label_map_is_understood_and_stays_one(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result

    [verdict] = answers(department, image, readers.edited_seg(results["SEG"], _wider, [image], editor="ohif", kind="LABELMAP"))

    assert (verdict.opinion, verdict.reason) == (Opinion.MODIFY, "known by its label")
    clean = dcmread(verdict.region.file)
    assert clean.SOPClassUID == LABEL_MAP
    assert clean.PatientIdentityRemoved == "YES"
    assert image.SOPInstanceUID not in str(clean)


def test_a_segment_that_was_left_alone_or_emptied_says_so(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result

    [kept] = answers(department, image, readers.edited_seg(results["SEG"], lambda mask: mask, [image], editor="slicer"))
    [emptied] = answers(department, image, readers.edited_seg(results["SEG"], np.zeros_like, [image], editor="slicer"))

    assert (kept.opinion, kept.dice) == (Opinion.ACCEPT, 1.0)
    assert (emptied.opinion, emptied.reason) == (Opinion.REJECT, "its segment was emptied")


def test_what_is_not_about_our_results_goes_on_as_before(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result
    stranger = readers.aira_report(results["SR"], "reject")
    for element in stranger.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            element.value = generate_uid()
    theirs = readers.edited_seg(results["SEG"], lambda mask: mask, [image], editor="slicer")
    theirs.SegmentSequence[0].TrackingUID = generate_uid()
    theirs.SegmentSequence[0].SegmentLabel = "Something else"
    jobs = len(department.house.jobs.all())

    assert answers(department, image, stranger, theirs, *results.values()) == []

    assert len(department.house.jobs.all()) == jobs
    clean = department.house.clean_uids
    kept = list((department.house.assessments.folder / clean.of(image.StudyInstanceUID)).iterdir())
    assert not {path.stem for path in kept} & {clean.of(ds.SOPInstanceUID) for ds in (stranger, theirs)}
    assert not [path for path in kept if path.name.startswith(".")]


def test_an_answer_about_another_patient_is_not_kept(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result
    mistaken = readers.aira_report(results["SR"], "reject")
    mistaken.PatientID = "SOMEBODY-ELSE"

    assert answers(department, image, mistaken) == []

    trail = department.command("audit", "export", "--format", "json")
    assert "is not kept: IdentityConflict" in trail
    assert "SOMEBODY-ELSE" not in trail


def test_a_late_image_beside_an_answer_is_still_new_work(department: Department) -> None:
    image, results = a_result(department, 3)
    [late] = a_study("US", patient=3, kind="benign", SeriesInstanceUID=generate_uid(), SOPInstanceUID=generate_uid())
    late.StudyInstanceUID, late.file_meta.MediaStorageSOPInstanceUID = image.StudyInstanceUID, late.SOPInstanceUID
    jobs = len(department.house.jobs.all())

    [verdict] = answers(department, image, readers.aira_report(results["SR"], "accept"), late)

    assert verdict.opinion is Opinion.ACCEPT
    assert len(department.house.jobs.all()) == jobs + 1


# --- what comes of it -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def answered(department: Department) -> tuple[Dataset, Dataset]:
    """Two patients: of one the malignant finding was rejected, of the other its segment was redrawn. All that was said of a third was accepted."""
    rejected, results = a_result(department, 4)
    uid = readers.tracking_uids(results["SR"])[f"{PIPELINE} malignant 1"]
    department.takes(readers.aira_report(results["SR"], "reject", tracking_uid=uid, reason="Artifact"))
    redrawn, results = a_result(department, 5)
    department.takes(readers.edited_seg(results["SEG"], _wider, [redrawn], editor="slicer"))
    _, results = a_result(department, 7)
    department.takes(readers.aira_report(results["SR"], "accept"))
    return rejected, redrawn


def _wider(mask: Any) -> Any:
    return mask | np.roll(mask, 3, axis=2)


def exported(department: Department, kind: str) -> tuple[Path, dict[str, Any]]:
    done = json.loads(department.command("annotations", "export", "--format", kind, "--out", str(department.folder / kind), "--json"))
    return Path(done["folder"]), done


def test_the_answers_are_counted_where_people_look(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    listed = json.loads(department.command("verdicts", "list", "--json"))
    rejected = [one for one in listed["verdicts"] if one["reason"] == "Artifact"]
    assert [(one["finding"], one["opinion"]) for one in rejected] == [("malignant", "reject")]
    assert 0 < listed["agreement"][f"{PIPELINE} 1.1.0"] < 1
    assert json.loads(department.command("verdicts", "show", rejected[0]["id"][:12]))["pseudonym"] == rejected[0]["pseudonym"]
    assert "rejected" in department.command("verdicts", "list")
    assert f"readers     {PIPELINE} 1.1.0: " in department.command("status")
    compared = json.loads(department.command("bundles", "compare", PIPELINE, "1.1.0", "1.1.0", "--json"))
    assert compared["readers"]["1.1.0"]["reject"] >= 1
    assert "readers of 1.1.0: " in department.command("bundles", "compare", PIPELINE, "1.1.0", "1.1.0")
    registry = CollectorRegistry()
    agreement.count(registry, department.house.verdicts.rates)
    text = generate_latest(registry).decode()
    assert f'radnode_verdicts{{opinion="reject",pipeline="{PIPELINE}",version="1.1.0"}}' in text
    assert "2.25." not in text
    assert rejected[0]["pseudonym"] not in text


def test_the_training_folder_is_one_that_evaluate_reads(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    folder, manifest = exported(department, "folder")

    clean = department.house.clean_uids
    with (folder / "index.csv").open(newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    rejected, redrawn = (rows[clean.of(image.SOPInstanceUID)] for image in answered)
    assert (rejected["malignant"], redrawn["malignant"]) == ("0", "1")
    assert rejected["split"] == split_of(rejected["patient"])
    assert rejected["benign"] == ""  # nobody spoke about it
    assert not cv2.imread(str(folder / rejected["mask"]), cv2.IMREAD_GRAYSCALE).any()
    ours = department.delivered(answered[1])["SEG"].pixel_array.astype(bool)
    mask = cv2.imread(str(folder / redrawn["mask"]), cv2.IMREAD_GRAYSCALE) > 0
    assert (mask == _wider(ours[None])[0]).all()
    for row in rows.values():
        [case] = [one for one in cases_in(folder, row["split"]) if one.name == row["file"]]
        assert case.group == row["patient"]
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]} == manifest["files"]
    figures = json.loads(department.command("bundles", "evaluate", PIPELINE, "--data", str(folder), "--split", redrawn["split"], "--json"))
    assert figures
    ds = dcmread(folder / redrawn["file"])
    assert str(ds.PatientID) == redrawn["patient"]


def test_coco_is_what_pycocotools_reads(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    folder, _ = exported(department, "coco")

    name = department.house.clean_uids.of(answered[1].SOPInstanceUID)
    found = {}
    for split in ("train", "val", "test"):
        coco = COCO(folder / "annotations" / f"instances_{split}.json")
        for image in coco.loadImgs(coco.getImgIds()):
            picture = cv2.imread(str(folder / "images" / image["file_name"]), cv2.IMREAD_GRAYSCALE)
            assert picture.shape == (image["height"], image["width"])
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            found[Path(image["file_name"]).stem] = sum((coco.annToMask(one) for one in annotations), np.zeros(picture.shape))
            for one in annotations:
                assert one["area"] == coco.annToMask(one).sum()
                assert list(masks.toBbox(coco.annToRLE(one))) == one["bbox"]
    ours = department.delivered(answered[1])["SEG"].pixel_array.astype(bool)
    assert (found[name] == _wider(ours[None])[0]).all()
    assert not found[department.house.clean_uids.of(answered[0].SOPInstanceUID)].any()


def test_voc_boxes_hold_the_masks(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    folder, _ = exported(department, "voc")

    name = f"{PIPELINE}_{department.house.clean_uids.of(answered[1].SOPInstanceUID)}"
    root = ElementTree.parse(folder / "Annotations" / f"{name}.xml").getroot()
    rows, columns = np.nonzero(_wider(department.delivered(answered[1])["SEG"].pixel_array.astype(bool)[None])[0])
    box = {end.tag: int(end.text) for end in root.find("object/bndbox")}
    assert root.findtext("object/name") == "malignant"
    assert box == {"xmin": columns.min() + 1, "ymin": rows.min() + 1, "xmax": columns.max() + 1, "ymax": rows.max() + 1}
    classes = (folder / "classes.txt").read_text().split()
    assert set(np.unique(Image.open(folder / "SegmentationClass" / f"{name}.png"))) == {0, classes.index("malignant") + 1}
    lists = [(folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split() for split in ("train", "val", "test")]
    assert sum(name in one for one in lists) == 1


def test_seg_is_read_by_highdicom_on_its_images(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    folder, _ = exported(department, "seg")

    clean = department.house.clean_uids
    path = folder / "segmentations" / f"{clean.of(answered[1].SeriesInstanceUID)}_{PIPELINE}.dcm"
    seg = segread(path)
    read = seg.get_pixels_by_source_instance([clean.of(answered[1].SOPInstanceUID)], segment_numbers=[1])
    assert (read[0, :, :, 0] > 0).tolist() == _wider(department.delivered(answered[1])["SEG"].pixel_array.astype(bool)[None])[0].tolist()
    assert seg.get_segment_description(1).segment_label == "malignant"
    assert dciodvfy_errors(dcmread(path), department.folder) == []
    assert not list((folder / "segmentations").glob(f"{clean.of(answered[0].SeriesInstanceUID)}*"))  # nothing is there any more


@pytest.mark.parametrize("kind", ["coco", "voc", "seg", "folder"])
def test_a_version_is_made_only_when_something_changed(department: Department, answered: tuple[Dataset, Dataset], kind: str) -> None:
    first, before = exported(department, kind)

    again, same = exported(department, kind)

    assert (again, same["new"], same["files"]) == (first, False, before["files"])
    assert not list(first.parent.glob(".v*"))


def test_another_answer_makes_the_next_version_and_says_what_changed(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    first, before = exported(department, "folder")
    results = department.delivered(answered[0])
    department.takes(readers.aira_report(results["SR"], "accept"))  # thought again: the whole result is right

    folder, manifest = exported(department, "folder")

    name = f"masks/{PIPELINE}/{department.house.clean_uids.of(answered[0].SOPInstanceUID)}.png"
    assert folder.name == f"v{int(first.name[1:]) + 1}"
    assert manifest["version"] == before["version"] + 1
    assert manifest["since_last"]["changed"] == ["index.csv"]  # the finding itself stays rejected: who spoke of it is believed
    assert name not in manifest["since_last"]["added"]


def test_another_format_does_not_go_into_the_same_folder(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    exported(department, "coco")

    with pytest.raises(ExportRefused, match="format coco"):
        department.command("annotations", "export", "--format", "voc", "--out", str(department.folder / "coco"))


def test_the_export_is_remembered_by_study(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    exported(department, "coco")

    trail = [json.loads(line) for line in department.command("audit", "export", "--format", "json").splitlines()]
    study = department.house.clean_uids.of(answered[0].StudyInstanceUID)
    assert any(one["event"] == "110106" and one["study"] == study for one in trail)


def test_one_click_on_the_page_is_a_verdict(department: Department, result: tuple[Dataset, dict[str, Dataset]]) -> None:
    image, results = result
    [job] = department.house.jobs.of_study(department.house.clean_uids.of(image.StudyInstanceUID))
    uid = readers.tracking_uids(results["SR"])[f"{PIPELINE} malignant 1"]
    token = department.command("verdicts", "link", job.id, "--finding", uid).strip()

    heard = department.house.record_verdict(token, "accept", f"Agree with the lesion of {image.PatientName}", "dr.wilma@example.org")

    assert (heard.verdict.opinion, heard.verdict.finding, heard.verdict.source) == (Opinion.ACCEPT, "malignant", VerdictSource.PAGE)
    assert "lesion" in heard.verdict.reason
    assert not any(part in str(heard) for part in [*str(image.PatientName).split("^"), "wilma"])
    for wrong in ("missed", "maybe"):
        with pytest.raises(VerdictRefused, match="accept, modify, reject"):
            department.house.record_verdict(token, wrong)
    with pytest.raises(LinkRefused):
        department.house.record_verdict(token[:-2] + "AA", "accept")


def test_what_was_answered_is_not_worth_labelling_any_more(department: Department, answered: tuple[Dataset, Dataset]) -> None:
    image, results = a_result(department, 6, kind="benign")
    study = department.house.clean_uids.of(image.StudyInstanceUID)
    before = json.loads(department.command("annotations", "worth-labelling", "--json", "--limit", "100"))

    department.takes(readers.aira_report(results["SR"], "accept"))

    after = json.loads(department.command("annotations", "worth-labelling", "--json", "--limit", "100"))
    assert {one["study"] for one in before} - {one["study"] for one in after} <= {study}
    assert study not in {one["study"] for one in after}
    assert not {department.house.clean_uids.of(one.StudyInstanceUID) for one in answered} & {one["study"] for one in after}


def test_a_purged_study_keeps_its_count_and_loses_its_answers(department: Department) -> None:
    image, results = a_result(department, 7)
    [verdict] = answers(department, image, readers.edited_seg(results["SEG"], _wider, [image], editor="slicer"))
    study = department.house.clean_uids.of(image.StudyInstanceUID)
    assert verdict.region.file.is_file()
    before = department.house.verdicts.rates()

    department.gateway.purge(study)

    assert department.verdicts(image) == []
    assert not verdict.region.file.exists()
    after = department.house.verdicts.rates()
    assert {version: (one.modify, one.total, one.compared) for version, one in after.items()} == {
        version: (one.modify, one.total, one.compared) for version, one in before.items()
    }
