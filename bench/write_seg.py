"""Segmentations of a CT: this node beside highdicom's defaults and dcmqi, in the same run.

    python -m bench.write_seg [--slices 300] [--segments 1 10 100] [--rounds 3] [--packed]

Each gets the same masks (balls over two thirds of 512 x 512 slices) and the same source images, and writes one file. For the libraries the
time is that of the call in a warm process, encoding to the file included; for dcmqi it is the program's, which reads masks and images from files.
With `--packed` it writes the node's only, and says what each transfer syntax makes of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes as standard

from node import codes
from node.domain import Result, Role, Segment
from node.imaging.volume import Volume
from node.seg_syntax import SYNTAXES, packed
from node.seg_writer import write_seg
from tests.conformance import cases

NODE, HIGHDICOM, DCMQI = "this node", "highdicom, its defaults", "dcmqi itkimage2segimage"
Masks = list[NDArray[np.bool_]]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--slices", type=int, default=300)
    asked.add_argument("--segments", type=int, nargs="+", default=[1, 10, 100])
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--packed", action="store_true")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.slices)
        if options.packed:
            print(bench.packed_table(options.segments, options.rounds))
            return
        for segments in options.segments:
            bench.run(segments, options.rounds)
        print(bench.table())


class Bench:
    """One series, several numbers of segments."""

    def __init__(self, folder: Path, slices: int) -> None:
        self.folder = folder
        self.files = cases.ct_files(folder / "ct", slices=slices, size=512, between=1.0)
        self.study = cases.study_of(self.files)
        self.volume: Volume = cases.stack(self.study)
        self.images = sorted((dcmread(path) for path in self.files), key=lambda ds: float(ds.ImagePositionPatient[2]))
        self.seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.bytes: dict[tuple[int, str], int] = {}

    def run(self, segments: int, rounds: int) -> None:
        masks = self._masks(segments)
        commands: dict[str, Callable[[Path], float]] = {
            NODE: lambda out: self._node(masks, out),
            HIGHDICOM: lambda out: self._highdicom(masks, out),
            DCMQI: self._prepared_for_dcmqi(masks),
        }
        out = self.folder / "out.dcm"
        for number in range(rounds + 1):
            for name, write in commands.items():
                spent = write(out)
                if number:  # the first round only warms up
                    self.seconds[segments, name].append(spent)
                self.bytes[segments, name] = out.stat().st_size
                assert len(dcmread(out, stop_before_pixels=True).SegmentSequence) == segments
                out.unlink()

    def _masks(self, segments: int) -> Masks:
        """Balls beside each other, which do not overlap."""
        side = int(np.ceil(np.sqrt(segments)))
        z, y, x = self.volume.pixels.shape[:3]
        out = []
        for number in range(segments):
            row, column = divmod(number, side)
            mask = np.zeros((z, y, x), bool)
            top, left, size = row * y // side, column * x // side, y // side
            mask[:, top : top + size, left : left + size] = cases.ball((z, size, size), (0, 0, 0), (0.66, 0.9, 0.9))
            out.append(mask)
        return out

    def packed_table(self, numbers: list[int], rounds: int) -> str:
        """Size and time of each transfer syntax, for single bits and for a label map."""
        lines = ["| segments | | transfer syntax | MB | of it | s |", "|---|---|---|---|---|---|"]
        for number in numbers:
            result = _result(self._masks(number))
            for role in (Role.SEG, Role.SEG_LABELMAP):
                ds = write_seg(self.study, self.volume, result, cases.provenance(self.study), role=role)
                assert ds is not None
                plain = cases.bytes_of(ds)
                lines.append(f"| {number} | {role} | explicit | {len(plain) / 1e6:.2f} | | |")
                for word, syntax in SYNTAXES.items():
                    spent, small = [], plain
                    for _ in range(rounds):
                        began = time.perf_counter()
                        small = packed(plain, [syntax])
                        spent.append(time.perf_counter() - began)
                    if small != plain:
                        share = f"{len(small) / 1e6:.2f} | {100 * len(small) / len(plain):.1f} %"
                        lines.append(f"| {number} | {role} | {word} | {share} | {statistics.median(spent):.2f} |")
        return "\n".join(lines)

    def _node(self, masks: Masks, out: Path) -> float:
        result = _result(masks)
        began = time.perf_counter()
        ds = write_seg(self.study, self.volume, result, cases.provenance(self.study))
        assert ds is not None
        ds.save_as(out, enforce_file_format=True)
        return time.perf_counter() - began

    def _highdicom(self, masks: Masks, out: Path) -> float:
        described = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=f"Lesion {number}",
                segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
                segmented_property_type=codes.LESION,
                algorithm_type="AUTOMATIC",
                algorithm_identification=hd.AlgorithmIdentificationSequence(
                    name="bench", version="1", family=standard.DCM.ArtificialIntelligence
                ),
            )
            for number in range(1, len(masks) + 1)
        ]
        began = time.perf_counter()
        labels = np.zeros(masks[0].shape, np.uint8)
        for number, mask in enumerate(masks, 1):
            labels[mask] = number
        ds = hd.seg.Segmentation(
            source_images=self.images,
            pixel_array=labels,
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid="2.25.1",
            series_number=1,
            sop_instance_uid="2.25.2",
            instance_number=1,
            manufacturer="bench",
            manufacturer_model_name="bench",
            software_versions="1",
            device_serial_number="1",
        )
        ds.save_as(out)
        return time.perf_counter() - began

    def _prepared_for_dcmqi(self, masks: Masks) -> Callable[[Path], float]:
        """Labels as NIfTI and a description, as its users have them."""
        labels = np.zeros(masks[0].shape, np.uint8)
        for number, mask in enumerate(masks, 1):
            labels[mask] = number
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.volume.affine  # LPS to RAS
        nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), affine), self.folder / "labels.nii")  # type: ignore[no-untyped-call]
        code = {"CodeValue": "52988006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lesion"}
        category = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Abnormal Structure"}
        segment = {
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "bench",
            "SegmentedPropertyCategoryCodeSequence": category,
            "SegmentedPropertyTypeCodeSequence": code,
        }
        described = {
            "ContentCreatorName": "bench",
            "SeriesNumber": "1",
            "InstanceNumber": "1",
            "segmentAttributes": [[{**segment, "labelID": n, "SegmentLabel": f"Lesion {n}"} for n in range(1, len(masks) + 1)]],
        }
        (self.folder / "labels.json").write_text(json.dumps(described))
        program = Path(sys.executable).with_name("itkimage2segimage")
        command = [program, "--inputImageList", self.folder / "labels.nii", "--inputMetadata", self.folder / "labels.json"]
        command += ["--inputDICOMDirectory", self.folder / "ct", "--skip", "1"]

        def write(out: Path) -> float:
            began = time.perf_counter()
            done = subprocess.run([*map(str, command), "--outputDICOM", str(out)], capture_output=True, text=True)
            if done.returncode or not out.exists():
                raise SystemExit(f"dcmqi failed: {(done.stdout + done.stderr)[-500:]}")
            return time.perf_counter() - began

        return write

    def table(self) -> str:
        z, y, x = self.volume.pixels.shape[:3]
        lines = [
            f"{z} x {y} x {x}; highdicom {version('highdicom')}, dcmqi {version('dcmqi')}; medians",
            "",
            "| segments | | s | MB | the node's time is | the node's size is |",
            "|---|---|---|---|---|---|",
        ]
        for segments, name in self.seconds:
            spent, ours = self.seconds[segments, name], self.seconds[segments, NODE]
            time_ratio = statistics.median(one / other for one, other in zip(ours, spent, strict=True))
            size_ratio = self.bytes[segments, NODE] / self.bytes[segments, name]
            figures = f"{statistics.median(spent):.2f} | {self.bytes[segments, name] / 1e6:.1f} | {time_ratio:.2f} | {size_ratio:.2f}"
            lines.append(f"| {segments} | {name} | {figures} |")
        return "\n".join(lines)


def _result(masks: Masks) -> Result:
    segments: tuple[Segment, ...] = tuple(cases.lesion(mask, number, f"Lesion {number}") for number, mask in enumerate(masks, 1))
    return replace(cases.infection(masks[0][:1]), segments=segments, heatmap=None, findings=())


if __name__ == "__main__":
    main()
