"""Files of an index on disk: each save is a new generation, which appears whole or not at all.

A folder holds `index.json` and files named by part and generation, such as `graph-000007.usearch`. `index.json` names
the files of the current generation with their sizes and sha256, and carries a checksum of itself. A save writes its
files under new names, flushes them to the disk and only then replaces `index.json` by a rename; parts that did not
change keep their file. Whoever has the older generation open goes on reading its files, even after they were removed.
Files of other names are never touched, and a folder of them that is no index is not saved into.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from .checksums import checksum_of, flush, sha256_of
from .errors import ProductIndexError, one_line
from .json_files import parse_json

try:
    import fcntl
except ImportError:  # Windows has none: there, see to it yourself that one process saves at a time
    fcntl = None  # type: ignore[assignment]

FORMAT = 2
MANIFEST = "index.json"
PARTIAL = f".{MANIFEST}.partial"
WORDS = {"data": "npy", "indices": "npy", "indptr": "npy", "vocab": "json", "params": "json"}
SUFFIXES = {"graph": "usearch", "vectors": "npy", "basis": "npy", "products": "arrow", "spelling": "txt"}
SUFFIXES |= {"words_frequencies": "npy"}
SUFFIXES |= {"heads": "npy", "tails": "npy", "axes": "npy"}
SUFFIXES |= {f"words_{part}": suffix for part, suffix in WORDS.items()}
FILE_NAME = re.compile(r"(\w+)-([0-9]{6,})\.(\w+)")


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
        manifest = parse_json(text)
        checksum = manifest.pop("checksum", None)
        version = manifest.get("format")
    except (ValueError, AttributeError, TypeError) as error:
        raise ProductIndexError(f"{file}: the index is damaged: this is no JSON of ours") from error
    if isinstance(version, int) and version < FORMAT and checksum is None:
        raise ProductIndexError(f"{folder}: is of an older format ({version}); build it again with training.index")
    if isinstance(version, int) and version > FORMAT and checksum == checksum_of(manifest):
        raise ProductIndexError(f"{folder}: is of a newer format ({version}); open it with a newer mmfusion")
    if checksum != checksum_of(manifest) or version != FORMAT or "files" not in manifest:
        raise ProductIndexError(f"{file}: the index is damaged: its checksum is wrong; build it with training.index")
    return manifest


def is_current(folder: Path, generation: int) -> bool:
    """Whether a generation is the one that `index.json` tells of."""
    try:
        return read_manifest(folder)["generation"] == generation
    except ProductIndexError:
        return False


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replaces `index.json`; from then on the folder is of the new generation."""
    text = json.dumps(manifest | {"checksum": checksum_of(manifest)}, indent=2) + "\n"
    partial = folder / PARTIAL
    partial.write_text(text, encoding="utf-8")
    flush(partial)
    flush(folder)  # the names of the files that it tells of
    partial.replace(folder / MANIFEST)
    flush(folder)


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


def part_file(folder: Path, part: str, generation: int) -> Path:
    """Where a part of a generation lies, such as `graph-000007.usearch`."""
    return folder / f"{part}-{generation:06d}.{SUFFIXES[part]}"


def generations(folder: Path) -> dict[Path, int]:
    """The generation of each of the folder's files that a save of ours wrote, those of killed saves included."""
    matches = {file: FILE_NAME.fullmatch(file.name) for file in folder.iterdir()}
    return {file: int(match[2]) for file, match in matches.items() if match and SUFFIXES.get(match[1]) == match[3]}


def last_generation(folder: Path) -> int:
    """The highest generation that `index.json` or a file of the folder is of, that of a killed save included; 0 if
    there is none. A save that changes nothing but `index.json` is a generation without files."""
    try:
        told = read_manifest(folder)["generation"]
    except ProductIndexError:
        told = 0
    return max([told, *generations(folder).values()])


def check_target(folder: Path) -> None:
    """Refuses to save into a folder that holds what is not ours: no index of ours, and files of other names.

    A damaged `index.json` counts as ours where the folder holds a graph of ours and nothing else.

    Raises:
        ProductIndexError: naming a file that is not ours.
    """
    if not folder.exists() or is_index(folder):
        return
    if not folder.is_dir():
        raise ProductIndexError(f"{folder}: is a file; give a folder for the index")
    ours = {file.name for file in generations(folder)}
    allowed = ours | {PARTIAL} | ({MANIFEST} if any(name.startswith("graph-") for name in ours) else set())
    if foreign := sorted({file.name for file in folder.iterdir()} - allowed):
        raise ProductIndexError(
            f"{folder}: is no index and holds other files ({foreign[0]}); give a folder of its own"
        )


def is_index(folder: Path) -> bool:
    """Whether `index.json` is of an index of ours, of this format or another; not if it is damaged."""
    try:
        manifest = parse_json((folder / MANIFEST).read_bytes())
        checksum = manifest.pop("checksum", None)
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    known = {"format", "count", "dim", "model"} <= set(manifest) and "shards" not in manifest  # as vectors' has
    return known and checksum == (checksum_of(manifest) if manifest["format"] != 1 else None)


def remove_older(folder: Path, manifest: dict) -> None:
    """Removes the files of other generations, and those of saves that were killed."""
    current = {facts["name"] for facts in manifest["files"].values()}
    for file in generations(folder):
        if file.name not in current:
            file.unlink(missing_ok=True)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Makes the folder, and lets one process at a time save into it; others wait. See [`check_target`]."""
    check_target(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProductIndexError(f"{folder}: can't be made ({error.strerror})") from error
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        check_target(folder)
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(folder: Path, generation: int) -> Iterator[None]:
    """Makes one line of what the disk says while a generation is written, and removes what there is of it.

    Raises:
        ProductIndexError: if it can't be written.
    """
    try:
        yield
    except (OSError, RuntimeError, pa.ArrowException) as error:  # of Python, of usearch, of Arrow
        for file, written in generations(folder).items():
            if written == generation and not is_current(folder, generation):
                file.unlink(missing_ok=True)
        reason = one_line(error)
        raise ProductIndexError(f"{folder}: can't be written ({reason}); is the disk full?") from error
