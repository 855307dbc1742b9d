"""What engines are asked, checked before they are: queries, `k`, and filters.

Filters are those of `modeling_mmfusion/index_filters.py`: letter case, surplus space and Unicode's forms don't count,
and `Home > Kitchen` finds what is below it. No engine's language can say that of a column, so Lance is asked for those
of a column's texts that pass, which are looked up, and Milvus has a second field with each text in its plain form.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_filters import RANGE, number_of, passes, plain_text, truth_of, values_of

Condition = list  # values of which a column must hold one, and bounds `(low, high)`, None for no bound


def check_search(queries: np.ndarray, k: int, dim: int) -> None:
    """Looks at what a search is given.

    Raises:
        DataError: if `k` is no positive integer, or the queries are no matrix of finite numbers, `dim` wide.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise DataError(f"k is {k!r}; give a positive integer")
    if np.ndim(queries) != 2 or not np.isfinite(queries).all():
        raise DataError(f"queries of shape {np.shape(queries)}: give a matrix of finite numbers, a row a query")
    if queries.shape[1] != dim:
        raise DataError(f"queries have {queries.shape[1]} dimensions, the vectors have {dim}")


def conditions(where: Mapping[str, Any], columns: Mapping[str, pa.DataType]) -> dict[str, Condition]:
    """A filter as [`ProductIndex.search`] takes it, with values of the columns' types, as [`passes`] compares them.

    Args:
        where (`Mapping[str, Any]`): conditions by column.
        columns (`Mapping[str, pa.DataType]`): what the columns hold. Bounds of text are of the numbers that it is.

    Returns:
        By column, a list of values and bounds, empty if nothing can pass. Values of text are those of [`plain_text`].

    Raises:
        DataError: if a column is unknown, or can't be compared with what is wanted.
    """
    found = {}
    for name, wanted in where.items():
        if name not in columns:
            raise DataError(f"there is no column {name!r} to filter by; there are {', '.join(columns)}")
        kind = columns[name]
        try:
            found[name] = _bounds(*wanted, kind) if isinstance(wanted, tuple) else _values(wanted, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"can't filter column {name!r}, which holds {kind}, by {wanted!r}") from error
    return found


def passing_texts(texts: pa.ChunkedArray, wanted: Any) -> list[str]:
    """Of all texts that a column holds those that pass a condition of [`ProductIndex.search`]."""
    texts = texts.cast(pa.large_string()).unique().drop_null()
    column = pa.chunked_array([texts])
    return texts.filter(pa.array(passes(pa.table({"_id": column, "text": column}), {"text": wanted}))).to_pylist()


def bounds_expression(field: str, low: float | str | None, high: float | str | None) -> str:
    """Bounds as Lance and Milvus write them."""
    bounds = [f"{field} {sign} {bound}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None]
    return " and ".join(bounds or [f"{field} is not null"])


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _bounds(low: Any, high: Any, kind: pa.DataType) -> Condition:
    """Bounds in a column's type; engines compare integers with integers alone."""
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    if math.isnan(low) or math.isnan(high):
        raise ValueError("a bound is no number")
    if pa.types.is_boolean(kind):
        return [value for value in (False, True) if low <= value <= high]
    if pa.types.is_integer(kind):
        least, most = np.iinfo(kind.to_pandas_dtype()).min, np.iinfo(kind.to_pandas_dtype()).max
        if low > most or high < least:
            return []
        low = math.ceil(low) if low > least else -math.inf
        high = math.floor(high) if high < most else math.inf
    if low > high or low == math.inf or high == -math.inf:
        return []
    return [(None if low == -math.inf else low, None if high == math.inf else high)]


def _values(wanted: Any, kind: pa.DataType) -> Condition:
    """The values that pass, each once, and of numbers the ranges, `5-20`."""
    values = [value for value in values_of(wanted) if value is not None and value == value]  # nor not-a-number
    if is_text(kind):
        return list(dict.fromkeys(map(plain_text, values)))
    if pa.types.is_boolean(kind):
        return sorted(set(pa.array(map(truth_of, values), kind).to_pylist()))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return sorted(pa.array([] if pa.types.is_null(kind) else values, kind).to_pylist())
    found = [RANGE.fullmatch(value.strip()) if isinstance(value, str) else None for value in values]
    numbers = {number_of(value) for value, is_range in zip(values, found, strict=True) if not is_range}
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        numbers = {int(number) for number in numbers if number == int(number) and limits.min <= number <= limits.max}
    numbers = {number for number in numbers if math.isfinite(number)}
    ranges = (_bounds(one[1], one[2], kind) for one in filter(None, found))
    return sorted(pa.array(numbers, kind).to_pylist()) + [bounds for some in ranges for bounds in some]
