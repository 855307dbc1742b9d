"""What every run writes beside its results: its configuration and versions."""

import hashlib
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from training.common.files import write_text

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


def write_config(path: Path, arguments: Any) -> None:
    """Writes a dataclass of options as YAML that `--recipe` takes again."""
    write_text(path, yaml.safe_dump(asdict(arguments), sort_keys=False))


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
