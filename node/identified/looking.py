"""One image is looked at: what a device is known to write is blanked, text is found and masked, and who is not sure refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from pydicom.dataset import Dataset

from node.errors import BurnedInAnnotation, TextDetectorFailed
from node.identified.boxes import Box, covered, outermost
from node.identified.flat_values import looks_written, standing_out, stands_out
from node.identified.pixel_module import PixelModule, Rewritten
from node.identified.pixels import FRAMES_LOOKED_AT, Decision, TextDetection, Verdict
from node.identified.regions import DeviceRegion, boxes_in, known_devices
from node.identified.rendering import Picture
from node.identified.text_detector import find_text, read_text, with_margin

MOST_TEXT = 1 / 3  #: of the image; more than that is a page, or the detector is wrong
ALL_FRAMES = -1  #: in place of a frame's number: what each pixel becomes over all frames

FindText = Callable[[Picture], list[Box]]
ReadPicture = Callable[[Picture], list[str]]


class ByHand(NamedTuple):
    """What a person decided who looked at an instance."""

    boxes: tuple[Box, ...] = ()
    released: bool = False  #: where the detector is not sure, or fails, this person's boxes are all that is masked


class Seen(NamedTuple):
    """What became of the pixels."""

    boxes: tuple[Box, ...]  #: painted over in every frame
    rewritten: Rewritten | None  #: None: nothing had to be painted, the pixel data stays as it came
    searched: bool = False  #: by the text detector; False: nothing stood out, or a person decided alone


class Looks(Protocol):
    """Whoever can look at an image: here, or in a process of its own."""

    @property
    def text_detection(self) -> TextDetection: ...

    def look(self, ds: Dataset, transfer_syntax_uid: str, decision: Decision, by_hand: ByHand, *, explicit: bool) -> Seen: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """How images are looked at here. Can be sent to another process."""

    text_detection: TextDetection = "usual"
    devices: tuple[DeviceRegion, ...] = ()  #: beside the known ones
    find_text: FindText = find_text
    read_text: ReadPicture = read_text

    def with_threads(self, threads: int) -> Looker:
        """The same, with so many threads for the inference."""
        find = partial(find_text, threads=threads) if self.find_text is find_text else self.find_text
        read = partial(read_text, threads=threads) if self.read_text is read_text else self.read_text
        return replace(self, find_text=find, read_text=read)

    def look(self, ds: Dataset, transfer_syntax_uid: str, decision: Decision, by_hand: ByHand, *, explicit: bool) -> Seen:
        """
        Parameters
        ----------
        ds
            Image Pixel module, SequenceOfUltrasoundRegions and what names the device; SOPInstanceUID is the clean one.
        explicit
            Whether elements are written in Explicit VR.

        Raises
        ------
        BurnedInAnnotation
            Not sure: text is declared and none is found, or too much is found.
        TextDetectorFailed, PixelsNotSeen
            Nobody could look.
        """
        if by_hand.released and not by_hand.boxes and decision.verdict is not Verdict.LOOK:
            return Seen((), None)
        image = PixelModule(ds, transfer_syntax_uid)
        boxes = [box.clipped(image.rows, image.columns) for box in by_hand.boxes]
        searched = decision.verdict is Verdict.LOOK
        if decision.verdict is Verdict.LOOK:
            boxes += self._to_mask(image, boxes, by_hand)
        elif decision.verdict is Verdict.GLANCE and any(stands_out(frame) for frame, _ in image.frames()):
            searched = True
            found = self._to_mask(image, boxes, by_hand)
            # who wrote in one place wrote in the others too, however faint: but of an image that was only measured nothing is painted over
            boxes += found if any(_is_written(image, box) for box in found) else []
        boxes = outermost(boxes)
        rewritten = image.masked(boxes, explicit=explicit) if boxes else None
        if decision.declared and rewritten is None and not by_hand.released:
            raise BurnedInAnnotation("Burned In Annotation is YES, and no text was found.", instance=str(ds.SOPInstanceUID))
        return Seen(tuple(boxes) if rewritten else (), rewritten, searched)

    def read(self, ds: Dataset, transfer_syntax_uid: str) -> list[tuple[int, str]]:
        """What can be read in the frames that `look` looks at: (frame from 0 on or `ALL_FRAMES`, text).

        Raises TextDetectorFailed, PixelsNotSeen.
        """
        image = PixelModule(ds, transfer_syntax_uid)
        try:
            return [(number, text) for number, picture in _shown(image) for text in self.read_text(picture)]
        except TextDetectorFailed as why:
            raise TextDetectorFailed(why.detail, instance=str(ds.SOPInstanceUID)) from None

    def _to_mask(self, image: PixelModule, by_person: Sequence[Box], by_hand: ByHand) -> list[Box]:
        known = self.known_places(image.ds)
        try:
            found = self.text_outside(image, (*known, *by_person))
        except TextDetectorFailed as why:
            if by_hand.released:
                return known
            raise TextDetectorFailed(why.detail, instance=str(image.ds.SOPInstanceUID)) from None
        if covered(found, image.rows, image.columns) > MOST_TEXT:
            if by_hand.released:
                return known
            raise BurnedInAnnotation("Text seems to cover more than a third of it.", instance=str(image.ds.SOPInstanceUID))
        return [*known, *(with_margin(box, image.rows, image.columns) for box in found)]

    def known_places(self, ds: Dataset) -> list[Box]:
        """What is blanked unseen."""
        return boxes_in(ds, (*known_devices(), *self.devices))

    def text_outside(self, image: PixelModule, blanked: Sequence[Box]) -> list[Box]:
        """Boxes of text, without margin, in what is left when those are blanked."""
        found: list[Box] = []
        for _, picture in _shown(image):
            left = picture.copy()
            for box in blanked:
                left[box.top : box.bottom, box.left : box.right] = 0
            found += self.find_text(left)
        return outermost(found)


def _is_written(image: PixelModule, box: Box) -> bool:
    """In some frame what stands out in the box looks like strokes."""
    masks = (standing_out(frame) for frame, _ in image.frames())
    return any(found is None or looks_written(found[box.top : box.bottom, box.left : box.right]) for found in masks)


def chosen_frames(count: int) -> list[int]:
    """Frames that are looked at, from 0 on: evenly spaced, the first and the last among them."""
    return sorted({round(float(number)) for number in np.linspace(0, count - 1, min(FRAMES_LOOKED_AT, count))})


def _shown(image: PixelModule) -> Iterator[tuple[int, Picture]]:
    """What a person would see of it: the frame; of many frames some, and the brightest and the darkest that each pixel becomes."""
    if image.count == 1:
        for frame, photometric in image.frames():
            yield from ((0, picture) for picture in image.pictures(frame, photometric))
        return
    chosen = set(chosen_frames(image.count))
    lightest = darkest = None
    photometric = ""
    for number, (frame, photometric) in enumerate(image.frames()):
        if number in chosen:
            for picture in image.pictures(frame, photometric):
                yield number, picture
        lightest = frame.copy() if lightest is None else np.maximum(lightest, frame, out=lightest)
        darkest = frame.copy() if darkest is None else np.minimum(darkest, frame, out=darkest)
    for extreme in (lightest, darkest):
        if extreme is not None:
            yield from ((ALL_FRAMES, picture) for picture in image.pictures(extreme, photometric))
