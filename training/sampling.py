"""From judgments to batches: which query-product pairs are seen in an epoch, and what a batch knows of them."""

from dataclasses import dataclass

import numpy as np
import torch

from training.data import RetrievalSplit
from training.embedding import TowerStates


@dataclass
class TrainingSet:
    """Queries and products to train on, as the towers see them, and which products are relevant to which query.

    Attributes:
        queries (`TowerStates`): N queries.
        products (`TowerStates`): M products.
        positives (`list[dict[int, float]]`): for each query, the grade of each relevant product by its row.
    """

    queries: TowerStates
    products: TowerStates
    positives: list[dict[int, float]]


@dataclass
class Batch:
    """Distinct queries and products of a batch, and how relevant each product is to each query.

    Attributes:
        queries (`np.ndarray` of shape `(queries,)`): rows of the set's queries.
        products (`np.ndarray` of shape `(products,)`): rows of the set's products.
        relevance (`torch.Tensor` of shape `(queries, products)`): grades of all judged pairs, float32; 0 elsewhere.
    """

    queries: np.ndarray
    products: np.ndarray
    relevance: torch.Tensor


class PairSampler:
    """Draws query-product pairs so that queries with many relevant products don't drown the others.

    Args:
        positives (`list[dict[int, float]]`): for each query, the grade of each relevant product by its row.
        positives_per_query (`int`): relevant products drawn for a query in an epoch, without repetition and in
            proportion to their grades; all of them where there are fewer.
        batch_size (`int`): pairs in a batch.
        seed (`int`): the epoch's number is added to it, so that an epoch is the same however one got to it.
    """

    def __init__(self, positives: list[dict[int, float]], positives_per_query: int, batch_size: int, seed: int):
        self.positives = positives
        self.positives_per_query = positives_per_query
        self.batch_size = batch_size
        self.seed = seed

    def epoch(self, number: int) -> list[list[tuple[int, int]]]:
        """The batches of an epoch, of `(query row, product row)` pairs, in random order.

        Pairs that don't fill a batch are left out of this epoch, unless there is no full batch at all.
        """
        rng, size = np.random.default_rng((self.seed, number)), self.batch_size
        pairs = [pair for query in range(len(self.positives)) for pair in self._draw(query, rng)]
        rng.shuffle(pairs)
        full = len(pairs) - len(pairs) % size or len(pairs)
        return [pairs[start : start + size] for start in range(0, full, size)]

    def _draw(self, query: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        positives = self.positives[query]
        products, grades = np.array(list(positives)), np.array(list(positives.values()), dtype=np.float64)
        size = min(len(products), self.positives_per_query)
        return [
            (query, int(product)) for product in rng.choice(products, size, replace=False, p=grades / grades.sum())
        ]

    def collate(self, pairs: list[tuple[int, int]]) -> Batch:
        """Makes a batch of pairs: each query and product once, with every judgment between them."""
        queries, products = (np.unique(column) for column in zip(*pairs, strict=True))
        position = {product: column for column, product in enumerate(products.tolist())}
        relevance = torch.zeros(len(queries), len(products))
        for row, query in enumerate(queries.tolist()):
            for product, grade in self.positives[query].items():
                if product in position:
                    relevance[row, position[product]] = grade
        return Batch(queries, products, relevance)


def positives_of(split: RetrievalSplit) -> list[dict[int, float]]:
    """For each query of a split, the grade of each relevant product by its row."""
    rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
    return [
        {rows[product]: score for product, score in split.qrels[query["_id"]].items() if score > 0}
        for query in split.queries
    ]
