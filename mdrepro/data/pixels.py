"""From a picture file to pixels: one reader for photographs and captioned pictures, and how it is made square."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mdrepro.core.errors import BadInput

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
FITS = ("center-crop", "resize")
FILTER = Image.Resampling.LANCZOS
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def rgb(source: Path | bytes, name: str) -> Image.Image:
    """A picture as 8-bit RGB, turned upright as its EXIF tag says.

    Grey, palette and CMYK pictures become RGB; transparent ones are laid on white. Of colour PNGs with 16 bits a
    channel Pillow keeps the upper 8; grey ones are refused. Raises BadInput, which calls it ``name``, for what is
    unreadable, not PNG, JPEG or WebP, or grey with more than 8 bits.
    """
    allowed = "a readable PNG, JPEG or WebP file with 8 bits a channel is needed"
    try:
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=sorted(set(FORMATS.values()))) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
        if picture.mode.startswith(("I", "F")):
            raise BadInput(f"{name} has pixel mode {picture.mode}: {allowed}")
        if picture.has_transparency_data:
            over = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        return picture.convert("RGB")
    except BadInput:
        raise
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read {name} ({type(error).__name__}): {allowed}") from error


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
