"""Catalogues that are read a few products at a time hold what catalogues hold that are read whole."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training.catalogue import stream as product_stream
from training.catalogue.layout import load_products
from training.catalogue.stream import ROW, stream_products
from training.catalogue.writing import write_card, write_split


def many_products(count=50):
    corpus, _, _ = shop_rows()
    return [{**corpus[n % 12], "_id": f"p{n}", "title": f"mug {n}"} for n in range(count)]


def write_corpus(folder, corpus, group=7, files=1):
    """A catalogue of Parquet files with small row groups."""
    write_shop(folder, corpus, [], [], splits=("test",))
    table = pq.read_table(folder / "test" / "corpus.parquet")
    (folder / "test" / "corpus.parquet").unlink()
    size = -(-len(table) // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / "test" / f"corpus-{number}.parquet", row_group_size=group)
    card = (folder / "README.md").read_text()
    lines = "configs:\n- config_name: corpus\n  data_files:\n  - split: test\n    path: test/corpus-*.parquet\n---\n"
    (folder / "README.md").write_text(card.split("configs:")[0] + lines)
    return folder


def rows_of(stream, spans, size):
    return [
        (number, is_last, table.column(ROW).to_pylist(), table.column("_id").to_pylist())
        for number, is_last, table in stream.tables(spans, size)
    ]


@pytest.mark.parametrize("files", [1, 3])
def test_spans_are_read_in_order_across_row_groups_and_files(tmp_path, files):
    stream = stream_products(write_corpus(tmp_path, many_products(), files=files), "test")
    assert stream.count == 50 and not stream.left_out
    found = rows_of(stream, [(0, 12), (12, 30), (43, 50)], 10)
    assert [(number, is_last, len(rows)) for number, is_last, rows, _ in found] == [
        (0, False, 10),
        (0, True, 2),
        (1, False, 10),
        (1, True, 8),
        (2, True, 7),
    ]
    rows = [row for _, _, some, _ in found for row in some]
    assert rows == [*range(30), *range(43, 50)]
    assert [name for _, _, _, ids in found for name in ids] == [f"p{row}" for row in rows]
    whole = load_products(tmp_path, "test")
    ((_, _, table),) = stream.tables([(0, 50)], 50)
    assert table.drop_columns(ROW).to_pylist() == whole.corpus.to_list()


def test_row_groups_outside_of_the_spans_are_not_read(tmp_path, monkeypatch):
    stream = stream_products(write_corpus(tmp_path, many_products(), files=2), "test")
    read, real = [], pq.ParquetFile.iter_batches

    def iter_batches(self, size, row_groups, columns):
        read.extend(row_groups)
        return real(self, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    rows_of(stream, [(8, 10), (40, 41)], 10)
    assert read == [1, 2], "the second group of the first file and the third of the second"


def test_rows_that_can_not_be_used_are_those_that_are_left_out_of_a_whole_catalogue(tmp_path, monkeypatch):
    corpus = many_products(20)
    for row, name in ((3, "p1"), (7, None), (9, ""), (19, "p1")):
        corpus[row]["_id"] = name
    # all ids have one of four keys: different ids with the same key stay apart
    monkeypatch.setattr(product_stream, "id_keys", lambda ids: product_stream.np.array([len(i) % 4 for i in ids]))
    stream = stream_products(write_corpus(tmp_path, corpus, files=2), "test")
    whole = load_products(tmp_path, "test")
    assert stream.left_out == {3, 7, 9, 19} and stream.problems.counts == whole.problems.counts
    (found,) = rows_of(stream, [(0, 20)], 20)
    assert found[2] == whole.places and found[3] == whole.product_ids
    assert rows_of(stream, [(7, 8)], 5) == [(0, True, [], [])]


def test_ids_that_are_numbers(tmp_path):
    write_corpus(tmp_path, many_products(9))
    file = tmp_path / "test" / "corpus-0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index("_id"), "_id", pa.array(range(9))), file)
    ((_, _, _, ids),) = rows_of(stream_products(tmp_path, "test"), [(0, 9)], 9)
    assert ids == [str(number) for number in range(9)] == load_products(tmp_path, "test").product_ids


def test_a_catalogue_of_json_lines(tmp_path):
    lines = [json.dumps({"_id": f"p{n}", "title": f"mug {n}"}) for n in range(30)]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, lines[0]]))
    configs = "configs:\n- config_name: corpus\n  data_files:\n  - split: test\n    path: corpus.jsonl\n"
    (tmp_path / "README.md").write_text(f"---\n{configs}---\n")
    stream = stream_products(tmp_path, "test")
    assert (stream.count, stream.left_out) == (31, {30})
    found = rows_of(stream, [(5, 17), (29, 31)], 10)
    assert [row for _, _, rows, _ in found for row in rows] == [*range(5, 17), 29]


def test_what_is_wrong_is_told_in_one_line(tmp_path):
    write_corpus(tmp_path, many_products(9))
    file = tmp_path / "test" / "corpus-0.parquet"
    stream = stream_products(tmp_path, "test")
    pq.write_table(pq.read_table(file).slice(0, 4), file)
    with pytest.raises(DataError, match="ends before row 4; was it written anew"):
        rows_of(stream, [(0, 9)], 9)
    table = pq.read_table(file)
    pq.write_table(table.select(["_id", "price"]), file)
    with pytest.raises(DataError, match="corpus-0.parquet: none of the columns title, description, image"):
        stream_products(tmp_path, "test")
    pq.write_table(table.drop_columns("_id"), file)
    with pytest.raises(DataError, match="column _id is missing"):
        stream_products(tmp_path, "test")
    pq.write_table(table.set_column(0, "_id", pa.array([""] * 4)), file)
    with pytest.raises(DataError, match="the catalogue is empty"):
        stream_products(tmp_path, "test")
    with pytest.raises(DataError, match="'test'"):
        stream_products(tmp_path, "train")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="can't read configuration 'corpus'"):
        stream_products(tmp_path, "test")


def test_the_whole_catalogue_is_all_splits_and_each_product_once(tmp_path):
    parts = {"train": many_products(7), "dev": many_products(3), "test": many_products(5)}
    for name, start in (("dev", 5), ("test", 8)):  # p5 and p6 are in train too, and p8 twice in test
        for row, product in enumerate(parts[name]):
            product["_id"] = f"p{start + row}"
    parts["test"].append(dict(parts["test"][0]))
    for name, corpus in parts.items():
        write_split(tmp_path, name, corpus, [], [])
    write_card(tmp_path, "Shop", "apache-2.0", list(parts), "")
    stream = stream_products(tmp_path)
    assert (stream.name, stream.count) == (str(tmp_path), 16)
    ids = [name for _, _, _, some in rows_of(stream, [(0, 4), (4, 16)], 3) for name in some]
    assert ids == [f"p{number}" for number in range(13)]
    assert stream.problems.counts == {
        product_stream.IN_TWO_SPLITS: 2,
        "duplicate product id (the first one is kept)": 1,
    }
    assert stream.problems.first[product_stream.IN_TWO_SPLITS].endswith("dev/corpus.parquet row 0, field _id: p5")
    assert stream.where(8, "image").endswith("dev/corpus.parquet row 1, field image")
    some = stream_products(tmp_path, "test+dev")
    ids = [name for _, _, _, found in rows_of(some, [(0, 9)], 9) for name in found]
    assert ids == [f"p{number}" for number in (8, 9, 10, 11, 12, 5, 6, 7)]
    with pytest.raises(DataError, match="'valid'"):
        stream_products(tmp_path, "test+valid")


def test_splits_of_json_lines_are_one_catalogue(tmp_path):
    for name, numbers in (("train", range(4)), ("test", range(2, 6))):
        lines = [json.dumps({"_id": f"p{number}", "title": f"mug {number}"}) for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in ("train", "test"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: corpus\n  data_files:\n{files}---\n")
    ids = [name for _, _, _, some in rows_of(stream_products(tmp_path), [(0, 8)], 5) for name in some]
    assert ids == [f"p{number}" for number in range(6)]
