"""Keeps what frozen encoders say on disk, memory-mapped, keyed by the encoder, its preprocessing and the data.

Each encoder has a cache of its own: while the text encoder is being trained the pictures' features stay valid.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modeling_mmfusion.checksums import check_whole
from training.common.files import cannot_write, new_shared_folder
from training.common.random_state import random_state_kept
from training.features.pretrained import cache_folder

Found = tuple[dict[str, np.ndarray], list[tuple[int, str]]]  # arrays by name; (row, reason) of what can't be read


def cached_features(key: str, compute: Callable[[], Found]) -> Found:
    """Features that were computed before, memory-mapped, or else computed now and kept.

    Args:
        key (`str`): names the encoder and the data; see [`encoder_fingerprint`].
        compute (`Callable`): gives arrays by name, each with a row a text or product, and the rows that could not be
            read with the reason.

    Returns:
        What `compute` gives. Whether it has to compute decides nothing that is drawn at random afterwards.

    Raises:
        DataError: if there is no room for them.
    """
    folder = cache_folder() / "features" / key
    if folder.is_dir():
        try:
            return _read(folder)
        except (OSError, ValueError, EOFError) as error:
            print(f"warning: {folder}: is damaged and computed again: {error}", flush=True)
            shutil.rmtree(folder)
    with random_state_kept():
        found = compute()
    _write(folder, *found)
    return _read(folder)


def _read(folder: Path) -> Found:
    check_whole(folder, marked=True)
    arrays = {file.stem: np.load(file, mmap_mode="c") for file in sorted(folder.glob("*.npy"))}
    return arrays, [tuple(row) for row in json.loads((folder / "rows.json").read_text())]


def _write(folder: Path, arrays: dict[str, np.ndarray], bad_rows: list[tuple[int, str]]) -> None:
    """Writes a folder of features, from which [`_read`] gives them back."""
    with new_shared_folder(folder, "cached features") as partial, cannot_write(folder):
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        (partial / "rows.json").write_text(json.dumps(bad_rows))
