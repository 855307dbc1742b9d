"""What [`MilvusEngine`] and [`LanceEngine`] are asked, checked before they are: queries, `k`, and filters."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_mmfusion.errors import DataError

Condition = list | tuple  # values of which a column must hold one, or bounds `(low, high)`, None for no bound


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
    """A filter as [`ProductIndex.search`] takes it, with values of the columns' types.

    Args:
        where (`Mapping[str, Any]`): conditions by column.
        columns (`Mapping[str, pa.DataType]`): what the columns hold. Bounds of text are of the numbers that it is.

    Returns:
        By column, a list of values (empty if nothing can pass) or a tuple of bounds.

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
    return None if low == -math.inf else low, None if high == math.inf else high


def _values(wanted: Any, kind: pa.DataType) -> list:
    """The values that pass, sorted. Truth values find the strings `true` and `false` in any letters."""
    if isinstance(wanted, bool) and is_text(kind):
        word = str(wanted)
        return ["".join(letters) for letters in itertools.product(*zip(word.lower(), word.upper(), strict=True))]
    values = wanted if isinstance(wanted, (list, set, frozenset)) else [wanted]
    values = [value for value in values if value is not None]
    found = pa.array(values, kind).to_pylist()
    if pa.types.is_floating(kind) and not np.isfinite(found).all():
        raise ValueError("a value is no finite number")
    if pa.types.is_integer(kind) and found != values:
        raise ValueError("a value is no integer")
    return sorted(found)
