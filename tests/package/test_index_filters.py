"""Filters as people type them find what is meant, or one line says what there is."""

import numpy as np
import pyarrow as pa
import pytest

from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_filters import parse_where

PRODUCTS = pa.table(
    {
        "_id": list("abcdef"),
        "price": [4.5, 5.0, 12.0, 20.0, 20.01, None],
        "told": ["4,50 \u20ac", "5 \u20ac", "12,00 EUR", "20,- \u20ac", "1.299,00 \u20ac", "on request"],
        "category": ["Mugs", "mugs & cups", "Home > Kitchen > Mugs", "Home>Kitchen", "HOME > kitchenware", None],
        "in_stock": [True, False, True, None, False, True],
        "age": ["3-5", "5-20", "8", "12", None, "4"],
        "rating": [1, 2, 3, 4, 5, None],
        "name": ["Caf\u00e9", "Cafe\u0301  Latte", "STRASSE", "\u0130stanbul", "a", "b"],
    }
)


@pytest.fixture(scope="module")
def index():
    return ProductIndex.build(np.eye(6, 8, dtype=np.float32), PRODUCTS)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("price=5..20", "bcd"),
        ("price=5-20", "bcd"),
        ("price=5 - 20", "bcd"),
        ("price=5...20", "bcd"),
        ("price=..5", "ab"),
        ("price=20..", "de"),
        ("price<20", "abc"),
        ("price=<20", "abc"),
        ("price = < 20", "abc"),
        ("price<=20", "abcd"),
        ("price=<=20", "abcd"),
        ("price=\u226420", "abcd"),
        ("price > 20", "e"),
        ("price>=20", "de"),
        ("price=>20", "e"),
        ("price<=20,00 EUR", "abcd"),
        ("price>5; price<20", "c"),
        ("price==12", "c"),
        ("price=12|20", "cd"),
        ("told<20", "abc"),
        ("told=12..2000", "cde"),
        ("told=5-20", "bcd"),
        ("category=mugs", "a"),
        ("category=MUGS|Mugs & Cups", "ab"),
        ("category=home > kitchen", "cd"),
        ("category=Home>Kitchen", "cd"),
        ("category=home", "cde"),
        ("category=Home > Kitchen > Mugs", "c"),
        ("in_stock=true", "acf"),
        ("in_stock=no", "be"),
        ("in_stock=TRUE; price<10", "a"),
        ("age=3-5", "a"),
        ("age=4-12", "cdf"),
        ("rating=2-4", "bcd"),
        ("rating>=4", "de"),
        ("name=CAF\u00c9", "a"),
        ("name=caf\u00e9 latte", "b"),
        ("name=strasse", "c"),
    ],
)
def test_what_is_typed_finds_what_is_meant(index, typed, expected):
    found = index.search(np.ones((1, 8), np.float32), 10, where=parse_where(typed))[0]
    assert "".join(sorted(one.product_id for one in found)) == expected


WRONG = ["price", "price=", "=5", "price under 5", "price<cheap", "price=5..dear", "price<", "price=5; price=6", "<5"]


@pytest.mark.parametrize("typed", WRONG)
def test_what_can_not_be_understood_is_refused_with_the_right_form(typed):
    with pytest.raises(DataError, match="column<number|one.another"):
        parse_where(typed)


def test_a_number_column_refuses_words(index):
    with pytest.raises(ProductIndexError, match="can't filter column 'price'"):
        index.search(np.ones((1, 8), np.float32), where=parse_where("price=cheap"))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("category=mug", "no product has category 'mug'; nearest are 'Mugs'"),
        ("category=Mugs|kitchen", "no product has category 'kitchen'; nearest are 'Home>Kitchen'"),
        ("price>1000", "no product has price from 1000; there are 4.5 to 20.01"),
        ("told<1", "no product has told up to 1; there are 4.5 to 1299"),
        ("rating=9", "no product has rating '9'; there are 1 to 5"),
        ("name=zzzzzzzzz", "no product has name 'zzzzzzzzz'"),
    ],
)
def test_what_no_product_has_is_told_with_what_is_nearest(index, typed, words):
    [sentence] = index.unknown_values(parse_where(typed))
    assert sentence.startswith(words)


def test_nothing_is_told_of_what_there_is(index):
    assert index.unknown_values(parse_where("category=home; price=5-20; in_stock=true; told<20; name=caf\u00e9")) == []
