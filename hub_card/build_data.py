"""The folder of a dataset: a prepared catalogue in the retrieval layout, with a card that says where it comes from."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from hub_card.build_model import publish
from hub_card.cards import check_card, render
from hub_card.figures import CardError, Figures
from hub_card.licenses import NON_COMMERCIAL, OPEN, card_of, license_of
from training.catalogue.layout import REQUIRED_COLUMNS
from training.common.files import write_json

STATISTICS = "statistics.json"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
TOLD = {"how its judgments were made": r"judg|\bscore", "which products share a split": r"\bsplit"}
MEANING = {
    "_id": "id of the product or query",
    "title": "the listing's title",
    "description": "the listing's text",
    "category": "category or department",
    "brand": "brand or maker",
    "price": "price as the listing writes it",
    "image": "the product's picture, or none",
    "text": "what the shopper typed",
    "slice": "what is needed to answer: `text`, `image` or `both`",
    "novel": "no query of `train` asks for the same",
    "attributes": "what the query asks for, as JSON",
    "frequency": "how often the query was asked",
    "query-id": "`_id` of the query",
    "corpus-id": "`_id` of the product",
    "score": "how relevant it is; 0 is not relevant",
}


def build_dataset(arguments: Any, folder: Path) -> None:
    """Fills a folder with a catalogue's tables, their counts and the card.

    The card takes the catalogue's own description from its README.md, which `training.prepare`, `training.convert` and
    `training.demo.shop` write.

    Args:
        arguments (`BuildArguments`): data and ids.
        folder (`Path`): an empty folder.

    Raises:
        CardError: if the catalogue has no card, its licence is missing or forbids sharing, or its card does not say
            how judgments were made and which products share a split.
    """
    source = Path(arguments.data)
    card = card_of(arguments.data, "data") if source.is_dir() else None
    if card is None:
        raise CardError(f"{arguments.data}: no catalogue with a README.md there; training.prepare makes one")
    license = shareable_license(arguments.data)
    body = own_words(source, card.text)
    files = tables_of(source, card)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name)
    for report in source.glob("*_report.json"):
        publish(report, folder / report.name, {})
    write_json(folder / STATISTICS, statistics_of(folder, card))
    figure = Figures({"statistics": folder / STATISTICS})
    configs = figure.keys("statistics", "rows")
    metadata = card.data.to_dict() | {"license": license}
    rows = {config: figure.value("statistics", f"rows/{config}") for config in configs}
    data = DatasetCardData(
        **{
            "pretty_name": arguments.repo_id.split("/")[1],
            "language": arguments.language,
            "task_categories": ["text-retrieval", "image-feature-extraction"],
            "task_ids": ["document-retrieval"],
            "size_categories": [size_category(sum(rows["corpus"].values()))],
        }
        | metadata,
        dataset_info=[dataset_info(folder, card, config, rows[config]) for config in configs],
    )
    data.tags = [*dict.fromkeys([*(data.get("tags") or []), "mmfusion", "e-commerce", "product-search", "multimodal"])]
    made = render(
        "dataset.md",
        DatasetCard,
        data,
        figure=figure,
        keys=figure.keys,
        title=data.pretty_name,
        body=body,
        repo_id=arguments.repo_id,
        license=license,
        is_open=license in OPEN,
        configs=configs,
        columns=[
            f"| `{config}` | `{name}` | {kind} | {MEANING.get(name, 'as its source has it')} |"
            for config in configs
            for name, kind in described_columns(folder / data_files(card, config)[0])
        ],
    )
    made.save(folder / "README.md")
    check_card(made, folder)


def shareable_license(data: str) -> str:
    """A catalogue's licence.

    Raises:
        CardError: if it is missing or does not let anyone share the catalogue.
    """
    license = license_of(data, "data")
    if license is None:
        raise CardError(
            f"{data}/README.md, field license: is missing, unknown or other; nothing is built without one that lets "
            "anyone share the pictures and texts (training.prepare --license, an id of the Hub such as cc-by-4.0)"
        )
    if license not in OPEN + NON_COMMERCIAL:
        raise CardError(
            f"{data}/README.md, field license: {license} does not let anyone share the data, or is no id of the Hub"
        )
    return license


def own_words(source: Path, text: str) -> str:
    """A catalogue's description without its title.

    Raises:
        CardError: if it leaves out what a reader must know.
    """
    for what, words in TOLD.items():
        if not re.search(words, text, re.I):
            raise CardError(f"{source}/README.md: does not say {what}; write it there")
    return re.sub(r"\A\s*# .*\n", "", text).strip()


def data_files(card: DatasetCard, config: str, split: str | None = None) -> list[str]:
    """The files of a configuration, as the card lists them."""
    found = next((entry for entry in card.data.configs if entry["config_name"] == config), {"data_files": []})
    return [entry["path"] for entry in found["data_files"] if split in (None, entry["split"])]


def tables_of(source: Path, card: DatasetCard) -> list[str]:
    """All files that the card lists.

    Raises:
        CardError: if there are none, or one is not there.
    """
    names = (
        [name for config in REQUIRED_COLUMNS for name in data_files(card, config)] if card.data.get("configs") else []
    )
    if not names:
        raise CardError(f"{source}/README.md, field configs: lists no files of corpus, queries and qrels")
    for name in names:
        if not (source / name).is_file():
            raise CardError(f"{source}/{name}: no such file, though README.md lists it")
    return names


def statistics_of(folder: Path, card: DatasetCard) -> dict[str, dict[str, dict[str, int]]]:
    """Rows of each configuration and split, as the files' footers tell."""
    rows: dict[str, dict[str, int]] = {}
    for entry in card.data.configs:
        for file in entry["data_files"]:
            count = pq.read_metadata(folder / file["path"]).num_rows
            split = rows.setdefault(entry["config_name"], {})
            split[file["split"]] = split.get(file["split"], 0) + count
    return {"rows": rows}


def described_columns(file: Path) -> list[tuple[str, str]]:
    """Names and types of a table's columns, the types as `datasets` calls them."""
    schema = pq.read_schema(file)
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    return [(field.name, kind_of(features.get(field.name), str(field.type))) for field in schema]


def kind_of(feature: dict | None, stored: str) -> str:
    """The type of a feature, such as `string` or `image`."""
    if not isinstance(feature, dict) or "_type" not in feature:
        return stored
    return feature["dtype"] if feature["_type"] == "Value" else feature["_type"].lower()


def dataset_info(folder: Path, card: DatasetCard, config: str, rows: dict[str, int]) -> dict[str, Any]:
    """The front matter's entry of a configuration: features, and rows of each split."""
    columns = described_columns(folder / data_files(card, config)[0])
    features = [{"name": name, "dtype": kind} for name, kind in columns]
    return {
        "config_name": config,
        "features": features,
        "splits": [{"name": split, "num_examples": count} for split, count in rows.items()],
    }


def size_category(rows: int) -> str:
    """The Hub's name for a number of products."""
    return next((name for power, name in enumerate(SIZES, start=3) if rows < 10**power), "n>100M")
