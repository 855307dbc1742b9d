"""The one way in which commands write: whole or not at all, and never in place of what somebody else made.

Every folder that a command makes holds a mark, `.mmfusion.json`, which names the command that wrote it. There are two
kinds:

- [`new_folder`] writes a folder at one stroke, such as a model or a catalogue. Its mark has the sha256 of each file,
  so the same command may replace it as long as nothing in it was changed or added, and a reader can tell that it is
  whole ([`check_whole`]).
- [`claim_folder`] takes a folder that grows, such as a run or vectors. Only files of known names are written there.

Anything else is refused before any work is done: a folder with files of somebody else's, or of another command.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import SafetensorError

from modeling_mmfusion.checksums import MARK, flush, mark_of, sha256_of
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.json_files import parse_json

RUN = "a training run"


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A partial file to fill, of the same suffix, which reaches the disk and takes the place of `path` when the block
    ends well, and is removed if not; so a killed run or a power cut leaves the old or the new content.

    Raises:
        DataError: if `path` is a folder.
    """
    path = Path(path)
    check_output_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.mmfusion-partial{path.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in the way of [`new_file`]."""
    with new_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in the way of [`new_file`]."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, indented, in the way of [`new_file`]."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What [`write_json`] wrote.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); delete it, and what it held is made again") from error


def check_output_file(path: str | Path, suffix: str = "") -> Path:
    """The path of a file to write, looked at before any work is done.

    Args:
        path (`str` or `Path`): the file.
        suffix (`str`, *optional*): what its name ends in if it has an ending, such as `.json`, so that a slip of the
            keyboard doesn't replace a table by a report.

    Raises:
        DataError: if it is a folder, or its name ends in something else.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the name of a file")
    if suffix and path.suffix.lower() not in ("", suffix):
        raise DataError(f"{path}: what is written there is no {path.suffix} file; let its name end in {suffix}")
    return path


@contextmanager
def new_folder(folder: str | Path, writer: str) -> Iterator[Path]:
    """A partial folder to fill, which takes the place of `folder` when the block ends well and is removed if not.

    Whenever the process dies, `folder` is the old or the new one; if it dies between the two renames, the next call
    puts the old one back.

    Args:
        folder (`str` or `Path`): the folder to write.
        writer (`str`): what writes it, such as `training.prepare`; see [`check_folder`].

    Raises:
        DataError: if the folder may not be replaced, or another process is writing it.
    """
    folder = Path(folder).resolve()
    check_folder(folder, writer)
    partial, old = _beside(folder)
    with cannot_write(folder):
        partial.mkdir(parents=True, exist_ok=True)
    with only_process(partial):
        _empty(partial)
        try:
            yield partial
            with cannot_write(folder):
                _write_mark(partial, {"writer": writer, "files": _digests(partial)})
                check_folder(folder, writer)  # again, for this may have taken hours
                if folder.exists():
                    folder.rename(old)
                partial.rename(folder)
                flush(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_shared_folder(folder: Path, writer: str) -> Iterator[Path]:
    """A partial folder to fill, as [`new_folder`], for a cache that several processes may fill at a time: whoever is
    first makes `folder`, and the others' are removed, for they hold the same."""
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        with new_folder(made, writer) as partial:
            yield partial
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_folder(folder: str | Path, writer: str) -> None:
    """Sees to it that [`new_folder`] may replace a folder: it is not there, empty, or exactly what the same writer
    left, with at most folders in it that other commands wrote at one stroke (as exported towers in a model's folder).

    Raises:
        DataError: naming what is in the way.
    """
    folder = Path(folder).resolve()
    partial, old = _beside(folder)
    if old.exists() and not folder.exists():  # of a run that was killed
        old.rename(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if (found := mark_of(folder).get("writer")) not in (None, writer):
            raise DataError(f"{folder}: was written by {found}, not by {writer}; give another --output")
        if reason := next(_strange(folder), None):
            raise DataError(f"{folder}: {reason}, which mmfusion did not write; move it away or give another --output")
    elif folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give a folder")


def claim_folder(folder: str | Path, writer: str, of: str = "", option: str = "--output") -> Path:
    """Marks a folder that grows as a writer's, who may write files of known names into it from now on.

    Args:
        folder (`str` or `Path`): made if it is not there.
        writer (`str`): what writes it, such as `a training run`.
        of (`str`, *optional*): what it is made of, such as a catalogue; that of another one is refused.
        option (`str`, *optional*, defaults to `"--output"`): what gives the folder, for messages.

    Raises:
        DataError: if it holds what no command of ours wrote, is another writer's or of something else.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give a folder")
    mark = mark_of(folder)
    if not mark and folder.is_dir() and (strange := next(_strange_entries(folder), None)):
        raise DataError(f"{folder}: holds {strange}, which mmfusion did not write; give another {option}")
    if mark and mark.get("writer") != writer:
        raise DataError(f"{folder}: was written by {mark.get('writer')}, not by {writer}; give another {option}")
    if mark and not _same(mark.get("of", of), of):
        raise DataError(f"{folder}: was made of {mark['of']}, not of {of}; give another {option}")
    if not mark:
        with cannot_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _write_mark(folder, {"writer": writer, "of": of})
    return folder


def beside(source: str, name: str) -> Path:
    """Where a command's output goes by default: beside its input, so never into another run.

    Args:
        source (`str`): the input's folder.
        name (`str`): name of the output.

    Raises:
        DataError: if the input is no folder here, such as a Hub id.
    """
    if not Path(source).is_dir():
        raise DataError(f"{source}: is no folder here, beside which the output could go; give --output")
    return Path(os.path.normpath(Path(source, os.pardir, name)))


@contextmanager
def only_process(folder: Path, remedy: str = "wait for its end or give another --output") -> Iterator[None]:
    """Keeps other processes out of a folder that is there; the end of the process, however it comes, ends this too.

    Args:
        folder (`Path`): the folder.
        remedy (`str`, *optional*): what to do where another one is in it, for the message.

    Raises:
        DataError: if another one is in it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.fstat(handle), os.stat(folder))
        except OSError:
            is_there = False
        if not is_there:
            raise DataError(f"{folder}: another run writes it; {remedy}")
        yield
    finally:
        os.close(handle)


@contextmanager
def cannot_write(folder: str | Path) -> Iterator[None]:
    """Turns what libraries raise when a disk is full into one line.

    Raises:
        DataError: naming the folder.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, pa.ArrowException) as error:
        if "DataLoader worker" in str(error):  # torch tells of a dead worker wherever the program is just then
            raise
        reason = one_line(error)
        raise DataError(
            f"{folder}: can't be written ({reason}); is the disk full? Run the same command again"
        ) from error


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where a folder is filled, and where the older one waits meanwhile."""
    return tuple(folder.with_name(f".{folder.name}.mmfusion-{what}") for what in ("partial", "old"))


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _write_mark(folder: Path, mark: dict[str, Any]) -> None:
    write_json(folder / MARK, mark)


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file below a folder, which reaches the disk; but for folders with marks of their own."""
    found = {}
    for file in _files(folder):
        flush(file)
        found[file.relative_to(folder).as_posix()] = sha256_of(file)
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that its own mark covers."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from () if mark_of(path) else _files(path)
        elif path.name != MARK:
            yield path


def _strange(folder: Path) -> Iterator[str]:
    """What is in the way of replacing a folder: whatever is not as a mark says that it was written at one stroke."""
    known = mark_of(folder).get("files", {})
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if name not in known:
            yield f"holds {name}"
        elif file.is_symlink() or sha256_of(file) != known[name]:
            yield f"holds another {name}"
    for path in sorted(folder.rglob(MARK)):
        if path.parent != folder:
            if "files" not in mark_of(path.parent):
                yield f"holds {path.parent.relative_to(folder)}"
            yield from _strange(path.parent)


def _strange_entries(folder: Path) -> Iterator[str]:
    """What is in the way of taking a folder that has no mark: whatever is no folder that a command of ours wrote."""
    for path in sorted(folder.iterdir()):
        if not (path.is_dir() and (mark_of(path) or (path / "index.json").is_file())):
            yield path.name


def _same(one: str, other: str) -> bool:
    """Whether two names, with commas between several, name the same folders or Hub ids."""
    pairs = [[os.path.normpath(os.path.abspath(name.strip())) for name in names.split(",")] for names in (one, other)]
    return pairs[0] == pairs[1]
