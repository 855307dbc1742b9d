"""Filters over columns: what a person types, which rows pass, and what no product has."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError, ProductIndexError
from .prices import PriceColumn, numbers_of_prices

NUMBER = r"^\s*-?\d+(\.\d+)?\s*$"
CONDITION = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|==|=|<|>)\s*(.*?)\s*")
RANGE = re.compile(r"(-?\d*\.?\d+)\s*(?:-|\u2013|to)\s*(-?\d*\.?\d+)")  # 5-20, which may also be a size or an age
FORMS = "write column=value, column=one|another, column=low..high, column<number or column>=number"
YES, NO = ("true", "yes", "y", "1"), ("false", "no", "n", "0")
LEVEL = ">"  # between the levels of a category
NEAREST = 3
LOOKED_AT = 100_000  # distinct values among which the nearest are sought


def parse_where(text: str) -> dict[str, Any]:
    """Conditions as a person types them, with `;` between, for [`ProductIndex.search`].

    `price=5..20`, `price=5-20`, `price<20` or `price=<20` (not 20 itself), `price<=20`, `price>=5`,
    `category=mugs|cups`, `in_stock=true`. Several bounds of one column hold together.

    Raises:
        DataError: if a condition can't be understood; the message has the forms that are.
    """
    where: dict[str, Any] = {}
    for condition in filter(None, map(str.strip, text.split(";"))):
        found = CONDITION.fullmatch(condition)
        if not found or not found[3]:
            raise DataError(f"{condition!r} is no condition; {FORMS}")
        column, sign, value = found.groups()
        if sign in ("=", "=="):
            sign, value = split_sign(value)
        wanted = parse_equal(value, condition) if sign == "=" else bound_of(sign, number_typed(value, condition))
        where[column] = both(where[column], wanted, condition) if column in where else wanted
    return where


def split_sign(value: str) -> tuple[str, str]:
    """The sign that stands before a value, as in `price=<20`, and the value behind it."""
    found = re.fullmatch(r"(<=|>=|<|>|\u2264|\u2265)\s*(.+)", value)
    return (found[1].replace("\u2264", "<=").replace("\u2265", ">="), found[2]) if found else ("=", value)


def parse_equal(value: str, condition: str) -> Any:
    """What stands behind a `=`: bounds, a truth value, or a list of values."""
    if ".." in value:
        low, _, high = value.partition("..")
        return tuple(number_typed(one, condition) if one.strip() else None for one in (low, high.lstrip(".")))
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return [one.strip() for one in value.split("|") if one.strip()]


def number_typed(text: str, condition: str) -> float:
    """A number that a person has typed.

    Raises:
        DataError: if it is none.
    """
    [number] = numbers_of_prices([text.strip().lstrip("-")])
    if math.isnan(number):
        raise DataError(f"{condition!r}: {text.strip()!r} is no number; {FORMS}")
    return -number if text.strip().startswith("-") else number


def bound_of(sign: str, number: float) -> tuple[float | None, float | None]:
    """A comparison as bounds that are both included."""
    below, above = float(np.nextafter(number, -np.inf)), float(np.nextafter(number, np.inf))
    bounds = {"<": (None, below), ">": (above, None), "<=": (None, number), ">=": (number, None)}
    return bounds[sign]


def both(first: Any, second: Any, condition: str) -> tuple[float | None, float | None]:
    """Two bounds of one column, as in `price>5; price<20`.

    Raises:
        DataError: if one of them is no bound.
    """
    if not (isinstance(first, tuple) and isinstance(second, tuple)):
        raise DataError(f"{condition!r}: there are two conditions of one column; give its values as one|another")
    lows, highs = zip(first, second, strict=True)
    return (
        max((low for low in lows if low is not None), default=None),
        min((high for high in highs if high is not None), default=None),
    )


@dataclass(frozen=True)
class Reading:
    """How the texts of a column are compared with numbers, which all of them together decide.

    Readings of parts of a column sum up (`+`) to that of the whole.

    Attributes:
        is_plain (`bool`): whether all are plain numbers; else they are read as prices.
        has_minus (`bool`): whether one begins with a minus.
        marks (`str`): the decimal marks that are beyond doubt, `"."`, `","`, both or none.
        ranges (`tuple[str, ...]`): values of the filter that look like ranges, `5-20`, and are texts of the column.
    """

    is_plain: bool = True
    has_minus: bool = False
    marks: str = ""
    ranges: tuple[str, ...] = ()

    def __add__(self, other: "Reading") -> "Reading":
        marks = "".join(mark for mark in ".," if mark in self.marks + other.marks)
        ranges = tuple(sorted({*self.ranges, *other.ranges}))
        return Reading(self.is_plain and other.is_plain, self.has_minus or other.has_minus, marks, ranges)


Readings = Mapping[str, Reading]
NO_READINGS: Readings = {}


def column_readings(table: pa.Table, where: Mapping[str, Any]) -> Readings:
    """The readings of the columns of texts that a filter compares with numbers, or with what looks like a range.

    Args:
        table (`pyarrow.Table`): products.
        where (`Mapping[str, Any]`): the filter.
    """
    readings = {}
    for name, wanted in where.items():
        column = table.column(name)
        if not pa.types.is_large_string(column.type):
            continue
        if isinstance(wanted, tuple):
            readings[name] = reading_of(column)
        elif ranges := ranges_among(wanted):
            texts = plain_texts(column)
            known = tuple(value for value in ranges if pc.any(_is_or_below(texts, value)).as_py())
            readings[name] = replace(reading_of(column), ranges=known)
    return readings


def ranges_among(wanted: Any) -> list[str]:
    """The values of a condition that look like a range, as texts are compared."""
    values = [plain_text(value) for value in values_of(wanted) if value is not None and value == value]
    return sorted({value for value in values if RANGE.fullmatch(value)})


def reading_of(column: pa.ChunkedArray) -> Reading:
    """The reading of a column of texts, but for `ranges`."""
    texts, prices = column.unique().drop_null(), PriceColumn()
    has_minus = bool(pc.any(pc.starts_with(pc.utf8_trim_whitespace(texts), "-")).as_py())
    if pc.all(pc.match_substring_regex(texts, NUMBER)).as_py() is not False:
        return Reading(True, has_minus, "." if pc.any(pc.match_substring(texts, ".")).as_py() else "")
    for text in texts.to_pylist():
        prices.see(text)
    return Reading(False, has_minus, "".join(mark for mark in ".," if prices.marks[mark]))


def passes(table: pa.Table, where: Mapping[str, Any], readings: Readings = NO_READINGS) -> np.ndarray:
    """Booleans of shape `(rows,)`: which rows pass each condition. Null passes none.

    Strings are compared without regard to letter case, surplus space and Unicode's forms, and a category passes by its
    first levels too: `Home > Kitchen` finds `Home > Kitchen > Mugs`.

    Args:
        table (`pyarrow.Table`): the products.
        where (`Mapping[str, Any]`): conditions by column.
        readings (`Mapping[str, Reading]`, *optional*): how columns are read; as these rows alone have it if not given.

    Raises:
        ProductIndexError: if a column holds nothing that could be compared so.
    """
    found = table.column("_id").is_valid()
    for name, wanted in where.items():
        try:
            matches = _matches(table.column(name), wanted, readings.get(name))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            kind = table.column(name).type
            raise ProductIndexError(f"can't filter column {name!r}, which holds {kind}, by {wanted!r}") from error
        found = pc.and_(found, pc.fill_null(matches, False))
    return found.to_numpy()


def _matches(column: pa.ChunkedArray, wanted: Any, reading: Reading | None = None) -> pa.ChunkedArray:
    if isinstance(wanted, tuple):
        return _between(numbers_of(column, reading), *wanted)
    values = [value for value in values_of(wanted) if value is not None and value == value]  # nor not-a-number
    kind = column.type
    if pa.types.is_null(kind):
        return pc.is_in(column, value_set=pa.array([], type=kind))
    if pa.types.is_large_string(kind):
        return _text_matches(column, values, reading)
    if pa.types.is_boolean(kind):
        return pc.is_in(column, value_set=pa.array([truth_of(value) for value in values], type=kind))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return pc.is_in(column, value_set=pa.array(values, type=kind))
    ranges = {value: found for value in values if isinstance(value, str) and (found := RANGE.fullmatch(value.strip()))}
    numbers = [number_of(value) for value in values if value not in ranges]
    if pa.types.is_integer(kind):
        exact = [int(number) for number in numbers if number == int(number)]
        matches = pc.is_in(column.cast(pa.int64()), value_set=pa.array(exact, type=pa.int64()))
    else:
        floats = column.cast(pa.float64()) if pa.types.is_decimal(kind) else column
        matches = pc.is_in(floats, value_set=pa.array([float(number) for number in numbers], type=floats.type))
    for found in ranges.values():
        matches = pc.or_kleene(matches, _between(numbers_of(column), float(found[1]), float(found[2])))
    return matches


def _between(numbers: pa.ChunkedArray, low: Any, high: Any) -> pa.ChunkedArray:
    at_least = pc.greater_equal(numbers, float("-inf") if low is None else float(number_of(low)))
    return pc.and_(at_least, pc.less_equal(numbers, float("inf") if high is None else float(number_of(high))))


def _text_matches(column: pa.ChunkedArray, values: list, reading: Reading | None = None) -> pa.ChunkedArray:
    """Which texts are one of the values or below it. Where none is, `5-20` is a range of the numbers that they are."""
    texts = plain_texts(column)
    wanted = [plain_text(value) for value in values]
    matches = pc.is_in(texts, value_set=pa.array(wanted, type=texts.type))
    for value in wanted:
        matches = pc.or_kleene(matches, _is_or_below(texts, value))
    for found in filter(None, map(RANGE.fullmatch, wanted)):
        is_text = pc.any(_is_or_below(texts, found[0])).as_py() if reading is None else found[0] in reading.ranges
        if not is_text:
            between = _between(numbers_of(column, reading), float(found[1]), float(found[2]))
            matches = pc.or_kleene(matches, pc.fill_null(between, False))
    return matches


def _is_or_below(texts: pa.ChunkedArray, value: str) -> pa.ChunkedArray:
    """Which plain texts are a value, or a category below it."""
    return pc.or_kleene(pc.equal(texts, value), pc.starts_with(texts, f"{value} {LEVEL} "))


def plain_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's texts as [`plain_text`] makes them, with nulls where there are any."""
    texts = pc.utf8_lower(pc.utf8_normalize(column, form="NFKC"))
    texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"\s+", " "))
    return pc.replace_substring_regex(texts, rf"\s*{LEVEL}\s*", f" {LEVEL} ")


def plain_text(value: Any) -> str:
    """A value as texts are compared: lower case, Unicode's plain forms, single spaces, levels of categories apart."""
    return plain_texts(pa.chunked_array([pa.array([as_text(value)], pa.large_string())]))[0].as_py()


def as_text(value: Any) -> str:
    """A value as the text that a column of texts would hold."""
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def values_of(wanted: Any) -> list:
    """The values of a condition that is one or a list of them."""
    return list(wanted) if isinstance(wanted, (list, set, frozenset)) else [wanted]


def truth_of(value: Any) -> Any:
    """A truth value, also of the words that people type.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(value, str):
        if value.strip().lower() not in YES + NO:
            raise TypeError(f"{value!r} is neither yes nor no")
        return value.strip().lower() in YES
    return value


def number_of(value: Any) -> Any:
    """A number, or a string that is one, as a number.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, str) and re.search(NUMBER, value):
        return float(value) if "." in value else int(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{value!r} is no number")
    return value


def numbers_of(column: pa.ChunkedArray, reading: Reading | None = None) -> pa.ChunkedArray:
    """A column as float64. Texts are read as prices, `12,50 EUR`; those that are no number become null."""
    if not pa.types.is_large_string(column.type):
        return column.cast(pa.float64())
    reading = reading or reading_of(column)
    if reading.is_plain:
        return pc.utf8_trim_whitespace(column).cast(pa.float64())
    prices = PriceColumn(decimal_mark=reading.marks if len(reading.marks) == 1 else None)
    found = [prices.read(text) if text else None for text in column.to_pylist()]
    numbers = pa.array([None if price is None else price.amount for price in found], pa.float64(), from_pandas=True)
    if reading.has_minus:
        is_plain = pc.match_substring_regex(column, NUMBER)
        plain = pc.if_else(is_plain, pc.utf8_trim_whitespace(column), None).cast(pa.float64())
        return pc.coalesce(plain, numbers)
    return pa.chunked_array([numbers])


@dataclass
class UnknownValue:
    """What a filter asks for and no product has.

    Attributes:
        sentence (`str`): what that is.
        value (`str`): the value, as texts are compared; `""` of bounds.
        near (`tuple[str, ...]`): the most like it that there are, as they are written.
        extent (`tuple[float, float]`, *optional*): the least and the largest number of the column.
        is_number (`bool`): whether it was compared with numbers.
    """

    sentence: str
    value: str = ""
    near: tuple[str, ...] = ()
    extent: tuple[float, float] | None = None
    is_number: bool = False

    def __str__(self) -> str:
        if self.near:
            return f"{self.sentence}; nearest are {', '.join(map(repr, self.near))}"
        if not self.is_number:
            return self.sentence
        if self.extent is None:
            return f"{self.sentence}; it holds no number"
        return f"{self.sentence}; there are {self.extent[0]:g} to {self.extent[1]:g}"

    def __add__(self, other: "UnknownValue") -> "UnknownValue":
        """The same of two parts of the catalogue, neither of which has it."""
        near = nearest_texts({*self.near, *other.near}, self.value)
        both = [one.extent for one in (self, other) if one.extent]
        extent = (min(low for low, _ in both), max(high for _, high in both)) if both else None
        return replace(self, near=near, extent=extent)


def unknown_values(
    table: pa.Table, where: Mapping[str, Any], readings: Readings = NO_READINGS
) -> dict[tuple[str, int], UnknownValue]:
    """Each value of a filter that no product has, with those that are nearest to it, by column and its place there.

    Args:
        table (`pyarrow.Table`): the products.
        where (`Mapping[str, Any]`): the filter, which [`passes`] takes.
        readings (`Mapping[str, Reading]`, *optional*): see [`passes`].
    """
    unknown = {}
    for name, wanted in where.items():
        column, reading = table.column(name), readings.get(name)
        if isinstance(wanted, tuple):
            if not passes(table, {name: wanted}, readings).any():
                extent = extent_of(column, reading)
                unknown[name, 0] = UnknownValue(
                    f"no product has {name} {bounds_text(*wanted)}", extent=extent, is_number=True
                )
            continue
        for place, value in enumerate(values_of(wanted)):
            if not passes(table, {name: value}, readings).any():
                unknown[name, place] = unknown_value(name, column, value)
    return unknown


def unknown_value(name: str, column: pa.ChunkedArray, value: Any) -> UnknownValue:
    """A value that a column does not have."""
    sentence, kind = f"no product has {name} {as_text(value)!r}", column.type
    if pa.types.is_large_string(kind):
        texts = [one for one in column.slice(0, LOOKED_AT).unique().to_pylist() if one]
        return UnknownValue(sentence, plain_text(value), nearest_texts(texts, plain_text(value)))
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return UnknownValue(sentence, extent=extent_of(column), is_number=True)
    return UnknownValue(sentence)


def bounds_text(low: Any, high: Any) -> str:
    """Bounds in words."""
    parts = [f"from {low:g}" if low is not None else "", f"up to {high:g}" if high is not None else ""]
    return " ".join(filter(None, parts)) or "that is a number"


def extent_of(column: pa.ChunkedArray, reading: Reading | None = None) -> tuple[float, float] | None:
    """Between which numbers a column lies; `None` if it has none."""
    found = pc.min_max(numbers_of(column, reading)).as_py()
    return None if found["min"] is None else (found["min"], found["max"])


def nearest_texts(texts: Iterable[str], value: str) -> tuple[str, ...]:
    """The most like a value, which is plain, of some different texts, three at most."""
    written = sorted(texts)
    texts = plain_texts(pa.chunked_array([pa.array(written, pa.large_string())])).to_pylist()
    plain = dict(zip(texts, written, strict=True))
    return tuple(plain[one] for one in difflib.get_close_matches(value, most_like(plain, value), NEAREST, 0.3))


def most_like(texts: Iterable[str], value: str) -> list[str]:
    """Texts that share a word with a value, or else those of nearly its length, some thousand at most."""
    words = set(value.split())
    shared = [text for text in texts if words & set(text.split())]
    return (shared + [text for text in texts if abs(len(text) - len(value)) < 8])[:5000]
