"""What a stage's batches are made of, and what goes wrong with them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import IMPORTED, picture, recipe, shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import train
from training.catalogue.layout import hide_modality, load_split
from training.common.cli import parse
from training.common.distributed import Share
from training.features.encoder import Encoder
from training.learning.options import ModelArguments, StageArguments, TrainArguments
from training.learning.sampling import PairSampler
from training.learning.training_set import (
    BatchInputs,
    copies_of,
    join_sets,
    negatives_of,
    query_set,
    same_values,
    title_set,
)


def test_titles_look_for_the_pictures_of_all_products_that_share_them(model, processor, shop):
    data = title_set(Encoder(model, processor), load_split(shop, "train"), StageArguments())
    assert len(data.queries.states) == 4 and data.judgments.of_titles
    assert [sorted(positives) for positives in data.judgments.positives] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
    ]
    texts_only = hide_modality(load_split(shop, "train"), "text")
    assert title_set(Encoder(model, processor), texts_only, StageArguments()) is None


@pytest.mark.parametrize("encoders", [{}, {"text": "full"}, {"text": "full", "vision": "full"}])
def test_a_batch_of_titles_encodes_no_listings(model, processor, shop, encoders):
    stage = StageArguments(**encoders, title_image_weight=1.0, chunk_size=5)
    split = load_split(shop, "train")
    data = title_set(Encoder(model, processor), split, stage)
    sampler = PairSampler(data.judgments, 3, 12, seed=0)
    _, batch, chunks = BatchInputs([data], [sampler], [(0, sampler.epoch(0)[0])], processor, stage, Share())[0]
    products = torch.zeros(12, model.config.embedding_dim)
    with torch.no_grad():
        for chunk in chunks:
            assert "input_ids" not in chunk.inputs and chunk.inputs["views"] == ("image",)
            products[chunk.products] = model(**chunk.inputs).embeds_per_view["image"]
        inputs = processor(queries=["mug"], products=list(split.corpus))
        expected = model(**inputs, views=("image",)).product_embeds
    torch.testing.assert_close(products, expected[torch.from_numpy(batch.products)], atol=1e-4, rtol=0)


def test_same_values_are_numbered_and_single_or_empty_ones_are_not():
    assert same_values(["a", "", "b", "a", "", "c", "b"]).tolist() == [0, -1, 1, 0, -1, -1, 1]


def test_copies_share_a_picture_or_have_none_and_share_a_text():
    texts = ["mug", "mug", "mug", "cup", "mug", "mug"]
    assert copies_of(texts, ["red", "blue", "red", "blue", "", ""]).tolist() == [0, 1, 0, 1, 2, 2]
    assert copies_of(["mug", "mug"], ["red", "blue"]).tolist() == [-1, -1], "only the picture tells them apart"


def test_hard_negatives_are_judged_or_mined_ones_that_are_not_relevant(tmp_path):
    corpus, queries, qrels = shop_rows()
    qrels.append({"query-id": "q-mug-red", "corpus-id": "mug-blue", "score": 0})
    split = load_split(write_shop(tmp_path, corpus, queries, qrels), "train")
    mined = {"q-mug-red": {"mug-red": 0.9, "mug-green": 0.8, "gone": 0.7}, "q-lamp-red": {"lamp-blue": 0.5}}
    found = negatives_of(split, mined, {name: row for row, name in enumerate(split.product_ids)})
    names = {
        query["_id"]: [split.product_ids[row] for row in rows]
        for query, rows in zip(split.queries, found, strict=True)
    }
    assert names["q-mug-red"] == ["mug-blue", "mug-green"] and names["q-lamp-red"] == ["lamp-blue"]
    assert names["q-bowl-red"] == []


@pytest.mark.parametrize("encoders", [{}, {"text": "full"}, {"vision": "full"}, {"text": "full", "vision": "full"}])
def test_a_batch_gives_the_same_vectors_whether_encoders_are_cached_or_run(model, processor, shop, encoders):
    stage = StageArguments(**encoders, chunk_size=5)
    data = query_set(Encoder(model, processor), load_split(shop, "train"), stage)
    sampler = PairSampler(data.judgments, 1, 12, seed=0)
    pairs = [(number, (5 * number) % 12) for number in range(12)]
    for row, product in pairs:
        data.judgments.positives[row] = {product: 1.0}
    _, batch, chunks = BatchInputs([data], [sampler], [(0, pairs)], processor, stage, Share())[0]
    assert len(chunks) == (3 if encoders else 1)
    queries, products = torch.zeros(12, model.config.embedding_dim), torch.zeros(12, model.config.embedding_dim)
    with torch.no_grad():
        for chunk in chunks:
            output = model(**chunk.inputs)
            queries[chunk.queries], products[chunk.products] = output.query_embeds, output.embeds_per_view["text"]
        inputs = processor(
            queries=load_split(shop, "train").query_texts, products=list(load_split(shop, "train").corpus)
        )
        expected = model(**inputs, views=("text",))
    torch.testing.assert_close(queries, expected.query_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(products, expected.product_embeds, atol=1e-5, rtol=0)
    assert batch.products.tolist() == list(range(12))


@pytest.mark.parametrize("options", [{}, {"text": "full"}])
def test_what_tells_like_queries_is_what_the_encoder_says_before_the_stage(model, processor, shop, options):
    split = load_split(shop, "train")
    found = query_set(Encoder(model, processor), split, StageArguments(**options)).judgments.query_features
    expected = model.encode_queries(**processor.process_queries(split.query_texts)).text_features.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_topical_batches_no_encoder_runs_that_is_trained(model, processor, shop):
    data = query_set(
        Encoder(model, processor), load_split(shop, "train"), StageArguments(text="full", topical_share=0.0)
    )
    assert data.judgments.query_features is None and data.queries.states is None
    assert (
        title_set(Encoder(model, processor), load_split(shop, "train"), StageArguments()).judgments.query_features
        is None
    )


def test_joined_catalogues_keep_their_judgments_and_their_problems(model, processor, shop, tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus[0]["image"] = {"bytes": b"broken", "path": "x.png"}
    other = load_split(write_shop(tmp_path / "other", corpus[:6], queries[:6], qrels[:6]), "train")
    sets = [
        query_set(Encoder(model, processor), split, StageArguments()) for split in (load_split(shop, "train"), other)
    ]
    joined = join_sets(sets)
    assert len(joined.queries.states) == 18 and len(joined.products.states) == 18
    assert [next(iter(positives)) for positives in joined.judgments.positives] == list(range(18))
    for name, array in sets[1].products.states.arrays.items():
        np.testing.assert_array_equal(joined.products.states.arrays[name][12:], array)
    np.testing.assert_array_equal(joined.judgments.query_features[12:], sets[1].judgments.query_features)
    assert joined.judgments.copies[0].shape == (18,) and joined.judgments.copies[0][12] == -1
    before = other.problems.counts.total()
    joined.add_problem("unreadable image (trained without it)", 12, "broken")
    assert other.problems.counts.total() == before + 1 and "row 0, field image" in other.problems.lines()[-1]


def test_a_corrupt_picture_is_trained_without_counted_once_and_stops_nothing(towers, tmp_path, capfd):
    corpus, queries, qrels = shop_rows()
    corpus[7]["image"] = {"bytes": picture("blue")[:60], "path": "torn.png"}
    shop = write_shop(tmp_path / "shop", corpus, queries, qrels)
    train.main(recipe(towers, shop, tmp_path / "run", fuse={"epochs": 2, "vision": "full"}))
    out = capfd.readouterr().out
    assert "1 x unreadable image (trained without it); first: " in out and "corpus.parquet row 7, field image" in out


@pytest.mark.slow
def test_a_worker_that_dies_stops_with_advice_and_the_run_goes_on(towers, shop, tmp_path):
    def run_in_a_process(*words: str) -> subprocess.CompletedProcess:
        paths = [str(path) for path in (towers["text"], towers["vision"], shop, tmp_path / "run")]
        variables = {**os.environ, "PYTHONPATH": IMPORTED}
        words = [sys.executable, __file__, *paths, *words]
        return subprocess.run(words, env=variables, capture_output=True, text=True, check=False)

    first = run_in_a_process("die")
    assert first.returncode == 2 and "error: a process that reads pictures died" in first.stderr, first.stderr[-2000:]
    assert "run the same command again" in first.stderr and not (tmp_path / "run" / "model").exists()
    second = run_in_a_process()
    assert second.returncode == 0 and "fuse: going on in epoch 1, step" in second.stdout, second.stderr[-2000:]
    assert (tmp_path / "run" / "model").is_dir()


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def train_with_a_worker(text: str, vision: str, shop: str, output: str, *words: str) -> None:
    """Trains with one loader process, which dies in the middle if it is told to."""
    stage = {"epochs": 1, "vision": "full", "batch_size": 2}
    arguments = recipe({"text": text, "vision": vision}, shop, output, fuse=stage)
    arguments.workers, arguments.checkpoint_minutes = len(words), 0  # it goes on with fewer, as the message says
    get, main_process = BatchInputs.__getitem__, os.getpid()

    def die(inputs, number):
        if number == 5 and os.getpid() != main_process:
            os.kill(os.getpid(), 9)
        return get(inputs, number)

    if words:
        BatchInputs.__getitem__ = die
    try:
        train.main(arguments)
    except DataError as error:
        sys.exit(fail(str(error)))


@pytest.mark.slow
def test_training_stops_early_and_mixes_catalogues_and_learns_from_a_teacher(towers, shop, tmp_path):
    from training import mine

    other = write_shop(tmp_path / "other")
    base = train.main(recipe(towers, shop, tmp_path / "base", fuse={"epochs": 1}))
    teacher = str(tmp_path / "teacher.parquet")
    mine.main(mine.MineArguments(str(base), str(shop), teacher, keep_relevant=True, scale=20.0))
    options = {"epochs": 40, "patience": 2, "distillation_weight": 1.0, "negatives_per_query": 1, "ema": 0.9}
    arguments = recipe(towers, f"{shop},{other}", tmp_path / "run", fuse=options)
    arguments.data.mixed, arguments.data.teacher, arguments.data.negatives = (
        True,
        [teacher, teacher],
        [teacher, teacher],
    )
    train.main(arguments)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 3 <= len(lines) < 41


def test_a_stage_without_anything_to_learn_is_refused(towers, shop, tmp_path):
    nothing = {"epochs": 1, "fused_weight": 0.0, "text_view_weight": 0.0, "image_view_weight": 0.0}
    with pytest.raises(DataError, match="a stage has nothing to learn from"):
        train.main(recipe(towers, shop, tmp_path / "run", fuse=nothing))


def test_adapters_for_no_layer_are_refused_by_name(towers, shop, tmp_path):
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 1, "text": "lora"})
    arguments.lora.targets = "nothing"
    with pytest.raises(
        DataError, match="--lora.targets: no layer of the encoders text has a name that fits 'nothing'"
    ):
        train.main(arguments)


@pytest.mark.parametrize("name", ["quickstart", "ablation", "hm", "multishop", "gpu", "from-hub", "multilingual"])
def test_every_recipe_can_be_read(name):
    arguments = parse(TrainArguments, "", ["--recipe", f"training/recipes/{name}.yaml"], recipe=True)
    assert arguments.fuse.epochs > 0 and isinstance(arguments.model, ModelArguments)


if __name__ == "__main__":
    train_with_a_worker(*sys.argv[1:])
