"""Vectors in shards: they are the model's, and whatever happens in between, those of one run from start to end."""

import ast
import datetime
import decimal
import random
import time
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import (
    ROOT,
    big_shop,
    embed_arguments,
    embed_words,
    make_model,
    odd_rows,
    picture,
    run_module,
    shop_rows,
    write_products,
)
from PIL import Image

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import load_model
from modeling_mmfusion.processing_mmfusion import load_picture
from training import embed, index
from training.catalogue.layout import load_products
from training.common.files import claim_folder, only_process
from training.features import embedder
from training.features.backends import TorchTowers
from training.features.encoder import Encoder, embed_products
from training.features.options import EmbedArguments
from training.features.shards import iterate_shards, read_vectors, read_vectors_manifest
from training.features.windows import done_ahead, product_batches

pytestmark = pytest.mark.usefixtures("small_windows")

SPARE = "shirt-blue"


def files_of(output):
    return {file.name: file.read_bytes() for file in (output / "shards").iterdir()}


@pytest.fixture
def embedded(monkeypatch):
    """The number of products of each batch that a tower has embedded since."""
    counts, real = [], TorchTowers.product_vectors

    def product_vectors(self, inputs):
        counts.append(len(inputs["input_ids"]))
        return real(self, inputs)

    monkeypatch.setattr(TorchTowers, "product_vectors", product_vectors)
    return counts


def test_vectors_are_those_of_the_evaluation_and_the_manifest_tells_of_them(saved, tmp_path, capsys):
    shop = write_products(tmp_path / "shop", odd_rows())
    embed.main(embed_arguments(saved, shop, tmp_path / "out"))
    vectors, products = read_vectors(tmp_path / "out")
    model, processor = load_model(saved)
    split = load_products(shop, "test")
    expected = embed_products(model, Encoder(model, processor).product_states(split))
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    assert vectors.dtype == np.float32 and products.column("_id").to_pylist() == split.product_ids
    assert products.column_names == ["_id", "hash", "title", "description", "category", "brand", "price", "image"]
    assert products.column("price").to_pylist() == split.corpus["price"][:]
    manifest = read_vectors_manifest(tmp_path / "out")
    assert (manifest["format"], manifest["count"], manifest["dim"]) == (2, 12, model.config.projection_dim)
    assert manifest["blocks"] == model.config.block_dims
    assert [shard["rows"] for shard in manifest["shards"]] == [5, 5, 2]
    schema = next(iterate_shards(tmp_path / "out")).schema
    assert str(schema.field("vector").type) == f"fixed_size_list<element: halffloat>[{manifest['dim']}]"
    printed = capsys.readouterr().out
    assert "warning: 1 x unreadable image (embedded without it); first:" in printed
    assert "corpus.parquet row 7, field image: unreadable picture" in printed
    index.main(index.IndexArguments(str(tmp_path / "out"), str(tmp_path / "index")))


def test_the_same_again_embeds_nothing_and_still_tells_of_bad_pictures(saved, tmp_path, embedded, capsys):
    shop = write_products(tmp_path / "shop", odd_rows())
    for _ in range(2):
        embed.main(embed_arguments(saved, shop, tmp_path / "out"))
        before = files_of(tmp_path / "out"), read_vectors_manifest(tmp_path / "out")
        assert sum(embedded) == 12
        assert "1 x unreadable image" in capsys.readouterr().out
    embed.main(embed_arguments(saved, shop, tmp_path / "out", shard_size=7))
    assert sum(embedded) == 12, "shards of another size take what is there"
    embed.main(embed_arguments(saved, shop, tmp_path / "out"))
    assert (files_of(tmp_path / "out"), read_vectors_manifest(tmp_path / "out")) == before


def test_only_what_is_new_is_embedded_and_what_left_is_gone(saved, tmp_path, embedded):
    corpus = odd_rows()
    write_products(tmp_path / "shop", corpus)
    embed.main(embed_arguments(saved, tmp_path / "shop", tmp_path / "out"))
    embedded.clear()
    corpus[3]["title"] = "striped shirt"
    corpus[6]["image"] = {"bytes": picture("white"), "path": "white.png"}
    corpus[10]["price"] = "1.00"  # is shown, but not embedded
    corpus[7]["image"] = {"bytes": picture("black"), "path": "mended.png"}
    corpus.insert(0, {**corpus[0], "_id": "new"})
    corpus = [product for product in corpus if product["_id"] != "bowl-red"] + [{**corpus[2], "_id": "copy"}]
    write_products(tmp_path / "shop", corpus)
    embed.main(embed_arguments(saved, tmp_path / "shop", tmp_path / "out"))
    assert sum(embedded) == 5
    embed.main(embed_arguments(saved, tmp_path / "shop", tmp_path / "fresh"))
    (found, products), (expected, others) = read_vectors(tmp_path / "out"), read_vectors(tmp_path / "fresh")
    assert products.equals(others) and products.column("_id").to_pylist() == [product["_id"] for product in corpus]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    listed = {shard["file"] for shard in read_vectors_manifest(tmp_path / "out")["shards"]}
    assert set(files_of(tmp_path / "out")) == listed


def test_another_model_embeds_all_anew(saved, towers, tmp_path, embedded):
    shop = write_products(tmp_path / "shop", shop_rows()[0])
    embed.main(embed_arguments(saved, shop, tmp_path / "out"))
    other = make_model(towers)
    with torch.no_grad():
        other.product_heads.missing_image.weight.add_(1)
    other.save_pretrained(tmp_path / "other")
    load_model(saved)[1].save_pretrained(tmp_path / "other")
    embed.main(embed_arguments(tmp_path / "other", shop, tmp_path / "out"))
    embed.main(embed_arguments(saved, shop, tmp_path / "out", truncate_dim=len(other.config.blocks) * 4))
    assert sum(embedded) == 36
    assert read_vectors_manifest(tmp_path / "out")["dim"] == len(other.config.blocks) * 4


def test_batches_keep_to_tokens_and_pictures(saved):
    _, processor = load_model(saved)
    products = [embedder.ProductInputs("red mug " * (n % 5), [picture()] * (n % 3)) for n in range(20)]
    batches = list(product_batches(processor, products, batch_tokens=24, batch_pictures=4))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(20))
    for batch in batches:
        pictures = {len(products[row].pictures) for row in batch.rows}
        assert len(pictures) == 1 and len(batch.rows) * pictures.pop() <= 4
        assert batch.texts["input_ids"].numel() <= 24 and batch.texts["attention_mask"].any(dim=0).all()
        alone = processor.process_products([{"text": products[row].text} for row in batch.rows])
        assert torch.equal(batch.texts["input_ids"], alone["input_ids"])
        assert torch.equal(batch.texts["text_mask"], alone["text_mask"])
    assert len(batches) < 14
    huge = [embedder.ProductInputs("mug " * 60, [picture()] * 9)]
    assert [batch.rows for batch in product_batches(processor, huge, batch_tokens=8, batch_pictures=4)] == [[0]]


def test_work_that_is_done_ahead_is_bounded_in_order_and_ends_with_its_reader():
    drawn = []

    def items():
        for number in range(1000):
            drawn.append(number)
            yield number

    ahead = done_ahead(lambda number: time.sleep(random.random() / 1000) or number * 2, items(), workers=3)
    assert [next(ahead) for _ in range(50)] == [(number, number * 2) for number in range(50)]
    assert len(drawn) <= 55
    ahead.close()
    count = len(drawn)
    time.sleep(0.05)
    assert len(drawn) == count < 1000

    def fail(number):
        raise OSError(f"item {number}")

    with pytest.raises(OSError, match="item 0"):
        list(done_ahead(fail, range(9), workers=2))
    with pytest.raises(ZeroDivisionError):
        list(done_ahead(lambda number: number, (1 // (3 - n) for n in range(9)), workers=2))


def test_a_large_jpeg_is_read_at_a_fraction_of_its_size(processor):
    stream = BytesIO()
    Image.effect_mandelbrot((800, 400), (-2, -1.2, 0.8, 1.2), 60).convert("RGB").save(stream, "JPEG", quality=95)
    assert processor.min_side == 48
    small = load_picture(stream.getvalue(), processor.min_side)
    assert small.size == (100, 50)
    whole = load_picture(stream.getvalue())
    assert whole.size == (800, 400)
    difference = np.abs(np.asarray(whole.resize(small.size, Image.BOX), float) - np.asarray(small, float))
    assert difference.mean() < 2
    opened = Image.open(BytesIO(stream.getvalue()))
    assert load_picture(opened, 48).size == (800, 400), "a picture of the caller stays as it is"
    assert load_picture(picture(size=(400, 400)), 48).size == (400, 400)


def test_a_damaged_shard_is_refused_by_name_and_embedded_anew(saved, tmp_path, embedded, capsys):
    shop = write_products(tmp_path / "shop", shop_rows()[0])
    embed.main(embed_arguments(saved, shop, tmp_path / "out"))
    file = sorted((tmp_path / "out" / "shards").iterdir())[1]
    good = file.read_bytes()
    vectors, _ = read_vectors(tmp_path / "out")
    torn = good[:100]
    for content in (torn, *(good[:start] + bytes(40) + good[start + 40 :] for start in range(4, len(good) - 40, 700))):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{file.name}: is damaged"):
            read_vectors(tmp_path / "out")
        embedded.clear()
        capsys.readouterr()
        embed.main(embed_arguments(saved, shop, tmp_path / "out"))
        warned = f"damaged shard (its products are embedded anew); first: {file}" in capsys.readouterr().out
        assert sum(embedded) == (5 if warned else 0) and (warned or content is not torn)
        np.testing.assert_allclose(read_vectors(tmp_path / "out")[0], vectors, atol=1e-3)
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name}: can't be read"):
        read_vectors(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text('{"format": 7}')
    with pytest.raises(DataError, match="manifest.json: is not of format 2"):
        read_vectors(tmp_path / "out")


def test_one_run_at_a_time(saved, shop, tmp_path):
    claim_folder(tmp_path / "out", embed.WRITER, str(shop))
    with only_process(tmp_path / "out"):
        with pytest.raises(DataError, match="out: another run writes it"):
            embed.main(embed_arguments(saved, shop, tmp_path / "out"))


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_leave_the_old_or_the_new_state(tmp_path):
    code = "import sys; from pathlib import Path; from training.benchmarks.faults import kill_embedding; "
    done = run_module("-c", code + "print(kill_embedding(Path(sys.argv[1]), 24))", str(tmp_path / "shops"))
    assert done.returncode == 0, done.stderr[-2000:]
    seen = ast.literal_eval(done.stdout.splitlines()[-1])
    assert seen["killed"] >= 5 and seen["new state"] and seen["old state"] + seen["nothing yet"], seen


@pytest.mark.slow
def test_two_processes_write_what_one_writes(saved, tmp_path):
    shop = big_shop(tmp_path / "shop")
    embed.main(embed_arguments(saved, shop, tmp_path / "one"))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "training" / "embed.py")]
    done = run_module(*words, *embed_words(saved, shop, tmp_path / "two"), ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 x unreadable image" in done.stdout and "48 products" in done.stdout
    assert "(48 embedded in" in done.stdout
    (found, products), (expected, others) = read_vectors(tmp_path / "two"), read_vectors(tmp_path / "one")
    assert products.equals(others)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    names = [shard["file"] for shard in read_vectors_manifest(tmp_path / "one")["shards"]]
    assert [shard["file"] for shard in read_vectors_manifest(tmp_path / "two")["shards"]] == names


def test_own_columns_are_kept_shown_and_filtered_by(saved, tmp_path, capsys):
    corpus, _, _ = shop_rows()
    own = {
        "colour": pa.array(["rot", "blau", None] * 4),
        "größe": pa.array([36, 38, None] * 4, pa.int16()),
        "weight": pa.array([1.5, 2.0, None] * 4, pa.float32()),
        "eco": pa.array([True, False, None] * 4),
        "sizes": pa.array([["S", "M"], [], None] * 4),
        "row": pa.array(["left", "right", None] * 4),
        "added": pa.array([datetime.date(2026, 11, 26), None, None] * 4),
        "cost": pa.array([decimal.Decimal("1.20"), None, None] * 4),
        "thumbnail": pa.array([b"bytes"] * 12),
        "hash": pa.array(["mine"] * 12),
    }
    shop = write_products(tmp_path / "shop", corpus)
    file = shop / "test" / "corpus.parquet"
    table = pq.read_table(file)
    for name, values in own.items():
        table = table.append_column(name, values)
    pq.write_table(table, file)
    embed.main(EmbedArguments(str(saved), str(shop), output=str(tmp_path / "run" / "vectors"), shard_size=5))
    told = capsys.readouterr().out
    assert "not kept beside the vectors (it holds bytes); first: thumbnail" in told
    assert "(its name is taken by the vectors' own columns; rename it); first: hash" in told
    vectors, products = read_vectors(tmp_path / "run" / "vectors")
    found = index.main(index.IndexArguments(str(tmp_path / "run" / "vectors")))
    for row in (products.to_pylist()[0], found.search(vectors[:1], 1)[0][0].product):
        kept = {name: row[name] for name in own if name in row and name != "hash"}
        assert kept == {
            "colour": "rot",
            "größe": 36,
            "weight": 1.5,
            "eco": True,
            "sizes": '["S", "M"]',
            "row": "left",
            "added": "2026-11-26",
            "cost": 1.2,
        }
    for where, count in (
        ({"colour": ["rot"]}, 4),
        ({"größe": (37, None)}, 4),
        ({"eco": True}, 4),
        ({"row": ["left"]}, 4),
    ):
        assert len(found.search(vectors[:1], 12, where=where)[0]) == count


def test_a_changed_column_is_written_without_embedding_anew(saved, tmp_path, embedded):
    shop = write_products(tmp_path / "shop", shop_rows()[0])
    file, output = shop / "test" / "corpus.parquet", tmp_path / "run" / "vectors"
    embed.main(EmbedArguments(str(saved), str(shop), output=str(output)))
    count = sum(embedded)
    pq.write_table(pq.read_table(file).append_column("seller", pa.array(["a"] * 12)), file)
    embed.main(EmbedArguments(str(saved), str(shop), output=str(output)))
    assert sum(embedded) == count and read_vectors(output)[1].column("seller").to_pylist() == ["a"] * 12


def test_vectors_of_another_catalogue_are_not_replaced(saved, shop, tmp_path):
    output = tmp_path / "run" / "vectors"
    embed.main(EmbedArguments(str(saved), str(shop), output=str(output)))
    other = write_products(tmp_path / "other", odd_rows())
    with pytest.raises(DataError, match="vectors: was made of .*shop, not of .*other; give another --output"):
        embed.main(EmbedArguments(str(saved), str(other), output=str(output)))
    assert read_vectors_manifest(output)["data"] == str(shop)
