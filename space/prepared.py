"""Vectors that are kept between starts, in a folder with a mark of what was written there.

The mark, `.mmfusion.json`, is that of all folders of mmfusion: who wrote, and the sha256 of each file. What a start
reads must be what was written, and it removes only what the mark names; other files are none of its business.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

MARK = ".mmfusion.json"
WRITER = "the Space"


class PreparedVectors:
    """The prepared vectors of one model and catalogue.

    Args:
        folder (`Path`): where they are kept.
        of (`str`): names the model and the catalogue; older vectors of the same are removed when new ones are written.
        fingerprint (`str`): of the model and the catalogue as they are now.
    """

    def __init__(self, folder: Path, of: str, fingerprint: str):
        self.folder = folder
        self.prefix = f"vectors-{hashlib.sha256(of.encode()).hexdigest()[:8]}-"
        self.file = folder / f"{self.prefix}{fingerprint}.npz"

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray] | None:
        """The vectors; `None`, and one line that says why, if they are damaged, or just `None` if there are none.

        Args:
            shapes (`Mapping[str, tuple[int, ...]]`): the shape of each array.
        """
        if not self.file.exists():
            return None
        try:
            content = self.file.read_bytes()
            if hashlib.sha256(content).hexdigest() != written(self.folder).get(self.file.name):
                raise ValueError("not the file that was written")
            with np.load(BytesIO(content)) as arrays:
                vectors = dict(arrays)
            check_arrays(vectors, shapes)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            print(f"mmfusion: {self.file} is damaged, so its vectors are made again ({error})", flush=True)
            return None
        return vectors

    def write(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keeps vectors, the whole file or nothing, and removes older ones of the same model and catalogue.

        Where that can't be, one line says so, and the next start makes them again.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_of_others(self.folder):
                raise OSError(f"another command of mmfusion wrote this folder, by its {MARK}; give one of its own")
            stream = BytesIO()
            np.savez(stream, **vectors)
            files = written(self.folder)
            older = [name for name in files if name.startswith(self.prefix) and name != self.file.name]
            files = {name: digest for name, digest in files.items() if name not in older}
            files[self.file.name] = hashlib.sha256(stream.getvalue()).hexdigest()
            replace(self.file, stream.getvalue())
            mark = {"writer": WRITER, "of": "vectors of products and queries", "files": files}
            replace(self.folder / MARK, json.dumps(mark, indent=2).encode())
            for name in older:
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            print(f"mmfusion: {self.folder}: vectors can't be kept, the next start makes them again ({error})")


def mark_of(folder: Path) -> dict:
    """A folder's mark; an empty one if it has none, or a damaged one."""
    try:
        mark = json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return mark if isinstance(mark, dict) else {}


def written(folder: Path) -> dict[str, str]:
    """The files directly in a folder that a Space wrote there, by its mark, and the sha256 of each."""
    mark = mark_of(folder)
    files = mark.get("files") if mark.get("writer") == WRITER else None
    is_ours = isinstance(files, dict) and all(name == Path(name).name for name in files)
    return files if is_ours else {}


def is_of_others(folder: Path) -> bool:
    """Whether another command of mmfusion wrote a folder, whose mark would no longer hold."""
    return mark_of(folder).get("writer", WRITER) != WRITER


def replace(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Sees to it that vectors are there, of their shapes, and numbers.

    Raises:
        ValueError: naming what is wrong.
    """
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"it has no {name}")
        if arrays[name].shape != shape:
            raise ValueError(f"its {name} have the shape {arrays[name].shape} in place of {shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"some of its {name} are no numbers")
