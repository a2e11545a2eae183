"""A person looks at a refused study, masks by hand, and sends it on its way again. Who may is up to the machine; that it happened is audited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from node.domain import CleanUid, StudyRef
from node.errors import ReviewFailed, StudyRefused
from node.identified.boxes import Box, outermost
from node.identified.by_hand import DecisionsByHand
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import checked_pixels, image_of, open_data_set
from node.identified.deidentifier import study_attributes
from node.identified.elements import Malformed
from node.identified.intake import Intake
from node.identified.looking import ByHand, Looker, chosen_frames
from node.identified.named import Identity
from node.identified.pixel_module import PixelModule
from node.identified.quarantine import Quarantine
from node.identified.tables import InstanceRow
from node.identified.text_detector import with_margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One image as it was shown: its files, and what would be masked."""

    instance: CleanUid
    rows: int = 0
    columns: int = 0
    frames: int = 0
    boxes: tuple[Box, ...] = ()  #: of known devices, found, and by hand
    files: tuple[str, ...] = ()
    trouble: str = ""  #: why there is nothing to see


class Review:
    """What an administrator does with studies in quarantine."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        quarantine: Quarantine,
        decisions: DecisionsByHand,
        clean_uids: CleanUids,
        looker: Looker,
    ) -> None:
        self._engine, self._intake, self._quarantine = engine, intake, quarantine
        self._decisions, self._clean_uids, self._looker = decisions, clean_uids, looker

    def pictures(self, study: CleanUid, out: Path, instance: str = "") -> list[Shown]:
        """Every image of the study, or one, as PNG below `out`: as it came, and as it would leave (`.masked.png`).

        What stands burned into the pixels stands in these files too: they are as secret as the study.

        Raises ReviewFailed.
        """
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        decided = self._decisions.of(study)
        shown = [
            self._show(image, uid, out, decided.get(uid, ByHand())) if image else Shown(instance=uid, trouble=trouble)
            for uid, image, trouble in self._images(study, instance)
        ]
        if not shown:
            raise ReviewFailed("the study has no such instance")
        return shown

    def mask(self, study: CleanUid, instance: str, boxes: Sequence[Box], *, who: str, why: str) -> None:
        """Boxes that the next de-identification paints over. Raises ReviewFailed for boxes that do not lie in the image."""
        found = next(self._images(study, instance), None)
        if found is None:
            raise ReviewFailed("the study has no such instance")
        uid, image, trouble = found
        if image is None:
            raise ReviewFailed(f"the instance has no pixels that can be masked: {trouble}")
        for box in boxes:
            if not box.area or box != box.clipped(image.rows, image.columns):
                raise ReviewFailed(f"a box must lie in the image of {image.columns} x {image.rows} pixels")
        self._decisions.mask(study, uid, boxes, who=who, why=why)

    def release(self, study: CleanUid, *, who: str, why: str) -> None:
        """The study goes its way again, at the revision that was refused. Raises ReviewFailed."""
        ref = self.refused(study)
        with Session(self._engine) as db:
            there = select(InstanceRow.sop_instance).where(InstanceRow.study == study, InstanceRow.revision <= ref.revision)
            instances = [CleanUid(uid) for uid in db.scalars(there)]
        self._decisions.release(study, instances, who=who, why=why)
        self._intake.again(ref)

    def refused(self, study: CleanUid) -> StudyRef:
        """The study and the revision that was refused. Raises ReviewFailed when it is not in quarantine."""
        refusal = self._quarantine.reason(study)
        if refusal is None:
            raise ReviewFailed("the study is not in quarantine")
        return StudyRef(study=study, revision=refusal.revision)

    def whose(self, study: CleanUid) -> Identity | None:
        """Of the first instance that can be read, for what must not name the patient; None when there is none."""
        for received in self._intake.open(self.refused(study)).instances():
            with suppress(Malformed):
                attributes = study_attributes(open_data_set(received.data, received.transfer_syntax_uid))
                return Identity(attributes=attributes, original_uid={}, date_shift_days=0)
        return None

    def _images(self, study: CleanUid, instance: str) -> Iterator[tuple[CleanUid, PixelModule | None, str]]:
        for received in self._intake.open(self.refused(study)).instances():
            uid = self._clean_uids.of(received.sop_instance_uid)
            if instance and uid != instance:
                continue
            try:
                opened = open_data_set(received.data, received.transfer_syntax_uid)
                ds = image_of(opened, checked_pixels(opened, uid), uid)
            except (Malformed, StudyRefused) as why:
                yield uid, None, str(why)
                continue
            yield uid, PixelModule(ds, opened.transfer_syntax_uid), ""

    def _show(self, image: PixelModule, uid: CleanUid, out: Path, by_hand: ByHand) -> Shown:
        files: list[str] = []
        try:
            boxes = list(by_hand.boxes) + self._looker.known_places(image.ds)
            boxes = outermost([*boxes, *self._found(image, boxes)])
            numbers = chosen_frames(image.count)
            for number, (frame, photometric) in zip(numbers, image.frames([n + 1 for n in numbers]), strict=True):
                picture = image.pictures(frame, photometric)[-1]
                files.append(_saved(out / f"{uid}.{number + 1}.png", picture))
                for box in boxes:
                    picture[box.top : box.bottom, box.left : box.right] = 0
                files.append(_saved(out / f"{uid}.{number + 1}.masked.png", picture))
        except StudyRefused as why:
            return Shown(instance=uid, rows=image.rows, columns=image.columns, frames=image.count, files=tuple(files), trouble=str(why))
        return Shown(instance=uid, rows=image.rows, columns=image.columns, frames=image.count, boxes=tuple(boxes), files=tuple(files))

    def _found(self, image: PixelModule, blanked: Sequence[Box]) -> list[Box]:
        if self._looker.text_detection == "off":
            return []
        return [with_margin(box, image.rows, image.columns) for box in self._looker.text_outside(image, blanked)]


def _saved(path: Path, picture: NDArray[np.uint8]) -> str:
    path.touch(mode=0o600)
    if not cv2.imwrite(str(path), np.ascontiguousarray(picture[:, :, ::-1])):
        raise ReviewFailed("a picture can't be written")
    return path.name
