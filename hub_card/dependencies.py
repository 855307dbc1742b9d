"""What a repository needs to run, with the versions that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def requirements(
    names: tuple[str, ...] = (), extras: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> list[str]:
    """Lines of pyproject.toml's dependencies, each package once.

    Args:
        names (`tuple[str, ...]`, *optional*): packages to keep; all if empty.
        extras (`tuple[str, ...]`, *optional*): extras to look in besides the package's own needs; all if empty.
        without (`tuple[str, ...]`, *optional*): packages to leave out.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    chosen = extras or tuple(optional)
    lines = dict.fromkeys([*project["dependencies"], *(line for extra in chosen for line in optional[extra])])
    found = {re.split(r"[\[<>=~! ]", line)[0]: line for line in lines}  # an extra may ask for a newer version
    return [line for name, line in found.items() if (name in names if names else name not in without)]
