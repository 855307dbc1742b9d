"""The one schema of products, from shards to the index, engines, files and answers.

| column | what |
|---|---|
| `_id` | text that names the product, of at most 512 bytes for engines |
| `vector` | float16 in shards, float32 in engines and files; not shown |
| `title`, `description`, `brand` | text |
| `category` | text; levels with ` > ` between, `Home > Kitchen` |
| `price`, `currency` | a number, and the ISO code of its currency; a price that can't be told is `price_text` |
| `in_stock` | a truth value |
| `image` | text: file name, path or address of the first picture, whose bytes are never kept |

All others are the catalogue's own. A catalogue whose prices are text keeps them so in shards and index, which compare
them as numbers; engines and files get the columns of the table.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.index_filters import numbers_of
from modeling_mmfusion.index_products import with_large_strings
from modeling_mmfusion.prices import read_price

PICTURE = "image"
LONGEST_NAME = 2000  # characters; longer ones are pictures themselves, as data URLs


def picture_names(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names of products' first pictures.

    Args:
        column (`pyarrow.ChunkedArray`): pictures as a catalogue has them: paths, structures of `bytes` and `path`,
            bytes alone, or lists of these.

    Returns:
        `pyarrow.ChunkedArray` of text; null where there is no picture, or one without a name.
    """
    return pa.chunked_array([_names(chunk) for chunk in column.chunks], pa.string())


def _names(pictures: pa.Array) -> pa.Array:
    kind = pictures.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        rows, first = np.unique(pc.list_parent_indices(pictures).to_numpy(), return_index=True)
        places = np.full(len(pictures), -1)
        places[rows] = first
        return _names(pictures.flatten()).take(pa.array(places, mask=places < 0))
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        return _names(pc.struct_field(pictures, "path"))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return pa.nulls(len(pictures), pa.string())
    is_name = pc.and_(pc.less(pc.utf8_length(pictures), LONGEST_NAME), pc.greater(pc.utf8_length(pictures), 0))
    is_name = pc.and_(is_name, pc.invert(pc.starts_with(pictures, "data:")))
    return pc.if_else(is_name, pictures, None).cast(pa.string())


def picture_name(pictures: Any) -> str | None:
    """What [`picture_names`] gives for one product's pictures: a path, a mapping with `path`, or a list of these."""
    first = next(iter(pictures), None) if isinstance(pictures, list | tuple) else pictures
    name = first.get("path") if isinstance(first, dict) else first
    is_name = isinstance(name, str) and 0 < len(name) < LONGEST_NAME and not name.startswith("data:")
    return name if is_name else None


def with_numeric_price(table: pa.Table) -> pa.Table:
    """Products with `price` as a number; of texts with `currency`, and `price_text` where they can't be told."""
    if "price" not in table.column_names:
        return table
    prices = with_large_strings(table.select(["price"])).column("price")
    numbers = numbers_of(prices)
    table = table.set_column(table.column_names.index("price"), "price", numbers)
    if not pa.types.is_large_string(prices.type):
        return table
    found = [read_price(text, ".") if text else None for text in prices.to_pylist()]
    is_text = pc.and_(pc.is_null(numbers), pc.is_valid(prices))
    texts = {
        "currency": pa.array([price and price.currency for price in found], pa.large_string()),
        "price_text": pc.if_else(is_text, prices, None),
    }
    for name, column in texts.items():
        if name not in table.column_names:
            table = table.append_column(name, column)
    return table
