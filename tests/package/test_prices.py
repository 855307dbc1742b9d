"""Prices as shops write them: the right number, or none and said so; never another number."""

import math

import pytest

from modeling_mmfusion.prices import Price, PriceColumn, numbers_of_prices, price_text, read_price

PRICES = {
    "19.99": (19.99, ""),
    "19.99 USD": (19.99, "USD"),
    "USD19.99": (19.99, "USD"),
    "20 usd": (20, "USD"),
    "$8.50": (8.5, "USD"),
    "CA$8": (8, "CAD"),
    "12,50": (12.5, ""),
    "1.299,00 \u20ac": (1299, "EUR"),
    "1,299.00": (1299, ""),
    "1.299.000": (1299000, ""),
    "1 299,00 z\u0142": (1299, "PLN"),
    "1\u202f299,00": (1299, ""),
    "1\u00a0299\u00a0\u20ac": (1299, "EUR"),
    "CHF 1'299.50": (1299.5, "CHF"),
    "Fr. 19.-": (19, "CHF"),
    "19,\u2013": (19, ""),
    "1.299,-": (1299, ""),
    "12\u20ac50": (12.5, "EUR"),
    "\u00a35": (5, "GBP"),
    "\u00a51,200": (1200, "JPY"),
    "Rs. 1,25,000": (125000, "INR"),
    "kr 129,00": (129, "kr"),
    "129 kr.": (129, "kr"),
    "from 9.99": (9.99, ""),
    "ab 9,99 EUR": (9.99, "EUR"),
    "9.99*": (9.99, ""),
    "0": (0, ""),
    "0.299": (0.299, ""),
    "12345,6": (12345.6, ""),
    "\uff11\uff12.\uff15": (12.5, ""),
}
NONE = ["", "free", "-5", "(9.99)", "9.99 - 19.99", "9.99/kg", "10%", "1e3", "5 pcs", "2 for 5", "1.2.3", "1,299,00"]
NONE += ["12 3456", "1.299", "1,299", "$1,299", "1.2,3.4", "size 40", "9" * 400 + ".5x", "inf", "nan"]


@pytest.mark.parametrize("text", PRICES)
def test_a_price_is_read_as_it_is_meant(text):
    amount, currency = PRICES[text]
    found = read_price(text)
    assert found and (found.amount, found.currency or currency) == (amount, currency or found.currency), found


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_price_or_could_be_two_is_none(text):
    assert read_price(text) is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1.299", "12,50"], [1299, 12.5]),
        (["1,299", "8.50", "$2,000"], [1299, 8.5, 2000]),
        (["1.299", "1.299.000"], [1299, 1299000]),
        (["1.299", "2,50 \u20ac", "3 \u20ac"], [1299, 2.5, 3]),
        (["1.299", "2.499"], [None, None]),
        (["8.50", "12,50", "1.299"], [8.5, 12.5, None]),
        (["1.299 JPY", "2.499"], [1299, None]),
    ],
)
def test_a_column_decides_what_a_price_alone_can_not(texts, expected):
    column = PriceColumn()
    for text in texts:
        column.see(text)
    assert [found and found.amount for found in map(column.read, texts)] == expected
    numbers = numbers_of_prices([*texts, None, "free"])
    assert [None if math.isnan(number) else number for number in numbers] == [*expected, None, None]


def test_a_person_decides_where_the_column_can_not():
    assert PriceColumn(decimal_mark=",").read("1.299") == Price(1299)
    assert PriceColumn(decimal_mark=".").read("1.299") == Price(1.299)
    assert PriceColumn(decimal_mark=",").read("12.50") == Price(12.5), "which can't be twelve hundred and fifty"


@pytest.mark.parametrize(("price", "text"), [(9.9, "9.90"), (1299.0, "1299"), (5, "5"), ("on request", "on request")])
def test_prices_are_shown_as_people_write_them(price, text):
    assert price_text(price) == text
