"""Searching from the command line and by `Searcher`; bringing an index up to date."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_model, picture, shop_rows, write_shop

from modeling_mmfusion import encoders_mmfusion
from modeling_mmfusion.errors import DataError, ProductIndexError
from modeling_mmfusion.fingerprint import model_fingerprint, stored_fingerprint
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.model_folder import load_model
from modeling_mmfusion.query_mmfusion import MMFusionQueryModel
from training import embed, index, search
from training.catalogue.layout import load_split
from training.evaluation import measuring
from training.evaluation.options import EvaluateArguments
from training.features.encoder import Encoder, embed_queries
from training.features.shards import (
    read_sampled_queries,
    read_vectors,
    read_vectors_manifest,
    write_vectors_manifest,
)
from training.scale.engine import ProductSchema, open_engine, stored_columns
from training.scale.engines import EngineArguments, bulk_tables
from training.scale.engines import main as to_engine


def write_run(folder, model, processor, shop, **options):
    """A run with a model and an index of a shop."""
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    embed.main(embed.EmbedArguments(str(folder / "model"), str(shop), "test", str(folder / "vectors")))
    index.main(index.IndexArguments(str(folder / "vectors"), str(folder / "index"), **options))
    return folder


@pytest.fixture
def run(model, processor, shop, tmp_path):
    return write_run(tmp_path / "run", model, processor, shop, words=True)


@pytest.mark.parametrize("own_query_encoder", [False, True])
def test_the_query_tower_alone_says_what_the_model_says(towers, processor, tmp_path, own_query_encoder):
    model = make_model(towers, **({"query": towers["query"]} if own_query_encoder else {}))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    tower, loading = MMFusionQueryModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    names = {name.split(".")[0] for name, _ in tower.named_parameters()}
    assert not names & {"vision_model", "product_heads", "logit_scale"}
    assert ("text_model" in names) is not own_query_encoder
    inputs = processor.process_queries(["red mug", "a small striped lamp"])
    with torch.no_grad():
        expected, found = model.get_query_features(**inputs), tower.eval().get_query_features(**inputs)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=0, rtol=0)
    whole, its_processor = load_model(tmp_path / "model", device="cpu")
    assert stored_fingerprint(tmp_path / "model", its_processor) == model_fingerprint(whole, its_processor)


def test_the_query_tower_needs_nothing_that_the_image_encoder_would(saved, monkeypatch):
    find, built = encoders_mmfusion.auto_class_of, []
    monkeypatch.setattr(
        encoders_mmfusion, "auto_class_of", lambda config: built.append(config.model_type) or find(config)
    )
    MMFusionQueryModel.from_pretrained(saved)
    assert built == ["bert"], "timm, for one, need not be installed"


def test_misspelled_words_are_read_as_the_products_spell_them(run, capsys):
    searcher, strict = search.Searcher(run), search.Searcher(run, spelling=False)
    assert searcher.processor.correction("plian Shrit") == "plain shirt"
    assert searcher.processor.correction("plain shirt") is None and strict.processor.correction("plian shrit") is None
    np.testing.assert_array_equal(searcher.embed(["plian shrit"]), searcher.embed(["plain shirt"]))
    assert not np.allclose(strict.embed(["plian shrit"]), searcher.embed(["plain shirt"]))
    ids = {
        hybrid: [one.product_id for one in searcher.search("plian shrit", 3, hybrid=hybrid)[0]] for hybrid in (0, 1)
    }
    for hybrid, found in ids.items():
        assert found == [one.product_id for one in searcher.search("plain shirt", 3, hybrid=hybrid)[0]]
    assert all(one.contributions["words"] > 0 for one in searcher.search("plian shrit", 3)[0]), (
        "words are corrected too"
    )
    search.main(search.SearchArguments("plian shrit", str(run), json=True))
    assert json.loads(capsys.readouterr().out)["read_as"] == "plain shirt"
    search.main(search.SearchArguments("plain shirt", str(run), json=True))
    assert "read_as" not in json.loads(capsys.readouterr().out)
    search.main(search.SearchArguments("plian shrit", str(run)))
    assert capsys.readouterr().out.startswith("plain shirt   (")


def test_an_engine_is_searched_in_place_of_the_index(run, tmp_path, capsys):
    pytest.importorskip("lance")
    address = f"lance:{tmp_path}/products.lance"
    to_engine(EngineArguments(str(run / "vectors"), address))
    own = search.Searcher(run)
    (run / "index").rename(tmp_path / "elsewhere")
    with open_engine(address) as engine:
        searcher = search.Searcher(run, index=engine)
        some = [one.product_id for one in own.search("red mug", 3)[0]]
        for where in (None, {"_id": some}):
            expected, shares = own.search("red mug", 4, where, hybrid=False)
            found, its_shares = searcher.search("red mug", 4, where)
            assert [one.product_id for one in found] == [one.product_id for one in expected]
            assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)
            assert its_shares == shares and len(shares) > 1
        assert len(next(searcher.search_many(["red mug"], 3))[0]) == 3, "hybrid where it can be, else by vectors"
        assert not found[0].contributions and expected[0].contributions
    capsys.readouterr()
    search.main(search.SearchArguments("red mug", str(run), engine=address, json=True, where="category=nobody's"))
    answered = capsys.readouterr()
    assert json.loads(answered.out)["results"] == [] and "warning" not in answered.err
    search.main(search.SearchArguments("red mug", str(run), k=2, engine=address))
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(DataError, match="--width is of our own index"):
        search.main(search.SearchArguments("red mug", str(run), engine=address, width=9))
    with pytest.raises(DataError, match="there is no collection 'products'"):
        search.main(search.SearchArguments("red mug", str(run), engine=f"lance:{tmp_path}/none.lance"))


def test_an_engine_with_another_models_vectors_is_refused(run, tmp_path):
    pytest.importorskip("lance")
    table = next(bulk_tables(run / "vectors"))
    dim = table.schema.field("vector").type.list_size
    with open_engine(f"lance:{tmp_path}/products.lance") as engine:
        engine.load([table], ProductSchema(dim, stored_columns(table.schema), "another", {}))
        with pytest.raises(ProductIndexError, match=r"vectors of another model \(another\) than") as error:
            search.Searcher(run, index=engine)
        assert "\n" not in str(error.value)
    index = ProductIndex.load(run / "index")
    assert search.Searcher(run, index=index).processor.correction("plian shrit") == "plain shirt"
    index.model = "another"
    with pytest.raises(ProductIndexError, match="was built with another model"):
        search.Searcher(run, index=index)


def test_an_index_from_before_pictures_names_were_kept_is_brought_up_to_date(run):
    vectors, products = read_vectors(run / "vectors")
    manifest = read_vectors_manifest(run / "vectors")
    assert "image" in products.column_names
    older = ProductIndex.build(vectors[:8], products.slice(0, 8).drop_columns(["hash", "image"]), manifest["model"])
    older.save(run / "older")
    synced = index.main(index.IndexArguments(str(run / "vectors"), str(run / "older"), sync=True))
    assert len(synced) == len(products) > 8 and "image" not in synced.products.column_names


def test_a_query_is_turned_away_from_what_it_does_not_want(run):
    searcher = search.Searcher(run)
    shirt, red, found = searcher.embed(["shirt", "red shirt", "shirt without red"])
    expected = 1.6 * shirt - 0.6 * red
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    assert found @ red < shirt @ red
    by_picture = searcher.embed(["shirt without red"], [picture("red")])
    assert by_picture.shape == (1, len(shirt)), "with a picture what is not wanted is left out alone"


def test_measurements_turn_queries_away_too(saved, shop):
    split = load_split(str(shop), "test")
    split.queries[0]["text"] = "shirt without red"
    found = measuring.MeasuredViews({})
    arguments = EvaluateArguments(saved, str(shop), views=["fused"])
    ranker = measuring.rankers_of(arguments, split, ("fused",), found)["fused"]
    encoder = Encoder.load(saved)
    shirt, red = encoder.embed_queries(["shirt", "red shirt"])
    expected = 1.6 * shirt - 0.6 * red
    np.testing.assert_allclose(ranker.queries[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_an_index_without_words_corrects_nothing(model, processor, shop, tmp_path):
    run = write_run(tmp_path / "run", model, processor, shop, words=False)
    assert search.Searcher(run).processor.correction("plian shrit") is None


def test_the_image_encoder_is_loaded_for_pictures_alone(run, model, processor, tmp_path):
    searcher = search.Searcher(run)
    searcher.search("red mug", 3)
    assert "whole_model" not in vars(searcher)
    (tmp_path / "red.png").write_bytes(picture("red"))
    results, shares = searcher.search("", 12, image=str(tmp_path / "red.png"))
    with torch.no_grad():
        inputs = processor.process_products([{"image": picture("red")}])
        query = model.get_query_features(pixel_values=inputs["pixel_values"], image_mask=inputs["image_mask"])
    assert searcher.index.search(query.pooler_output.numpy(), 12)[0][0].score == pytest.approx(results[0].score)
    assert shares["text"] == shares["lexical"] == 0
    both, _ = searcher.search("plain mug", 12, image=str(tmp_path / "red.png"), image_weight=0.3)
    assert [one.score for one in both] != [one.score for one in results]


def test_words_count_unless_they_are_left_out_or_the_index_has_none(run, capsys):
    def answer(**options):
        capsys.readouterr()
        search.main(search.SearchArguments("clay bowl", str(run), k=12, json=True, **options))
        return json.loads(capsys.readouterr().out)["results"]

    hybrid, vectors = answer(), answer(hybrid=False)
    words = {one["product_id"]: one["contributions"].pop("words") for one in hybrid}
    alone = {one["product_id"]: one["score"] for one in vectors}
    assert {name.split("-")[0] for name, part in words.items() if part > 0} == {"bowl"}
    for one in hybrid:
        assert one["score"] == pytest.approx(alone[one["product_id"]] + words[one["product_id"]], abs=1e-5)
    assert all("words" not in one["contributions"] for one in vectors)
    many = [found.product_id for found in next(search.Searcher(run).search_many(["clay bowl"], 12))[0]]
    assert many == [one["product_id"] for one in hybrid] and hybrid == sorted(hybrid, key=lambda one: -one["score"])
    index.main(index.IndexArguments(str(run / "vectors"), str(run / "index"), words=False))
    assert answer() == answer(hybrid=False) == vectors


def test_words_are_those_of_the_fields_that_the_model_reads(model, processor, tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus = [{**row, "price": "7.35" if row["_id"] == "lamp-blue" else "9.90"} for row in corpus]
    processor.product_fields = ["title", "price"]
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels)
    folder = write_run(tmp_path / "run", model, processor, shop, words=True) / "index"
    opened = ProductIndex.load(folder)
    best = opened.words.best("35", 5).tolist()
    assert [one["_id"] for one in opened.catalogue.take(np.array(best))] == ["lamp-blue"]
    assert not opened.words.scores("soft").any(), "the description, which this model does not read"
    opened.update([{"_id": "bowl-red", "price": "1.99"}])
    opened.save(folder)
    assert len(ProductIndex.load(folder).words.best("99", 5)) == 1
    opened.remove(["mug-red"])
    opened.compact()
    assert len(opened.words.best("99", 5)) == 1 and not opened.words.scores("soft").any()


def test_a_file_of_queries_is_answered_line_by_line(run, tmp_path, capsys):
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": 7, "text": "red mug"}\n[]\n{"text": " "}\n{"text": "clay bowl"}\n'
    )
    capsys.readouterr()
    search.main(search.SearchArguments(run=str(run), k=2, queries=str(tmp_path / "queries.jsonl")))
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(answer.get("_id"), answer["query"]) for answer in answers] == [("7", "red mug"), (None, "clay bowl")]
    one, shares = search.Searcher(run).search("clay bowl", 2)
    assert [found["product_id"] for found in answers[1]["results"]] == [found.product_id for found in one]
    assert answers[1]["shares"] == pytest.approx(shares, abs=1e-5)
    assert "1 x line that is no JSON" in err and "queries.jsonl line 2" in err and "1 x empty query" in err


def test_conditions_and_words_from_the_command_line(run, capsys):
    capsys.readouterr()
    options = {"run": str(run), "json": True, "where": "price=5..10; title=plain lamp|plain bowl", "hybrid": True}
    search.main(search.SearchArguments("mug", **options))
    found = json.loads(capsys.readouterr().out)["results"]
    assert {one["product"]["title"] for one in found} == {"plain lamp", "plain bowl"} and len(found) == 6
    assert search.parse_where("price=..20;in_stock=true; brand = A B ") == {
        "price": (None, 20.0),
        "in_stock": True,
        "brand": ["A B"],
    }
    for wrong, message in [
        ("price", "write column=value"),
        ("price=a..5", "'a' is no number"),
        ("colour=red", "no column 'colour'"),
    ]:
        with pytest.raises((DataError, ProductIndexError), match=message):
            search.main(search.SearchArguments("mug", **(options | {"where": wrong})))


def test_a_tower_of_another_model_is_refused(run):
    folder = run / "model" / "onnx"
    folder.mkdir()
    (folder / "export.json").write_text(json.dumps({"model": "another", "inputs": {"query": {}, "product": {}}}))
    with pytest.raises(ProductIndexError, match=r"built with another model .* than \S+run/model \(another\)"):
        search.Searcher(run, tower="int8")


def test_the_width_of_the_search_is_measured_printed_and_set(run, tmp_path, capsys, monkeypatch):
    options = {"vectors": str(run / "vectors"), "output": str(run / "index"), "words": True}
    built = index.main(index.IndexArguments(**options, recall=0.9))
    assert built.measured.wanted == 0.9 and "which finds 100.0% of the best ten" in capsys.readouterr().out
    assert "no width up to that finds the 99.0%" in index.format_measured(
        replace(built.measured, recall=0.5, wanted=0.99)
    )
    np.save(tmp_path / "queries.npy", np.zeros((3, 5), np.float32))
    (tmp_path / "torn.npy").write_text("torn")
    for name, message in [("queries", "5 dimensions"), ("torn", "is no .npy file"), ("no", "no such file|not there")]:
        with pytest.raises((DataError, ProductIndexError), match=message):
            index.main(index.IndexArguments(**options, queries=str(tmp_path / f"{name}.npy")))
    for share, wanted in ((5.0, 0.9), (-1.0, 0.8)):  # of the products that have to change
        monkeypatch.setattr(index, "MEASURED_AGAIN", share)
        synced = index.main(index.IndexArguments(**options, sync=True, recall=0.8))
        assert synced.measured.wanted == wanted
    seen = []
    monkeypatch.setattr(search.Searcher, "search", lambda self, *_, **__: (seen.append(self.index.width) or [], {}))
    search.main(search.SearchArguments("mug", str(run), width=77, json=True))
    assert seen == [77]


def test_an_index_is_compacted_without_vectors(run, capsys):
    opened = ProductIndex.load(run / "index")
    opened.remove(list(opened.catalogue.rows)[:8])
    opened.save(run / "index")
    options = {"vectors": "nowhere", "output": str(run / "index"), "compact": True}
    assert index.main(index.IndexArguments(**options)).catalogue.size == 4
    assert "4 products in" in (out := capsys.readouterr().out) and "8 free rows were dropped" in out
    with pytest.raises(DataError, match="two things"):
        index.main(index.IndexArguments(**options, sync=True))


def test_an_index_is_brought_up_to_date_with_the_vectors(run, model, processor, shop, tmp_path, capsys):
    corpus, queries, qrels = shop_rows()
    corpus[0]["title"] = "striped mug"  # another vector
    corpus[1]["price"] = "12.00"  # the same vector
    removed = corpus.pop(2)
    corpus.append({**corpus[5], "_id": "new"})
    write_shop(shop, corpus, queries, qrels)
    embed.main(embed.EmbedArguments(str(run / "model"), str(shop), "test", str(run / "vectors")))
    before = ProductIndex.load(run / "index")
    capsys.readouterr()
    options = {"vectors": str(run / "vectors"), "output": str(run / "index"), "sync": True}
    index.main(index.IndexArguments(**options))
    assert "1 added, 1 updated, 1 shown anew, 1 removed, 9 unchanged" in capsys.readouterr().out
    found = ProductIndex.load(run / "index")
    assert removed["_id"] in before and removed["_id"] not in found and found.generation == before.generation + 1
    vectors, products = read_vectors(run / "vectors")
    assert sorted(found.products.to_pylist(), key=str) == sorted(products.drop_columns("hash").to_pylist(), key=str)
    scores = np.sort(vectors @ vectors.T, axis=1)[:, ::-1][:, 0]
    assert [r[0].score for r in found.search(vectors, 1)] == pytest.approx(scores, abs=5e-4)
    manifest = read_vectors_manifest(run / "vectors")
    write_vectors_manifest(run / "vectors", manifest | {"model": "another"}, manifest["shards"])
    with pytest.raises(ProductIndexError, match="another model"):
        index.main(index.IndexArguments(**options))


def test_an_index_is_measured_with_the_catalogues_own_queries(run, shop, monkeypatch):
    vectors, asked = run / "vectors", []
    facts = read_vectors_manifest(vectors)["queries"]
    queries = read_sampled_queries(vectors)
    split = load_split(shop, "test")
    model, processor = load_model(run / "model", device="cpu")
    expected = embed_queries(model, Encoder(model, processor).query_states(split.query_texts, cache=False))[0]
    assert facts["file"] == "queries.npy" and len(queries) == len(set(split.query_texts))
    assert np.allclose(np.sort(queries, axis=0), np.sort(expected, axis=0), atol=2e-3)
    build = ProductIndex.build
    monkeypatch.setattr(
        ProductIndex, "build", lambda *words, **options: asked.append(options["queries"]) or build(*words, **options)
    )
    index.main(index.IndexArguments(str(vectors), str(run / "index")))
    monkeypatch.setattr(index, "LEAST_QUERIES", 5)
    index.main(index.IndexArguments(str(vectors), str(run / "index")))
    assert asked[0] is None, "too few to measure with"
    assert np.array_equal(asked[1], queries)
    (vectors / "queries.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match="queries.npy: is missing or damaged"):
        index.main(index.IndexArguments(str(vectors), str(run / "index")))
