"""What slips of the hand make of a query: misspelled words, spaces that are lost and spaces too many.

Edits are the four kinds that make up most typing errors (Damerau, 1964): a neighbouring key of the QWERTY keyboard for
the right one, a letter doubled, a letter left out, and two neighbours swapped. The first letter of a word stays, as it
does in nearly all misspellings (Kukich, 1992).
"""

import re
from random import Random

WORD = re.compile(r"[^\W\d_]{4,}")  # shorter ones are seldom mistyped, and become other words
SPACE = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
OTHERS = 0.25  # share of the words, beyond the one that always is, that are misspelled too
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """The keys that touch each letter's, in its case."""
    found = {}
    for row, keys in enumerate(ROWS):
        above, below = ROWS[row - 1] if row else "", ROWS[row + 1] if row < 2 else ""
        for at, key in enumerate(keys):
            beside = keys[max(at - 1, 0) : at] + keys[at + 1 : at + 2]
            near = beside + above[at : at + 2] + below[max(at - 1, 0) : at + 1]
            found |= {key: near, key.upper(): near.upper()}
    return found


NEIGHBOURS = _neighbours()


def misspell(text: str, edits: int, rng: Random) -> str:
    """A text with one word misspelled, and now and then others.

    Args:
        text (`str`): such as a query; words are runs of four letters or more.
        edits (`int`): how often each misspelled word is edited, in parts that don't touch: 1 or 2.
        rng (`random.Random`): decides which words, before all else, and how.

    Returns:
        `str`: the text as it was if no word of it is long enough. Takes some 5 microseconds.
    """
    words = list(WORD.finditer(text))
    sure = int(rng.random() * len(words))
    chosen = [word for number, word in enumerate(words) if number == sure or rng.random() < OTHERS]
    for word in reversed(chosen):  # from behind, so that what is before stays where it is
        start, end = word.span()
        text = text[:start] + _misspell_word(text[start:end], edits, rng) + text[end:]
    return text


def _misspell_word(word: str, edits: int, rng: Random) -> str:
    found, length = word, len(word)
    while found == word:  # a second edit may undo the first
        for part in range(edits - 1, -1, -1):
            found = _edit(found, max(1, part * length // edits), (part + 1) * length // edits, rng)
    return found


def _edit(word: str, low: int, high: int, rng: Random) -> str:
    """A word with one edit at a place from `low` to before `high`."""
    while True:
        at, how = low + int(rng.random() * (high - low)), int(rng.random() * 4)
        letter = word[at]
        if how == 0 and (near := NEIGHBOURS.get(letter)):
            return word[:at] + near[int(rng.random() * len(near))] + word[at + 1 :]
        if how == 1:
            return word[:at] + letter + word[at:]
        if how == 2:
            return word[:at] + word[at + 1 :]
        if how == 3 and at + 1 < high and letter != word[at + 1]:
            return word[:at] + word[at + 1] + letter + word[at + 2 :]


def join_words(text: str, rng: Random) -> str:
    """A text with one of the spaces between words lost; as it was if it has none."""
    places = [found.start() for found in SPACE.finditer(text)]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + text[at + 1 :]


def split_word(text: str, rng: Random) -> str:
    """A text with a space inside one word, two letters from its ends at least; as it was if none is long enough."""
    words = [found.span() for found in WORD.finditer(text)]
    if not words:
        return text
    start, end = rng.choice(words)
    at = rng.randrange(start + 2, end - 1)
    return f"{text[:at]} {text[at:]}"
