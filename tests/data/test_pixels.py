"""Pictures turned upright: as Pillow does it, whatever else their metadata hold."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from mdrepro.data import pixels

VALUES = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
ASCII, SHORT, RATIONAL, SIGNED = 2, 3, 5, 10


def exif(*entries):
    """An EXIF block of entries (tag, type, number of values, bytes), as cameras write them, correct or not."""
    start = 8 + 2 + 12 * len(entries) + 4
    table, values = struct.pack("<H", len(entries)), b""
    for tag, kind, count, content in entries:
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", start + len(values))
        values += content if len(content) > 4 else b""
        table += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 0) + values


def orientation(value):
    return 0x0112, SHORT, 1, struct.pack("<H", value)


@pytest.mark.parametrize("value", range(10))
def test_each_orientation_is_applied_as_pillow_applies_it(tmp_path, value):
    file = tmp_path / "a.jpg"
    Image.fromarray(VALUES).save(file, exif=exif(orientation(value)))
    assert np.array_equal(np.array(pixels.rgb(file, "a")), np.array(ImageOps.exif_transpose(Image.open(file))))


ODD = {
    "a rational maker": (0x010F, RATIONAL, 1, struct.pack("<II", 1, 2)),
    "a resolution of -1/0": (0x011A, SIGNED, 1, struct.pack("<ii", -1, 0)),
    "a resolution of 0/0": (0x011A, RATIONAL, 1, struct.pack("<II", 0, 0)),
    "a text beyond the end": (0x010F, ASCII, 5000, b"abcdefgh"),
    "an unknown type": (0x010F, 99, 1, b"abcd"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("value", [1, 6])
def test_an_odd_tag_does_not_make_a_good_picture_unreadable(tmp_path, odd, value):
    Image.fromarray(VALUES).save(tmp_path / "plain.jpg", exif=exif(orientation(value)))
    Image.fromarray(VALUES).save(tmp_path / "odd.jpg", exif=exif(*sorted([ODD[odd], orientation(value)])))
    plain, found = (np.array(pixels.rgb(tmp_path / f"{name}.jpg", name)) for name in ("plain", "odd"))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize(("tag", "content"), [(ASCII, b"six\0"), (RATIONAL, struct.pack("<II", 1, 0))])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, tag, content):
    Image.fromarray(VALUES).save(tmp_path / "a.jpg", exif=exif((0x0112, tag, 1, content)))
    assert pixels.rgb(tmp_path / "a.jpg", "a").size == (40, 24)
