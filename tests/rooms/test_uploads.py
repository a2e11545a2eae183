"""Files that somebody hands in: told apart by their bytes, unpacked within limits, and everything odd refused in words that help."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from typing import Any

import pytest

from node.errors import UploadRefused, UploadTooLarge
from node.imaging.clinical import validated
from node.uploads import Kind, Limits, OneFile, kind_of, sorted_out
from node.web.predict import wanted
from node.web.problems import Problem
from tests.rooms.upload_desk import zipped

DICOM = bytes(128) + b"DICM" + bytes(200)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
LIMITS = Limits(files=20, bytes=4 << 20)


class Spools(list[io.BytesIO]):
    """Counts what was opened."""

    def __call__(self) -> io.BytesIO:
        self.append(io.BytesIO())
        return self[-1]


def kinds(*files: bytes, limits: Limits = LIMITS) -> list[Kind]:
    return [one.kind for one in sorted_out([io.BytesIO(file) for file in files], limits, Spools()).files]


def refused(*files: bytes, limits: Limits = LIMITS, kind: type[UploadRefused] = UploadRefused) -> str:
    """The words of the refusal; everything that was unpacked until then is closed."""
    spools = Spools()
    with pytest.raises(kind) as why:
        sorted_out([io.BytesIO(file) for file in files], limits, spools)
    assert all(spool.closed for spool in spools)
    return why.value.detail


def test_files_are_told_apart_by_their_first_bytes_and_not_by_their_names() -> None:
    assert kinds(DICOM, DICOM) == [Kind.DICOM, Kind.DICOM]
    assert kinds(PNG, JPEG) == [Kind.PNG, Kind.JPEG]
    assert kind_of(b"%PDF-1.7") is None


def test_a_zip_gives_its_files_and_leaves_out_what_a_viewer_brought_along() -> None:
    packed = zipped({"DICOMDIR": DICOM, "series/IM1": DICOM, "series/IM2": DICOM, "README.TXT": b"read me", "__MACOSX/._IM1": b"x"})

    found = sorted_out([io.BytesIO(packed)], LIMITS, Spools())

    assert [one.kind for one in found.files] == [Kind.DICOM, Kind.DICOM]
    assert found.files[1].file.read() == DICOM
    assert found.left_out == 1


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "File 1 is empty"),
        (b"%PDF-1.7", "of no kind that is taken"),
        (zipped({"readme": b"nothing"}), "nothing to look at"),
        (zipped([]), "nothing to look at"),
        (zipped({"inner.zip": zipped([DICOM])}), "a zip inside"),
        (zipped({"../../etc/IM1": DICOM}), "a path outside"),
        (zipped({"/etc/IM1": DICOM}), "a path outside"),
        (zipped({"C:\\IM1": DICOM}), "a path outside"),
        (zipped({"..\\IM1": DICOM}), "a path outside"),
        (zipped([DICOM])[:-30], "a damaged zip"),
        (b"PK\x03\x04" + bytes(500), "a damaged zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # the bytes of a zip hold the time
)
def test_what_can_not_be_used_is_refused_with_what_to_do(file: bytes, words: str) -> None:
    assert words in refused(file)


def test_dicom_and_pictures_do_not_mix() -> None:
    assert "either these or those" in refused(DICOM, PNG)


def test_a_symbolic_link_in_a_zip_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("IM1")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in refused(out.getvalue())


def test_an_encrypted_zip_is_refused() -> None:
    packed = bytearray(zipped([DICOM]))
    packed[packed.index(b"PK\x01\x02") + 8] |= 1  # the flag in the list of members, APPNOTE 4.4.4
    assert "encrypted" in refused(bytes(packed))


def test_an_unusual_compression_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("IM1", DICOM)
    assert "unusual" in refused(out.getvalue())


def test_a_zip_bomb_is_stopped_at_the_limit_whatever_it_declares() -> None:
    bomb = bytearray(zipped({f"IM{n}": DICOM + bytes(1 << 20) for n in range(8)}))
    assert len(bomb) < 64 << 10
    assert "larger than 4 MB" in refused(bytes(bomb), kind=UploadTooLarge)

    at = bomb.index(b"PK\x01\x02")
    struct.pack_into("<L", bomb, at + 24, 100)  # it says that the first member is 100 bytes
    assert refused(bytes(bomb))


def test_too_many_files_are_refused_in_a_zip_and_beside_each_other() -> None:
    assert "more than 20 files" in refused(*[DICOM] * 21, kind=UploadTooLarge)
    assert "more than 20 files" in refused(zipped([DICOM] * 21), kind=UploadTooLarge)
    assert "141 members" in refused(zipped([b"x"] * 141), kind=UploadTooLarge)


def test_a_list_of_members_that_would_fill_the_memory_is_not_read() -> None:
    packed = bytearray(zipped([DICOM]) + bytes(40 << 20))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 39 << 20, 1 << 20, 0)
    assert "list of members" in refused(bytes(packed) + end, kind=UploadTooLarge)


def test_many_files_lie_in_one_and_are_read_in_any_order() -> None:
    spools = Spools()
    many = OneFile(spools)
    first = many.spool()
    first.write(b"the first ")
    first.write(b"file")
    second = many.spool()
    second.write(b"the second")
    first.seek(4)
    second.seek(0)

    assert (first.read(5), second.read(3), first.read(), second.read()) == (b"first", b"the", b" file", b" second")
    assert first.seek(0, 2) == 14
    with pytest.raises(ValueError, match="written once"):
        first.write(b"more")
    many.close()
    assert [spool.closed for spool in spools] == [True]


# --- what is said beside the files ----------------------------------------------------------------------------------------------
def test_clinical_values_are_taken_under_their_short_and_long_names() -> None:
    told = validated({"age": 61, "sex": "female", "weight_kg": 70.5, "temperature": "38.4", "spo2": None, "view": "ap supine"})
    assert told == {"age_years": 61, "sex": "F", "weight_kg": 70.5, "temperature_c": 38.4, "view": "AP SUPINE"}
    assert validated({"age": "006M"}) == {"age_years": 0.5}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"name": "Duck"}, "not known"),
        ({"age": 200}, "age_years is a number from 0 to 120"),
        ({"age": True}, "age_years"),
        ({"temperature": "hot"}, "temperature_c is a number from 30 to 44"),
        ({"temperature": float("nan")}, "temperature_c"),
        ({"sex": "x"}, "sex is one of"),
        ({"view": "<b>"}, "View Position"),
        ({"age": 3, "age_years": 4}, "twice"),
        ([1], "an object of JSON"),
    ],
)
def test_clinical_values_that_can_not_be_understood_are_refused_and_not_repeated(told: Any, words: str) -> None:
    with pytest.raises(UploadRefused) as why:
        validated(told)
    assert words in why.value.detail
    assert "Duck" not in str(why.value)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/dicom", "application/dicom"),
        ("text/html, image/png;q=0.3, application/dicom", "application/dicom"),
        ("application/*;q=0.5, image/png;q=0.2", "application/dicom"),
        ("*/*;q=0.1, image/png;q=0", "application/dicom"),
    ],
)
def test_the_kind_of_picture_is_negotiated(accept: str, kind: str) -> None:
    assert wanted(accept) == kind


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "image/png;q=0", ""])
def test_a_picture_of_another_kind_is_not_to_be_had(accept: str) -> None:
    with pytest.raises(Problem) as why:
        wanted(accept)
    assert why.value.status == 406
