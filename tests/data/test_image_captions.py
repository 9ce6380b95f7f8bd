"""Captions of images: which goes to which, and when an order in doubt is named."""

import json

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.data import image_captions

NUMBERS = [f"{i}.png" for i in range(12)]


@pytest.mark.parametrize(
    ("names", "order", "says"),
    [
        (NUMBERS, NUMBERS, "by number (0.png, 1.png, 2.png, ...), not by text (0.png, 1.png, 10.png, ...)"),
        ([f"{i:03}.png" for i in range(12)], None, ""),
        (["10cd.png", "2ab.png", "z.png"], None, "by text (10cd.png, 2ab.png, z.png, ...), not by number (2ab.png"),
        (["a.png", "a1.png", "b.png"], None, ""),
        (
            ["x-2-1.png", "x-2-10.png", "x-2-9.png"],
            ["x-2-1.png", "x-2-9.png", "x-2-10.png"],
            "by number (x-2-1.png, x-2-9",
        ),
    ],
)
def test_captions_without_names_go_by_number_and_two_orders_are_named(tmp_path, caplog, names, order, says):
    lines = tmp_path / "captions.txt"
    lines.write_text("\n".join(f"of {name}" for name in order or sorted(names)))
    images = [tmp_path / name for name in sorted(names)]
    assert image_captions.read(lines, images) == [f"of {image.name}" for image in images]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(says)
    assert not says or says in told[0]


def test_captions_with_names_go_by_them(tmp_path, caplog):
    rows = [{"file_name": name, "text": f"of {name}"} for name in NUMBERS]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = [tmp_path / name for name in sorted(NUMBERS)]
    assert image_captions.read(tmp_path / "c.jsonl", images) == [f"of {image.name}" for image in images]
    assert not caplog.records
    with pytest.raises(BadInput, match=r"no caption for more\.png"):
        image_captions.read(tmp_path / "c.jsonl", [*images, tmp_path / "more.png"])
