"""What tables write where they have nothing: `nan`, `NULL`, `N/A`, `-`; such a cell is empty, and is counted.

A cell is missing if all of it, without the space around it, is in one of the lists: letters of any case for `MISSING`,
as it stands for `MISSING_AS_WRITTEN`. So `None`, `NONE` and `none` are missing, while `NA` is and `Na` isn't, and
`-5`, `none of these` or `0` are what they say. `unknown` and `other` are words that a shop chose, and stay.

It holds for what a model or a filter reads: title, description, category, brand, price, pictures, group, availability,
attributes and options. It doesn't hold for a product's id, which is kept whatever it is, nor for columns that are
only kept (`extra`), which stay as they were found. `\\N` in delimited text is an empty cell of any column, as
databases write it (`meant_rows.py`).
"""

MISSING = frozenset(
    ["nan", "-nan", "nat", "none", "(none)", "null", "(null)", "[null]", "nil", "undefined", "(blank)", "(empty)"]
    + ["n/a", "n.a.", "n.a", "#n/a", "#n/a n/a", "#na", "<na>", "not available", "not applicable", "no_selection"]
    + ["#null!", "#value!", "#ref!", "#name?", "#div/0!", "#num!"]
    + ["-", "--", "---", "\u2013", "\u2014", "?", "??", "???", "."]
)
MISSING_AS_WRITTEN = frozenset(["NA", "\\N"])


def is_missing_text(text: str) -> bool:
    """Whether a cell only says that there is nothing; an empty one does too."""
    text = text.strip()
    return not text or text in MISSING_AS_WRITTEN or text.lower() in MISSING
