"""How long a replay takes: `python -m bench.rules_replay --series 100000`. A draft beside the example rules, from a ledger on disk.

Studies of one to four series, each of 1 to 400 images, as seven kinds of examinations with varied ages, thicknesses, scanners and
descriptions. The kept headers are made by the very code of the node from synthetic headers, then varied as text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from config import Settings
from node.assembly import House
from node.ledger.headers import Headers
from node.ledger.tables import HeaderRow
from node.router import parse_rules
from node.rules.kept import kept
from node.rules.replay import replay
from node.testing import a_study, clean_study

ROOT = Path(__file__).parents[1]
#: what the draft changes in the first rule; then in every rule, without effect, so that nothing is asked only once
DRAFT = (("slice_thickness_mm: {max: 10}", "slice_thickness_mm: {max: 3}"), ("    run:", "    priority: routine\n    run:"))
MAKERS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "Canon Medical Systems")
WORDS = ("Thorax nativ", "Lunge 1.0", "Abdomen pv", "Schädel", "T1 tra KM", "T2 flair", "Mamma links", "Thorax p.a.", "Becken", "Scout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000, help="headers to replay")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        house = House(Settings(data_dir=Path(folder)))
        studies, size = _fill(house, chosen.series, Path(folder))
        text = (ROOT / "rules.example.yaml").read_text()
        known = {"pipelines": house.needs, "destinations": ("pacs",)}
        changed = text.replace(*DRAFT[0]).replace(*DRAFT[1])
        active, draft = parse_rules(text, **known), parse_rules(changed, **known)
        past = Headers(house.ledger, _now).since(_now() - timedelta(days=1))
        began, cpu = time.perf_counter(), os.times()
        found = replay(past, draft, active, house.needs, workers=chosen.workers)
        took = time.perf_counter() - began
        spent = sum(b - a for a, b in zip(cpu[:4], os.times()[:4], strict=True))
        print(
            f"{found.series} series in {found.studies} studies ({studies} kept, {size / found.series:.0f} bytes a series), {chosen.workers} processes"
        )
        print(f"{took:.1f} s, {spent:.1f} CPU s, {found.series / took:.0f} series/s")
        for _, group in sorted(found.groups.items()):
            print(f"  {group.in_words}")
        house.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _fill(house: House, series: int, folder: Path) -> tuple[int, int]:
    """Kept headers in the ledger: how many studies, how many bytes."""
    examples = [json.loads(kept(clean_study(ds, folder / str(n)))) for n, ds in enumerate(_kinds())]
    dice = random.Random(7)
    studies = size = done = 0
    while done < series:
        rows = []
        while done < series and len(rows) < 1000:
            facts = {**dice.choice(examples), "study": f"2.25.{studies}"}
            facts["series"] = list(_varied(facts["series"][0], dice, min(dice.randint(1, 4), series - done)))
            text = json.dumps(facts, separators=(",", ":"), ensure_ascii=False)
            rows.append({"study": facts["study"], "revision": 1, "routed_at": _now(), "facts": text})
            studies, done, size = studies + 1, done + len(facts["series"]), size + len(text)
        with house.ledger.begin() as connection:
            connection.execute(insert(HeaderRow), rows)
    return studies, size


def _kinds() -> list[Any]:
    small = {"rows": 32, "patches": 0}
    return [
        a_study("CT", slices=8, **small),
        a_study("CT", slices=8, slice_mm=1.0, **small),
        a_study("CT", slices=8, BodyPartExamined="HEAD", **small),
        a_study("MR", slices=4),
        a_study("US"),
        a_study("DX"),
        a_study("CR", slices=4, rows=32),
    ]


def _varied(one: dict[str, Any], dice: random.Random, count: int) -> Iterator[dict[str, Any]]:
    age = f"{dice.randint(1, 95):03d}Y"
    for _ in range(count):
        sop_class, _, frames, facts = one["images"][0]
        facts = {**facts, "PatientAge": [age], "Manufacturer": [dice.choice(MAKERS)], "SeriesDescription": [dice.choice(WORDS)]}
        if frames > 1:
            frames = dice.randint(1, 400)
            facts["SliceThickness"] = [str(dice.choice((0.6, 1, 2, 3, 5, 8)))]
        scout = [sop_class, 1, 1, {**facts, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}]
        images = [[sop_class, frames, frames, facts], *([scout] if dice.random() < 0.1 else [])]
        yield {"uid": f"2.25.{dice.getrandbits(100)}", "modality": one["modality"], "images": images}


if __name__ == "__main__":
    main()
