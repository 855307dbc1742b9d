"""A folder of an embedded Qdrant, looked at before it is opened: whether it is one, whole, and free.

`qdrant_client` itself makes a folder out of any, takes a file that was cut for a collection of fewer points, and
reads all of a folder before it sees that another process has it open.
"""

import fcntl
import json
from pathlib import Path

from modeling_mmfusion.errors import DataError, one_line

META, LOCK, POINTS = "meta.json", ".lock", "storage.sqlite"
FILES = {META, LOCK, f"{META}.tmp", "collection"}


def check_folder(folder: Path) -> bool:
    """Whether there is a Qdrant in a folder; not so if nothing or an empty folder is there.

    Raises:
        DataError: if something else is there, it is damaged, or another process has it open.
    """
    try:
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file; an embedded Qdrant is a folder")
        names = {file.name for file in folder.iterdir()}
        if not names:
            return False
        if META not in names or not names <= FILES:
            raise DataError(f"{folder}: is there, and is no folder of Qdrant's; give another")
        check_free(folder)
        check_whole(folder)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: can't be opened: {one_line(error)}") from error
    return True


def points_file(folder: Path, collection: str) -> Path:
    """Where a collection's points are, a database of sqlite."""
    return folder / "collection" / collection / POINTS


def check_whole(folder: Path) -> None:
    """Looks for a list of collections that is none, and for collections in use that have lost their file.

    Raises:
        DataError: naming the file.
    """
    try:
        meta = json.loads((folder / META).read_text())
        names = {*meta["aliases"].values()} & {*meta["collections"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{folder / META}: is damaged, or not Qdrant's; delete the folder and load it again"
        ) from error
    for name in sorted(names):
        points = points_file(folder, name)
        if not has_all_pages(points):
            raise DataError(f"{points}: is damaged, empty or missing; delete the folder and load it again")


def has_all_pages(database: Path) -> bool:
    """Whether a file is as long as a database of sqlite says that it is, which sqlite itself does not always see. One
    with a journal beside it was left in the midst of a change, which sqlite undoes.

    References:
        The Database Header, https://www.sqlite.org/fileformat.html
    """
    if not database.is_file():
        return False
    if database.with_name(f"{database.name}-journal").exists():
        return True
    with open(database, "rb") as file:
        header = file.read(32)
    page_bytes, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    return header.startswith(b"SQLite format 3\0") and 0 < page_bytes * pages <= database.stat().st_size


def check_free(folder: Path) -> None:
    """Looks at the lock that an open Qdrant holds.

    Raises:
        DataError: if another process has it.
    """
    if not (folder / LOCK).exists():
        return
    with open(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{folder}: is open in another process; one at a time can") from error
