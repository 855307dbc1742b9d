import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import make_model, shop_rows, write_shop
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import model_fingerprint, towers_fingerprint
from modeling_mmfusion.model_folder import load_model
from training.catalogue.layout import load_split
from training.catalogue.writing import CORPUS_FEATURES
from training.features import encoder
from training.features.encoder import Encoder, embed_products, embed_queries
from training.learning import training_set


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "cache"))


def odd_shop(tmp_path):
    """A shop with texts of different lengths, two pictures missing and one that can't be read."""
    corpus, queries, qrels = shop_rows()
    for row in (1, 4):
        corpus[row]["image"] = None
    corpus[2]["title"] = "a very long title of a big soft striped cotton mug"
    corpus[7]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    return write_shop(tmp_path / "shop", corpus, queries, qrels)


def test_vectors_are_those_of_the_model_product_by_product(model, processor, tmp_path):
    split = load_split(odd_shop(tmp_path), "test")
    vectors = embed_products(model, Encoder(model, processor).product_states(split, batch_size=4))
    products = [dict(product) for product in split.corpus]
    products[7]["image"] = None
    with torch.no_grad():
        alone = [model.get_product_features(**processor.process_products([p])).pooler_output for p in products]
    np.testing.assert_allclose(vectors, torch.cat(alone).numpy(), atol=1e-4)  # cells are kept in half precision
    texts = split.query_texts
    found, weights = embed_queries(model, Encoder(model, processor).query_states(texts, batch_size=5))
    with torch.no_grad():
        expected = [model.get_query_features(**processor.process_queries([text])).pooler_output for text in texts]
    np.testing.assert_allclose(found, torch.cat(expected).numpy(), atol=1e-6)
    np.testing.assert_allclose((weights**2).sum(axis=1), 1, atol=1e-6)


def test_an_unreadable_picture_is_counted_each_time_also_from_the_cache(model, processor, tmp_path):
    for _ in range(2):
        split = load_split(odd_shop(tmp_path), "test")
        features = Encoder(model, processor).product_states(split)
        assert features.arrays["image_mask"][:, 0].tolist() == [n not in (1, 4, 7) for n in range(12)]
        (line,) = split.problems.lines()
        assert line.startswith("1 x unreadable image") and "corpus.parquet row 7, field image" in line


def test_the_cache_is_used_and_belongs_to_towers_and_data(towers, model, processor, tmp_path, monkeypatch):
    shop = odd_shop(tmp_path)
    first = Encoder(model, processor).product_states(load_split(shop, "test"))
    queries = Encoder(model, processor).query_states(["red mug"])

    def towers_run(*args):
        raise AssertionError("the towers ran")

    monkeypatch.setattr(encoder, "_run_encoder", towers_run)
    again = Encoder(model, processor).product_states(load_split(shop, "test"))
    for name, array in (first.arrays | queries.arrays).items():
        found = again if name in first.arrays else Encoder(model, processor).query_states(["red mug"])
        np.testing.assert_array_equal(found.arrays[name], first.arrays.get(name, array))
    with torch.no_grad():
        model.product_heads.missing_image.weight.add_(1)  # not a tower: the features stay
    Encoder(model, processor).product_states(load_split(shop, "test"))
    with pytest.raises(AssertionError, match="the towers ran"):
        Encoder(model, processor).query_states(["red mug mug"])
    with pytest.raises(AssertionError, match="the towers ran"):
        Encoder(model, processor).product_states(load_split(write_shop(tmp_path / "other"), "test"))
    with torch.no_grad():
        model.text_model.embeddings.word_embeddings.weight[5] += 1
    with pytest.raises(AssertionError, match="the towers ran"):
        Encoder(model, processor).product_states(load_split(shop, "test"))
    pictures = Encoder(model, processor).picture_states(load_split(shop, "test"))
    np.testing.assert_array_equal(pictures.arrays["image_features"], first.arrays["image_features"])


def test_a_text_that_products_share_is_encoded_once(model, processor, monkeypatch):
    texts, encoded = ["red mug", "a big blue mug", "red mug", "", "a big blue mug"], []
    run_encoder = encoder._run_encoder

    def counted(encode, some, *rest):
        encoded.extend(some)
        return run_encoder(encode, some, *rest)

    monkeypatch.setattr(encoder, "_run_encoder", counted)
    found = Encoder(model, processor).text_states(texts, batch_size=2)
    assert encoded == ["red mug", "a big blue mug", ""] and found.arrays["text_mask"].tolist() == [True] * 3 + [
        False,
        True,
    ]
    for row, text in enumerate(texts):
        alone = Encoder(model, processor).text_states([text], cache=False).arrays
        for name, array in found.arrays.items():
            np.testing.assert_allclose(array[row], alone[name][0], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["rows.json", "text_features.npy"])
def test_a_damaged_cache_is_told_and_computed_again(model, processor, tmp_path, capsys, name):
    shop = odd_shop(tmp_path)
    first = Encoder(model, processor).product_states(load_split(shop, "test")).arrays["text_features"].copy()
    damaged = [file for file in (tmp_path / "cache" / "features").rglob(name)]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:-2])
    assert damaged
    again = Encoder(model, processor).product_states(load_split(shop, "test"))
    np.testing.assert_array_equal(again.arrays["text_features"], first)
    assert capsys.readouterr().out.count("is damaged and computed again") == len(damaged)


def test_fingerprints_tell_models_apart_and_using_one_does_not_change_them(towers, model, processor):
    before = towers_fingerprint(model, processor), model_fingerprint(model, processor)
    processor(queries=["a long query of red cotton", "mug"], products=[{"title": "lamp"}])
    assert (towers_fingerprint(model, processor), model_fingerprint(model, processor)) == before
    with torch.no_grad():
        model.query_heads.router.bias.add_(1)
    assert towers_fingerprint(model, processor) == before[0] and model_fingerprint(model, processor) != before[1]
    assert towers_fingerprint(make_model(towers, text_pooling="cls"), processor) != before[0]
    processor.product_fields = ["title"]
    assert towers_fingerprint(model, processor) != before[0]


def test_fingerprints_see_what_changes_vectors_without_a_weight(towers, model, processor):
    """An index, a cache or an export of the one would be taken for the other's."""
    before = model_fingerprint(model, processor)
    tokenizer = processor.tokenizer.backend_tokenizer
    tokenizer.normalizer = normalizers.Lowercase()
    assert model_fingerprint(model, processor) != before, "the same vocabulary, other tokens"
    tokenizer.normalizer = normalizers.Sequence([])
    processor.tokenizer.truncation_side = "left"
    assert model_fingerprint(model, processor) != before
    processor.tokenizer.truncation_side = "right"
    unchanged = model_fingerprint(model, processor)
    model.config.text_config.num_attention_heads = 4
    assert model_fingerprint(model, processor) != unchanged
    model.config.text_config.num_attention_heads = 2
    model.config.truncate_dim = 20
    assert model_fingerprint(model, processor) == unchanged, "shorter vectors are the same model's"
    means = make_model(towers, fusion_type="weighted_mean")
    with_half = model_fingerprint(means, processor)
    means.config.text_mean_weight = 0.7
    assert model_fingerprint(means, processor) != with_half


def test_features_of_lists_of_pictures_are_found_again(model, processor, tmp_path, monkeypatch):
    corpus, queries, qrels = shop_rows()
    shop = write_shop(tmp_path / "shop")
    red = corpus[0]["image"]
    for row, product in enumerate(corpus):
        product["image"] = [product["image"], red][: 1 + row % 2]
    features = datasets.Features({**CORPUS_FEATURES, "image": datasets.List(datasets.Image())})
    pq.write_table(pa.Table.from_pylist(corpus, schema=features.arrow_schema), shop / "test" / "corpus.parquet")
    first = Encoder(model, processor).picture_states(load_split(shop, "test")).arrays
    assert first["image_mask"].sum(axis=1).tolist() == [1 + row % 2 for row in range(12)]
    monkeypatch.setattr(encoder, "_run_encoder", lambda *words: 1 / 0)
    again = Encoder(model, processor).picture_states(load_split(shop, "test")).arrays
    np.testing.assert_array_equal(again["image_features"], first["image_features"])
    split = load_split(shop, "test")
    assert training_set.copies_of([""] * 12, split.picture_digests).tolist() == [*range(6), *range(6)]


def test_a_model_that_was_saved_and_loaded_is_the_same_to_the_cache(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert towers_fingerprint(*loaded) == towers_fingerprint(model, processor)
    assert model_fingerprint(*loaded) == model_fingerprint(model, processor)


def test_a_checkpoint_of_another_version_is_refused(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["product_heads.text_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 1 weights, such as product_heads.text_norm.weight"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:9000])
    with pytest.raises(DataError, match="can't load the model"):
        load_model(tmp_path)


def test_a_model_that_is_none(tmp_path):
    for name in (tmp_path / "nowhere", "./nowhere"):
        with pytest.raises(DataError, match="no such model folder"):
            load_model(name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="can't load the model") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
