"""One query in many spellings: which of a log's texts are the same query, and which spelling stands for it."""

import re
import unicodedata
from collections import Counter, defaultdict

from modeling_mmfusion.text_mmfusion import normalize_text

APOSTROPHES = "'’‘`´"
KEPT = "#%&@*.,"  # tells c# from c, and h&m from hm; points and commas are looked at by their place
LONE_POINT = re.compile(r"(?<!\d)[.,]|[.,](?!\d)")
EXAMPLES = 5


class _Letters(dict):
    """For `str.translate`: punctuation and control characters become spaces, apostrophes and invisible ones go."""

    def __missing__(self, code: int) -> int | str | None:
        letter, category = chr(code), unicodedata.category(chr(code))
        found: str | None = " " if category[0] in "PCZ" and letter not in KEPT else letter
        self[code] = None if letter in APOSTROPHES or category == "Cf" else found
        return self[code]


_LETTERS = _Letters()


def query_key(text: str) -> str:
    """What all spellings of a query share: NFKC, no letter case, spaces for punctuation, hyphens and surplus space.

    A point or comma between digits stays (`3,5 mm` is `3.5 mm` and not `35 mm`), and so does a query of punctuation
    alone.
    """
    plain = normalize_text(text).casefold()
    if plain.isalnum():
        return plain
    words = LONE_POINT.sub(" ", plain.translate(_LETTERS)).replace(",", ".")
    return " ".join(words.split()) or " ".join(plain.split())


class Spellings:
    """The spellings of a log's queries, counted.

    Attributes:
        keys (`dict[str, str]`): the query's key of each spelling.
        counts (`Counter`): how often each spelling occurs.
    """

    def __init__(self):
        self.keys: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def add(self, text: str) -> str:
        """Counts a query and gives its key."""
        self.counts[text] += 1
        if (key := self.keys.get(text)) is None:
            key = self.keys[text] = query_key(text)
        return key

    def groups(self) -> dict[str, list[str]]:
        """The spellings of each key, the most frequent first and of equal ones the first."""
        found = defaultdict(list)
        for text, key in self.keys.items():
            found[key].append(text)
        return {key: sorted(texts, key=lambda text: -self.counts[text]) for key, texts in found.items()}

    def told(self, name: str) -> str:
        """A sentence on what was joined, `""` if nothing was."""
        several = [texts for texts in self.groups().values() if len(texts) > 1]
        if not several:
            return ""
        joined = sum(len(texts) - 1 for texts in several)
        several.sort(key=lambda texts: -sum(self.counts[text] for text in texts))
        examples = (
            ", ".join(f"{text!r} ({self.counts[text]:,})" for text in texts[:4]) for texts in several[:EXAMPLES]
        )
        return (
            f"{name}: {joined:,} other spellings were joined to {len(several):,} queries, each called by its most "
            f"frequent one: {'; '.join(examples)}"
        )
