import json

import numpy as np
import pyarrow as pa
import pytest

from modeling_mmfusion.index_mmfusion import ProductIndex, ProductIndexError


def catalogue(count=300, dim=16):
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"sku-{number:03d}" for number in range(count)]
    return vectors, pa.table({"_id": ids, "title": [f"Product {number}" for number in range(count)]})


def test_every_product_finds_itself_and_scores_are_inner_products(tmp_path):
    vectors, products = catalogue()
    ProductIndex.build(vectors, products, model="abc").save(tmp_path / "index")
    index = ProductIndex.load(tmp_path / "index")
    assert (len(index), index.model) == (300, "abc")
    results = index.search(0.5 * vectors, k=3)
    assert [row[0].product_id for row in results] == products.column("_id").to_pylist()
    assert results[7][0].product == {"title": "Product 7"} and results[7][0].score == pytest.approx(0.5, abs=1e-5)
    second = results[7][1]
    assert second.score == pytest.approx(0.5 * vectors[7] @ vectors[int(second.product_id[4:])], abs=1e-5)
    assert [found.score for found in results[7]] == sorted((found.score for found in results[7]), reverse=True)


def test_more_results_than_products():
    vectors, products = catalogue(count=2)
    assert len(ProductIndex.build(vectors, products).search(vectors[:1], k=10)[0]) == 2


def test_saving_again_replaces_the_whole_folder(tmp_path):
    for count in (20, 10):
        ProductIndex.build(*catalogue(count)).save(tmp_path / "index")
    assert len(ProductIndex.load(tmp_path / "index")) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "a partial folder is left"


def test_what_does_not_fit_is_refused():
    vectors, products = catalogue(4)
    for wrong in (vectors[:3], vectors[:0]):
        with pytest.raises(ProductIndexError):
            ProductIndex.build(wrong, products)
    with pytest.raises(ProductIndexError, match="different _id"):
        ProductIndex.build(vectors, pa.table({"_id": ["a", "b", "c", "a"]}))
    with pytest.raises(ProductIndexError, match="8 dimensions, the index has 16"):
        ProductIndex.build(vectors, products).search(np.zeros((1, 8), np.float32))


def test_a_folder_that_is_no_index_is_refused_by_name(tmp_path):
    with pytest.raises(ProductIndexError, match="nowhere: is no index"):
        ProductIndex.load(tmp_path / "nowhere")
    folder = tmp_path / "index"
    ProductIndex.build(*catalogue(20)).save(folder)
    (folder / "index.json").write_text(json.dumps({"format": 1, "count": 19, "dim": 16, "model": ""}))
    with pytest.raises(ProductIndexError, match="don't belong together"):
        ProductIndex.load(folder)
    for name in ("products.parquet", "index.json"):
        (folder / name).write_text("torn")
        with pytest.raises(ProductIndexError, match="damaged"):
            ProductIndex.load(folder)
