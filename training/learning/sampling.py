"""From judgments to batches: which query-product pairs are seen in an epoch, and what a batch knows of them."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch

Pairs = list[tuple[int, int]]  # query row, product row
TOPIC_CHUNK = 4096  # queries compared with all topics at a time: big logs have millions, and thousands of topics


@dataclass
class Judgments:
    """What is relevant to what, by rows of a catalogue's queries and products.

    Attributes:
        positives (`list[dict[int, float]]`): for each query, the grade of each relevant product.
        negatives (`list[list[int]]`): for each query, its hard negatives; of any number.
        copies (`list[np.ndarray]`): arrays of shape `(products,)`; products with the same number in any of them, as
            they have the same text or the same picture, are copies of each other. -1 is no copy of anything.
        teacher (`list[dict[int, float]]`): for each query, a teacher's logits of some products.
        query_features (`np.ndarray` of shape `(queries, dim)`, *optional*): unit features that tell which queries are
            alike; without them all batches are drawn at random.
        of_titles (`bool`): whether the queries are the products' own titles.
    """

    positives: list[dict[int, float]]
    negatives: list[list[int]] = field(default_factory=list)
    copies: list[np.ndarray] = field(default_factory=list)
    teacher: list[dict[int, float]] = field(default_factory=list)
    query_features: np.ndarray | None = None
    of_titles: bool = False


@dataclass
class PairBatch:
    """Distinct queries and products of a batch, and what is known of each pair.

    Attributes:
        queries (`np.ndarray` of shape `(queries,)`): rows of the catalogue's queries.
        products (`np.ndarray` of shape `(products,)`): rows of its products.
        relevance (`np.ndarray` of shape `(queries, products)`): grades of all judged pairs, float32; 0 elsewhere.
        ignored (`np.ndarray` of shape `(queries, products)`): True for unjudged copies of relevant products.
        log_q (`np.ndarray` of shape `(products,)`): logarithm of the share of the epoch's pairs that have the product.
        teacher (`np.ndarray` of shape `(queries, products)`): a teacher's logits; not-a-number where there is none.
        pairs (`int`): query-product pairs that made the batch.
        of_titles (`bool`): whether the queries are titles.
    """

    queries: np.ndarray
    products: np.ndarray
    relevance: np.ndarray
    ignored: np.ndarray
    log_q: np.ndarray
    teacher: np.ndarray
    pairs: int
    of_titles: bool = False

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Relevance, ignored, log_q and teacher on a device."""
        arrays = (self.relevance, self.ignored, self.log_q, self.teacher)
        return tuple(torch.from_numpy(array).to(device) for array in arrays)


class PairSampler:
    """Draws query-product pairs so that queries with many relevant products don't drown the others.

    Args:
        judgments (`Judgments`): the catalogue's.
        positives_per_query (`int`): relevant products drawn for a query in an epoch, without repetition and in
            proportion to their grades; all of them where there are fewer.
        batch_size (`int`): pairs in a batch.
        seed (`int`): the epoch's number is added to it, so that an epoch is the same however one got to it.
        negatives_per_query (`int`, *optional*, defaults to 0): hard negatives that join a batch for each of its
            queries; all of them where there are fewer.
        topical_share (`float`, *optional*, defaults to 0.0): share of the batches whose queries are alike, so that
            their products are each other's hard negatives; the other batches are drawn at random. Batches of one topic
            are those of TAS-B (https://huggingface.co/papers/2104.06967), whose topics are fixed clusters.
    """

    def __init__(
        self,
        judgments: Judgments,
        positives_per_query: int,
        batch_size: int,
        seed: int,
        negatives_per_query: int = 0,
        topical_share: float = 0.0,
    ):
        self.judgments = judgments
        self.positives_per_query = positives_per_query
        self.batch_size = batch_size
        self.seed = seed
        self.negatives_per_query = negatives_per_query
        self.topical_share = topical_share
        self.log_q, self.least_log_q = self._log_probabilities()
        self.copies = [self._copies_of_positives(numbers) for numbers in judgments.copies]

    def epoch(self, number: int) -> list[Pairs]:
        """The batches of an epoch, in random order.

        Pairs that don't fill a batch are left out of this epoch, unless there is no full batch at all.
        """
        rng, size = np.random.default_rng((self.seed, number)), self.batch_size
        pairs = [pair for query in range(len(self.judgments.positives)) for pair in self._draw(query, rng)]
        rng.shuffle(pairs)
        full = len(pairs) - len(pairs) % size or len(pairs)
        topical = round(self.topical_share * (full // size)) * size
        pairs = self._by_topic(pairs[:topical], rng) + pairs[topical:]
        return [pairs[start : start + size] for start in range(0, full, size)]

    def collate(self, pairs: Pairs) -> PairBatch:
        """Makes a batch of pairs: each query and product once, hard negatives, and all that is known of each pair."""
        queries, products = (np.unique(column) for column in zip(*pairs, strict=True))
        products = np.unique(np.concatenate([products, self._draw_negatives(queries, pairs)]))
        position = {product: column for column, product in enumerate(products.tolist())}
        shape = len(queries), len(products)
        relevance, ignored = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        teacher = np.full(shape, np.nan, dtype=np.float32)
        for row, query in enumerate(queries.tolist()):
            _fill(relevance[row], self.judgments.positives[query], position)
            if self.judgments.teacher:
                _fill(teacher[row], self.judgments.teacher[query], position)
            for numbers, of_positives in zip(self.judgments.copies, self.copies, strict=True):
                ignored[row] |= np.isin(numbers[products], of_positives[query])
        ignored &= relevance == 0
        log_q = np.array([self.log_q.get(row, self.least_log_q) for row in products.tolist()], dtype=np.float32)
        return PairBatch(queries, products, relevance, ignored, log_q, teacher, len(pairs), self.judgments.of_titles)

    def _draw(self, query: int, rng: np.random.Generator) -> Pairs:
        positives = self.judgments.positives[query]
        products, grades = np.array(list(positives)), np.array(list(positives.values()), dtype=np.float64)
        size = min(len(products), self.positives_per_query)
        return [
            (query, int(product)) for product in rng.choice(products, size, replace=False, p=grades / grades.sum())
        ]

    def _by_topic(self, pairs: Pairs, rng: np.random.Generator) -> Pairs:
        """Pairs in the order of their topics. A topic is the queries that are nearest to one of some that are drawn
        anew for each epoch, two for a batch."""
        features = self.judgments.query_features
        if not pairs or features is None:
            return pairs
        rows = np.array([query for query, _ in pairs])
        centres = features[rng.choice(rows, max(1, 2 * len(pairs) // self.batch_size), replace=False)]
        queries, places = np.unique(rows, return_inverse=True)
        parts = [queries[start : start + TOPIC_CHUNK] for start in range(0, len(queries), TOPIC_CHUNK)]
        topics = np.concatenate([(features[part] @ centres.T).argmax(axis=1) for part in parts])
        return [pairs[position] for position in np.argsort(topics[places], kind="stable")]

    def _draw_negatives(self, queries: np.ndarray, pairs: Pairs) -> np.ndarray:
        if not self.negatives_per_query or not self.judgments.negatives:
            return np.zeros(0, dtype=np.int64)
        rng = np.random.default_rng((self.seed, *pairs[0], len(pairs)))
        drawn = []
        for query in queries.tolist():
            found = self.judgments.negatives[query]
            drawn += rng.permutation(found)[: self.negatives_per_query].tolist()
        return np.array(drawn, dtype=np.int64)

    def _log_probabilities(self) -> tuple[dict[int, float], float]:
        """How often each relevant product is drawn, as logarithms, and the least of them, which stands for the
        catalogue's other products; hard negatives aside, as if each query drew one by one."""
        expected: dict[int, float] = defaultdict(float)
        for found in self.judgments.positives:
            share = min(len(found), self.positives_per_query) / sum(found.values())
            for product, grade in found.items():
                expected[product] += min(1.0, share * grade)
        total = sum(expected.values())
        found = {product: float(np.log(share / total)) for product, share in expected.items()}
        return found, min(found.values(), default=0.0)

    def _copies_of_positives(self, numbers: np.ndarray) -> list[np.ndarray]:
        found = (numbers[list(positives)] for positives in self.judgments.positives)
        return [np.unique(some[some >= 0]) for some in found]


def _fill(row: np.ndarray, values: dict[int, float], position: dict[int, int]) -> None:
    for product in values.keys() & position.keys():
        row[position[product]] = values[product]


def epoch_batches(samplers: list[PairSampler], number: int, seed: int) -> list[tuple[int, Pairs]]:
    """An epoch's batches of all catalogues in random order: the number of the catalogue and its pairs."""
    batches = [(source, batch) for source, sampler in enumerate(samplers) for batch in sampler.epoch(number)]
    return [batches[position] for position in np.random.default_rng((seed, number)).permutation(len(batches))]
