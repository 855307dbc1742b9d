"""What every run writes beside its results: its configuration, versions and metrics, each file whole or not at all."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from training.data import DataError

PACKAGES = (
    "mmfusion",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "peft",
    "timm",
    "usearch",
    "numkong",
    "bm25s",
    "faiss-cpu",
    "hnswlib",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file by way of a partial one beside it that reaches the disk before it is renamed, so that a killed run
    or a power cut leaves the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in the way of [`write_bytes`]."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, indented, in the way of [`write_text`]."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What [`write_json`] wrote.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); delete it, and what it held is made again") from error


def write_config(path: Path, arguments: Any) -> None:
    """Writes a dataclass of options as YAML that `--recipe` takes again."""
    write_text(path, yaml.safe_dump(asdict(arguments), sort_keys=False))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A partial folder to fill, which takes the place of `folder` when the block ends well and is removed if not."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digest(*parts: str) -> str:
    """The sha256 of some strings, shortened."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Versions, machine and git commit of this run."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "git": git_state(),
    }


def git_state() -> str | None:
    """The commit that runs, with `+changes` if files differ from it; `None` outside a checkout."""
    try:
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
