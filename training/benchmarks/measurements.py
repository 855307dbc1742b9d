"""What was measured of a model, kept without the model: each query's nDCG@10, a small file a catalogue.

Models that learned from catalogues of unclear licence are not published, and training them again takes hours. Their
numbers are kept in `hub_card/results/`, so that a table of many models can be made a few models at a time, on machines
that keep nothing, and be tested query by query all the same. A file holds ids and numbers, no texts and no pictures.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_mmfusion.errors import DataError
from training.common.environment import digest, environment
from training.common.files import new_file
from training.learning.provenance import data_fingerprint, file_digests

METRIC = "ndcg@10"
FACTS = b"mmfusion"  # of a file's schema: what is no column


def kept_file(folder: str, model: str, data: str) -> Path:
    """Where a model's numbers on a catalogue are kept: `folder/RUN/CATALOGUE.parquet`.

    Args:
        folder (`str`): where all numbers are kept.
        model (`str`): a run's `model` folder or report, whose run gives the name, or any other folder.
        data (`str`): the catalogue.
    """
    path = Path(model)
    run = path.parent if path.name in ("model", "report.json") else path
    return Path(folder, run.name, f"{Path(data).name}.parquet")


def keep(
    file: Path, report: Mapping[str, Any], per_query: str | Path, data: str, split: str, system: str = ""
) -> None:
    """Writes a model's numbers on a catalogue.

    Args:
        file (`Path`): see [`kept_file`].
        report (`Mapping`): as training.evaluate gives it.
        per_query (`str`): the file of its queries' values.
        data (`str`): the catalogue,
        split (`str`): and which part of it was measured.
        system (`str`, *optional*): what a baseline calls itself.
    """
    wanted = {view: f"{view} {METRIC}" for view in report["views"]}
    values = pq.read_table(per_query, columns=["query-id", *wanted.values()])
    columns = {name: values[name].cast(pa.float32()) for name in wanted.values()}
    facts = {"views": only_metric(report["views"])}
    facts["slices"] = {part: only_metric(found) for part, found in report["slices"].items()}
    facts |= {"system": system, "data": state_of(data), "split": split, "environment": environment()}
    table = pa.table({"query-id": values["query-id"], **columns})
    file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file) as partial:
        pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), partial, compression="zstd")


def only_metric(views: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same of each view with nDCG@10 alone."""
    return {view: {METRIC: metrics[METRIC]} for view, metrics in views.items()}


def read_kept(file: Path, data: str, split: str) -> dict[str, Any]:
    """The report of a model's numbers that [`keep`] wrote; its queries' values are in the same file.

    Raises:
        DataError: if the file can't be read, or is of another state of the catalogue.
    """
    try:
        facts = json.loads((pq.read_schema(file).metadata or {})[FACTS])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{file}: holds no numbers that were kept; delete it and measure again") from error
    if (facts["data"], facts["split"]) != (state_of(data), split):
        raise DataError(f"{file}: was measured on another state of {data}; delete it and measure again")
    return facts


def state_of(data: str) -> str:
    """A digest of the files in a catalogue's folder, wherever it lies; of a Hub dataset, of its name and revision."""
    files = file_digests(Path(data))
    return digest(*(f"{name} {found}" for name, found in files.items())) if files else data_fingerprint(data)
