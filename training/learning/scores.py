"""Files of products' scores for queries: hard negatives, and a teacher's."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from training.common.files import new_file

COLUMNS = ("query-id", "corpus-id", "score")


def write_scores(file: Path, columns: dict[str, list]) -> None:
    """Writes a file of scores, whole or not at all."""
    columns["score"] = np.array(columns["score"], dtype=np.float32)
    with new_file(file) as partial:
        pq.write_table(pa.table(columns), partial)


def read_scores(files: str | None, count: int) -> list[dict[str, dict[str, float]] | None]:
    """Reads files of scores, one a catalogue.

    Args:
        files (`str` or `None`): paths with commas between.
        count (`int`): how many catalogues there are.

    Returns:
        For each catalogue query id to product id to score; `None` where there is no file.

    Raises:
        DataError: if a file is not there, is no such file, or there are not as many as catalogues.
    """
    if not files:
        return [None] * count
    if len(files) != count:
        raise DataError(f"{', '.join(files)}: {len(files)} files of scores for {count} catalogues; give one for each")
    return [
        _read(existing_file(path, "a file that training.mine wrote, or leave out --data.negatives and --data.teacher"))
        for path in files
    ]


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        table = pq.read_table(file, columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: no file of scores with the columns {', '.join(COLUMNS)}: {one_line(error)}"
        ) from error
    found = {}
    for row, (query, product, score) in enumerate(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)):
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise DataError(f"{file} row {row}, field score: {str(score)[:40]!r} is no finite number")
        found.setdefault(str(query), {})[str(product)] = float(score)
    return found
