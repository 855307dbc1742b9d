"""The one parser of all scripts: a dataclass, then a YAML recipe, then the command line, each overriding the last.

Every script declares its options as a dataclass whose docstring is its `--help`, in its room's `options.py`, which
imports nothing heavy. Its file calls [`run`] with its own name before it imports what does the work: that is imported
once the command line has been read, so that `--help` and wrong options take a fraction of a second.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_origin

import jsonargparse
import yaml
from jsonargparse.typing import restricted_number_type

from modeling_mmfusion.errors import DataError, one_line
from training.common.stopping import hear_again

Count = restricted_number_type("Count", int, [(">=", 0), ("<", 2**31)])
PositiveCount = restricted_number_type("PositiveCount", int, [(">", 0), ("<", 2**31)])
BatchSize = restricted_number_type("BatchSize", int, [(">=", 2), ("<", 2**31)])  # a pair alone has no negatives
Rank = restricted_number_type("Rank", int, [(">", 0), ("<=", 1024)])
Processes = restricted_number_type("Processes", int, [(">=", 0), ("<=", 1024)])
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what NumPy takes
Finite = restricted_number_type("Finite", float, [(">=", 0.0), ("<=", 1e9)])


class HelpFormatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows types and defaults, and keeps the lines of the description."""


def make_parser(
    arguments: type, description: str, recipe: bool = False, positional: str | None = None
) -> jsonargparse.ArgumentParser:
    """A parser for a dataclass; see [`parse`]."""
    parser = jsonargparse.ArgumentParser(description=description, formatter_class=HelpFormatter, exit_on_error=False)
    if recipe:
        parser.add_argument("--recipe", action="config", help="YAML file with any of the options below.")
    if positional:
        default = next(option.default for option in fields(arguments) if option.name == positional)
        optional = {} if default is MISSING else {"nargs": "?", "default": default}
        parser.add_argument(positional, type=str, **optional)
    parser.add_class_arguments(arguments, skip={positional} if positional else None)
    return parser


def parse(
    arguments: type,
    description: str,
    argv: list[str] | None = None,
    recipe: bool = False,
    positional: str | None = None,
) -> Any:
    """Parses a command line into a dataclass; `--like-this` and `--like_this` are the same option.

    A flag (a field of type `bool`) is given as `--flag` or `--flag=false`, a list as `--list one,another`.

    Args:
        arguments (`type`): the dataclass.
        description (`str`): what the script does; shown by `--help`.
        argv (`list[str]`, *optional*): the command line without the program's name; `sys.argv` if not given.
        recipe (`bool`, *optional*, defaults to `False`): take `--recipe FILE.yaml`.
        positional (`str`, *optional*): the field of type `str` that is given without its name.

    Raises:
        ArgumentError: if an option is unknown or can't be what it is given as.
        DataError: naming the recipe, if the fault is there.
    """
    flags = {option.name for option in fields(arguments) if option.type is bool}
    argv = [_normalise(word, flags) for word in (sys.argv[1:] if argv is None else argv)]
    argv = _with_lists(argv, _list_options(arguments))
    parser = make_parser(arguments, description, recipe, positional)
    if recipe and (file := _recipe_of(argv)):
        _check_recipe(file, make_parser(arguments, description), arguments)
    parsed = parser.parse_args(argv)
    if recipe:
        parsed.pop("recipe")
    return _plain(arguments(**vars(parser.instantiate(parsed))))


def run(main: str | Callable[[Any], Any], arguments: type, description: str, **options) -> None:
    """Runs a script; what a person has to mend is one line and exit status 2, never a traceback.

    Args:
        main (`str` or `Callable`): the script's module, such as `training.search`, which is imported once the command
            line has been read, and whose `main` gets the options; or what gets them.
        arguments (`type`): the dataclass of its options.
        description (`str`): what it does.
        options: those of [`parse`].
    """
    sys.unraisablehook = hear_again
    # of transformers too: ours tell more than one bar for each file of weights
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    status = 2
    try:
        parsed = parse(arguments, description, **options)
        work = import_module(main).main if isinstance(main, str) else main
        work(parsed)
        return
    except jsonargparse.ArgumentError as error:
        message = f"{one_line(error)}; --help lists the options"
    except DataError as error:
        message = str(error)
    except OSError as error:  # a full disk, a folder that may not be written
        message = one_line(error)
    except KeyboardInterrupt:
        message, status = "interrupted; run the same command again", 130
    sys.exit(_fail(message, status))  # here, where the error and the progress bars that it held are gone


def _recipe_of(words: list[str]) -> Path | None:
    """The recipe's file, if one is given and there."""
    values = [value for word, value in pairwise([*words, ""]) if word == "--recipe"]
    values += [word.removeprefix("--recipe=") for word in words if word.startswith("--recipe=")]
    return Path(values[-1]) if values and os.path.isfile(values[-1]) else None


def _check_recipe(file: Path, parser: jsonargparse.ArgumentParser, arguments: type) -> None:
    """Reads a recipe by itself, so that what is wrong with it is told by its name.

    Raises:
        DataError: naming it.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if not isinstance(yaml.safe_load(text), dict):
            raise DataError(f"{file}: is no recipe: write options and their values in YAML")
        found = vars(parser.parse_string(text, defaults=False))
        for option in (option.name for option in fields(arguments) if is_dataclass(option.type)):
            if not isinstance(found.get(option, jsonargparse.Namespace()), jsonargparse.Namespace):
                raise DataError(f"{file}: {option} can't be {found[option]!r}; it holds options of its own")
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, jsonargparse.ArgumentError) as error:
        raise DataError(f"{file}: is no recipe that can be read: {one_line(error)}") from error


def _normalise(word: str, flags: set[str]) -> str:
    """An option with underscores in its name, and a flag with its value."""
    if not word.startswith("--"):
        return word
    option, equals, value = word[2:].partition("=")
    option = option.replace("-", "_")
    return f"--{option}=true" if option in flags and not equals else f"--{option}{equals}{value}"


def _list_options(arguments: type, prefix: str = "--") -> set[str]:
    """The options of a dataclass, and of those within it, that are lists."""
    found = set()
    for option in fields(arguments):
        if is_dataclass(option.type):
            found |= _list_options(option.type, f"{prefix}{option.name}.")
        elif get_origin(option.type) is list:
            found.add(prefix + option.name)
    return found


def _with_lists(words: list[str], options: set[str]) -> list[str]:
    """Words of a command line with `[one, another]` for `one,another` where an option is a list."""
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        if option in options and equals:
            word = f"{option}={_as_list(value)}"
        elif found and found[-1] in options:
            word = _as_list(word)
        found.append(word)
    return found


def _as_list(value: str) -> str:
    if value.startswith("["):
        return value
    items = [item.strip() for item in value.split(",") if item.strip()]
    return json.dumps([int(item) if item.isdecimal() else item for item in items])


def _plain(value: Any) -> Any:
    """Numbers of a restricted type, such as `PositiveInt`, as what YAML can write."""
    if is_dataclass(value):
        return replace(value, **{option.name: _plain(getattr(value, option.name)) for option in fields(value)})
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if isinstance(value, int) else float(value)
    return value


def _fail(message: str, status: int = 2) -> int:
    print(f"error: {one_line(message, 2000)}", file=sys.stderr, flush=True)
    return status
