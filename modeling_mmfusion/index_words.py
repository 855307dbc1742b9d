"""`ProductWords`: BM25 over products' texts beside their vectors, and what it adds to the vectors' scores.

Words find what vectors blur, such as exact model numbers; see [`ProductIndex.search`] with `texts`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from bm25s.tokenization import Tokenized

from .errors import DataError
from .index_files import WORDS, part_file
from .text_mmfusion import normalize_text, plain_words

K1, B = 0.8, 0.5  # of listings, which are short; chosen on four catalogues' dev queries
WORDS_WEIGHT = 0.9  # of words that all match in the score of a query that is text alone; chosen likewise
TEXT_BLOCKS = ("text", "lexical")
WORD = re.compile(r"\w+")


def split_words(text: str, stemmed: bool = False) -> list[str]:
    """A text's words, lower-case; no stop words are left out.

    Args:
        text (`str`): of a query or a product.
        stemmed (`bool`, *optional*, defaults to `False`): read the text as the model's processor does
            ([`plain_words`]: `500ml` is `500 ml`) and take the words' stems, so that `mugs` finds `mug`. The
            stemmer is Snowball's for English, https://snowballstem.org; model numbers and most foreign words stay as
            they are.
    """
    if not stemmed:
        return WORD.findall(text.lower())
    return Stemmer.Stemmer("english").stemWords(WORD.findall(readable(text)))


def readable(text: str) -> str:
    """A text in lower-case, as stems are taken of."""
    return plain_words(normalize_text(text)).lower()


def best_rows(scores: np.ndarray, k: int, among: np.ndarray | None = None) -> np.ndarray:
    """The rows of the best `k` of `scores` `(N,)`, best first; ties, to six decimals, go to the lower row.

    Only the rows `among`, in ascending order and at least one, are looked at if they are given.

    Raises:
        DataError: if a score is not a number, as it can't be ranked.
    """
    if np.isnan(scores).any():
        raise DataError(f"the score of row {int(np.argmax(np.isnan(scores)))} is not a number; is the model damaged?")
    if among is not None:
        return among[best_rows(scores[among], k)]
    scores, k = np.round(scores, 6), min(k, len(scores))
    rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def words_weight(query: np.ndarray, blocks: Mapping[str, int]) -> float:
    """What [`ProductWords.matches`] counts in a hybrid score: 0.9 times the square of the share that texts and words
    have in the query. Where it asks for what pictures show, as a model learns in its own shop, words count less.

    Args:
        query (`np.ndarray` of shape `(dim,)`): its unit vector.
        blocks (`Mapping[str, int]`): widths of the vector's blocks by name, in their order.

    Returns:
        `float`: 0.9 for vectors without a block of text.
    """
    ends = np.cumsum(list(blocks.values()))
    parts = {
        name: float(np.sum(query[end - width : end] ** 2))
        for (name, width), end in zip(blocks.items(), ends, strict=True)
    }
    found = [parts[name] for name in TEXT_BLOCKS if name in parts]
    return WORDS_WEIGHT * sum(found) ** 2 if found else WORDS_WEIGHT


class ProductWords:
    """BM25 over texts, by row.

    Args:
        index (`bm25s.BM25`): document numbers are rows.
        stemmed (`bool`, *optional*, defaults to `False`): of which words it is; see [`split_words`].

    References:
        The library bm25s, https://huggingface.co/papers/2407.03618, in Lucene's form.
    """

    def __init__(self, index: bm25s.BM25, stemmed: bool = False):
        self.index = index
        self.stemmed = stemmed

    @classmethod
    def build(cls, texts: Iterable[str], k1: float = K1, b: float = B, stemmed: bool = True) -> "ProductWords":
        """Indexes a text a row; rows without one are never found.

        Args:
            texts (`Iterable[str]`): of the products.
            k1 (`float`, *optional*, defaults to 0.8): how much a word's second occurrence counts.
            b (`float`, *optional*, defaults to 0.5): how much long texts are discounted, from 0 to 1.
            stemmed (`bool`, *optional*, defaults to `True`): see [`split_words`].
        """
        texts = [(readable(text) if stemmed else text) or " " for text in texts] or [" "]
        index = bm25s.BM25(k1=k1, b=b)
        if any(WORD.search(text) for text in texts):
            tokens = bm25s.tokenize(texts, token_pattern=WORD.pattern, stopwords=[], show_progress=False)
            index.index(_stems(tokens) if stemmed else tokens, show_progress=False)
        else:  # bm25s wants a word at least, and no query has this one
            index.index([[""] for _ in texts], show_progress=False)
        return cls(index, stemmed)

    def scores(self, text: str) -> np.ndarray:
        """The score of each row for a query, `(rows,)`; 0 where they share no word."""
        known = [word for word in split_words(text, self.stemmed) if word in self.index.vocab_dict]
        if not known:
            return np.zeros(self.index.scores["num_docs"], dtype=np.float32)
        return self.index.get_scores(known)

    def matches(self, text: str) -> np.ndarray:
        """How much of a query's words each row has, `(rows,)`: from 0, where they share no word, to below 1.

        It is BM25 as a share of the most that any text could have, which is the sum of the words' idf, times the cube
        of the share of the words (by idf) that the row has at all. A word that no product has counts as the rarest.
        So a text with all of a query's words, as of a title or a model number, is far ahead, and one with some of
        them, as of a query that only the pictures answer, gets next to nothing.

        References:
            Bruch et al., An Analysis of Fusion Functions for Hybrid Retrieval,
            https://huggingface.co/papers/2210.11934: sums of scores with theoretical bounds.
        """
        scores, places = self.index.scores, self.index.scores["indptr"]
        count, covered, total = scores["num_docs"], np.zeros(scores["num_docs"], dtype=np.float32), 0.0
        for word in split_words(text, self.stemmed):
            number = self.index.vocab_dict.get(word)
            start, end = (0, 0) if number is None else places[number : number + 2]
            idf = np.log1p((count - (end - start) + 0.5) / (end - start + 0.5))
            covered[scores["indices"][start:end]] += idf
            total += idf
        return self.scores(text) * covered**3 / max(total, 1e-9) ** 4

    def best(self, text: str, depth: int, mask: np.ndarray | None = None) -> np.ndarray:
        """The best `depth` rows that share a word with a query, best first, of those where `mask` is True."""
        scores = self.scores(text)
        found = scores > 0
        if mask is not None:
            known = min(len(mask), len(found))  # rows that were added since have no words yet
            found[:known] &= mask[:known]
            found[known:] = False
        rows = np.flatnonzero(found)
        return best_rows(scores, depth, rows) if len(rows) else rows

    def save(self, folder: Path, generation: int) -> dict[str, Path]:
        """Writes the parts, named by the generation, and gives their paths."""
        files = {f"words_{part}": part_file(folder, f"words_{part}", generation) for part in WORDS}
        self.index.save(folder, show_progress=False, **_names(files))
        return files

    @classmethod
    def load(cls, files: Mapping[str, Path], stemmed: bool = True) -> "ProductWords":
        """Opens the parts that [`~ProductWords.save`] wrote, memory-mapped."""
        folder = files["words_data"].parent
        return cls(bm25s.BM25.load(folder, mmap=True, show_progress=False, **_names(files)), stemmed)


def _stems(tokens: Tokenized) -> Tokenized:
    """Texts of stems in place of words; stems are numbered in the order in which they come."""
    stems = Stemmer.Stemmer("english").stemWords(list(tokens.vocab))
    numbers = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    places = [numbers[stem] for stem in stems]
    return Tokenized([[places[word] for word in text] for text in tokens.ids], numbers)


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {f"{part}_name": files[f"words_{part}"].name for part in WORDS}


__all__ = ["ProductWords"]
