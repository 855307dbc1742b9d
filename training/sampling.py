"""From judgments to batches: which query-product pairs are seen in an epoch, and what a batch knows of them."""

from dataclasses import dataclass

import numpy as np
import torch

from training.data import RetrievalSplit


@dataclass
class Batch:
    """Distinct queries and products of a batch, and how relevant each product is to each query.

    Attributes:
        queries (`np.ndarray` of shape `(queries,)`): rows of the split's queries.
        products (`np.ndarray` of shape `(products,)`): rows of the split's corpus.
        relevance (`torch.Tensor` of shape `(queries, products)`): grades of all judged pairs, float32; 0 elsewhere.
    """

    queries: np.ndarray
    products: np.ndarray
    relevance: torch.Tensor


class PairSampler:
    """Draws query-product pairs so that queries with many relevant products don't drown the others.

    Args:
        split (`RetrievalSplit`): queries, corpus and judgments.
        positives_per_query (`int`): relevant products drawn for a query in an epoch, without repetition and in
            proportion to their grades; all of them where there are fewer.
        seed (`int`): the epoch's number is added to it, so that an epoch is the same however one got to it.
    """

    def __init__(self, split: RetrievalSplit, positives_per_query: int, seed: int):
        rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
        self.positives = [
            {rows[product]: score for product, score in split.qrels[query["_id"]].items() if score > 0}
            for query in split.queries
        ]
        self.positives_per_query = positives_per_query
        self.seed = seed

    def epoch(self, number: int) -> list[tuple[int, int]]:
        """The `(query row, product row)` pairs of an epoch, in random order."""
        rng = np.random.default_rng((self.seed, number))
        pairs = []
        for query, positives in enumerate(self.positives):
            products, grades = np.array(list(positives)), np.array(list(positives.values()), dtype=np.float64)
            size = min(len(products), self.positives_per_query)
            drawn = rng.choice(products, size, replace=False, p=grades / grades.sum())
            pairs.extend((query, int(product)) for product in drawn)
        rng.shuffle(pairs)
        return [(int(query), int(product)) for query, product in pairs]

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
