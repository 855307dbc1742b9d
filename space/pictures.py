"""Pictures from visitors and catalogues: read with bounds, made small, shown without a file."""

import base64
import ctypes
import sys
from contextlib import nullcontext
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # none that runs another program
MAX_PIXELS = 24_000_000
MAX_JPEG_PIXELS = 40_000_000  # which are decoded at a fraction of their size
MAX_BYTES = 20_000_000
ENOUGH = 768  # pixels of a side: all that is shown and embedded is smaller
LARGE = 4_000_000  # pixels; larger pictures are decoded one at a time
AT_MOST = f"at most {MAX_JPEG_PIXELS // 10**6} million are read of a JPEG, {MAX_PIXELS // 10**6} million of others"
SHORT = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation

decoding = Lock()


def read_picture(content: bytes) -> Image.Image:
    """Reads a picture upright, on a white background, as RGB. A large one is made smaller by a whole number, so that
    the longer side has at least 768 pixels.

    Args:
        content (`bytes`): a picture file; its name doesn't matter.

    Raises:
        ValueError: if it is too large, damaged or no picture; the message is one sentence. Sizes are checked before
            anything is decoded.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"The picture has {len(content) / 1e6:,.0f} MB; at most {MAX_BYTES // 10**6} MB are read.")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            most, pixels = MAX_JPEG_PIXELS if picture.format == "JPEG" else MAX_PIXELS, picture.width * picture.height
            if pixels <= most:
                return _decoded(picture, pixels > LARGE)
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"The picture has too many pixels; {AT_MOST}.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"This is no picture that can be read; give a {SHORT}.") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError("The picture is damaged or cut off; save it anew and try again.") from error
    raise ValueError(f"The picture has {width:,} x {height:,} pixels; {AT_MOST}.")


def pixels_of(content: bytes) -> int:
    """How many pixels of a picture file are decoded, to bound those of many; 0 if it is none."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            picture.draft("RGB", (ENOUGH, ENOUGH))
            return picture.width * picture.height
    except Exception:  # what is wrong with it is told by [`read_picture`]
        return 0


def _decoded(picture: Image.Image, is_large: bool) -> Image.Image:
    """An opened picture as [`read_picture`] gives it."""
    with decoding if is_large else nullcontext():
        picture.draft("RGB", (ENOUGH, ENOUGH))  # a JPEG is decoded at a fraction of its size
        turn = TURNS.get(_orientation(picture))
        picture = _reduced(picture)
        picture = picture if turn is None else picture.transpose(turn)
    if is_large:
        give_back_memory()
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _orientation(picture: Image.Image) -> int | None:
    """What the EXIF says of a picture's orientation; the rest of an EXIF, which may be damaged, is not read.

    TIFF is turned by Pillow itself.
    """
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return found if isinstance(found, int) and picture.format != "TIFF" else None


def _reduced(picture: Image.Image) -> Image.Image:
    """A picture decoded, and made smaller if it is more than twice as large as needed."""
    picture.load()
    factor = max(picture.size) // ENOUGH
    if factor < 2:
        return picture
    if picture.mode in ("1", "P", "PA"):  # whose pixels can't be mixed
        has_alpha = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if has_alpha else "RGB")
    return picture.reduce(factor)


def give_back_memory() -> None:
    """Gives memory that was freed back to the system, where the C library would keep it (glibc)."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def small_jpeg(content: bytes, size: int) -> bytes:
    """A picture file as a JPEG of at most `size` x `size` pixels; see [`read_picture`] for errors."""
    picture = read_picture(content)
    picture.thumbnail((size, size))
    return as_jpeg(picture)


def as_jpeg(picture: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def data_address(jpeg: bytes) -> str:
    """A JPEG as an address that a page shows without a file or another request."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def with_map(pixels: np.ndarray, cells: np.ndarray) -> bytes:
    """A picture with a map laid over it, as a JPEG.

    Args:
        pixels (`np.ndarray` of shape `(height, width, 3)`): from 0 to 255.
        cells (`np.ndarray` of shape `(rows, columns)`): from 0 to 1; what is strong glows.
    """
    height, width, _ = pixels.shape
    heat = Image.fromarray((255 * np.clip(cells, 0, 1)).astype(np.uint8))
    strength = np.asarray(heat.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    pale = 0.6 * pixels.mean(axis=-1, keepdims=True) + 80
    glow = np.array([232.0, 84.0, 16.0])
    mixed = pale * (1 - 0.8 * strength) + 0.8 * strength * (0.35 * pixels + 0.65 * glow)
    return as_jpeg(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)))
