"""Text files in whatever encoding a shop's tools wrote them: found out from the first bytes, said, and read as lines.

A file says what it is by its byte order mark, by where its NUL bytes stand (UTF-16 and UTF-32), or by being UTF-8,
which other text hardly ever is by chance. Everything else is one of the many 8-bit encodings, which nothing in a file
tells apart; CP1252 is assumed, and said with a word that was read by it, unless the bytes speak against it.

No character is dropped without a word: those that can't be read, and control characters, are counted by line.
"""

import codecs
import io
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

HEAD_BYTES = 2**16
NOT_UTF8 = "text that isn't UTF-8 (read as CP1252)"
NOT_CP1252 = "text that could be UTF-8 (read as CP1252)"
LOST = "character that can't be read (kept as \ufffd)"
CONTROL = "control characters or a byte order mark inside the text (left out)"
MARKS = {  # UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
AS_CSV = "save the table as CSV (UTF-8)"
PACKED = f"is a packed file; unpack it, or {AS_CSV}"
FORMATS = {  # by their first bytes
    b"PK\3\4": f"is an Excel or LibreOffice workbook or a ZIP; {AS_CSV}",
    b"\xd0\xcf\x11\xe0": f"is an old Excel workbook (.xls); {AS_CSV}",
    b"PAR1": "is Parquet; let its name end in .parquet",
    b"SQLite format 3": f"is an SQLite database; {AS_CSV}",
    b"%PDF": f"is a PDF; {AS_CSV}",
    b"{\\rtf": f"is a text document (RTF); {AS_CSV}",
    b"\x89PNG": f"is a picture; {AS_CSV}",
    b"\xff\xd8\xff": f"is a picture; {AS_CSV}",
    b"GIF8": f"is a picture; {AS_CSV}",
    b"\x1f\x8b": PACKED,
    b"\xfd7zXZ": PACKED,
    b"7z\xbc\xaf": PACKED,
    b"Rar!": PACKED,
    b"\x28\xb5\x2f\xfd": PACKED,
    b"BZh91AY": PACKED,
}
MARKUP = {
    r"\s*<(!doctype html|html|head|body|table)\b": f"is a web page (HTML), such as one that asks to sign in; {AS_CSV}",
    r"\s*<(\?xml|rss|feed|!--)": f"is XML; {AS_CSV}",
}
JSON = {r"\s*(\[\s*[\[{\"\]]|\{\s*[\"}])": "is JSON; write one object a line and let its name end in .jsonl"}
JSON_NOT_IN_LINES = {
    r"\s*(\[\s*[\[{\"\]]|\{\s*[\r\n])": "is one JSON value over all lines; write one object a line, without a list"
}
ENCODINGS = "cp1250, cp1251, mac_roman, cp850, gb18030 or shift_jis"
LETTER_LIKE = rb"[a-z][\x83\x84\x86-\x90\x98\x9a-\x9f][a-z]"  # letters of Mac OS and DOS; rare signs in CP1252
ODD = "\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffd\udc80-\udcff"


class TextFile:
    """The lines of a text file, with their ends; any of `\\n`, `\\r\\n` and `\\r` ends one.

    Attributes:
        encoding (`str`): Python's name of the encoding.
        said (`str`): the encoding for a person, such as `UTF-8`.
        is_assumed (`bool`): whether nothing in the file speaks for it.
        example (`str`): a word by which a person sees whether it is right, `""` if it isn't assumed.

    Args:
        stream (`BinaryIO`): the file; it must be able to go back to its beginning.
        encoding (`str`, *optional*): its encoding; found out if not given.
        kept (`str`, *optional*): a control character that is no rubbish but separates cells.

    Raises:
        ValueError: saying what the file is and what to do, if it is no text, or in an unknown encoding.
    """

    def __init__(self, stream: BinaryIO, encoding: str | None = None, kept: str = ""):
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        for start, what in FORMATS.items():
            if head.startswith(start):
                raise ValueError(what)
        self.encoding = encoding or sniff_encoding(head)
        self.is_assumed = encoding is None and self.encoding == "cp1252"
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {encoding!r} isn't known; name one such as utf-8, cp1252, {ENCODINGS}"
            ) from None
        if codecs.lookup(self.encoding).name == "utf-8":
            self.encoding = "utf-8-sig"
        # what isn't UTF-8 is marked by half a surrogate pair, which UTF-8 can't hold
        errors = "surrogateescape" if self.encoding == "utf-8-sig" else "replace"
        self.file = io.TextIOWrapper(stream, self.encoding, errors, newline="")
        self.start = codecs.getincrementaldecoder(self.encoding)(errors).decode(head)
        self.said = self.encoding.removesuffix("-sig").upper()
        self.example = _odd_word(self.start) if self.is_assumed else ""
        self.odd = re.compile(f"[{ODD}]" if kept == "" else f"(?!{re.escape(kept)})[{ODD}]")
        self.notes: deque[tuple[int, str]] = deque()

    def other_format(self, is_json_lines: bool = False) -> str:
        """What it is instead of a table, or of JSON lines, and what to do; mostly `""`."""
        formats = MARKUP | (JSON_NOT_IN_LINES if is_json_lines else JSON)
        return next((what for start, what in formats.items() if re.match(start, self.start, re.IGNORECASE)), "")

    def __iter__(self) -> Iterator[str]:
        odd = self.odd.search
        for number, line in enumerate(self.file, start=1):
            if odd(line):
                line = self._mended(number, line)
            elif self.is_assumed and not line.isascii() and _is_utf8(line):
                self.notes.append((number, NOT_CP1252))
            yield line

    def _mended(self, number: int, line: str) -> str:
        found = set(self.odd.findall(line))
        kinds = {NOT_UTF8 if "\udc80" <= odd <= "\udcff" else LOST if odd == "\ufffd" else CONTROL for odd in found}
        self.notes.extend((number, kind) for kind in sorted(kinds))
        return self.odd.sub(_mended_character, line)

    def doubts(self, last: int) -> list[str]:
        """What there was to note up to a line and wasn't told yet, each kind once."""
        kinds = {}
        while self.notes and self.notes[0][0] <= last:
            kinds[self.notes.popleft()[1]] = True
        return list(kinds)


def _mended_character(match: re.Match) -> str:
    odd = match[0]
    if "\udc80" <= odd <= "\udcff":
        return bytes([ord(odd) - 0xDC00]).decode("cp1252", "replace")
    return odd if odd == "\ufffd" else " " if odd in "\x0b\x0c" else ""


def sniff_encoding(head: bytes) -> str:
    """Python's name of the encoding of a text.

    Args:
        head (`bytes`): its beginning.

    Raises:
        ValueError: if it is none of UTF-8, UTF-16, UTF-32 and a western one.
    """
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
            if _has_nul_bytes_of(head, encoding):
                return encoding
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    odd = [character for character in text if character > "\x7f"]
    wrong = sum("\udc80" <= character <= "\udcff" for character in odd)
    if 2 * wrong <= len(odd):  # a cut or foreign character here and there doesn't make it another encoding
        return "utf-8"
    if reason := _not_western(head):
        raise ValueError(
            f"is neither UTF-8 nor western text: {reason}; save it as UTF-8, or name its encoding "
            f"(--encoding), such as {ENCODINGS}"
        )
    return "cp1252"


def _has_nul_bytes_of(head: bytes, encoding: str) -> bool:
    """Whether NUL bytes stand where they do in UTF-16 or UTF-32; in other text some may stand anywhere, but hardly in
    its first line, and all in even or all in odd places."""
    width = 4 if "32" in encoding else 2
    first = re.match(rb"[^\r\n]*[\r\n]?.{0,3}", head, re.DOTALL)
    if b"\0" not in first[0]:
        return False
    if width == 2:
        at_even, at_odd = head[::2].count(0), head[1::2].count(0)
        low, high = sorted((at_even, at_odd))
        if (at_odd > at_even) != (encoding == "utf-16-le") or 20 * low > high:
            return False
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _not_western(head: bytes) -> str:
    """What speaks against CP1252; `""` if nothing does."""
    if 20 * len(re.findall(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]", head)) > len(head):
        return "it is full of control characters"
    if undefined := re.search(rb"[\x81\x8d\x8f\x90\x9d]", head):
        line = head.count(b"\n", 0, undefined.start()) + 1
        return f"CP1252 has no byte 0x{undefined[0].hex()}, which is on line {line}"
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", head)]
    if sum(runs) >= 20 and sum(run for run in runs if run > 2) > sum(runs) / 2:
        return "letters beyond ASCII stand beside each other"
    inside, western = (len(re.findall(letters, head)) for letters in (LETTER_LIKE, rb"[a-z][\xc0-\xff][a-z]"))
    return "signs stand inside words" if inside > 1 and inside > western else ""


def _is_utf8(line: str) -> bool:
    """Whether a line that was read as CP1252 would be UTF-8."""
    try:
        line.encode("cp1252").decode()
    except UnicodeError:
        return False
    return True


def _odd_word(text: str) -> str:
    return next(iter(re.findall(r"\w*[^\0-\x7f]\w*", text)), "")[:40]
