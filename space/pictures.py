"""Pictures from visitors and catalogues: read with bounds, made small, shown without a file."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # none that runs another program
MAX_PIXELS = 40_000_000
MAX_BYTES = 20_000_000
SHORT = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


def read_picture(content: bytes) -> Image.Image:
    """Reads a picture upright, on a white background, as RGB.

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
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"The picture has {picture.width:,} x {picture.height:,} pixels; "
                    f"at most {MAX_PIXELS // 10**6} million are read."
                )
            picture.draft("RGB", (768, 768))  # a JPEG is decoded at a fraction of its size
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"The picture has too many pixels; at most {MAX_PIXELS // 10**6} million are read."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"This is no picture that can be read; give a {SHORT}.") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError("The picture is damaged or cut off; save it anew and try again.") from error


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
