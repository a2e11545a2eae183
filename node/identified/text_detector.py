"""Where in a picture is writing, and what does it say? PP-OCR through RapidOCR and OpenVINO, offline. What is read is for the leak scan alone.

Recall comes first: each picture is looked at enlarged, once more with its local contrast raised, and so again lying on its side, for lines that
run upwards; what any pass finds is writing.
Two things are let go. A box that is read with confidence as a side or a view marker may stay. A box as big as an organ must be legible,
because large smooth shapes look like a single letter to a text detector.
Why this detector: `docs/decisions/0005-text-in-pixels.md`.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from node.errors import TextDetectorFailed
from node.identified.boxes import Box
from node.identified.markers import is_marker

Picture = NDArray[np.uint8]  #: (rows, columns, 3), as displayed

THRESHOLD = 0.2  #: of a pixel being writing; the library's default is 0.3
BOX_THRESHOLD = 0.3  #: of a box; the library's default is 0.5
SMALL_AT_MOST = 1100  #: pixels on the longer side; such pictures are enlarged, since letters of 10 pixels are small for the network
TILE, OVERLAP = 1120, 128  #: larger pictures are looked at tile by tile; a line of text on the border is whole in one of two tiles
OVERVIEW = 1280  #: and once as a whole at this size or half its own, for large letters
LOWEST = 6  #: pixels; what is lower is a tick mark
FLAT = 3  #: grey values; a tile with less contrast shows nothing
SURE_OF_MARKER, SURE_OF_LETTERS = 0.9, 0.6
ORGAN = 0.15  #: of the picture's shorter side: as high as this no line of text is, unless it can be read
BLOB = 0.06  #: the same for a single character that can't be read


class _Seen(NamedTuple):
    """One box of one pass, in pixels of the picture."""

    box: Box
    marker: bool


def find_text(picture: Picture, *, threads: int = 0) -> list[Box]:
    """Boxes of writing, as tight as the detector gives them; `with_margin` adds what they may lack.

    Parameters
    ----------
    picture : uint8 array, (rows, columns, 3)
    threads : of the inference; 0: up to two, as many as this process may use

    Raises
    ------
    TextDetectorFailed
        Not installed, or it failed. Never with what was read.
    """
    engine = _engine(threads)
    seen: list[_Seen] = []
    rows, columns = picture.shape[:2]
    for view, scale, lying in _passes(picture):
        for tile, left, top in _tiles(view):
            found_here = _look(engine, tile, scale, left, top, min(rows, columns))
            seen += [one._replace(box=_upright(one.box, columns)) if lying else one for one in found_here]
    markers = [one.box for one in seen if one.marker]
    found = (one.box.clipped(rows, columns) for one in seen if not one.marker)
    return [box for box in found if box.area and not any(_lies_within(box, marker) for marker in markers)]


def read_text(picture: Picture, *, threads: int = 0) -> list[str]:
    """What stands there, box by box: whatever the detector takes for writing is read, markers and doubtful shapes too.

    Each box is read as it stands and upside down. In one pass, in a form that `find_text` does not use, so that it is another look at the picture and not the same one again.

    Raises
    ------
    TextDetectorFailed
        Not installed, or it failed. Never with what was read.
    """
    engine = _engine(threads)
    view = _scaled(picture, 1.5) if max(picture.shape[:2]) <= SMALL_AT_MOST else picture
    return [words for tile, _, _ in _tiles(view) for _, words, _ in engine.read(_padded(tile), lines=True) if words.strip()]


def with_margin(box: Box, rows: int, columns: int) -> Box:
    """A detector may stop short of the last letter of a line."""
    height = min(box.right - box.left, box.bottom - box.top)
    return box.grown(math.ceil(0.7 * height) + 2, math.ceil(0.15 * height) + 1).clipped(rows, columns)


# --- how a picture is looked at ---------------------------------------------------------------------------------------------------
def _passes(picture: Picture) -> Iterator[tuple[Picture, float, bool]]:
    """(the picture in some other form, how much larger it is, whether it lies on its side)."""
    longest = max(picture.shape[:2])
    contrasted = _contrasted(picture)
    if longest <= SMALL_AT_MOST:
        yield _scaled(picture, 2.0), 2.0, False
        larger = _scaled(contrasted, 1.5)
        yield larger, 1.5, False
        yield np.ascontiguousarray(np.rot90(larger)), 1.5, True
        return
    yield contrasted, 1.0, False
    scale = min(0.5, OVERVIEW / longest)
    smaller = _scaled(picture, scale)
    yield smaller, scale, False
    yield np.ascontiguousarray(np.rot90(smaller)), scale, True


def _upright(box: Box, columns: int) -> Box:
    """Where a box of the picture on its side (its right edge on top) lies in the picture."""
    return Box(columns - box.bottom, box.left, columns - box.top, box.right)


def _contrasted(picture: Picture) -> Picture:
    """Local contrast raised (CLAHE), colour kept."""
    import cv2

    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(4.0, (8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def _scaled(picture: Picture, scale: float) -> Picture:
    import cv2

    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how), np.uint8)


def _tiles(view: Picture) -> Iterator[tuple[Picture, int, int]]:
    """(tile, its left column, its top row). Tiles that show nothing are left out."""
    rows, columns = view.shape[:2]
    for top in _starts(rows):
        for left in _starts(columns):
            tile = view[top : top + TILE, left : left + TILE]
            if int(tile.max()) - int(tile.min()) >= FLAT:
                yield tile, left, top


def _starts(length: int) -> list[int]:
    if length <= TILE:
        return [0]
    count = math.ceil((length - OVERLAP) / (TILE - OVERLAP))
    return [round(i * (length - TILE) / (count - 1)) for i in range(count)]


def _look(engine: _Engine, tile: Picture, scale: float, left: int, top: int, shorter_side: int) -> list[_Seen]:
    padded = _padded(tile)
    out = []
    for corners, words, confidence in engine.read(padded):
        corners = (corners - _MARGIN + (left, top)) / scale
        x0, y0 = np.floor(corners.min(axis=0)).astype(int)
        x1, y1 = np.ceil(corners.max(axis=0)).astype(int)
        box = Box(int(x0), int(y0), int(x1), int(y1))
        if _is_writing(box, len(words.replace(" ", "")), confidence, shorter_side):
            out.append(_Seen(box, confidence >= SURE_OF_MARKER and is_marker(words)))
    return out


def _is_writing(box: Box, letters: int, confidence: float, shorter_side: int) -> bool:
    height = min(box.right - box.left, box.bottom - box.top)
    if height < LOWEST:
        return False
    if height > max(ORGAN * shorter_side, 24):
        return letters > 2 and confidence >= SURE_OF_LETTERS
    if height > max(BLOB * shorter_side, 24):
        return letters > 1 or confidence >= SURE_OF_LETTERS
    return True


_MARGIN = 16


def _padded(tile: Picture) -> Picture:
    """A margin, since letters at the very edge are missed, up to a multiple of 64, so that few sizes occur."""
    import cv2

    rows, columns = tile.shape[:2]
    below, beside = -(rows + _MARGIN) % 64, -(columns + _MARGIN) % 64
    return np.asarray(cv2.copyMakeBorder(tile, _MARGIN, below, _MARGIN, beside, cv2.BORDER_REPLICATE), np.uint8)


def _lies_within(box: Box, marker: Box) -> bool:
    """Most of it is inside of a marker that another pass could read."""
    return box.shared(marker).area >= 0.7 * box.area


# --- the engine -------------------------------------------------------------------------------------------------------------------
_engines: dict[int, _Engine] = {}
_loading = threading.Lock()


def _engine(threads: int) -> _Engine:
    """The engine of this process, loaded when it is first asked for."""
    with _loading:
        if os.getpid() not in _engines:
            _engines[os.getpid()] = _Engine(threads or min(2, len(os.sched_getaffinity(0))))
        return _engines[os.getpid()]


class _Engine:
    """Detector and recogniser of RapidOCR with the models of its wheel; one picture at a time."""

    def __init__(self, threads: int) -> None:
        self._one_at_a_time = threading.Lock()
        try:
            self._detector, self._recogniser, self._input, self._crop = _load(threads)
        except Exception as why:  # a missing package, a damaged model: whatever it is, nobody looked
            raise TextDetectorFailed(f"it can't be loaded ({type(why).__name__})") from None

    def read(self, picture: Picture, *, lines: bool = False) -> Iterator[tuple[NDArray[np.float64], str, float]]:
        """(four corners as x and y, what stands there, how sure) of every box.

        Without `lines` long ones, which are no marker, are not read; with it each is read once more upside down, as another box.
        """
        try:
            with self._one_at_a_time:
                boxes = self._detector(picture).boxes
                boxes = [] if boxes is None else [np.asarray(box, np.float32) for box in boxes]
                short = [i for i, box in enumerate(boxes) if lines or _aspect(box) < 9]
                crops = [self._crop(picture, boxes[i].copy()) for i in short]
                if lines:
                    crops += [np.ascontiguousarray(crop[::-1, ::-1]) for crop in crops]
                    boxes, short = boxes * 2, list(range(len(crops)))
                read = self._recogniser(self._input(img=crops)) if crops else None
        except Exception as why:  # its text may quote what it read
            raise TextDetectorFailed(f"it failed ({type(why).__name__})") from None
        words = {i: (str(read.txts[n]), float(read.scores[n])) for n, i in enumerate(short)} if read is not None else {}
        for i, box in enumerate(boxes):
            yield (box.astype(np.float64), *words.get(i, ("a long line", 1.0)))


def _aspect(box: NDArray[np.float32]) -> float:
    sides = sorted((float(np.linalg.norm(box[0] - box[1])), float(np.linalg.norm(box[1] - box[2]))))
    return sides[1] / max(sides[0], 1.0)


def _load(threads: int) -> tuple[Any, Any, Any, Any]:
    """(detector, recogniser, its input, cropper). The models are named by path, so that nothing is looked for on the network."""
    import rapidocr
    from rapidocr import EngineType
    from rapidocr.ch_ppocr_det import TextDetector
    from rapidocr.ch_ppocr_rec import TextRecInput, TextRecognizer
    from rapidocr.main import DEFAULT_CFG_PATH
    from rapidocr.utils.parse_parameters import ParseParams
    from rapidocr.utils.process_img import get_rotate_crop_image

    _silence()
    models = os.path.join(os.path.dirname(rapidocr.__file__), "models")  # noqa: PTH118, PTH120
    chosen = {
        "Det.engine_type": EngineType.OPENVINO,
        "Det.model_path": os.path.join(models, "PP-OCRv6_det_small.onnx"),  # noqa: PTH118
        "Det.limit_type": "max",  # the size was chosen above
        "Det.limit_side_len": 1 << 20,
        "Det.thresh": THRESHOLD,
        "Det.box_thresh": BOX_THRESHOLD,
        "Rec.engine_type": EngineType.OPENVINO,
        "Rec.model_path": os.path.join(models, "PP-OCRv6_rec_small.onnx"),  # noqa: PTH118
        "EngineConfig.openvino.inference_num_threads": threads,
    }
    config = ParseParams.update_batch(ParseParams.load(DEFAULT_CFG_PATH), chosen)
    for part in (config.Det, config.Rec):
        part.engine_cfg = config.EngineConfig["openvino"]
    config.Rec.font_path = None
    detector, recogniser = TextDetector(config.Det), TextRecognizer(config.Rec)
    for part in (detector, recogniser):
        part.session.session = _same_everywhere(part.session.model, threads)
    return detector, recogniser, TextRecInput, get_rotate_crop_image


def _same_everywhere(model: Any, threads: int) -> Any:
    """The network in 32-bit numbers. Left alone, OpenVINO takes bfloat16 where the processor has it: what is seen would depend on the machine."""
    from openvino import Core

    properties = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return Core().compile_model(model, "CPU", properties).create_infer_request()


def _silence() -> None:
    """The library brings a handler of its own, past the node's rule that foreign loggers only say where they spoke."""
    logger = logging.getLogger("RapidOCR")
    logger.handlers[:] = []
    logger.disabled = True
