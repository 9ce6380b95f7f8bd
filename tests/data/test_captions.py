"""Captioned pictures: geometry against Lanczos weights by hand, COCO, folders, what is broken, and clear errors."""

import io
import json
import logging
import random
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mdrepro.core.errors import BadInput
from mdrepro.data import captions, pixels
from mdrepro.data.captions import Preparation

HOW = Preparation(8)


def picture(path, colour=0, size=(12, 10)):
    """One flat colour (red), so that a sample tells which file it came from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)
    return path


def colours(batch):
    return batch["pixels"][:, 0, 0, 0].tolist()


def coco_file(tmp_path, count=5, each=2, **changes):
    """Pictures 0..4 of reds 0, 10, 20 ...; captions lie mixed, as in the real file."""
    content = {
        "images": [{"id": 90 - i, "file_name": f"{i}.png", "width": 12} for i in range(count)],
        "annotations": [
            {"image_id": 90 - i, "id": i + count * k, "caption": f" picture {i} wording {k}\n"}
            for k in range(each)
            for i in reversed(range(count))
        ],
    }
    for i in range(count):
        picture(tmp_path / "images" / f"{i}.png", 10 * i)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(content | changes))
    return file


def coco(tmp_path, how=HOW, **changes):
    return captions.coco(coco_file(tmp_path, **changes), tmp_path / "images", how)


def folder_of(tmp_path, count=10):
    for i in range(count):
        picture(tmp_path / "in" / f"{i}.png", 10 * i)
    lines = [json.dumps({"file_name": f"in/{i}.png", "text": f"picture {i}"}) for i in range(count)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


# -- pixels -----------------------------------------------------------------------------------------------------------


def lanczos(source, start, length, target):
    """Weights (target, source) that scale ``length`` px from ``start`` to ``target``: Lanczos, a = 3, as wide as the
    scale where it shrinks."""
    scale = length / target
    wide = max(scale, 1)
    centres = start + (np.arange(target)[:, None] + 0.5) * scale
    x = (np.arange(source)[None] + 0.5 - centres) / wide
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("width", "height", "size", "fit", "box"),
    [
        (61, 40, 13, "center-crop", (10, 0, 40, 40)),
        (30, 51, 13, "center-crop", (0, 10, 30, 30)),
        (10, 8, 32, "center-crop", (1, 0, 8, 8)),
        (61, 40, 13, "resize", (0, 0, 61, 40)),
        (20, 40, 32, "resize", (0, 0, 20, 40)),
    ],
)
def test_squares_are_lanczos_by_hand(width, height, size, fit, box):
    values = np.random.default_rng(width).integers(60, 190, (height, width, 3), dtype=np.uint8)
    ours = pixels.tensor(pixels.square(Image.fromarray(values), size, fit)).permute(1, 2, 0).double().numpy()
    left, top, across, down = box
    rows, columns = lanczos(height, top, down, size), lanczos(width, left, across, size)
    truth = np.einsum("yh,hwc,xw->yxc", rows, values.astype(float), columns)
    assert np.abs(ours - truth).max() < 1.6  # Pillow rounds to 8 bits after each of its two passes
    assert np.abs(ours - truth).mean() < 0.5


def test_a_crop_of_the_wanted_size_is_a_copy():
    values = np.random.default_rng(0).integers(0, 256, (16, 21, 3), dtype=np.uint8)
    ours = pixels.tensor(pixels.square(Image.fromarray(values), 16, "center-crop"))
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), values[:, 2:18])


def png16(colour_type, *pixel):
    """A 4x4 PNG with 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * 4) * 4
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    def reading(image, suffix="png", **options):
        file = tmp_path / f"one.{suffix}"
        image.save(file, **options)
        return np.array(pixels.rgb(file, "it"))[0, 0].tolist()

    assert reading(Image.new("L", (2, 2), 77)) == [77, 77, 77]
    assert reading(Image.new("1", (2, 2), 1)) == [255, 255, 255]
    assert reading(Image.new("RGB", (2, 2), (9, 8, 200)).quantize(4)) == [9, 8, 200]
    assert reading(Image.new("RGBA", (2, 2), (0, 100, 200, 51))) == [204, 224, 244]  # one fifth over white
    assert reading(Image.new("LA", (2, 2), (100, 0))) == [255, 255, 255]
    assert reading(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)) == [255, 255, 255]
    assert reading(Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "jpg") == [0, 0, 0]
    assert np.array(pixels.rgb(png16(2, 0x1234, 0x80FF, 0xFFFF), "it"))[0, 0].tolist() == [0x12, 0x80, 0xFF]
    with pytest.raises(BadInput, match="it has pixel mode I;16"):
        pixels.rgb(png16(0, 0x1234), "it")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_no_damage_gets_past_the_reader(kind):
    """Every byte changed in turn; a changed EXIF tag alone makes Pillow raise struct.error and TypeError."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 9
    values = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, exif=exif)
    whole = file.getvalue()
    refused = 0
    for place in range(len(whole)):
        for value in (0, 26, 255):
            try:
                pixels.rgb(whole[:place] + bytes([value]) + whole[place + 1 :], "it")
            except BadInput:
                refused += 1
    assert refused > 100


# -- samples ----------------------------------------------------------------------------------------------------------


def test_coco_pairs_lie_side_by_side(tmp_path):
    data = coco(tmp_path)
    assert len(data) == 10
    batch = data.batch([0, 1, 9, 2, 0])
    assert batch["pixels"].dtype == torch.uint8
    assert batch["pixels"].shape == (5, 3, 8, 8)
    assert colours(batch) == [0, 0, 40, 10, 0]
    assert batch["caption"] == [f"picture {p} wording {k}" for p, k in ((0, 0), (0, 1), (4, 1), (1, 0), (0, 0))]
    assert data.batch(range(8, 10))["caption"] == ["picture 4 wording 0", "picture 4 wording 1"]
    with pytest.raises(IndexError):
        data.batch([10])


def test_the_first_caption_alone(tmp_path):
    data = coco(tmp_path, Preparation(8, captions="first"))
    assert data.batch(range(len(data)))["caption"] == [f"picture {i} wording 0" for i in range(5)]


def test_a_batch_decodes_a_picture_once(tmp_path, monkeypatch):
    data = coco(tmp_path)
    seen = []
    monkeypatch.setattr(pixels, "rgb", lambda content, name, real=pixels.rgb: seen.append(1) or real(content, name))
    data.batch([0, 1, 0, 4])
    assert len(seen) == 2


def test_a_folder_reads_its_metadata(tmp_path):
    root = folder_of(tmp_path)
    picture(root / "in" / "unnamed.png")
    with open(root / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write('\n\n{"file_name": "in/9é.png", "text": "a\u2028b", "more": 1}\r\n')
    picture(root / "in" / "9é.png", 99)
    (root / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + (root / "metadata.jsonl").read_bytes())
    data = captions.folder(root, HOW)
    batch = data.batch(range(len(data)))
    assert colours(batch) == [*range(0, 100, 10), 99]
    assert batch["caption"] == [*(f"picture {i}" for i in range(10)), "a\u2028b"]


def test_the_fingerprint_follows_what_is_read(tmp_path):
    first = coco(tmp_path / "a").fingerprint
    assert coco(tmp_path / "b").fingerprint == first, "it lies elsewhere"
    others = [
        coco(tmp_path / "a", Preparation(9)).fingerprint,
        coco(tmp_path / "a", Preparation(8, "resize")).fingerprint,
        coco(tmp_path / "a", Preparation(8, captions="first")).fingerprint,
        coco(tmp_path / "c", count=4).fingerprint,
        coco(tmp_path / "d", each=3).fingerprint,
    ]
    Image.effect_noise((12, 10), 9).save(tmp_path / "b" / "images" / "0.png")
    others.append(captions.coco(tmp_path / "b" / "captions.json", tmp_path / "b" / "images", HOW).fingerprint)
    shutil.move(tmp_path / "a" / "images" / "0.png", tmp_path / "a" / "images" / "x.png")
    text = (tmp_path / "a" / "captions.json").read_text()
    (tmp_path / "a" / "captions.json").write_text(text.replace('"0.png"', '"x.png"'))
    others.append(captions.coco(tmp_path / "a" / "captions.json", tmp_path / "a" / "images", HOW).fingerprint)
    (tmp_path / "d" / "captions.json").write_text(
        (tmp_path / "d" / "captions.json").read_text().replace("wording 2", "wording 3")
    )
    others.append(captions.coco(tmp_path / "d" / "captions.json", tmp_path / "d" / "images", HOW).fingerprint)
    assert len({first, *others}) == 9


# -- what is broken ---------------------------------------------------------------------------------------------------


def test_a_missing_picture_is_reported_and_gives_no_sample(tmp_path, caplog):
    file = coco_file(tmp_path)
    (tmp_path / "images" / "3.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = captions.coco(file, tmp_path / "images", Preparation(8, broken=0.2))
    assert [record.getMessage() for record in caplog.records] == [f"{file}: left out 3.png: missing"]
    assert colours(data.batch(range(len(data)))) == [0, 0, 10, 10, 20, 20, 40, 40]


def damage(path):
    path.write_bytes(path.read_bytes()[:45])


def test_an_unreadable_picture_is_replaced_by_the_next_sample(tmp_path, caplog):
    data = coco(tmp_path, Preparation(8, broken=0.6))
    for name in ("1.png", "2.png", "4.png"):
        damage(tmp_path / "images" / name)
    with caplog.at_level(logging.WARNING):
        batch = data.batch([2, 3, 4, 9, 0])
        data.batch([2, 8])
    # 1 and 2 are both replaced by 3, the last by the first
    assert colours(batch) == [30, 30, 30, 0, 0]
    assert batch["caption"] == ["picture 3 wording 0"] * 3 + ["picture 0 wording 0"] * 2
    said = [record.getMessage() for record in caplog.records]
    assert [message.split(": ")[1] for message in said] == ["left out 1.png", "left out 2.png", "left out 4.png"]
    assert "cannot read the picture (OSError)" in said[0]


def test_replacements_do_not_depend_on_the_order_of_reading(tmp_path):
    root = folder_of(tmp_path)
    for name in ("2.png", "3.png", "9.png"):
        damage(root / "in" / name)
    runs = []
    for seed in range(5):
        data = captions.folder(root, Preparation(8, broken=0.3))
        order = random.Random(seed).sample(range(10), 10)
        read = {}
        for start in range(0, 10, seed + 1):
            part = order[start : start + seed + 1]
            batch = data.batch(part)
            read |= dict(zip(part, zip(colours(batch), batch["caption"], strict=True), strict=True))
        runs.append(read)
    assert all(read == runs[0] for read in runs)
    assert [runs[0][i][0] for i in (2, 3, 4, 9)] == [40, 40, 40, 0]


@pytest.mark.parametrize("broken", [0.1, 0.29])
def test_beyond_the_share_there_is_one_error(tmp_path, broken):
    root = folder_of(tmp_path)
    for name in ("0.png", "5.png", "6.png"):
        damage(root / "in" / name)
    data = captions.folder(root, Preparation(8, broken=broken))
    with pytest.raises(BadInput, match=r"3 of 10 pictures are broken \(in/0.png: cannot read") as caught:
        data.batch(range(10))
    assert "in/6.png" in str(caught.value)
    assert f"at most {broken} of them may be" in str(caught.value)


def test_the_share_itself_is_allowed_and_one_percent_the_default(tmp_path):
    root = folder_of(tmp_path)
    (root / "in" / "0.png").unlink()
    damage(root / "in" / "5.png")
    assert len(captions.folder(root, Preparation(8, broken=0.2)).batch(range(9))["caption"]) == 9
    with pytest.raises(BadInput, match=r"1 of 10 pictures are broken \(in/0.png: missing\): at most 0.01"):
        captions.folder(root, HOW)


def test_all_broken_is_an_error_at_any_share(tmp_path):
    data = captions.folder(folder_of(tmp_path, 2), Preparation(8, broken=0.99))
    damage(tmp_path / "in" / "0.png")
    damage(tmp_path / "in" / "1.png")
    with pytest.raises(BadInput, match="2 of 2 pictures are broken"):
        data.batch([0])


def test_pictures_without_a_caption_count_as_broken(tmp_path):
    file = coco_file(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] = [a | {"caption": " "} if a["image_id"] == 90 else a for a in content["annotations"]]
    file.write_text(json.dumps(content))
    assert len(captions.coco(file, tmp_path / "images", Preparation(8, broken=0.2))) == 8
    with pytest.raises(BadInput, match=r"1 of 5 pictures are broken \(0.png: no caption\)"):
        captions.coco(file, tmp_path / "images", HOW)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, r"image_id 8\d is not among the images"),
        ({"images": [], "annotations": []}, "holds no captioned pictures"),
        ({"annotations": []}, "5 of 5 pictures are broken"),
        ({"images": {}}, "images: .* valid list"),
        ({"annotations": None}, r"captions\.json: annotations: .* valid list"),
        ({"annotations": [{"image_id": 90, "bbox": [1]}]}, r"annotations\.0\.caption: Field required"),
        ({"annotations": [{"image_id": 90, "caption": 3}]}, r"annotations\.0\.caption: .* valid string"),
        ({"annotations": [{"image_id": True, "caption": "a"}]}, r"annotations\.0\.image_id.*: .* valid integer"),
        ({"annotations": ["a cat"]}, r"annotations\.0: .* valid dictionary"),
        ({"images": [{"id": 1}]}, r"images\.0\.file_name: Field required"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, r"images\[1\]: the id 1 occurs twice"),
    ],
)
def test_a_bad_annotation_file_is_one_error(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        coco(tmp_path, **changes)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "in/../../secret.png"])
def test_no_file_name_leads_out(tmp_path, name):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}))
    with pytest.raises(BadInput, match="expected one inside"):
        captions.folder(tmp_path, HOW)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metadata.jsonl is no file here"),
        (b"", "holds no captioned pictures"),
        (b"\n\n", "holds no captioned pictures"),
        (b"\xff\xfe", "no text in UTF-8"),
        (b'{"file_name": "a.png", "text": "a"}\n{"file_name', "line 2 cannot be read as JSON"),
        (b'{"file_name": "a.png"}', "line 1: text: Field required"),
        (b'{"image": "a.png", "text": "a"}', "line 1: file_name: Field required"),
        (b'["a.png", "a"]', "line 1: .* valid dictionary"),
        (b'{"file_name": "a.png", "text": ["a"]}', "text: .* valid string"),
        (b'{"file_name": "a.png", "text": "a"}\n' * 2, "'a.png' occurs twice"),
    ],
)
def test_bad_metadata_is_one_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        captions.folder(tmp_path, HOW)


def test_missing_places_are_named(tmp_path):
    with pytest.raises(BadInput, match="none"):
        captions.coco(tmp_path / "none.json", tmp_path, HOW)
    with pytest.raises(BadInput, match="nowhere is no folder"):
        captions.coco(coco_file(tmp_path), tmp_path / "nowhere", HOW)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(BadInput, match=r"text\.json cannot be read as JSON"):
        captions.coco(tmp_path / "text.json", tmp_path, HOW)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": "crop"}, "did you mean|allowed: center-crop, resize"),
        ({"captions": "two"}, "allowed: all, first"),
        ({"size": 0}, "1 px or more"),
        ({"broken": 1.0}, "share from 0"),
        ({"broken": -0.1}, "share from 0"),
    ],
)
def test_a_bad_preparation_is_one_error(values, message):
    with pytest.raises(BadInput, match=message):
        Preparation(**({"size": 8} | values))
