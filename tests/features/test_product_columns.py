"""The one schema of products: pictures' names, and prices as numbers."""

import pyarrow as pa
import pytest

from training.features.product_columns import picture_names, with_numeric_price
from training.features.shards import kept_columns

STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
MUG, LAMP, UNNAMED = ({"bytes": b"x", "path": path} for path in ("mug 日本.jpg", "a/lamp.jpg", None))


@pytest.mark.parametrize(
    ("kind", "pictures", "names"),
    [
        (STORED, [MUG, None, UNNAMED, LAMP], ["mug 日本.jpg", None, None, "a/lamp.jpg"]),
        (
            pa.list_(STORED),
            [[LAMP, MUG], [], None, [UNNAMED, MUG], [MUG]],
            ["a/lamp.jpg", None, None, None, MUG["path"]],
        ),
        (pa.large_list(pa.string()), [["a.jpg", "b.jpg"], None], ["a.jpg", None]),
        (
            pa.string(),
            ["a.jpg", "", None, "data:image/png;base64,iVBO", "x" * 3000],
            ["a.jpg", None, None, None, None],
        ),
        (pa.binary(), [b"x", None], [None, None]),
        (pa.struct({"bytes": pa.binary()}), [{"bytes": b"x"}], [None]),
        (pa.null(), [None, None], [None, None]),
        (STORED, [], []),
    ],
)
def test_the_first_pictures_name_is_kept_beside_the_vectors(kind, pictures, names):
    column = pa.chunked_array([pa.array(pictures, kind), pa.array(pictures, kind)[1:]])
    assert picture_names(column).to_pylist() == names + names[1:]
    table = pa.table({"_id": [str(number) for number in range(len(column))], "image": column})
    kept = kept_columns(table)
    assert kept.schema.field("image").type == pa.string() and kept.column("image").to_pylist() == names + names[1:]


def test_prices_that_are_text_become_numbers_with_a_currency():
    table = pa.table({"_id": list("abcd"), "price": ["12,50 EUR", "$8.50", "on request", None], "title": list("ABCD")})
    found = with_numeric_price(table)
    assert found.column_names == ["_id", "price", "title", "currency", "price_text"]
    assert found.column("price").to_pylist() == [12.5, 8.5, None, None]
    assert found.column("currency").to_pylist() == ["EUR", "USD", None, None]
    assert found.column("price_text").to_pylist() == [None, None, "on request", None]


def test_prices_and_currencies_that_are_there_stay():
    table = pa.table({"_id": ["a"], "price": pa.array([3], pa.int64()), "currency": ["SEK"]})
    assert with_numeric_price(table).to_pylist() == [{"_id": "a", "price": 3.0, "currency": "SEK"}]
    texts = pa.table({"_id": ["a"], "price": ["3 EUR"], "currency": ["SEK"]})
    assert with_numeric_price(texts).column("currency").to_pylist() == ["SEK"]
    assert with_numeric_price(table.drop_columns("price")).column_names == ["_id", "currency"]
