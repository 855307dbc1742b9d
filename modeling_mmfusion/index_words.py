"""`ProductWords`: BM25 over products' texts beside their vectors, and reciprocal rank fusion of several rankings.

Words find what vectors blur, such as exact model numbers; see [`ProductIndex.search`] with `texts`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import bm25s
import numpy as np

from .errors import DataError
from .index_files import WORDS, part_file

RRF_K = 60  # of the paper
WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """A text's words, lower-case; no stop words are left out and nothing is stemmed."""
    return WORD.findall(text.lower())


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


def fuse_rankings(rankings: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Reciprocal rank fusion of one query's rankings by several systems: the sum of `1 / (60 + rank)`.

    Args:
        rankings (`Sequence[np.ndarray]`): of each system the rows, best first.
        depth (`int`): rows to give; ties go to the lower row.

    References:
        Cormack et al., Reciprocal Rank Fusion outperforms Condorcet (SIGIR 2009).
    """
    scores: dict[int, float] = {}
    for rows in rankings:
        for rank, row in enumerate(rows.tolist(), start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (RRF_K + rank)
    order = sorted(scores, key=lambda row: (-round(scores[row], 9), row))
    return np.array(order[:depth], dtype=np.int64)


class ProductWords:
    """BM25 (k1 1.5, b 0.75) over texts, by row.

    Args:
        index (`bm25s.BM25`): document numbers are rows.

    References:
        The library bm25s, https://huggingface.co/papers/2407.03618.
    """

    def __init__(self, index: bm25s.BM25):
        self.index = index

    @classmethod
    def build(cls, texts: Iterable[str]) -> "ProductWords":
        """Indexes a text a row; rows without one are never found."""
        texts = [text or " " for text in texts] or [" "]
        index = bm25s.BM25()
        if any(WORD.search(text) for text in texts):
            tokens = bm25s.tokenize(texts, token_pattern=WORD.pattern, stopwords=[], show_progress=False)
            index.index(tokens, show_progress=False)
        else:  # bm25s wants a word at least, and no query has this one
            index.index([[""] for _ in texts], show_progress=False)
        return cls(index)

    def scores(self, text: str) -> np.ndarray:
        """The score of each row for a query, `(rows,)`; 0 where they share no word."""
        known = [word for word in split_words(text) if word in self.index.vocab_dict]
        if not known:
            return np.zeros(self.index.scores["num_docs"], dtype=np.float32)
        return self.index.get_scores(known)

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
    def load(cls, files: Mapping[str, Path]) -> "ProductWords":
        """Opens the parts that [`~ProductWords.save`] wrote, memory-mapped."""
        folder = files["words_data"].parent
        return cls(bm25s.BM25.load(folder, mmap=True, show_progress=False, **_names(files)))


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {f"{part}_name": files[f"words_{part}"].name for part in WORDS}


__all__ = ["ProductWords"]
