"""Spelling of queries: words that a shop does not know become those that it does.

An encoder breaks a misspelled word into pieces that mean nothing, and a search for words finds none. A shop's own
listings tell which words there are, so a query's word that is none of them, nor one that the encoder knows as a whole,
is taken for the nearest of them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache

import numpy as np

WORD = re.compile(r"[^\W\d_]+")
LAST_LETTER = "\u058f"  # of the alphabets whose words stand between spaces: Latin, Greek, Cyrillic, Armenian
SHORTEST = 4  # letters of a word that may be misspelled
LONG = 7  # letters from which two edits are mended
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # z and y change places on German keyboards
SOUNDS = ("aeiouy", "ckqsz", "vwf", "mn", "bp", "dt", "gj", "zy")
LONGEST = 24  # letters; what is longer may be several words, never one misspelled
ENDINGS = ("s", "es", "ed", "er", "ers", "ing", "able")
COMMON = 200  # words so frequent that they may be parts of joined words although they have two letters
MAX_WORDS = 20_000  # that a model keeps


class MMFusionSpeller:
    """Corrects the words of queries.

    A word is right if it is one of `words`, give or take a plural's s, or if the encoder knows it (`is_word` of
    [`~MMFusionSpeller.correct`]): `crimson` may mean something to it in a shop that says red. Any other is replaced by
    the first of these that there is:

    1. with its neighbour the word that a space has split: `dot ted` is dotted;
    2. the word at one edit: a letter added, left out, replaced or swapped with the next;
    3. the words that it joins: `redmug` is red mug;
    4. from 7 letters on, the word at two edits.

    Of several the one with the same first letter, then the more frequent is taken. What has less than 4 letters,
    digits or letters of scripts without spaces stays as it is.

    Args:
        words (`Sequence[str]`): in lower case, the most frequent first.

    References:
        The edits are those of Damerau, A technique for computer detection and correction of spelling errors (1964),
        but that a letter replaced by one that is neither beside it on a keyboard nor sounds like it counts twice.
    """

    def __init__(self, words: Sequence[str]):
        self.ranks = {word: rank for rank, word in reversed(list(enumerate(words)))}
        ranked = (word for word in dict.fromkeys(words) if SHORTEST <= len(word) + 1 <= LONGEST)
        self.targets = [word for word in ranked if max(word) <= LAST_LETTER]
        self.longest = max(map(len, self.ranks), default=0)
        self.letters = np.zeros((len(self.targets), LONGEST), dtype=np.uint16)
        for row, word in enumerate(self.targets):
            self.letters[row, : len(word)] = [ord(letter) for letter in word]
        self.lengths = (self.letters > 0).sum(axis=1)
        self.bags = np.array([_bag(word) for word in self.targets], dtype=np.uint64)

    def correct(self, text: str, is_word: Callable[[str], bool] = lambda word: False) -> str:
        """A text with its words corrected; as it is if all are right.

        Args:
            text (`str`): words with spaces between, as [`plain_words`] makes them.
            is_word (`Callable`, *optional*): whether a word that is none of the shop's is a word all the same.
        """
        if not self.ranks:
            return text
        words, found, place = text.split(), [], 0
        right = [self._is_right(word.lower(), is_word) for word in words]
        if all(right):
            return text
        while place < len(words):
            pair = "".join(words[place : place + 2]).lower()
            if place + 1 < len(words) and not all(right[place : place + 2]) and pair in self.ranks:
                found.append(pair)
                place += 2
                continue
            found += [words[place]] if right[place] else self._nearest_words(words[place])
            place += 1
        return " ".join(found)

    def _is_right(self, word: str, is_word: Callable[[str], bool]) -> bool:
        if word in self.ranks or not WORD.fullmatch(word) or max(word) > LAST_LETTER:
            return True
        if len(word) < SHORTEST:
            return False  # may be a part of the next, and is left alone if it is not
        if word + "s" in self.ranks or (word[-1] == "s" and word[:-1] in self.ranks) or is_word(word):
            return True
        stems = (word.removesuffix(end) for end in ENDINGS if word.endswith(end) and not word.endswith("ss"))
        return any(len(stem) >= SHORTEST and is_word(stem) for stem in stems)

    def _nearest_words(self, written: str) -> list[str]:
        word = written.lower()
        if len(word) < SHORTEST:
            return [written]
        edits, near = self._nearest(word) if len(word) < LONGEST else (0, "")
        if edits == 1:
            return [near]
        return self._parts(word) or [near or written]

    def _nearest(self, word: str) -> tuple[int, str]:
        """How many edits off the nearest of the shop's words is, and the word; 0 and `""` if there is none."""
        most = 2 if len(word) >= LONG else 1
        differing = np.bitwise_count(self.bags ^ np.uint64(_bag(word)))
        rows = np.flatnonzero((abs(self.lengths - len(word)) <= most) & (differing <= 2 * most))
        edits = edits_to(word, self.letters[rows], self.lengths[rows])
        edits[edits > most] = most + 1
        other = self.letters[rows, 0] != ord(word[0])
        edits[other & (len(word) == SHORTEST)] = most + 1
        order = np.lexsort((rows, other, edits))
        if not len(order) or edits[order[0]] > most:
            return 0, ""
        return int(edits[order[0]]), self.targets[rows[order[0]]]

    def _parts(self, word: str) -> list[str]:
        """The shop's words that make up a word: as few and as frequent as may be; `[]` if there are none."""
        best: list[tuple[float, int] | None] = [(0.0, 0)]
        for end in range(1, len(word) + 1):
            ways = []
            for start in range(max(0, end - self.longest), end):
                before, rank = best[start], self.ranks.get(word[start:end])
                if (
                    before is not None
                    and rank is not None
                    and (end - start > 2 or (end - start == 2 and rank < COMMON))
                ):
                    ways.append((before[0] + np.log(rank + 10.0), start))
            best.append(min(ways, default=None))
        parts: list[str] = []
        end = len(word)
        while end and (way := best[end]) is not None:
            parts.insert(0, word[way[1] : end])
            end = way[1]
        return [] if end or len(word) < 3 * len(parts) else parts


def edits_to(word: str, letters: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many letters have to be added, left out, replaced or swapped with the next one to make others of a word.

    Args:
        word (`str`): a word.
        letters (`np.ndarray` of shape `(words, letters)`): the others' letters as numbers, with zeros behind.
        lengths (`np.ndarray` of shape `(words,)`): theirs.

    Returns:
        `np.ndarray` of shape `(words,)`: optimal string alignment distances.
    """
    count, width = letters.shape[0], int(lengths.max(initial=0))
    before = last = np.tile(np.arange(width + 1), (count, 1))
    for row, letter in enumerate(word, start=1):
        now = np.full((count, width + 1), row)
        same = letters == ord(letter)
        near = np.isin(letters, [ord(other) for other in mistaken_for(letter)])
        for column in range(1, width + 1):
            replaced = last[:, column - 1] + np.where(same[:, column - 1], 0, 2 - near[:, column - 1])
            now[:, column] = np.minimum(replaced, np.minimum(last[:, column], now[:, column - 1]) + 1)
            if row > 1 and column > 1:
                swapped = same[:, column - 2] & (letters[:, column - 1] == ord(word[row - 2]))
                now[:, column] = np.where(
                    swapped, np.minimum(now[:, column], before[:, column - 2] + 1), now[:, column]
                )
        before, last = last, now
    return last[np.arange(count), lengths]


@cache
def mistaken_for(letter: str) -> str:
    """The letters that are written for another: those beside it on a keyboard, and those that sound like it."""
    found = "".join(group for group in SOUNDS if letter in group)
    for row, keys in enumerate(KEYS):
        place = keys.find(letter)
        if place >= 0:
            found += keys[max(place - 1, 0) : place + 2]
            found += KEYS[row - 1][place : place + 2] if row else ""
            found += KEYS[row + 1][max(place - 1, 0) : place + 1] if row + 1 < len(KEYS) else ""
    return "".join(sorted(set(found) - {letter}))


def count_words(texts: Iterable[str]) -> Counter[str]:
    """In how many texts each word occurs, in lower case."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(WORD.findall(text.lower())))
    return counts


def shop_words(listings: Iterable[str], queries: Iterable[str] = ()) -> str:
    """The words of a shop for [`MMFusionSpeller`], the most frequent first, with spaces between; at most 20,000.

    Args:
        listings (`Iterable[str]`): products' texts.
        queries (`Iterable[str]`, *optional*): what was asked for; a word that one query alone has may be misspelled.
    """
    asked = {word: count for word, count in count_words(queries).items() if count > 1}
    return frequent_words(count_words(listings) + Counter(asked))


def frequent_words(counts: Counter[str]) -> str:
    """Counted words, the most frequent first, with spaces between; at most 20,000."""
    return " ".join(sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS])


def join_words(first: str, second: str) -> str:
    """The words of two shops, each once: those of the first, then what only the second has; at most 40,000, however
    often a service learns anew what its index says."""
    return " ".join([*dict.fromkeys([*first.split(), *second.split()])][: 2 * MAX_WORDS])


@lru_cache(maxsize=8)
def speller_of(words: str) -> MMFusionSpeller:
    """The speller of a shop's words, as [`shop_words`] gives them."""
    return MMFusionSpeller(words.split())


def _bag(word: str) -> int:
    """Which letters a word has, as bits; one edit changes two at most."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) % 64)
    return bits
