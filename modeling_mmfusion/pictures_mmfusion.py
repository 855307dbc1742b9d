"""Pictures of products and queries: read from what catalogues hold, upright and in RGB."""

import os
from collections.abc import Mapping
from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from .text_mmfusion import is_missing

MAX_PIXELS = 64_000_000
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # none that runs another program


def pictures_of(image) -> list:
    """A product's pictures, of which a catalogue holds one or a list, without those that are missing."""
    pictures = image if isinstance(image, (list, tuple)) else [image]
    return [picture for picture in pictures if not is_missing(picture)]


def load_picture(picture, min_side: int | None = None) -> Image.Image:
    """Reads a picture, turned upright and on a white background, as RGB.

    Args:
        picture (`PIL.Image.Image`, `str`, `PathLike`, `bytes` or `Mapping`): the last is a `datasets` Image that is
            not decoded.
        min_side (`int`, *optional*): a JPEG file that is larger is read at 1/2, 1/4 or 1/8 of its size, which takes a
            fraction of the time, as long as no side becomes shorter than this many pixels.

    Raises:
        ValueError: if it can't be read, is none of JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF, or has more than 64
            million pixels; the message is one line.
    """
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    is_file = not isinstance(picture, Image.Image)
    try:
        if isinstance(picture, bytes):
            picture = Image.open(BytesIO(picture), formats=PICTURE_FORMATS)
        elif isinstance(picture, (str, os.PathLike)):
            picture = Image.open(picture, formats=PICTURE_FORMATS)
        elif is_file:
            raise ValueError(f"a picture must be a PIL image, a path or bytes, not {type(picture).__name__}")
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many (at most {MAX_PIXELS:,})")
        if min_side and is_file:
            picture.draft(None, (min_side, min_side))  # no effect but on JPEG
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "no picture format that is known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"unreadable picture ({reason})") from error
