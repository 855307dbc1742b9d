"""Texts of queries and products: fields as one text, Unicode's plain forms, words without punctuation."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence, Sized
from urllib.parse import unquote

PRODUCT_FIELDS = ("title", "brand", "category", "description", "attributes")
VIEWS = ("fused", "text", "image")  # of a product
TRADE_MARKS = str.maketrans("", "", "\u2122\u2120")  # TM and SM
FRACTION, FRACTION_SLASH = re.compile("[\u00bc-\u00be\u2150-\u215e]"), "\u2044"
MARKS = ((0x21, 0x3100), (0xFE00, 0x10000), (0x1F000, 0x1FB00))  # where Unicode has punctuation and symbols
KEPT_MARKS = "&%$\u00a2\u00a3\u00a4\u00a5\u20ac\u20b9\u00b0+'.,/-"
UNITS = "ml cl l cm mm m km kg g mg oz lb lbs in inch ft w kw v ah mah gb tb mb hz ghz mhz mp pcs pc pack"

# What a query says that it does not want: a cue, and the words up to the next preposition, two at most
CUES = r"(?:with no(?! (?:patterns?|prints?)\b)|without|w/o|except(?: for)?|excluding|minus|ohne|sans)"
STOPS = "for|in|with|without|under|from|by|to|on|at|and|or|nor|not|but|except|size|f\u00fcr|mit|pour|avec"
EXCLUDED = rf"(?:any |an? |the )?(\S+(?: (?!(?:{STOPS})\b)\S+)?(?: (?:or|and|nor) \S+)*)"
NEGATION = re.compile(rf"(?<=\S) {CUES} {EXCLUDED}", re.IGNORECASE)
NOT_ONE = re.compile(
    r"(?<=\S) (?:but |and )?not ((?:(?:light|dark|too|very|pale|bright) )?\S+(?: n?or \S+)*)", re.IGNORECASE
)
NO_LAST = re.compile(r"(?<=\S) no (?!(?:patterns?|prints?)$)(\S+(?: \S+)?)$", re.IGNORECASE)
SAYINGS = re.compile(r"\b(?:me|do|or|if|why|is|does|am|are|can|will|must|it) not\b", re.IGNORECASE)  # forget me not
MINUS = re.compile(r"(?<=\s)-(?=[^\W\d_]{3})")


def marks_but(kept: str) -> str:
    """All of Unicode's punctuation and symbols but some, as ranges of a class of a regular expression."""
    codes = [code for span in MARKS for code in range(*span)]
    marks = [code for code in codes if unicodedata.category(chr(code))[0] in "PS" and chr(code) not in kept]
    starts = [code for code, before in zip(marks, [-1, *marks], strict=False) if code != before + 1]
    ends = [code for code, after in zip(marks, [*marks[1:], -1], strict=True) if code + 1 != after]
    spans = [(chr(start), chr(end)) for start, end in zip(starts, ends, strict=True)]
    return "".join(f"{escaped(start)}-{escaped(end)}" for start, end in spans)


def escaped(mark: str) -> str:
    """A mark within a regular expression's class."""
    return f"\\{mark}" if mark in "\\^-[]" else mark


def in_any_case(words: str) -> str:
    """Words as a regular expression that heeds no case; not by a flag, which not every program has."""
    return "|".join("".join(f"[{one}{one.upper()}]" for one in word) for word in words.split())


# What makes a text words alone: what is found, in this order, and what takes its place. Programs in other languages
# read these too (training/features/query_folder.py), so there are no flags and no groups in them.
WORD_STEPS = [
    ("[\u2018\u2019\u02bc\u00b4`]", "'"),
    (r"(?<=[0-9])\s*[xX\u00d7]\s*(?=[0-9])", " x "),
    (rf"(?<=[0-9])(?=(?:{in_any_case(UNITS)})(?!\w))", " "),
    (rf"[_{marks_but(KEPT_MARKS)}]+", " "),
    (r"[,/](?![0-9])|(?<![0-9])[,/]", " "),
    (r"-(?![0-9])|(?<![0-9])-", " "),
    (r"'(?!\w)|(?<!\w)'", " "),
    (r"(?<=[^\W0-9_])\+(?=[^\W0-9_])", " "),
]
SPACES = (r"\s+", " ")
QUERY_STEPS = [
    (re.compile(found), words) for found, words in [*WORD_STEPS, (r"\.(?![0-9])|(?<![0-9])\.", " "), SPACES]
]
SENTENCES = [(re.compile(found), words) for found, words in [*WORD_STEPS, (r"\.(?![0-9\s])|(?<!\S)\.", " "), SPACES]]


def join_fields(product: Mapping, fields: Sequence[str] = PRODUCT_FIELDS) -> str:
    """Some fields of a product as one text; `text`, if there is one, comes first."""
    parts = (field_text(name, product.get(name)) for name in ("text", *fields))
    return ". ".join(part.rstrip(". ") for part in parts if part)


def field_text(name: str, value) -> str:
    """One field of a product as text; `""` if it is missing.

    `attributes` may be a mapping or its JSON: `{"size": "M"}` becomes `size: M`. A price becomes `price: 9.90`.
    """
    if name == "attributes" and isinstance(value, str):
        value = parse_attributes(value)
    if name == "attributes" and isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items() if not is_missing(item))
    if is_missing(value):
        return ""
    if name == "price" and isinstance(value, float):
        value = f"{value:.2f}"
    text = " ".join(str(value).split())
    return f"price: {text}" if name == "price" else text


def parse_attributes(text: str) -> Mapping | str:
    """Attributes that are written as a JSON object; any other text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, Mapping) else text


def is_missing(value) -> bool:
    """True for what catalogues hold where there is nothing: `None`, not-a-number, an empty string or no bytes."""
    if isinstance(value, Mapping):
        return not value.get("bytes") and not value.get("path")
    if isinstance(value, (str, bytes)):
        return not value.strip()
    if isinstance(value, Sized):  # lists and arrays, which may say item by item what they equal
        return False
    return value is None or value != value


def normalize_text(text: str) -> str:
    """A text in the plain forms of its letters (Unicode's NFKC): full-width letters, no-break spaces, ligatures.

    Trade marks are left out and fractions stand apart, as NFKC alone would make `legotm` of lego™ and `31/2` of 3½.
    """
    if text.isascii():
        return text
    text = FRACTION.sub(r" \g<0>", text.translate(TRADE_MARKS))
    return unicodedata.normalize("NFKC", text).replace(FRACTION_SLASH, "/")


def plain_words(text: str, steps: Sequence[tuple[re.Pattern, str]] = ()) -> str:
    """A text as words alone.

    Punctuation and symbols become spaces: `"navy", striped_t-shirt!` is `navy striped t shirt`. What is within a
    number or a word stays (`3.5`, `1/2`, `10-12`, `men's`), and so do `&`, `%` and signs of currencies. Numbers stand
    apart from their units (`500ml`, `60x80`).

    Args:
        text (`str`): as [`normalize_text`] makes it.
        steps (`Sequence[tuple[re.Pattern, str]]`, *optional*): [`QUERY_STEPS`], or [`SENTENCES`] for listings, which
            keep the full stops between their fields and sentences.
    """
    for pattern, words in steps or QUERY_STEPS:
        text = pattern.sub(words, text)
    return text.strip()


def unescape_query(query: str) -> str:
    """A query that was taken from an address, `red%20mug`, in words; a query that has spaces is none such."""
    while "%" in query and not any(map(str.isspace, query)):
        try:
            found = unquote(query, errors="strict")
        except UnicodeDecodeError:
            return query
        if found == query:
            return query
        query = found
    return query


def split_negation(query: str) -> tuple[str, str]:
    """What a query asks for, and what it says that it does not want, `""` if there is nothing of that.

    `dress without stripes in blue` asks for a `dress in blue` and does not want `stripes`; so do `dress in blue, not
    striped` and `dress in blue -stripes`. Encoders read both parts alike, and so find what is not wanted. `no
    pattern` and the like say plain, which models learn from queries, and stay as they are.

    Args:
        query (`str`): as typed.
    """
    kept, excluded = " ".join(MINUS.sub("not ", query).split()), []
    if SAYINGS.search(kept):
        return query, ""

    def leave_out(found: re.Match) -> str:
        excluded.append(found[1])
        return ""

    for pattern in (NOT_ONE, NEGATION, NO_LAST):
        kept = pattern.sub(leave_out, kept)
    return (kept, " ".join(excluded)) if excluded else (query, "")
