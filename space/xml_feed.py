"""Google Merchant feeds in XML, RSS 2.0 and Atom with `g:` fields, as rows; read as a stream.

A feed needs no document type, and a document type is what entity bombs and references to other files are made of. So
a file with a DOCTYPE is refused, and none of these can occur.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from errors import DataError, one_line

GOOGLE = "http://base.google.com/ns/1.0"
ITEMS = frozenset(["item", "entry"])
MARKED_UP = frozenset(["title", "description", "summary", "content"])  # tags in these are HTML
PLAIN_NAMES = {"summary": "description", "content": "description"}  # Atom's
CHUNK = 2**16


def xml_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each item of a feed, with the line where it begins.

    A field is named without its prefix: `g:image_link` is `image_link`. A `g:` field comes before a plain one of its
    name, which is then `feed.NAME`. Repeated fields (`g:additional_image_link`) are lists; nested ones
    (`g:product_detail`, `g:shipping`) mappings. `g:product_detail` becomes `{name: value}`.

    Args:
        path (`Path`): the file; it may be gzipped, `.xml.gz`.

    Raises:
        DataError: if it is damaged (the message names the line), has a DOCTYPE, or is no feed.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    reader = _Items(path, parser)
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as file:
            while chunk := file.read(CHUNK):
                parser.Parse(chunk, False)
                yield from reader.take()
            parser.Parse(b"", True)
            yield from reader.take()
    except expat.ExpatError as error:
        what = expat.errors.messages[error.code]
        raise DataError(f"{path}: damaged XML on line {error.lineno}: {what}; export the feed again") from None
    except (OSError, EOFError, LookupError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: can't be read at line {parser.CurrentLineNumber}: {one_line(error)}") from error
    if not reader.count:
        raise DataError(f"{path}: has no <item> or <entry>; give a feed in RSS 2.0 or Atom")


class _Items:
    """Collects the items between two chunks."""

    def __init__(self, path: Path, parser: Any):
        self.path, self.parser, self.count = path, parser, 0
        self.done: list[tuple[int, dict[str, Any]]] = []
        self.stack: list[tuple[str, bool, dict[str, str], list[str], dict[str, list]]] = []
        self.line = 0
        self.markup = 0
        parser.StartElementHandler, parser.EndElementHandler = self.start, self.end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = self.data, self.doctype

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        done, self.done = self.done, []
        return done

    def doctype(self, *_: Any) -> None:
        line = self.parser.CurrentLineNumber
        raise DataError(f"{self.path}: line {line} has a DOCTYPE, which feeds don't need; take it out")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        space, _, name = tag.rpartition(" ")
        if not self.stack:
            if name in ITEMS:
                self.line = self.parser.CurrentLineNumber
                self.stack.append((name, False, {}, [], {}))
        elif self.markup or (len(self.stack) == 2 and self.stack[-1][0] in MARKED_UP):
            self.markup += 1
            self.stack[-1][3].append(f"<{name}>")
        else:
            self.stack.append((name, space == GOOGLE, attributes, [], {}))

    def data(self, text: str) -> None:
        if self.stack:
            self.stack[-1][3].append(text)

    def end(self, tag: str) -> None:
        if not self.stack:
            return
        if self.markup:
            self.markup -= 1
            self.stack[-1][3].append(f"</{tag.rpartition(' ')[2]}>")
            return
        name, is_google, attributes, texts, fields = self.stack.pop()
        if not self.stack:
            self.count += 1
            self.done.append((self.line, _row(fields)))
            return
        text = "".join(texts).strip()
        value: Any = text or attributes.get("href") or attributes.get("term") or ""
        if fields:
            value = {key: values[0] if len(values) == 1 else values for key, values in fields.items()}
        key = name if len(self.stack) > 1 else f"{'g' if is_google else ''}:{name}"
        self.stack[-1][4].setdefault(key, []).append(value)


def _row(fields: dict[str, list]) -> dict[str, Any]:
    """An item's fields by their names without prefix."""
    row: dict[str, Any] = {}
    for key, values in sorted(fields.items(), key=lambda field: field[0].startswith(":")):  # g: first
        prefix, _, name = key.partition(":")
        name = name if prefix else PLAIN_NAMES.get(name, name)
        name = f"feed.{name}" if name in row else name
        if name == "product_detail" and all(isinstance(value, dict) for value in values):
            values = [_details(values)]
        row[name] = values[0] if len(values) == 1 else values
    return row


def _details(values: list[dict]) -> dict[str, str]:
    """`g:product_detail`s as name and value; those of one name have commas between."""
    found: dict[str, str] = {}
    for detail in values:
        name, value = str(detail.get("attribute_name", "")), str(detail.get("attribute_value", ""))
        found[name] = ", ".join(filter(None, (found.get(name), value)))
    return found
