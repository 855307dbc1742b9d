"""Hybrid search in PostgreSQL: vectors' scores plus what matching words add, as in [`ProductIndex`].

PostgreSQL's own text search ranks without regard to how rare a word is. So the stems that we make are a column of the
table (`_words`, with a GIN index), and the formula of [`ProductWords.matches`] is SQL. Both the nearest products and
those whose words match most are ranked by the sum, as our index does it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modeling_mmfusion.index import HYBRID_DEPTH
from modeling_mmfusion.index_words import K1, B, words_weight
from training.scale.engine import ProductSchema
from training.scale.postgres_sql import matching_statement, word_counts_statement, word_lengths_statement
from training.scale.words import idf_of, matches, words_of

Row = tuple[str, float, list[Any]]  # a product's id, its score by vectors, and its columns, its words the last of them


class HybridSearch:
    """Ranks by vectors and words.

    Args:
        cursor (`psycopg.Cursor`): in the transaction that the nearest products are found in.
        table (`str`): the table in SQL.
        schema (`ProductSchema`): what it holds.
        version (`int`): its number, see [`search_statement`].
        passing (`str`): a filter in SQL,
        values (`list`): and its values.
        texts (`Sequence[str]`): all queries.
    """

    def __init__(
        self,
        cursor: Any,
        table: str,
        schema: ProductSchema,
        version: int,
        passing: str,
        values: list[Any],
        texts: Sequence[str],
    ):
        self.cursor, self.values, self.blocks = cursor, values, schema.blocks
        self.statement = matching_statement(table, schema, version, passing)
        self.words = [words_of(text) for text in texts]
        count, length = cursor.execute(word_lengths_statement(table), ()).fetchone()
        self.length = float(length or 1)
        known = sorted({word for words in self.words for word in words})
        having = cursor.execute(word_counts_statement(table), (known,)).fetchall()
        self.idf = {word: idf_of(number, count) for word, number in having}

    def best(self, place: int, query: np.ndarray, nearest: list[Row], k: int) -> list[Row]:
        """The best `k` for one query; ties, to six decimals, go to the id that sorts first.

        Args:
            place (`int`): which of the texts is its.
            query (`np.ndarray` of shape `(dim,)`): its unit vector.
            nearest (`list[Row]`): the nearest products.
            k (`int`): how many.

        Returns:
            Rows with the sum of both as their score.
        """
        words, weight = self.words[place], words_weight(query, self.blocks)
        found = {row[0]: row for row in [*self._matching(words, weight, query, max(k, HYBRID_DEPTH)), *nearest]}
        added = [
            (one, score + weight * matches(words, columns[-1], self.idf, self.length), columns)
            for one, score, columns in found.values()
        ]
        return sorted(added, key=lambda row: (-round(row[1], 6), row[0]))[:k]

    def _matching(self, words: list[str], weight: float, query: np.ndarray, depth: int) -> list[Row]:
        """The products whose words match most."""
        total = sum(self.idf[word] for word in words)
        if not weight * total:
            return []
        scale, norm = weight / total**4, (K1 * (1 - B), K1 * B / self.length)
        idf = [self.idf[word] for word in words]
        values = (query, *norm, words, idf, *self.values, list(dict.fromkeys(words)), scale, depth)
        rows = self.cursor.execute(self.statement, values, prepare=True).fetchall()
        return [(one, 0.0 - distance, columns) for one, distance, *columns in rows]
