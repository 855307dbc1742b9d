"""Files of an index on disk: each save is a new generation, which appears whole or not at all.

A folder holds `index.json` and files named by part and generation, such as `graph-000007.usearch`. `index.json` names
the files of the current generation with their sizes and sha256, and carries a checksum of itself. A save writes its
files under new names, flushes them to the disk and only then replaces `index.json` by a rename; parts that did not
change keep their file. Whoever has the older generation open goes on reading its files, even after they were removed.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: there, see to it yourself that one process saves at a time
    fcntl = None

FORMAT = 2
MANIFEST = "index.json"
FILE_NAME = re.compile(r"(?:graph|vectors|basis|products|words_[a-z]+)-(\d{6,})\.[a-z]+")


class ProductIndexError(ValueError):
    """A folder that is no index of ours, or vectors and products that don't fit. The message is one line."""


def read_manifest(folder: Path) -> dict:
    """What `index.json` says, checked against its own checksum.

    Raises:
        ProductIndexError: if it is missing, damaged or of another format.
    """
    file = folder / MANIFEST
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise ProductIndexError(
            f"{folder}: is no index ({MANIFEST} is missing); build one with training.index"
        ) from None
    except OSError as error:
        raise ProductIndexError(f"{file}: can't be read: {error.strerror}") from error
    try:
        manifest = json.loads(text)
        checksum = manifest.pop("checksum", None)
        version = manifest.get("format")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ProductIndexError(f"{file}: the index is damaged: this is no JSON of ours") from error
    if isinstance(version, int) and version < FORMAT and checksum is None:
        raise ProductIndexError(f"{folder}: is of an older format ({version}); build it again with training.index")
    if checksum != checksum_of(manifest) or version != FORMAT:
        raise ProductIndexError(f"{file}: the index is damaged: its checksum is wrong; build it with training.index")
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replaces `index.json`; from then on the folder is of the new generation."""
    text = json.dumps(manifest | {"checksum": checksum_of(manifest)}, indent=2) + "\n"
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(text, encoding="utf-8")
    flush(partial)
    flush(folder)  # the names of the files that it tells of
    partial.replace(folder / MANIFEST)
    flush(folder)


def checksum_of(manifest: dict) -> str:
    """The sha256 of a manifest without its checksum."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def describe(file: Path) -> dict:
    """Flushes a file that was just written to the disk, and gives its `name`, `size` and `sha256`."""
    flush(file)
    return {"name": file.name, "size": file.stat().st_size, "sha256": sha256_of(file)}


def check_file(folder: Path, facts: dict, contents: bool = True) -> Path:
    """The path of a file that a manifest names.

    Args:
        folder (`Path`): the index's folder.
        facts (`dict`): what [`describe`] gave.
        contents (`bool`, *optional*, defaults to `True`): check the sha256 too, for which the file is read.

    Raises:
        ProductIndexError: if it is not as it was written.
        FileNotFoundError: if it is not there.
    """
    file = folder / facts["name"]
    if file.stat().st_size != facts["size"] or (contents and sha256_of(file) != facts["sha256"]):
        raise ProductIndexError(
            f"{file}: the index is damaged: this is not the file that was saved; build it again with training.index"
        )
    return file


def last_generation(folder: Path) -> int:
    """The highest generation that a file of the folder is of, that of a killed save included; 0 if there is none."""
    matches = (FILE_NAME.fullmatch(file.name) for file in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=0)


def remove_older(folder: Path, manifest: dict) -> None:
    """Removes the files of other generations, and those of saves that were killed."""
    current = {facts["name"] for facts in manifest["files"].values()}
    for file in folder.iterdir():
        if FILE_NAME.fullmatch(file.name) and file.name not in current:
            file.unlink(missing_ok=True)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Makes the folder, and lets one process at a time save into it; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl:
            os.close(handle)


def sha256_of(file: Path) -> str:
    """The sha256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Has a file's contents, or a folder's names, written to the disk itself; Windows can't do it for folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
