"""Reading folders of images: the pixels that other packages see, and what is refused."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from torch_fidelity.datasets import ImagesPathDataset

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import images

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 16, 3), dtype=np.uint8)
GREY, OPAQUE = RGB[..., 0], np.full((20, 16), 255, np.uint8)


def with_alpha(alpha, *planes):
    return Image.fromarray(np.dstack([*planes, alpha]))


def deep(channels):
    """A PNG of 16 bits a channel, which Pillow writes for grey alone."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    pixels = RNG.integers(0, 2**16, (20, 16, channels)).astype(">u2")

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 20, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("rgb.png", Image.fromarray(RGB)),
        ("grey.png", Image.fromarray(GREY)),
        ("bits.png", Image.fromarray(GREY > 100)),
        ("palette.png", Image.fromarray(RGB).quantize(16)),
        ("opaque.png", with_alpha(OPAQUE, RGB)),
        ("grey_alpha.png", with_alpha(OPAQUE, GREY)),
        ("photo.jpg", Image.fromarray(RGB)),
        ("photo.JPEG", Image.fromarray(RGB)),
        ("print.jpg", with_alpha(GREY, RGB).convert("CMYK")),
        ("photo.webp", Image.fromarray(RGB)),
    ],
)
def test_pixels_are_what_torch_fidelity_reads(tmp_path, name, picture):
    picture.save(tmp_path / name)
    found = images.read(tmp_path / name)
    assert found.shape == (3, 20, 16)
    assert found.is_contiguous()
    assert (found == ImagesPathDataset([tmp_path / name])[0]).all()


def test_an_orientation_in_exif_is_not_applied_as_elsewhere(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif)
    assert images.read(tmp_path / "turned.jpg").shape == (3, 20, 16)


def written(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bad_files():
    whole, good = Image.fromarray(RGB), written(Image.fromarray(RGB))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": (b"", "cannot read"),
        "text": (b"hello", "cannot read"),
        "cut": (good[: len(good) // 2], "cannot read"),
        "flipped": (bytes(flipped), "cannot read"),
        "raw": (RGB.tobytes(), "cannot read"),
        "gif": (written(whole, "GIF"), "cannot read"),
        "grey16": (deep(1), "more than 8 bits a channel"),
        "grey_alpha16": (deep(2), "more than 8 bits a channel"),
        "rgb16": (deep(3), "more than 8 bits a channel"),
        "rgba16": (deep(4), "more than 8 bits a channel"),
        "transparent": (written(with_alpha(GREY, RGB)), "transparent somewhere"),
        "palette": (written(whole.quantize(16), transparency=3), "transparent somewhere"),
        "animated": (written(whole, save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "animated"),
    }


@pytest.mark.parametrize("fault", bad_files())
def test_what_would_be_lost_or_guessed_is_refused(tmp_path, fault):
    content, says = bad_files()[fault]
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=f"x.png.*{says}.*: expected PNG|cannot read .*x.png.*: expected PNG") as found:
        images.read(path)
    assert says in str(found.value)


def test_sixteen_pixels_are_not_sixteen_bits(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "16.png")
    assert images.read(tmp_path / "16.png").shape == (3, 16, 16)


def test_folders_are_listed_by_name_without_what_is_no_picture(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png", "manifest.json", "captions.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.png").mkdir()
    assert [file.name for file in images.files(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    (tmp_path / "d.TIFF").write_bytes(b"")
    with pytest.raises(BadInput, match=r"1 pictures of other formats, such as d.TIFF: expected PNG, JPEG and WebP"):
        images.files(tmp_path)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="holds no images: expected"):
        images.files(tmp_path)
    (tmp_path / "class1").mkdir()
    with pytest.raises(BadInput, match="subfolders are not looked into"):
        images.files(tmp_path)
    with pytest.raises(BadInput, match="is no folder"):
        images.files(tmp_path / "nowhere")


def test_reading_ahead_keeps_the_order_and_raises_in_order():
    read = {number: threading.Event() for number in range(20)}

    def late(number):
        """Every third comes after the one behind it."""
        if number % 3 == 0 and number + 1 in read:
            assert read[number + 1].wait(60)
        read[number].set()
        if number == 7:
            raise BadInput("seven")
        return number

    ready = images.ahead(range(20), late, readers=4, depth=5)
    assert [next(ready) for _ in range(7)] == list(range(7))
    with pytest.raises(BadInput, match="seven"):
        next(ready)


def test_reading_ahead_goes_no_further_than_asked():
    started = []
    ready = images.ahead(range(100), started.append, readers=2, depth=4)
    for _ in range(3):
        next(ready)
    ready.close()
    assert len(started) <= 8


@pytest.mark.parametrize("suffix", ["heic", "jxl", "jfif", "avif", "SVG"])
def test_pictures_that_cannot_be_read_are_never_passed_over(tmp_path, suffix):
    for name in ("a.png", f"b.{suffix}"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match=f"1 pictures of other formats, such as b.{suffix}"):
        images.files(tmp_path)


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "notes").symlink_to("gone")
    assert [file.name for file in images.files(tmp_path)] == ["a.png", "b.png"]
    (tmp_path / "c.png").symlink_to("gone.png")
    with pytest.raises(BadInput, match=r"1 links that lead nowhere, such as c\.png"):
        images.files(tmp_path)


def test_of_a_camera_s_file_of_several_pictures_the_first_is_read(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "one.jpg", quality=90)
    further = [Image.fromarray(RGB[::-1])]
    Image.fromarray(RGB).save(tmp_path / "many.jpg", "MPO", save_all=True, append_images=further, quality=90)
    with Image.open(tmp_path / "many.jpg") as many:
        assert (many.format, many.n_frames) == ("MPO", 2)
    assert (images.read(tmp_path / "many.jpg") == images.read(tmp_path / "one.jpg")).all()
