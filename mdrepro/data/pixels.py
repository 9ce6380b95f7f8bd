"""From a picture file to pixels: one reader for photographs and captioned pictures, and how it is made square."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from mdrepro.core.errors import BadInput

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
OTHER_FORMATS = (
    *(".apng", ".avif", ".bmp", ".cr2", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jfif", ".jp2"),
    *(".jpe", ".jxl", ".mpo", ".npy", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff"),
)
"""Suffixes of pictures that are not read, though they may lie in a folder of those that are."""
FITS = ("center-crop", "resize")
FILTER = Image.Resampling.LANCZOS
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def rgb(source: Path | bytes, name: str) -> Image.Image:
    """A picture as 8-bit RGB, turned upright as its EXIF tag says.

    Grey, palette and CMYK pictures become RGB; transparent ones are laid on white. Of colour PNGs with 16 bits a
    channel Pillow keeps the upper 8; grey ones are refused. Raises BadInput, which calls it ``name``, for what is
    unreadable, not PNG, JPEG or WebP, or grey with more than 8 bits.
    """
    allowed = "a readable PNG, JPEG or WebP file with 8 bits a channel is needed"
    try:
        with opened(source) as given:
            given.load()
            picture = _upright(given)
            if picture.mode.startswith(("I", "F")):
                raise BadInput(f"{name} has pixel mode {picture.mode}: {allowed}")
            if picture.has_transparency_data:
                over = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
            return picture.convert("RGB")
    except BadInput:
        raise
    except Exception as error:  # decoders of damaged files raise anything
        raise BadInput(f"cannot read {name} ({type(error).__name__}): {allowed}") from error


def opened(source: Path | bytes) -> ImageFile.ImageFile:
    """A PNG, JPEG or WebP, not decoded yet; of a PNG the checksum of each chunk was checked, as decoding does not.

    Raises whatever Pillow raises for any other file, or a damaged one.
    """
    for check in (True, False):
        file = source if isinstance(source, Path) else io.BytesIO(source)
        picture = Image.open(file, formats=sorted(set(FORMATS.values())))
        if not check or picture.format != "PNG":
            break
        with picture:
            picture.verify()
    return picture


def unread(file: Path) -> str:
    """Why a file of a folder is a picture that is not read: "is of another format", "leads nowhere"; or ""."""
    suffix = file.suffix.lower()
    if suffix not in (*FORMATS, *OTHER_FORMATS) or file.is_dir():
        return ""
    if not file.exists():
        return "leads nowhere"
    return "is of another format" if suffix in OTHER_FORMATS else ""


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as the EXIF tag of orientation says; no other tag is looked at, as any of them may be malformed."""
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata that cannot be parsed say nothing
        turn = None
    return picture if turn is None else picture.transpose(turn)


def square(picture: Image.Image, size: int, fit: str) -> Image.Image:
    """An RGB picture at ``size`` x ``size`` px, resampled once by Pillow's antialiased Lanczos filter (a = 3).

    ``fit`` is ``center-crop``: the largest square in the middle (half a pixel too much is left at the right and below),
    which is copied where it has that size already; or ``resize``: everything, squashed.
    """
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if fit == "center-crop" else (0, 0, width, height)
    return picture.resize((size, size), FILTER, box=box)


def tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8, (3, h, w)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
