"""Pictures of products: found, read within bounds, made small, told apart."""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.pictures_mmfusion import load_picture, pictures_of


def pictures_digest(pictures, place: str) -> str:
    """A digest of a product's pictures, one or a list of them; `""` if there is none.

    It is of the pictures' bytes. Where there is nothing to read, such as a path without a file, it is of the `place`,
    so that no two products are taken to have the same picture.
    """
    contents = [picture_content(picture) for picture in pictures_of(pictures)]
    contents = [f"nothing to read: {place}".encode() if content is None else content for content in contents]
    if len(contents) > 1:  # their ends count
        contents = [hashlib.sha256(content).digest() for content in contents]
    return hashlib.sha256(b"".join(contents)).hexdigest() if contents else ""


def picture_content(picture) -> bytes | None:
    """The bytes of a picture that is there, from its file if it is only named; of one in memory its size and pixels.
    `None` where there is nothing to read."""
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes() if os.path.isfile(picture) else None
    if isinstance(picture, Image.Image):
        return f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
    return None


PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".JPG", ".JPEG", ".PNG", ".WEBP", ".GIF")
KEPT_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class SpooledPicture:
    """Where a picture is in a [`PictureSpool`].

    Attributes:
        start (`int`): its first byte.
        size (`int`): its bytes.
        path (`str`): its file's name.
    """

    start: int
    size: int
    path: str


class PictureSpool:
    """Pictures on disk, from when they were read until they are written to their splits, so that memory holds one.

    Args:
        folder (`Path`): where the file is; it has no name, so nothing is left however the process ends.
    """

    def __init__(self, folder: Path):
        self.folder, self.size = folder, 0

    @cached_property
    def file(self) -> BinaryIO:
        """The file, made when the first picture comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.folder)

    def add(self, picture: dict) -> SpooledPicture:
        """Keeps a picture `{"bytes", "path"}` and gives its place.

        Raises:
            DataError: if the disk is full.
        """
        place = SpooledPicture(self.size, len(picture["bytes"]), picture["path"])
        try:
            self.file.seek(place.start)
            self.file.write(picture["bytes"])
        except OSError as error:
            raise DataError(f"{self.folder}: no place for the pictures: {one_line(error)}") from error
        self.size += place.size
        return place

    def get(self, place: SpooledPicture | None) -> dict | None:
        """The picture at a place; `None` if there is none."""
        if place is None:
            return None
        self.file.seek(place.start)
        return {"bytes": self.file.read(place.size), "path": place.path}


def path_inside(folder: str, name: str) -> str | None:
    """The path of a file, links followed; `None` if it isn't in the folder."""
    path = os.path.realpath(os.path.join(folder, name.replace("\0", "")))
    return path if path.startswith(os.path.join(folder, "")) else None


def fit_picture(content: bytes, name: str, size: int) -> dict:
    """A picture as `{"bytes", "path"}`: as it is if JPEG, PNG or WebP and small enough, else as a JPEG that fits.

    Args:
        content (`bytes`): the file.
        name (`str`): its name.
        size (`int`): the longest side that is kept.

    Raises:
        ValueError: if it can't be read.
    """
    picture, name = load_picture(content), os.path.basename(name)
    if max(picture.size) <= size and Image.open(io.BytesIO(content)).format in KEPT_FORMATS:
        return {"bytes": content, "path": name}
    picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    smaller = io.BytesIO()
    picture.save(smaller, "JPEG", quality=90)
    return {"bytes": smaller.getvalue(), "path": os.path.splitext(name)[0] + ".jpg"}
