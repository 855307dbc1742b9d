"""`ProductWords`: BM25 over products' texts beside their vectors, and what it adds to the vectors' scores.

Words find what vectors blur, such as exact model numbers; see [`ProductIndex.search`] with `texts`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from bm25s.tokenization import Tokenized

from .errors import DataError
from .index_files import WORDS, part_file
from .index_graph import Places, in_order
from .spelling_mmfusion import count_words, frequent_words
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


def best_rows(
    scores: np.ndarray,
    k: int,
    among: np.ndarray | None = None,
    places: Places | None = None,
) -> np.ndarray:
    """The rows of the best `k` of `scores` `(N,)`, best first; ties, to six decimals, go to the lower row.

    Only the rows `among`, in ascending order and at least one, are looked at if they are given. `places` tells which
    of some rows that tie comes first; see [`in_order`].

    Raises:
        DataError: if a score is not a number, as it can't be ranked.
    """
    if np.isnan(scores).any():
        raise DataError(f"the score of row {int(np.argmax(np.isnan(scores)))} is not a number; is the model damaged?")
    if among is not None:
        return among[best_rows(scores[among], k, places=places and (lambda rows: places(among[rows])))]
    scores, k = np.round(scores, 6), min(k, len(scores))
    rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return rows[in_order(rows, scores[rows], k, places)]


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


@dataclass
class WordCounts:
    """What BM25 has to know of all texts of a catalogue to score one of them.

    Counts of its parts sum up (`+`) to those of the whole, so the shards of an index score as one index does.

    Attributes:
        texts (`int`): how many have a word; those without, as of a product with a picture alone, don't count.
        length (`int`): words of all texts.
        frequencies (`Counter[str]`): in how many texts each word occurs, as [`split_words`] makes them.
        written (`Counter[str]`): the same for words as they stand, for spelling; see [`count_words`].
    """

    texts: int = 0
    length: int = 0
    frequencies: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, texts: Iterable[str], stemmed: bool = True) -> "WordCounts":
        """Of texts, such as those of [`ProductIndex.texts`]; `stemmed` as for [`ProductWords.build`]."""
        texts = [readable(text) if stemmed else text for text in texts]
        return cls._of_words(_tokens(texts, stemmed), texts)

    @classmethod
    def _of_words(cls, tokens: Tokenized, texts: list[str]) -> "WordCounts":
        words = list(tokens.vocab)
        counts = Counter(chain.from_iterable(map(set, tokens.ids)))
        frequencies = Counter({words[number]: count for number, count in counts.items()})
        lengths = list(map(len, tokens.ids))
        return cls(len(lengths) - lengths.count(0), sum(lengths), frequencies, count_words(texts))

    def __add__(self, other: "WordCounts") -> "WordCounts":
        sums = (self.frequencies + other.frequencies, self.written + other.written)
        return WordCounts(self.texts + other.texts, self.length + other.length, *sums)


class CountedBM25(bm25s.BM25):
    """BM25 whose idf and mean length are those of [`WordCounts`], which may be of more texts than are indexed.

    Args:
        counts (`WordCounts`): of all texts.
        k1 (`float`): how much a word's second occurrence counts.
        b (`float`): how much long texts are discounted, from 0 to 1.
    """

    def __init__(self, counts: WordCounts, k1: float, b: float):
        super().__init__(k1=k1, b=b)
        self.counts = counts

    def build_index_from_ids(self, unique_token_ids: list[int], corpus_token_ids: list[list[int]], **progress) -> dict:
        """The scores of each word in each text, by word; `unique_token_ids` number the sorted words of all texts."""
        lengths = np.array([len(text) for text in corpus_token_ids], dtype=np.int64)
        texts = np.repeat(np.arange(len(lengths)), lengths)
        words = np.fromiter(chain.from_iterable(corpus_token_ids), dtype=np.int64, count=int(lengths.sum()))
        pairs, times = np.unique(words * max(len(lengths), 1) + texts, return_counts=True)
        words, texts = np.divmod(pairs, max(len(lengths), 1))
        times = times.astype(np.float64)
        mean = self.counts.length / max(self.counts.texts, 1)
        saturation = times / (self.k1 * (1 - self.b + self.b * lengths[texts] / max(mean, 1e-9)) + times)
        frequencies = sorted_frequencies(self.counts)
        idf = np.log1p((self.counts.texts - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
        self.nonoccurrence_array = None  # of other forms of BM25
        starts = np.searchsorted(words, np.arange(len(frequencies) + 1))
        scores = (idf[words] * saturation).astype(np.float32)
        return {"data": scores, "indices": texts.astype(np.int32), "indptr": starts, "num_docs": len(lengths)}


def sorted_frequencies(counts: WordCounts) -> np.ndarray:
    """In how many texts each word occurs, in the words' order: `int64` of shape `(words,)`."""
    return np.array([counts.frequencies[word] for word in sorted(counts.frequencies)], dtype=np.int64)


class ProductWords:
    """BM25 over texts, by row.

    Args:
        index (`bm25s.BM25`): document numbers are rows.
        frequencies (`np.ndarray` of shape `(words + 2,)`): in how many texts each word of the index occurs, the number
            of texts and their words; of the whole catalogue where these are a part of it.
        stemmed (`bool`, *optional*, defaults to `False`): of which words it is; see [`split_words`].
        spelling (`str`, *optional*, defaults to `""`): the words as they stand, to which queries' are corrected; see
            [`shop_words`].

    References:
        The library bm25s, https://huggingface.co/papers/2407.03618, in Lucene's form.
    """

    def __init__(self, index: bm25s.BM25, frequencies: np.ndarray, stemmed: bool = False, spelling: str = ""):
        self.index = index
        self.frequencies = frequencies
        self.stemmed = stemmed
        self.spelling = spelling

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        k1: float = K1,
        b: float = B,
        stemmed: bool = True,
        counts: WordCounts | None = None,
    ) -> "ProductWords":
        """Indexes a text a row; rows without one are never found.

        Args:
            texts (`Iterable[str]`): of the products.
            k1 (`float`, *optional*, defaults to 0.8): how much a word's second occurrence counts.
            b (`float`, *optional*, defaults to 0.5): how much long texts are discounted, from 0 to 1.
            stemmed (`bool`, *optional*, defaults to `True`): see [`split_words`].
            counts (`WordCounts`, *optional*): of the whole catalogue, if these texts are a part of it; their own if
                not given.
        """
        texts = [readable(text) if stemmed else text for text in texts]
        tokens = _tokens(texts, stemmed)
        counts = counts or WordCounts._of_words(tokens, texts)
        numbers = {word: number for number, word in enumerate(sorted(counts.frequencies))}
        places = [numbers[word] for word in tokens.vocab]
        index = CountedBM25(counts, k1, b)
        rows = [[places[word] for word in text] for text in tokens.ids]
        index.index((rows, numbers or {"": 0}), create_empty_token=False, show_progress=False)
        frequencies = np.append(sorted_frequencies(counts), [counts.texts, counts.length])
        return cls(index, frequencies, stemmed, frequent_words(counts.written))

    @property
    def counts(self) -> WordCounts:
        """What the scores were made with; of `written` the words' order is right, not how often they occur."""
        words = sorted(self.index.vocab_dict, key=self.index.vocab_dict.__getitem__)
        frequencies = Counter(dict(zip(words, self.frequencies[:-2].tolist(), strict=False)))  # "" if there is none
        spelling = self.spelling.split()
        written = Counter({word: len(spelling) - rank for rank, word in enumerate(spelling)})
        return WordCounts(int(self.frequencies[-2]), int(self.frequencies[-1]), frequencies, written)

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
        count, covered, total = int(self.frequencies[-2]), np.zeros(scores["num_docs"], dtype=np.float32), 0.0
        for word in split_words(text, self.stemmed):
            number = self.index.vocab_dict.get(word)
            start, end = (0, 0) if number is None else places[number : number + 2]
            frequency = 0 if number is None else int(self.frequencies[number])
            idf = np.log1p((count - frequency + 0.5) / (frequency + 0.5))
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
        files["words_frequencies"] = part_file(folder, "words_frequencies", generation)
        np.save(files["words_frequencies"], self.frequencies, allow_pickle=False)
        files["spelling"] = part_file(folder, "spelling", generation)
        files["spelling"].write_text(self.spelling, encoding="utf-8")
        return files

    @classmethod
    def load(cls, files: Mapping[str, Path], stemmed: bool = True) -> "ProductWords":
        """Opens the parts that [`~ProductWords.save`] wrote, memory-mapped."""
        folder = files["words_data"].parent
        spelling = files["spelling"].read_text(encoding="utf-8") if "spelling" in files else ""  # none in old ones
        index = bm25s.BM25.load(folder, mmap=True, show_progress=False, **_names(files))
        if "words_frequencies" in files:
            frequencies = np.load(files["words_frequencies"], allow_pickle=False)
        else:  # as versions before 0.1 wrote it
            frequencies = np.append(np.diff(index.scores["indptr"]), [index.scores["num_docs"], 0])
        return cls(index, frequencies, stemmed, spelling)


def _tokens(texts: list[str], stemmed: bool) -> Tokenized:
    """The words of texts, each once in `vocab`, by number in `ids`; a text without words has none."""
    tokens = bm25s.tokenize([*texts, "."], token_pattern=WORD.pattern, stopwords=[], show_progress=False)
    words = [word for word in tokens.vocab if word]
    if stemmed:
        stems = Stemmer.Stemmer("english").stemWords(words)
    else:
        stems = words
    numbers = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    places = {tokens.vocab[word]: numbers[stem] for word, stem in zip(words, stems, strict=True)}
    ids = [[places[word] for word in text if word in places] for text in tokens.ids[: len(texts)]]
    return Tokenized(ids, numbers)


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {f"{part}_name": files[f"words_{part}"].name for part in WORDS}


__all__ = ["ProductWords"]
