"""Files that are there, reached the disk and are what was written."""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .errors import DataError
from .json_files import ANY, TEXT, fault_of, parse_json

MARK = ".mmfusion.json"  # checksums of the files that a folder was written with
MARK_FORM = {"writer": TEXT, "of": TEXT, "files": {ANY: TEXT}}


def sha256_of(file: Path) -> str:
    """The sha256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum_of(value: dict[str, Any]) -> str:
    """The sha256 of an object that is written as JSON, which it then carries itself."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def flush(path: Path) -> None:
    """Has a file's contents, or a folder's names, written to the disk itself; Windows can't do it for folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def existing_file(name: str | Path, what: str) -> Path:
    """The path of a file that must be there.

    Raises:
        DataError: if it is not.
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{name}: no such file; give {what}")
    return path


def check_model_name(name: str | os.PathLike) -> None:
    """Refuses what is neither a folder nor the form of a Hub id, before anything is read.

    Raises:
        DataError: naming it.
    """
    is_hub_id = isinstance(name, str) and not name.startswith((".", "/")) and name.count("/") == 1
    if not Path(name).is_dir() and not is_hub_id:
        raise DataError(f"{name}: no such model folder; train one (make quickstart) or give a Hub id such as org/name")


def check_whole(folder: str | os.PathLike, marked: bool = False, read: Collection[str] | None = None) -> None:
    """Sees to it that a folder is as [`new_folder`] left it.

    Args:
        folder (`str` or `Path`): the folder.
        marked (`bool`, *optional*, defaults to `False`): refuse one that has no mark, too.
        read (`Collection[str]`, *optional*): the files that are going to be read, whose content is checked; all if not
            given. That the others are there is checked anyway.

    Raises:
        DataError: naming a file that is missing or is not the one that was written.
    """
    files = mark_of(Path(folder)).get("files", {})
    if marked and not files:
        raise DataError(f"{folder}: {MARK} is missing or damaged")
    for name, expected in files.items():
        file = Path(folder, name)
        if not file.is_file():
            raise DataError(f"{file}: is missing; restore it, or make {folder} again")
        if (read is None or name in read) and sha256_of(file) != expected:
            raise DataError(
                f"{file}: is not the file that was written (its sha256 differs); make {folder} again or, if you "
                f"changed it on purpose, delete {MARK} there"
            )


def mark_of(folder: Path) -> dict[str, Any]:
    """A folder's mark; an empty one if it has none, or a damaged one."""
    try:
        mark = parse_json((folder / MARK).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(mark, dict) or fault_of({"of": "", "files": {}} | mark, MARK_FORM):  # it has one of the two
        return {}
    return mark
