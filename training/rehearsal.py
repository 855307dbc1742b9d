"""Rehearsal: made-up listings of random words that keep a model from forgetting how to match text.

A shop's queries teach the fusion network the shop's words, and nothing tells it what to do with any other word: it
comes to distrust text and to see in pictures what is not there, and in shops never seen it falls far below the text
encoder that it started from. So it also trains on listings of random words of the vocabulary. Their relevance is by
construction: a listing is relevant to a query if it has all of the query's words. Their pictures are drawn from the
catalogue at random, so they tell nothing.
"""

import numpy as np

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training.embedding import TowerStates, query_features, text_features
from training.sampling import TrainingSet

GROUP_SIZE = 512
WORDS_PER_GROUP = 200  # few enough that listings of a group share words, so that each word of a query counts
MIN_LETTERS = 3
PICTURE_SHARE = 0.7


def make_rehearsal(
    model: MMFusionModel, processor: MMFusionProcessor, products: TowerStates, pairs: int, seed: int = 0
) -> TrainingSet:
    """Makes listings of random words and queries for them, and runs the text towers over them.

    Args:
        model (`MMFusionModel`): its text encoders see the words.
        processor (`MMFusionProcessor`): its tokenizer's whole words are the vocabulary.
        products (`TowerStates`): the catalogue that lends its pictures.
        pairs (`int`): how many listings, and as many queries; rounded up to whole groups of 512.
        seed (`int`, *optional*, defaults to 0): seed of words and pictures; the same for all runs, so
            that they share the cache.

    Returns:
        [`TrainingSet`] whose batches stay within a group.
    """
    rng = np.random.default_rng(seed)
    groups = -(-pairs // GROUP_SIZE)
    queries, listings, positives = [], [], []
    vocabulary = whole_words(processor)
    for _ in range(groups):
        group_queries, group_listings = make_group(rng, vocabulary)
        positives.extend(containment(group_queries, group_listings, len(listings)))
        queries.extend(" ".join(words) for words in group_queries)
        listings.extend(" ".join(words) for words in group_listings)
    arrays = dict(text_features(model, processor, listings).arrays)
    lenders = rng.integers(0, len(products), len(listings))
    for name in products.arrays:
        if name.startswith("image_"):
            arrays[name] = products.arrays[name][lenders]
    arrays["image_mask"] = arrays["image_mask"] & (rng.random(len(listings)) < PICTURE_SHARE)[:, None]
    return TrainingSet(query_features(model, processor, queries), TowerStates(arrays), positives, GROUP_SIZE)


def whole_words(processor: MMFusionProcessor) -> list[str]:
    """The words of at least three letters in the tokenizer's vocabulary, without pieces of words."""
    tokens = (token.lstrip("▁Ġ") for token in processor.tokenizer.get_vocab())
    return sorted({token for token in tokens if token.isalpha() and len(token) >= MIN_LETTERS})


def make_group(rng: np.random.Generator, vocabulary: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Queries of 1 to 4 words, and for each a listing that has them among 1 to 15 others, in any order."""
    words = rng.choice(vocabulary, min(WORDS_PER_GROUP, len(vocabulary)), replace=False).tolist()
    queries, listings = [], []
    for _ in range(GROUP_SIZE):
        query = rng.choice(words, rng.integers(1, 5), replace=False).tolist()
        others = rng.choice(words, rng.integers(1, 16), replace=False).tolist()
        listing = list(dict.fromkeys(query + others))
        rng.shuffle(listing)
        queries.append(query)
        listings.append(listing)
    return queries, listings


def containment(queries: list[list[str]], listings: list[list[str]], first_row: int) -> list[dict[int, float]]:
    """For each query, grade 1 for each listing that has all of its words; rows are counted from `first_row`."""
    sets = [set(listing) for listing in listings]
    return [{first_row + row: 1.0 for row, words in enumerate(sets) if words.issuperset(query)} for query in queries]
