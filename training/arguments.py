"""The one parser of all scripts: a dataclass, then a YAML recipe, then the command line, each overriding the last.

Every script declares its options as a dataclass whose docstring is its `--help`, and calls [`run`].
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jsonargparse
import transformers

from modeling_mmfusion.index_mmfusion import ProductIndexError
from training.data import DataError


@dataclass
class DataArguments:
    """Which catalogue to train on.

    Args:
        path: Folder or Hub dataset id in the retrieval layout (corpus, queries, qrels), or several with commas
            between. A batch never mixes catalogues.
        train_split: Split to train on.
        dev_split: Split to measure on after each epoch; the last epoch that is not clearly worse there, on average
            over the catalogues, than the best before it is kept.
    """

    path: str = "data/demo_shop"
    train_split: str = "train"
    dev_split: str = "dev"


@dataclass
class ModelArguments:
    """Where the model starts from.

    Args:
        text: Text encoder: minilm (a wheel, no Hub needed), a folder or a Hub id such as intfloat/e5-small-v2.
        vision: Image encoder: efficientnet-lite0 (a wheel), a folder or a Hub id such as
            google/siglip2-base-patch16-224.
        query: The query tower's own text encoder; null shares the product tower's.
        config: Fields of MMFusionConfig to set, such as {image_dim: 256}.
        processor: Arguments of MMFusionProcessor to set, such as {query_prefix: "query: "}.
    """

    text: str = "minilm"
    vision: str = "efficientnet-lite0"
    query: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageArguments:
    """One training stage: its data order, losses and schedule.

    Args:
        epochs: Passes over the queries.
        positives_per_query: Relevant products drawn for a query in an epoch, the better graded ones more often.
        batch_size: Query-product pairs in a batch; each is compared with all products of the batch.
        learning_rate: Peak learning rate of AdamW, reached after warm-up and then lowered along a cosine.
        warmup: Share of the steps that warms up.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        text_view_weight: Weight of the loss of products seen as text alone, next to 1 for the fused product.
        image_view_weight: Weight of the loss of products seen as pictures alone.
        matryoshka_weight: Weight of the loss of vectors truncated to each of the model's matryoshka_dims.
        trained_share: Share of the trained weights in the saved ones, the rest are those from before the stage
            (WiSE-FT); less than 1 trades some quality on these catalogues for some elsewhere.
    """

    epochs: int = 12
    positives_per_query: int = 4
    batch_size: int = 512
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    text_view_weight: float = 0.2
    image_view_weight: float = 0.2
    matryoshka_weight: float = 0.2
    trained_share: float = 1.0


@dataclass
class TrainArguments:
    """A training recipe.

    Args:
        data: Which catalogue to train on.
        model: Where the model starts from.
        fuse: The stage that aligns queries with fused products; the towers are frozen.
        output: Run folder; gets config.yaml, environment.json, metrics.jsonl and model/.
        seed: Seed of everything random.
    """

    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    fuse: StageArguments = field(default_factory=StageArguments)
    output: str = "runs/train"
    seed: int = 0


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
        parser.add_argument(positional, type=str)
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

    A flag (a field of type `bool`) is given as `--flag` or `--flag=false`.

    Args:
        arguments (`type`): the dataclass.
        description (`str`): what the script does; shown by `--help`.
        argv (`list[str]`, *optional*): the command line without the program's name; `sys.argv` if not given.
        recipe (`bool`, *optional*, defaults to `False`): take `--recipe FILE.yaml`.
        positional (`str`, *optional*): the field of type `str` that is given without its name.
    """
    flags = {option.name for option in fields(arguments) if option.type is bool}
    argv = [_normalise(word, flags) for word in (sys.argv[1:] if argv is None else argv)]
    parser = make_parser(arguments, description, recipe, positional)
    parsed = parser.parse_args(argv)
    parsed.pop("recipe", None)
    return arguments(**vars(parser.instantiate(parsed)))


def run(main: Callable[[Any], Any], arguments: type, description: str, **options) -> None:
    """Runs a script; what a person has to mend is one line and exit status 2, never a traceback."""
    transformers.utils.logging.disable_progress_bar()  # ours tell more than one bar for each file of weights
    try:
        main(parse(arguments, description, **options))
    except jsonargparse.ArgumentError as error:
        sys.exit(_fail(f"{' '.join(str(error).split())}; --help lists the options"))
    except (DataError, ProductIndexError) as error:
        sys.exit(_fail(str(error)))
    except OSError as error:  # a full disk, a folder that may not be written
        sys.exit(_fail(" ".join(str(error).split())))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; run the same command again", status=130))


def existing_file(name: str | Path, what: str) -> Path:
    """The path of a file that must be there.

    Raises:
        DataError: if it is not.
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{name}: no such file; give {what}")
    return path


def _normalise(word: str, flags: set[str]) -> str:
    """An option with underscores in its name, and a flag with its value."""
    if not word.startswith("--"):
        return word
    option, equals, value = word[2:].partition("=")
    option = option.replace("-", "_")
    return f"--{option}=true" if option in flags and not equals else f"--{option}{equals}{value}"


def _fail(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status
