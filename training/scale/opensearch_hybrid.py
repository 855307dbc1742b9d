"""Hybrid search in OpenSearch and Elasticsearch: vectors' scores plus what matching words add, as in [`ProductIndex`].

Neither engine's own fusion says what ours does: ranks alone (`rrf`), scores relative to those that were found (a
normalization pipeline), or a sum in which a common word weighs as a rare one. So each is asked for the nearest
products, for those that share words with the query, and for how many products have each word, and the sum is made
here by the formula of [`ProductWords.matches`]. It is the same to the digit where the same products are found; the
engine chooses those that share words by its own BM25, 100 of them at least. Words are the stems that we make, kept as
they are, so no analyzer of the engine's has a say, nor do its versions' constants in BM25.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeling_mmfusion.index import HYBRID_DEPTH, SearchResult, unit_queries
from modeling_mmfusion.index_words import words_weight
from training.scale.words import idf_of, matches, words_of

if TYPE_CHECKING:
    from training.scale.opensearch import OpenSearchEngine

MAX_CLAUSES = 1000  # words that are looked for at a time; engines take 1,024


class HybridSearch:
    """Searches by vectors and words.

    Args:
        engine (`OpenSearchEngine`): where to search.
        passing (`dict`, *optional*): a query that products must pass.
    """

    def __init__(self, engine: "OpenSearchEngine", passing: dict | None):
        self.engine, self.passing = engine, passing
        self.blocks = engine.blocks

    def find(self, queries: np.ndarray, k: int, texts: Sequence[str]) -> list[list[SearchResult]]:
        """The best `k` products for each query vector `(Q, dim)` and text, best first."""
        depth, words = max(k, HYBRID_DEPTH), [words_of(text) for text in texts]
        statistics = WordStatistics(self.engine, {word for one in words for word in one})
        units, lengths = unit_queries(queries)
        near = self.engine.hits(self._nearest(query, depth) for query in units)
        sharing = self.engine.hits(self._sharing(one, depth) for one in words)
        found = [{hit["_id"]: hit for hit in (*one, *other)} for one, other in zip(near, sharing, strict=True)]
        scores = [{hit["_id"]: self.engine.score(hit) for hit in hits} for hits in near]
        self._score_others(units, found, scores)
        totals = [
            self._totals(hits, known, words_weight(query, self.blocks), statistics, one)
            for query, hits, known, one in zip(units, found, scores, words, strict=True)
        ]
        return [
            self._best(k, hits, total, length)
            for hits, total, length in zip(found, totals, lengths.tolist(), strict=True)
        ]

    def _nearest(self, query: np.ndarray, depth: int) -> dict:
        return self.engine.nearest(query, depth, self.passing) | {"_source": ["product", "words"]}

    def _sharing(self, words: list[str], depth: int) -> dict:
        """The body of a search for products that share words with a query."""
        clauses = [{"term": {"words": {"value": word}}} for word in list(dict.fromkeys(words))[:MAX_CLAUSES]]
        query = {"should": clauses, "minimum_should_match": 1} if clauses else {"must": [{"match_none": {}}]}
        if self.passing:
            query["filter"] = [self.passing]
        return {"size": depth, "query": {"bool": query}, "_source": ["product", "words"]}

    def _score_others(self, queries: np.ndarray, found: list[dict], scores: list[dict[str, float]]) -> None:
        """Adds the vectors' scores of products that were found by words alone."""
        others = [sorted(hits.keys() - known.keys()) for hits, known in zip(found, scores, strict=True)]
        asked = [row for row, ids in enumerate(others) if ids]
        bodies = (
            self.engine.nearest(queries[row], len(others[row]), {"bool": {"filter": [{"terms": {"id": others[row]}}]}})
            | {"_source": False}
            for row in asked
        )
        for row, hits in zip(asked, self.engine.hits(bodies), strict=True):
            scores[row].update({hit["_id"]: self.engine.score(hit) for hit in hits})

    def _totals(
        self,
        hits: dict[str, dict],
        known: dict[str, float],
        weight: float,
        statistics: "WordStatistics",
        words: list[str],
    ) -> dict[str, float]:
        """The score of each of one query's hits."""
        return {one: score + weight * statistics.matches(words, hits[one]) for one, score in known.items()}

    def _best(self, k: int, hits: dict[str, dict], total: dict[str, float], length: float) -> list[SearchResult]:
        """The best `k` of one query's hits; ties, to six decimals, by id."""
        best = sorted(total, key=lambda one: (-round(total[one], 6), one))[:k]
        return [self.engine.result(hits[one], total[one] * length) for one in best]


class WordStatistics:
    """How many products there are, how many words they have, and how many have each of some words.

    Args:
        engine (`OpenSearchEngine`): where they are.
        words (`Iterable[str]`): stems, each once.
    """

    def __init__(self, engine: "OpenSearchEngine", words: Iterable[str]):
        words, self.idf = sorted(words), {}
        self.engine = engine
        parts = [words[start : start + MAX_CLAUSES] for start in range(0, len(words), MAX_CLAUSES)]
        for part, answer in zip(parts, engine.answers(map(_statistics, parts)), strict=True):
            count = engine.client.number(answer, "hits", "total", "value")
            self.length = (
                engine.client.part(answer, "aggregations", "length", "value") or 1.0
            )  # null if there are none
            for place, word in enumerate(part):
                having = engine.client.number(answer, "aggregations", "words", "buckets", place, "doc_count")
                self.idf[word] = idf_of(having, count)

    def matches(self, words: list[str], hit: dict) -> float:
        """How much of a query's words a product has, as [`ProductWords.matches`] tells it."""
        if not words:
            return 0.0
        return matches(words, self.engine.client.part(hit, "_source", "words").split(" "), self.idf, self.length)


def _statistics(words: list[str]) -> dict:
    having = [{"term": {"words": {"value": word}}} for word in words]
    wanted = {"length": {"avg": {"field": "length"}}, "words": {"filters": {"filters": having}}}
    return {"size": 0, "track_total_hits": True, "query": {"range": {"length": {"gte": 1}}}, "aggs": wanted}
