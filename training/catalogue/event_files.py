"""Files of events that grow: their lines, each once, and the position behind the last one that was given out.

A source is a JSONL file, or a folder of files `*.jsonl`, which are read in the order of their names. Each appears
whole or grows at its end. The position tells of each file how many bytes and lines of it were read, and the CRC-32 of
these bytes, so that a file that was truncated or replaced by another is found out. One that was read to its end may
be deleted.
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.json_files import parse_json
from training.common.errors import Problems

ENDING = ".jsonl"
LONGEST = 2**26  # bytes of a line
TOGETHER = 2**26  # bytes of lines that are given out at once, about
CHUNK = 2**20
TAIL = 256  # bytes before the place to go on from, which are looked at again whenever a file has grown
FORGOTTEN = 1000  # files, of which those that are gone are forgotten from the first on
BOM = b"\xef\xbb\xbf"


@dataclass
class Line:
    """A line of a file.

    Attributes:
        where (`str`): file and line, for messages.
        content (`bytes` or `None`): what it holds, without its end; `None` if it is longer than 64 MB.
    """

    where: str
    content: bytes | None


@dataclass
class FileState:
    """How far a file was read.

    Attributes:
        offset (`int`): bytes.
        lines (`int`): lines.
        crc (`int`): CRC-32 of these bytes.
        tail (`bytes`): the last of these bytes.
        seen (`tuple`, *optional*): device, inode, size and time of change when nothing more could be read.
        size (`int`): bytes that it had then.
        inode (`tuple`, *optional*): device and inode of the file that was read.
    """

    offset: int = 0
    lines: int = 0
    crc: int = 0
    tail: bytes = b""
    seen: tuple | None = None
    size: int = 0
    inode: tuple | None = None

    def take(self, content: bytes) -> None:
        """Goes on behind some bytes."""
        self.offset += len(content)
        self.crc = zlib.crc32(content, self.crc)
        self.tail = (self.tail + content)[-TAIL:]


class EventFiles:
    """The lines of a source, from a position on.

    Args:
        source (`str` or `Path`): a JSONL file, or a folder of them.
        position (`str`, *optional*): what `position` was when an earlier run ended; the start if not given.
        problems (`Problems`, *optional*): gets what is odd about the files.

    Raises:
        DataError: if there is no such file or folder, or a file is another one than the position tells of.
    """

    def __init__(self, source: str | Path, position: str | None = None, problems: Problems | None = None):
        self.source = Path(source)
        self.problems = Problems() if problems is None else problems
        if not self.source.is_dir() and not self.source.is_file():
            raise DataError(f"{shown(self.source)}: no such file of events; give a JSONL file or a folder of them")
        self.folder = self.source if self.source.is_dir() else self.source.parent
        self.files = {name: FileState(*facts) for name, facts in read_position(position).items()}
        for name in self.names():
            if name in self.files:
                self._verify(name)

    def names(self) -> list[str]:
        """The names of the files that are there, in the order in which they are read."""
        if self.folder != self.source:
            return [self.source.name] if self.source.is_file() else []
        with os.scandir(self.folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(ENDING) and entry.is_file())

    @property
    def position(self) -> str:
        """Behind the last line that was given out, as JSON: bytes, lines and CRC-32 by file name."""
        present = set(self.names())
        for name in sorted(self.files)[: max(0, len(self.files) - FORGOTTEN)]:
            if name not in present:
                del self.files[name]
        read = {name: [state.offset, state.lines, state.crc] for name, state in self.files.items() if state.offset}
        return json.dumps(read, separators=(",", ":"), sort_keys=True)

    def read(self, count: int) -> list[Line]:
        """The next lines, at most `count`; fewer if there are no more yet.

        Empty lines are passed over. What stands behind the last end of a line is given out if it is a whole JSON
        object; else its rest is waited for.

        Raises:
            DataError: if a file was truncated, or replaced by another.
        """
        lines: list[Line] = []
        names = self.names()
        for name in [name for name, state in self.files.items() if name not in names and state.size > state.offset]:
            kind = "file of events that was deleted before it was read to its end"
            self.problems.add(kind, shown(self.folder / name))
            self.files[name].size = 0
        for name in names:
            if len(lines) >= count:
                break
            try:
                facts = os.stat(self.folder / name)
            except FileNotFoundError:
                continue
            state = self._state(name)
            if state.seen != (seen := (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)):
                try:
                    is_read = self._read_file(name, facts, count, lines)
                except FileNotFoundError:
                    continue
                state.seen, state.size = seen if is_read else None, facts.st_size
        return lines

    def behind(self) -> int:
        """Bytes that were not read yet."""
        sizes = {name: (self.folder / name).stat().st_size for name in self.names() if (self.folder / name).is_file()}
        return sum(max(0, size - self._offset(name)) for name, size in sizes.items())

    def waiting(self) -> list[str]:
        """The files that end in half a line, for messages."""
        names = [name for name in self.names() if (state := self.files.get(name)) and state.size > state.offset]
        return [f"{shown(self.folder / name)} line {self.files[name].lines + 1}" for name in names]

    def _offset(self, name: str) -> int:
        return self.files[name].offset if name in self.files else 0

    def _state(self, name: str) -> FileState:
        if name not in self.files:
            if any(later > name and state.offset for later, state in self.files.items()):
                kind = "file of events that came after later ones had been applied (applied now)"
                self.problems.add(kind, shown(self.folder / name))
            self.files[name] = FileState()
        return self.files[name]

    def _read_file(self, name: str, facts: os.stat_result, count: int, lines: list[Line]) -> bool:
        """Adds a file's next lines to `lines`; whether there are no more."""
        state = self.files[name]
        if state.offset and (facts.st_size < state.offset or state.inode != (facts.st_dev, facts.st_ino)):
            self._verify(name)
        state.inode = facts.st_dev, facts.st_ino
        with open(self.folder / name, "rb") as file:
            file.seek(state.offset - len(state.tail))
            if file.read(len(state.tail)) != state.tail:
                raise self._replaced(name)
            if state.offset and not state.tail.endswith(b"\n"):
                self._pass_end(file, state)
            taken = 0
            while len(lines) < count and taken < TOGETHER:
                start = state.offset
                if not self._next_line(file, name, lines):
                    return True
                taken += state.offset - start
        return False

    def _pass_end(self, file: BinaryIO, state: FileState) -> None:
        """Passes over the end of a line whose content was given out before it had one."""
        end = file.read(2)
        end = b"\r\n" if end == b"\r\n" else b"\n" if end.startswith(b"\n") else b""
        state.take(end)
        file.seek(state.offset)

    def _next_line(self, file: BinaryIO, name: str, lines: list[Line]) -> bool:
        """Adds the next line, if it is whole, to `lines`; whether it is."""
        state = self.files[name]
        content = file.readline(LONGEST)
        if len(content) == LONGEST and not content.endswith(b"\n"):
            return self._pass_long_line(file, name, content, lines)
        stripped = content.strip(b" \t\r\n").removeprefix(BOM).strip(b" \t\r\n")
        if not content.endswith(b"\n") and not is_object(stripped):
            return False
        state.take(content)
        state.lines += 1
        if stripped:
            lines.append(Line(f"{shown(self.folder / name)} line {state.lines}", stripped))
        return True

    def _pass_long_line(self, file: BinaryIO, name: str, start: bytes, lines: list[Line]) -> bool:
        """Passes over a line that is too long, if its end is there; whether it is."""
        state, crc, length, content = self.files[name], zlib.crc32(start, self.files[name].crc), len(start), start
        while not content.endswith(b"\n"):
            tail, content = content, file.readline(CHUNK)
            if not content:
                return False
            crc, length = zlib.crc32(content, crc), length + len(content)
        state.offset, state.crc, state.tail = state.offset + length, crc, (tail + content)[-TAIL:]
        state.lines += 1
        lines.append(Line(f"{shown(self.folder / name)} line {state.lines}", None))
        return True

    def _verify(self, name: str) -> None:
        """Reads again what was read of a file, to see whether it is still the same."""
        state, read = self.files[name], FileState()
        with open(self.folder / name, "rb") as file:
            while read.offset < state.offset and (content := file.read(min(CHUNK, state.offset - read.offset))):
                read.take(content)
            facts = os.fstat(file.fileno())
        if (read.offset, read.crc) != (state.offset, state.crc):
            raise self._replaced(name)
        state.tail, state.inode = read.tail, (facts.st_dev, facts.st_ino)

    def _replaced(self, name: str) -> DataError:
        read = self.files[name].offset
        return DataError(
            f"{shown(self.folder / name)}: was truncated or replaced by another: it does not begin with the {read:,} "
            "bytes that were applied; give what is new in a file of another name"
        )


def is_object(content: bytes) -> bool:
    """Whether some bytes are a whole JSON object, of which no part is one."""
    if not content.startswith(b"{") or not content.endswith(b"}"):
        return False
    try:
        return isinstance(parse_json(content), dict)
    except ValueError:
        return False


def read_position(position: str | None) -> dict[str, list[int]]:
    """The facts of each file that a position tells of.

    Raises:
        DataError: if it is none.
    """
    try:
        found = parse_json(position or "{}")
        for facts in found.values():
            offset, lines, crc = map(int, facts)
            if min(offset, lines, crc) < 0:
                raise ValueError
    except (ValueError, AttributeError, TypeError):
        raise DataError("the position in the stream, which is kept with the products, can't be read") from None
    return found


def shown(path: Path) -> str:
    """A path as text that can be printed."""
    return os.fsencode(path).decode("utf-8", "replace")
