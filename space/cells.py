"""What stands in the cells of a product feed: availability, prices, lists of pictures and attributes; and the cells of
one row, read by the names of their columns."""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from html_text import html_to_text
from missing import is_missing_text
from prices import PriceColumn, read_price
from tables import Table, cell_text

# Words are compared in lower case, without all that is no letter or digit; of an address its last part is.
# True is what a shop would take an order for now, so it has what is ordered in advance and what comes later.
IN_STOCK = frozenset(
    "instock true yes y available availablefororder availablenow backorder onbackorder backordered "
    "availableonbackorder "
    "preorder presale limitedavailability limitedstock limited lowstock instoreonly onlineonly madetoorder".split()
)
OUT_OF_STOCK = frozenset(
    "outofstock false no n soldout sold unavailable notavailable currentlyunavailable discontinued notinstock".split()
)
PICTURE_START = re.compile(r"(?<![,;|\s])[,;|\s]++(?=(?:https?:)?//)", re.IGNORECASE)
CODE_START = re.compile(r""",(?=\s*"?[\w][\w .-]*"?=)""")
ESCAPE = re.compile(r"\\[nrt\"']")
CODE_NAME = re.compile(r"\b(id|sku|ean|gtin|upc|isbn|mpn|barcode)s?\b", re.IGNORECASE)
UNKNOWN_STOCK = "availability that isn't known (taken for neither in stock nor out of it)"


def read_availability(text: str) -> bool | None:
    """Whether a product can be ordered: `in stock`, `InStock`, `https://schema.org/InStock`, `yes`, `backorder` and
    `preorder` are true, `out_of_stock`, `sold out` and `discontinued` false, a number is true above 0.

    Raises:
        ValueError: if it is none of the words that are known.
    """
    text = text.strip()
    if not text:
        return None
    if re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?", text):
        return float(text.replace(",", ".")) > 0
    is_address = "://" in text or "schema.org/" in text.lower()
    word = re.sub(r"[\W_]", "", text.rstrip("/").rpartition("/")[2] if is_address else text).lower()
    if word not in IN_STOCK | OUT_OF_STOCK:
        raise ValueError(text)
    return word in IN_STOCK


def price_number(text: str, others: Iterable[str] = ()) -> float | None:
    """The number of a price, to find the lowest by; `None` if there is none.

    Args:
        text (`str`): the price.
        others (`Iterable[str]`, *optional*): prices that tell how this one is written, where it could be two.
    """
    column = PriceColumn()
    for price in (text, *others):
        column.see(price)
    found = column.read(text) or read_price(text, ".")
    return found and found.amount


def split_pictures(value: Any, separator: str = "|") -> list[str]:
    """The pictures of a cell, in order: of a list, of JSON's text of one, or of names with a separator between.

    Addresses are told apart by their beginnings, as they may have commas in them, file names by the separator.
    """
    if isinstance(value, (list, tuple)):
        return [name for item in value for name in split_pictures(item, separator)]
    if isinstance(value, Mapping):
        found = next((value[key] for key in PICTURE_KEYS if value.get(key)), "")
        return split_pictures(found, separator)
    text = cell_text(value)
    if text.startswith("[") and isinstance(listed := _json(text), list):
        return split_pictures(listed, separator)
    if re.match(r"data:", text, re.IGNORECASE):
        return [text]
    names = [part for start in text.split("|") for part in PICTURE_START.split(start)]
    names = [part for name in names for part in ([name] if "//" in name else re.split(rf"[{separator}\n]", name))]
    return [name for name in map(str.strip, names) if not is_missing_text(name)]


PICTURE_KEYS = ("src", "url", "link", "href", "originalSrc", "image")
NAME_KEYS = ("name", "label", "key", "attribute_name", "attribute_code", "code", "title")
VALUE_KEYS = ("value", "values", "attribute_value", "option", "options")


def named_values(items: list) -> dict[str, Any] | None:
    """A list such as `[{"name": "Size", "value": "M"}]` as a mapping; `None` if it is another."""
    found: dict[str, Any] = {}
    for item in items:
        name = next((item[key] for key in NAME_KEYS if item.get(key)), None) if isinstance(item, Mapping) else None
        value = next((item[key] for key in VALUE_KEYS if key in item), None) if name else None
        if not name or not any(key in item for key in VALUE_KEYS):
            return None
        name, value = str(name), attribute_text(value)
        found[name] = f"{found[name]}, {value}" if found.get(name) and value else found.get(name) or value
    return found


def read_attributes(value: Any, name: str = "attributes") -> dict[str, str]:
    """Attributes as a mapping of text.

    They may be a mapping, JSON's text of one, a list of `{"name", "value"}`, Magento's `color=Red,size=M` (with quotes
    or without, `|` between several values) or `colour: red; size: M`. Any other text is kept whole, under `name`.
    """
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        value = _json(value) or value
    if isinstance(value, (list, tuple)):
        named = named_values(list(value))
        value = ("; ".join(map(attribute_text, value))) if named is None else named
    if isinstance(value, Mapping):
        pairs = {str(key): attribute_text(item) for key, item in value.items()}
    else:
        text = cell_text(value)
        pairs = _code_pairs(text) or _colon_pairs(text) or {name: text}
    return {key: html_to_text(item) for key, item in pairs.items() if not is_missing_text(item)}


def attribute_text(value: Any) -> str:
    """A value of an attribute as text, a list with commas between, a mapping as `key: value`."""
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(attribute_text, value)))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {attribute_text(item)}" for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else cell_text(value)


def _code_pairs(text: str) -> dict[str, str]:
    """`color=Red,size=M`, whose values may have commas in them; `{}` if a text isn't of that form."""
    pairs = [part.strip().partition("=") for part in CODE_START.split(text)]
    if not all(sign and re.fullmatch(r'"?\w[\w .-]*"?', code) for code, sign, _ in pairs):
        return {}
    return {code.strip('" '): value.strip().strip('"').replace("|", ", ") for code, _, value in pairs}


def _colon_pairs(text: str) -> dict[str, str]:
    """`colour: red; size: M`, with `;`, `|` or line breaks between; `{}` if a text isn't of that form."""
    parts = [part.partition(":") for part in re.split(r"[;|\n]", text) if part.strip()]
    if not all(sign and 0 < len(key.strip()) <= 40 and not value.startswith("//") for key, sign, value in parts):
        return {}
    return {key.strip(): value.strip() for key, _, value in parts}


def split_quoted(text: str, separator: str = ",") -> list[str]:
    """The values of a cell that is itself a row of CSV."""
    try:
        return [part.strip() for part in next(csv.reader([text.replace("\n", " ")], delimiter=separator), [])]
    except csv.Error:
        return [part.strip() for part in text.split(separator)]


def plain_text(value: Any) -> str:
    """A cell that nothing reads, as text; JSON if it has parts."""
    parts = value if isinstance(value, list) else [value]
    nested = any(isinstance(part, (list, Mapping)) for part in parts)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else cell_text(value)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None


def code_text(value: Any) -> str:
    """An id, SKU or barcode as text, without the `'` before digits by which spreadsheets keep zeros."""
    text = cell_text(value)
    return text[1:] if re.match(r"'\d", text) else text


@lru_cache(maxsize=10_000)
def column_key(column: str) -> str:
    """A column's name however a system writes it: `g:image_link`, `Image Link`, `imageLink` and `Image link
    [image_link]` are all `image link`."""
    if code := re.search(r"\[(\w+)\]\s*$", column):
        column = code[1]
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.strip("\ufeff")).replace("_", " ").lower()
    return " ".join(spaced.split()).removeprefix("g:").strip()


@lru_cache(maxsize=1000)
def columns_by_key(columns: tuple[str, ...]) -> dict[str, str]:
    """The first column of each key; not to be changed."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(column_key(column), column)
    return names


class Cells:
    """The cells of one row, read by the keys of their columns ([`column_key`]); what wasn't taken is left over.

    Args:
        number (`int`): the row's number.
        row (`Mapping[str, Any]`): its cells by column.
        columns (`Mapping[str, str]`): the column of fields that the person named; it is read and no other.
        problems (`Table`): counts what is missing or not understood.
    """

    def __init__(self, number: int, row: Mapping[str, Any], columns: Mapping[str, str], problems: Table):
        self.number, self.columns, self.problems = number, columns, problems
        self.row = {column: value for column, value in row.items() if value is not None and value != ""}
        self.names = columns_by_key(tuple(row))
        self.taken: set[str] = set()

    def _found(self, field: str, keys: tuple[str, ...]) -> list[str]:
        if field in self.columns:
            return [column for column in [self.columns[field]] if column in self.row]
        return [column for column in map(self.names.get, keys) if column in self.row]

    def raw(self, field: str, *keys: str) -> tuple[str, Any]:
        """The first column with a value, and the value; it is taken. `("", "")` if there is none.

        Values that only say that there is none are counted.
        """
        for column in self._found(field, keys):
            text = cell_text(self.row[column])
            if text and is_missing_text(text):
                self.taken.add(column)
                self.problems.note(f"{column}: value such as N/A or - (taken for missing)", self.number, column, text)
            elif text:
                self.taken.add(column)
                return column, self.row[column]
        return "", ""

    def take(self, field: str, *keys: str) -> str:
        """A field's text."""
        return cell_text(self.raw(field, *keys)[1])

    def text(self, field: str, *keys: str) -> str:
        """A field's text without HTML; a backslash that seems to escape something is counted."""
        column, value = self.raw(field, *keys)
        text = cell_text(value)
        if ESCAPE.search(text):
            kind = rf"{column}: backslash as in \n or \" (kept as it stands)"
            self.problems.note(kind, self.number, column, text)
        return html_to_text(text)

    def id(self, field: str, *keys: str) -> str:
        """An id as it stands, whatever it is, but for [`code_text`]."""
        column = next((column for column in self._found(field, keys) if cell_text(self.row[column])), None)
        self.taken.update([column] if column else [])
        return code_text(self.row[column]) if column else ""

    def code(self, *keys: str, field: str = "") -> str:
        """The first value of some columns as [`code_text`]; they stay left over."""
        return next(filter(None, (code_text(self.row[column]) for column in self._found(field, keys))), "")

    def see(self, *keys: str, field: str = "") -> str:
        """The first value of some columns, `""` if it is missing; they stay left over, and nothing is counted."""
        found = self.code(*keys, field=field)
        return "" if is_missing_text(found) else found

    def has(self, *keys: str) -> bool:
        """Whether the row has one of the columns, filled or not."""
        return any(key in self.names for key in keys)

    def availability(self, field: str, *keys: str) -> bool | None:
        """What a column says about availability, counted if it can't be read; the column stays left over."""
        column, value = self.raw(field, *keys)
        if field not in self.columns:
            self.taken.discard(column)
        try:
            return read_availability(cell_text(value))
        except ValueError:
            self.problems.note(UNKNOWN_STOCK, self.number, column, cell_text(value))
            return None

    def rest(self) -> dict[str, str]:
        """The cells that nothing took, as text, without empty ones."""
        texts = {}
        for column, value in self.row.items():
            if column not in self.taken:
                texts[column] = code_text(value) if CODE_NAME.search(column) else plain_text(value)
        return {column: text for column, text in texts.items() if text}
