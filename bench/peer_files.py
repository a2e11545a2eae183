"""Runs one de-identification tool over a list of files, the way its documentation shows; started with the Python of the peers.

    python bench/peer_files.py TOOL LIST OUT [--rounds N] [--pixels]

Prints one JSON line a round: wall and CPU seconds, files that came out, files it failed on. Knows nothing of the node.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

Tool = Callable[[Path, Path], None]  #: one file, its copy


def dicognito(pixels: bool) -> Tool:
    """Keyed names, UIDs and dates; headers only."""
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="bench")

    def one(source: Path, target: Path) -> None:
        with pydicom.dcmread(source) as ds:
            anonymizer.anonymize(ds)
            ds.save_as(target)

    return one


def deid(pixels: bool) -> Tool:
    """The default recipe, private attributes removed; with `pixels` also its cleaner of known devices' regions."""
    from deid.config import DeidRecipe
    from deid.dicom import DicomCleaner, replace_identifiers

    recipe = DeidRecipe()
    scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"deid-{os.getpid()}"
    scratch.mkdir(exist_ok=True)

    def one(source: Path, target: Path) -> None:
        cleaned = source
        if pixels:
            cleaner = DicomCleaner(output_folder=str(scratch))
            try:
                if cleaner.detect(str(source))["flagged"]:
                    cleaner.clean()
                    cleaned = Path(cleaner.save_dicom())
            except Exception:  # it knows no such object: its header is still cleaned
                cleaned = source
        [ds] = replace_identifiers([str(cleaned)], deid=recipe, save=False, remove_private=True)
        ds.save_as(target)

    return one


def dicom_anonymizer(pixels: bool) -> Tool:
    """Its own copy of Table E.1-1, private attributes deleted; headers only."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file

    return lambda source, target: anonymize_dicom_file(str(source), str(target), {}, True)


TOOLS = {"dicognito": dicognito, "deid": deid, "dicom-anonymizer": dicom_anonymizer}


def seconds() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("tool", choices=TOOLS)
    asked.add_argument("list", type=Path, help="a file with one path a line")
    asked.add_argument("out", type=Path)
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--pixels", action="store_true", help="let the tool clean pixels where it can")
    options = asked.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    os.environ["MESSAGELEVEL"] = "0"  # deid's own log
    tool = TOOLS[options.tool](options.pixels)
    files = [Path(line) for line in options.list.read_text().splitlines()]
    for _ in range(options.rounds):
        shutil.rmtree(options.out, ignore_errors=True)
        options.out.mkdir(parents=True)
        failed: dict[str, int] = {}
        wall, cpu = time.perf_counter(), seconds()
        for number, path in enumerate(files):
            target = options.out / f"{number:05d}.dcm"
            try:
                tool(path, target)
            except Exception as why:
                failed[type(why).__name__] = failed.get(type(why).__name__, 0) + 1
                target.unlink(missing_ok=True)
        said = {"wall_s": time.perf_counter() - wall, "cpu_s": seconds() - cpu, "files": len(list(options.out.iterdir())), "failed": failed}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    sys.exit(main())
