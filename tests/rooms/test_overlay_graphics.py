"""With Clean Graphics a plane of graphics is looked at like an image: outlines stay, writing goes, what can't be told goes whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain import Pseudonym
from node.identified.boxes import Box
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, open_data_set
from node.identified.looking import Looker
from node.identified.profile import Options, Profile
from node.identified.rendering import Picture
from tests.rooms.lettering import Text, all_ink
from tests.rooms.test_deidentifier import a_slice, as_received

ROWS, COLUMNS = 203, 301  #: no whole number of bytes
NAME = Text("HADDAD LEILA", 40, 30, 14)


def outline() -> NDArray[np.bool_]:
    """A line around an organ."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    away = ((y - 130) / 60) ** 2 + ((x - 170) / 90) ** 2
    return np.asarray((away > 0.95) & (away < 1.0))


def with_graphics(*frames: NDArray[np.bool_], kind: str = "G") -> Dataset:
    ds = a_slice(1)
    values = ((0x10, "US", ROWS), (0x11, "US", COLUMNS), (0x15, "IS", len(frames)), (0x40, "CS", kind), (0x50, "SS", [1, 1]))
    for element, vr, value in (*values, (0x100, "US", 1), (0x102, "US", 0)):
        ds.add_new(0x60000000 | element, vr, value)
    data = np.packbits(np.concatenate([frame.ravel() for frame in frames]), bitorder="little").tobytes()
    ds.add_new(0x60003000, "OW", data + b"\0" * (len(data) % 2))
    return ds


def cleaned(ds: Dataset, looker: Looker | None) -> Dataset:
    options = Options(clean_graphics=True)
    cleaner = Cleaner(Profile(options), CleanUids(b"k" * 32), Pseudonym("P1"), looker=looker)
    instance = cleaner.clean(open_data_set(as_received(ds).data, "1.2.840.10008.1.2.1"))
    assert isinstance(instance, CleanInstance)
    return dcmread(io.BytesIO(b"".join(instance.file())))


def plane_of(ds: Dataset, frames: int = 1) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(ds[0x60003000].value, np.uint8), bitorder="little")
    return np.asarray(bits[: frames * ROWS * COLUMNS].reshape(frames, ROWS, COLUMNS), bool)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_name_goes_from_a_plane_and_its_outline_stays(frames: int) -> None:
    name = all_ink((ROWS, COLUMNS), NAME)
    clean = cleaned(with_graphics(*[outline() | name] * frames), Looker())

    after = plane_of(clean, frames)
    assert not (after & name).any()
    assert (after == outline()).all()
    assert "113103" in {item.CodeValue for item in clean.DeidentificationMethodCodeSequence}


def test_a_plane_without_writing_keeps_its_very_bytes() -> None:
    ds = with_graphics(outline())

    assert cleaned(ds, Looker())[0x60003000].value == ds[0x60003000].value


def test_a_plane_that_nobody_looks_at_goes() -> None:
    assert not [e for e in cleaned(with_graphics(outline()), None) if e.tag.group == 0x6000]
    assert not [e for e in cleaned(with_graphics(outline()), Looker(text_detection="off")) if e.tag.group == 0x6000]


def test_a_plane_goes_when_something_is_found_again_or_most_of_it_is_writing() -> None:
    seen: list[int] = []

    def more_and_more(picture: Picture) -> list[Box]:
        seen.append(1)
        return [Box(60 + 30 * len(seen), 60, 90 + 30 * len(seen), 195)]

    def a_page(picture: Picture) -> list[Box]:
        return [Box(0, 0, COLUMNS, ROWS)]

    for find in (more_and_more, a_page):
        assert not [e for e in cleaned(with_graphics(outline()), Looker(find_text=find)) if e.tag.group == 0x6000]


@pytest.mark.parametrize(("element", "value"), [(0x10, 0), (0x15, "900"), (0x100, 8), (0x102, 12)])
def test_a_plane_that_is_not_as_it_should_be_goes(element: int, value: object) -> None:
    ds = with_graphics(outline())
    ds[0x60000000 | element].value = value

    assert not [e for e in cleaned(ds, Looker()) if e.tag.group == 0x6000]
