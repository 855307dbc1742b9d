import numpy as np
from conftest import WORDS

from training import rehearsal
from training.data import load_split
from training.embedding import product_features, text_features
from training.rehearsal import containment, make_group, make_rehearsal, whole_words


def test_a_listing_is_relevant_to_every_query_whose_words_it_has():
    rng = np.random.default_rng(0)
    queries, listings = make_group(rng, [f"word{number}" for number in range(400)])
    positives = containment(queries, listings, first_row=1000)
    assert len(queries) == len(listings) == 512 and {len(query) for query in queries} == {1, 2, 3, 4}
    assert len({word for listing in listings for word in listing}) == 200, "a group shares a small vocabulary"
    for row, (query, found) in enumerate(zip(queries, positives, strict=True)):
        assert 1000 + row in found
        assert found.keys() == {1000 + n for n, words in enumerate(listings) if set(query) <= set(words)}


def test_vocabulary_is_whole_words(processor):
    assert whole_words(processor) == sorted(word for word in WORDS if len(word) >= 3)
    processor.tokenizer.add_tokens(["##ing", "▁table", "Ġchair", "ab1", "of"])
    assert set(whole_words(processor)) - set(WORDS) == {"table", "chair"}


def test_listings_borrow_pictures_and_batches_stay_in_a_group(model, processor, shop, monkeypatch):
    monkeypatch.setattr(rehearsal, "GROUP_SIZE", 8)
    products = product_features(model, processor, load_split(shop, "train"))
    made = make_rehearsal(model, processor, products, pairs=20, seed=0)
    assert len(made.queries) == len(made.products) == len(made.positives) == 24 and made.group_size == 8
    assert all(row // 8 == listing // 8 for row, found in enumerate(made.positives) for listing in found)
    lent = {vector.tobytes() for vector in products.arrays["image_features"]}
    assert {vector.tobytes() for vector in made.products.arrays["image_features"]} <= lent
    assert 0.4 < made.products.arrays["image_mask"].mean() < 0.95
    assert made.products.arrays["text_mask"].all()
    again = make_rehearsal(model, processor, products, pairs=20, seed=0)
    other = make_rehearsal(model, processor, products, pairs=20, seed=1)
    np.testing.assert_array_equal(again.products.arrays["text_features"], made.products.arrays["text_features"])
    assert not np.array_equal(other.products.arrays["text_features"], made.products.arrays["text_features"])


def test_bare_texts_are_products_that_have_nothing_else(model, processor, shop):
    split = load_split(shop, "train")
    texts = [processor.product_text({**product, "image": None}) for product in split.corpus.remove_columns("image")]
    found, expected = text_features(model, processor, texts), product_features(model, processor, split)
    for name in ("text_features", "lexical_features"):
        np.testing.assert_allclose(found.arrays[name], expected.arrays[name], atol=1e-6)
    assert not found.arrays["image_mask"].any()
