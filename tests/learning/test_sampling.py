import numpy as np
from helpers import shop_rows, write_shop

from training.catalogue.layout import load_split
from training.learning.sampling import Judgments, PairSampler
from training.learning.training_set import positives_of


def sampler(tmp_path, **options):
    corpus, queries, qrels = shop_rows()
    for product in corpus:  # the first query likes everything, the red mug best
        qrels.append({"query-id": "q-mug-red", "corpus-id": product["_id"], "score": 1})
    qrels.append({"query-id": "q-mug-green", "corpus-id": "mug-red", "score": 0})
    options = {"batch_size": 4} | options
    positives = positives_of(load_split(write_shop(tmp_path, corpus, queries, qrels), "train"))
    return PairSampler(Judgments(positives), **options)


def pairs_of(batches):
    return [pair for batch in batches for pair in batch]


def test_an_epoch_draws_each_query_and_no_query_drowns_the_others(tmp_path):
    pairs = pairs_of(sampler(tmp_path, positives_per_query=3, seed=0, batch_size=14).epoch(1))
    assert len(pairs) == len(set(pairs)) == 3 + 11
    assert sorted({query for query, _ in pairs}) == list(range(12))
    assert all(product == query for query, product in pairs if query), "only relevant products are drawn"


def test_better_grades_are_drawn_more_often(tmp_path):
    drawn = sampler(tmp_path, positives_per_query=1, seed=0)
    first = [product for number in range(400) for query, product in pairs_of(drawn.epoch(number)) if query == 0]
    counts = np.bincount(first, minlength=12)
    assert counts[0] > 1.3 * counts[1:].mean() and counts.min() > 0


def test_an_epoch_is_the_same_however_one_gets_to_it(tmp_path):
    one, other = (sampler(tmp_path, positives_per_query=2, seed=5) for _ in range(2))
    one.epoch(1)
    assert one.epoch(2) == other.epoch(2) != other.epoch(3)
    assert sampler(tmp_path, positives_per_query=2, seed=6).epoch(2) != one.epoch(2)


def test_a_batch_knows_every_judgment_between_its_queries_and_products(tmp_path):
    batch = sampler(tmp_path, positives_per_query=1, seed=0).collate([(5, 5), (0, 0), (5, 5), (1, 1)])
    assert batch.queries.tolist() == [0, 1, 5] and batch.products.tolist() == [0, 1, 5]
    assert batch.relevance.tolist() == [[2, 1, 1], [0, 2, 0], [0, 0, 2]]


def test_batches_are_full_unless_there_is_only_one(tmp_path):
    batches = sampler(tmp_path, positives_per_query=1, seed=0, batch_size=5).epoch(3)
    assert [len(batch) for batch in batches] == [5, 5]
    assert [len(batch) for batch in sampler(tmp_path, positives_per_query=1, seed=0, batch_size=99).epoch(0)] == [12]


def topical(share, features, queries=40, batch_size=8):
    judgments = Judgments([{row: 1.0} for row in range(queries)], query_features=features)
    return PairSampler(judgments, 1, batch_size, seed=0, topical_share=share)


def test_topical_batches_are_of_like_queries_and_differ_from_epoch_to_epoch(monkeypatch):
    kinds = np.repeat(np.arange(5), 8)
    features = np.eye(5)[kinds] + 0.01 * np.random.default_rng(0).standard_normal((40, 5))
    found = {}
    for share in (0.0, 0.6, 1.0):
        batches = topical(share, features).epoch(1)
        assert sorted(pairs_of(batches)) == [(row, row) for row in range(40)], "each query once"
        found[share] = [len({int(kinds[query]) for query, _ in batch}) for batch in batches]
    assert max(found[1.0]) <= 3 and min(found[0.0]) >= 3, "kinds in a batch"
    assert np.mean(found[1.0]) < np.mean(found[0.6]) < np.mean(found[0.0])
    one, other = (topical(1.0, features) for _ in range(2))
    expected = one.epoch(3)
    assert other.epoch(3) == expected != one.epoch(2)
    monkeypatch.setattr("training.learning.sampling.TOPIC_CHUNK", 7)
    assert one.epoch(3) == expected, "however many queries are compared at a time"


def test_copies_of_relevant_products_are_no_negatives():
    judgments = Judgments([{0: 2.0}, {3: 1.0}], copies=[np.array([7, 7, -1, -1]), np.array([-1, 5, -1, 5])])
    batch = PairSampler(judgments, 1, 2, 0).collate([(0, 0), (1, 3), (1, 1), (0, 2)])
    assert batch.ignored.tolist() == [[False, True, False, False], [False, True, False, False]]
    assert not batch.ignored[batch.relevance > 0].any()


def test_hard_negatives_join_a_batch_in_any_number():
    judgments = Judgments([{0: 1.0}, {1: 1.0}, {2: 1.0}], negatives=[[5, 6, 7, 8], [9], []])
    drawn = PairSampler(judgments, 1, 3, 0, negatives_per_query=2).collate([(0, 0), (1, 1), (2, 2)])
    assert len(drawn.products) == 3 + 2 + 1 and {0, 1, 2, 9} < set(drawn.products.tolist()) < set(range(10))
    assert (drawn.relevance[:, 3:] == 0).all() and drawn.log_q.shape == (6,)
    assert len(PairSampler(judgments, 1, 3, 0).collate([(0, 0), (1, 1), (2, 2)]).products) == 3


def test_log_q_is_how_often_products_are_drawn():
    judgments = Judgments([{0: 1.0}, {0: 1.0, 1: 1.0}, {0: 1.0, 2: 3.0}])
    sampler = PairSampler(judgments, 1, 100, seed=0)
    counts = np.bincount([product for number in range(2000) for _, product in sum(sampler.epoch(number), [])])
    drawn = np.exp([sampler.log_q[product] for product in range(3)])
    np.testing.assert_allclose(drawn, counts / counts.sum(), atol=0.01)


def test_products_that_nobody_judged_may_join_a_batch_wherever_they_stand():
    sampler = PairSampler(Judgments([{0: 1.0}, {0: 1.0, 1: 1.0}]), 1, 2, seed=0)
    batch = sampler.collate([(0, 0), (1, 1), (0, 7)])
    assert batch.products.tolist() == [0, 1, 7] and not batch.relevance[:, 2].any()
    assert batch.log_q[2] == batch.log_q.min() == batch.log_q[1], "as seldom as the least of those that are drawn"
