"""The one writer of catalogues in the Hub's retrieval layout; the reader is `layout.py`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from modeling_mmfusion.pictures_mmfusion import pictures_of
from training.catalogue.layout import REQUIRED_COLUMNS
from training.common.files import new_file

CORPUS_FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("_id", "title", "description", "category", "brand", "price")}
    | {"image": datasets.Image()}
)
QUERY_FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("_id", "text", "slice")}
    | {"novel": datasets.Value("bool"), "attributes": datasets.Value("string"), "frequency": datasets.Value("int64")}
)
PICTURE_QUERY_FEATURES = datasets.Features({**QUERY_FEATURES, "image": datasets.Image()})
QREL_FEATURES = datasets.Features(
    {"query-id": datasets.Value("string"), "corpus-id": datasets.Value("string"), "score": datasets.Value("int32")}
)
WRITTEN_ROWS, WRITTEN_BYTES = 1000, 2**25


def corpus_features(columns: Iterable[str], has_lists: bool) -> datasets.Features:
    """The columns of a catalogue made of a shop's table: `price` is a number, and there may be others.

    Args:
        columns (`Iterable[str]`): those beyond the layout's own; `in_stock` is a truth value, all others are text.
        has_lists (`bool`): whether `image` is a list of pictures.
    """
    others = {name: datasets.Value("bool" if name == "in_stock" else "string") for name in columns}
    picture = datasets.List(datasets.Image()) if has_lists else datasets.Image()
    changed = {"price": datasets.Value("float64"), "image": picture}
    return datasets.Features({**CORPUS_FEATURES, **others, **changed})


def write_split(
    folder: Path,
    split: str,
    corpus: Iterable[dict],
    queries: Iterable[dict],
    qrels: Iterable[dict],
    features: datasets.Features = CORPUS_FEATURES,
    query_features: datasets.Features = QUERY_FEATURES,
) -> None:
    """Writes one split of a catalogue as three Parquet files, in chunks, so that an iterator needs little memory.

    Args:
        folder (`Path`): the catalogue's folder; the files go to `folder/split/`.
        split (`str`): the split's name.
        corpus (`Iterable[dict]`): rows of `_id, title, description, category, brand, price, image`; the image is
            `{"bytes", "path"}` or `None`.
        queries (`Iterable[dict]`): rows of `_id, text, slice, novel, attributes, frequency` (how often it was asked).
        qrels (`Iterable[dict]`): rows of `query-id, corpus-id, score`.
        features (`datasets.Features`, *optional*): the corpus' columns; see [`corpus_features`].
        query_features (`datasets.Features`, *optional*): the queries' columns; `PICTURE_QUERY_FEATURES` if they are
            pictures, whose rows have `image` in place of `text`.
    """
    target = Path(folder) / split
    target.mkdir(parents=True, exist_ok=True)
    tables = (
        ("corpus", corpus, features),
        ("queries", queries, query_features),
        ("qrels", qrels, QREL_FEATURES),
    )
    for name, rows, columns in tables:
        schema = columns.arrow_schema
        with new_file(target / f"{name}.parquet") as file, pq.ParquetWriter(file, schema) as writer:
            for chunk in row_groups(rows):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def row_groups(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Rows in lists of at most 1,000, and of some 32 MB of pictures at most."""
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += sum(len(picture.get("bytes") or b"") for picture in pictures_of(row.get("image")))
        if len(group) == WRITTEN_ROWS or size >= WRITTEN_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def write_card(
    folder: Path, pretty_name: str, license: str, splits: list[str], body: str, synthetic: bool = False
) -> None:
    """Writes the dataset card, whose front matter tells `datasets` where each configuration's files are.

    Call it after [`write_split`]: only tables that are there are listed.

    Args:
        folder (`Path`): the catalogue's folder.
        pretty_name (`str`): the name shown on the Hub.
        license (`str`): a licence id of the Hub such as `apache-2.0`; `unknown` if nobody said.
        splits (`list[str]`): the splits that were written, in order.
        body (`str`): the card's text in Markdown.
        synthetic (`bool`, *optional*, defaults to `False`): the catalogue is generated; its card and those of models
            that are trained on it say so.
    """
    configs = []
    for name in REQUIRED_COLUMNS:
        written = [split for split in splits if Path(folder, split, f"{name}.parquet").is_file()]
        files = [{"split": split, "path": f"{split}/{name}.parquet"} for split in written]
        configs += [{"config_name": name, "data_files": files}] if files else []
    made = {"annotations_creators": ["machine-generated"], "tags": ["synthetic"]} if synthetic else {}
    tasks = ["text-retrieval"]
    data = DatasetCardData(pretty_name=pretty_name, license=license, task_categories=tasks, configs=configs, **made)
    text = f"---\n{data.to_yaml()}\n---\n\n{body.rstrip()}\n"
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
