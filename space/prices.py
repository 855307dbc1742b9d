"""What a price is: a number and a currency, however a shop writes it.

`1.299` is a thousand and more in Germany and one and a bit in Britain. One price can't tell, a column mostly can:
[`PriceColumn`] looks at all of them before it reads the first.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

SIGNS = {
    "€": "EUR",
    "$": "USD",
    "US$": "USD",
    "C$": "CAD",
    "CA$": "CAD",
    "A$": "AUD",
    "AU$": "AUD",
    "NZ$": "NZD",
    "HK$": "HKD",
    "S$": "SGD",
    "R$": "BRL",
    "MX$": "MXN",
    "£": "GBP",
    "¥": "JPY",
    "₹": "INR",
    "Rs": "INR",
    "₩": "KRW",
    "₽": "RUB",
    "₺": "TRY",
    "₫": "VND",
    "₴": "UAH",
    "₪": "ILS",
    "฿": "THB",
    "₱": "PHP",
    "₦": "NGN",
    "zł": "PLN",
    "Kč": "CZK",
    "Ft": "HUF",
    "lei": "RON",
    "лв": "BGN",
    "euro": "EUR",
    "Fr": "CHF",
}
BY_LETTERS = {sign.casefold(): code for sign, code in SIGNS.items()}
WHOLE_CURRENCIES = {"JPY", "KRW", "VND", "CLP", "ISK", "HUF", "IDR", "PYG", "UGX", "XAF", "XOF"}  # without cents
SPACES = "' \u2019\u00b4`_"  # that stand between groups of digits, once NFKC has made plain spaces of all others
NUMBER = re.compile(rf"\d(?:[\d.,]|[{SPACES}](?=\d))*")
DASH = re.compile(r"(?<=\d)([.,])\s*[-\u2013\u2014]+")  # 19,- for 19,00
BETWEEN = re.compile(r"(?<=\d)\s?(€|\$|£|kr|EUR)\s?(?=\d\d$)")  # 12€50
PLAIN = re.compile(r"\d{1,12}(?:\.\d\d?)?")  # what most prices are
BESIDE = {
    "from",
    "only",
    "ab",
    "nur",
    "ca",
    "circa",
    "des",
    "dès",
    "desde",
    "da",
    "incl",
    "approx",
    "vat",
    "tax",
    "mwst",
    "ttc",
}
CODE = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True)
class Price:
    """A price.

    Attributes:
        amount (`float`): how much; from 0.
        currency (`str`): its ISO 4217 code where the sign tells it, else the sign as it stands, such as `kr`; `""`
            if there is none. A bare `$` is taken for USD, `¥` for JPY.
    """

    amount: float
    currency: str = ""


def read_price(text: str, decimal_mark: str | None = None) -> Price | None:
    """Reads a price as shops write it: `19.99 USD`, `$8.50`, `12,50`, `1.299,00 €`, `CHF 1'299.-`, `1 299,00 zł`.

    Args:
        text (`str`): the price.
        decimal_mark (`str`, *optional*): `.` or `,`, for prices that could be both, `1.299` or `1,299`.

    Returns:
        [`Price`], or `None` if it is none, is below zero, is several, or can't be told without `decimal_mark`.
    """
    if PLAIN.fullmatch(text):
        return Price(float(text))
    parts = split_price(text)
    if parts is None:
        return None
    digits, currency = parts
    mark = mark_of(digits)
    if mark is None and currency in WHOLE_CURRENCIES:
        mark = ""
    if mark is None:
        if decimal_mark is None:
            return None
        mark = decimal_mark if decimal_mark in digits else ""
    whole = digits if mark == "" else digits.replace(mark, "!")
    amount = float(re.sub(rf"[.,{SPACES}]", "", whole).replace("!", "."))
    return Price(amount, currency) if math.isfinite(amount) else None


@lru_cache(10_000)  # shops have few prices, of which many products have the same
def split_price(text: str) -> tuple[str, str] | None:
    """The digits of a price, with what stands between them, and its currency; `None` if it is no single price."""
    text = unicodedata.normalize("NFKC", str(text)).strip()
    text = BETWEEN.sub(lambda found: "." if found[1] else "", text) if BETWEEN.search(text) else text
    text = DASH.sub(r"\g<1>00", text)
    found = NUMBER.findall(text)
    if len(found) != 1:
        return None
    before, _, after = text.partition(found[0])
    digits = found[0].rstrip(".,")
    words = [word for part in (before, after) for word in part.replace("*", " ").split() if word.strip(".,:;")]
    words = [word for word in words if word.strip(".,:;").casefold() not in BESIDE]
    if len(words) > 1 or any(character in "-\u2212\u2013%/" for word in words for character in word):
        return None
    currency = currency_of(words[0].strip(",:;")) if words else ""
    return None if currency is None or not is_grouped(digits) else (digits, currency)


def currency_of(word: str) -> str | None:
    """The currency that a word beside a number names; `None` if it is none, as `pcs` or `from`."""
    if (code := BY_LETTERS.get(word.rstrip(".").casefold())) is not None:
        return code
    if CODE.fullmatch(word.upper()) and word.upper() in CURRENCIES:
        return word.upper()
    return word.rstrip(".") if word.casefold().rstrip(".") in ("kr", "din") else None


def is_grouped(digits: str) -> bool:
    """Whether what stands between digits can be of one number: one mark, or groups of two and three digits."""
    marks = [mark for mark in ".," if mark in digits]
    if len(marks) == 2:
        last = max(marks, key=digits.rfind)
        return digits.count(last) == 1 and are_groups(digits.split(last)[0])
    if marks and digits.count(marks[0]) == 1:
        whole = digits.split(marks[0])[0]
        return not set(whole) & set(SPACES) or are_groups(whole)
    return not set(digits) & set(SPACES + ".,") or are_groups(digits)


def are_groups(digits: str) -> bool:
    """Whether digits are in groups as of thousands, or as in India: 1,25,000."""
    first, *groups = re.split(rf"[.,{SPACES}]", digits)
    return 1 <= len(first) <= 3 and (not groups or (len(groups[-1]) == 3 and {len(one) for one in groups} <= {2, 3}))


def mark_of(digits: str) -> str | None:
    """The decimal mark of a number, `""` if it has none; `None` if its only mark could be both, as in `1.299`."""
    marks = [mark for mark in ".," if mark in digits]
    if not marks:
        return ""
    if len(marks) == 2:
        return max(marks, key=digits.rfind)
    before, *groups = digits.split(marks[0])
    if len(groups) > 1:
        return ""
    could_be_group = len(groups[0]) == 3 and 1 <= len(before) <= 3 and not before.startswith("0")
    return None if could_be_group and not set(before) & set(SPACES) else marks[0]


@dataclass
class PriceColumn:
    """The prices of one column: first all are [`~PriceColumn.see`]n, then each is [`~PriceColumn.read`].

    Attributes:
        decimal_mark (`str` or `None`): `.` or `,` if a person has told it.
        marks (`dict[str, int]`): how many prices have which mark beyond doubt.
        in_doubt (`int`): how many could be both.
    """

    decimal_mark: str | None = None
    marks: dict[str, int] = field(default_factory=lambda: {".": 0, ",": 0})
    in_doubt: int = 0

    def see(self, text: str) -> None:
        """Learns from a price how the column is written."""
        if PLAIN.fullmatch(text):
            self.marks["."] += "." in text
            return
        parts = split_price(text)
        if parts is None:
            return
        mark = mark_of(parts[0])
        self.in_doubt += mark is None and parts[1] not in WHOLE_CURRENCIES
        if mark:
            self.marks[mark] += 1
        elif mark == "" and (groups := set(parts[0]) & set(".,")):
            self.marks["," if groups == {"."} else "."] += 1

    @property
    def mark(self) -> str | None:
        """The column's decimal mark; `None` if all prices could be both, or there are some of each."""
        seen = [mark for mark, count in self.marks.items() if count]
        return self.decimal_mark or (seen[0] if len(seen) == 1 else None)

    def read(self, text: str) -> Price | None:
        """Reads a price; see [`read_price`]."""
        return read_price(text, self.mark)


def numbers_of_prices(texts: Iterable[str | None]) -> list[float]:
    """The amounts of a column of prices; not-a-number where there is none or it can't be told."""
    texts, column = list(texts), PriceColumn()
    for text in texts:
        column.see(text or "")
    found = [column.read(text) if text else None for text in texts]
    return [math.nan if price is None else price.amount for price in found]


def price_text(price: float | str) -> str:
    """A price to show or to read out: `9.90`, `1299`; a text as it is."""
    if isinstance(price, str):
        return price
    return f"{price:.0f}" if float(price).is_integer() else f"{price:.2f}"


CURRENCIES = set(
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG "
    "HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA "
    "MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD "
    "RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD "
    "UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG".split()
)
