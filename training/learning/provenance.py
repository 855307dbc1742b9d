"""What a training's result follows from: its recipe and the content of all that the recipe names.

A run that goes on, and a step that is not done again, go by these digests: the same command on another catalogue of
the same name is another training.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow as pa

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import check_exists, error_reason, load_table, split_names
from training.common.environment import digest
from training.common.files import sha256_of
from training.learning.options import TrainArguments

NO_RESULT = ("output", "workers", "checkpoint_minutes", "tracker")  # an interrupted run may go on with others of these


def recipe_facts(recipe: TrainArguments) -> dict:
    """A recipe's options that decide its result, as JSON gives them back."""
    facts = {name: value for name, value in asdict(recipe).items() if name not in NO_RESULT}
    return json.loads(json.dumps(facts))


def input_digests(recipe: TrainArguments) -> dict[str, str]:
    """A digest of the content of all that a recipe names, by its name: catalogues, scores and models.

    Raises:
        DataError: if a catalogue is not there.
    """
    data, model = recipe.data, recipe.model
    scores = [*data.negatives, *data.teacher]
    encoders = [model.aligned] if model.aligned else [model.text, model.vision, model.query]
    models = [name for name in (*encoders, model.start, model.encoders) if name]
    splits = [name for name in (data.train_split, data.dev_split) if name]
    found = {path: data_fingerprint(path, *splits) for path in data.path}
    return found | {name: files_fingerprint(name) for name in scores + models}


def inputs_fingerprint(recipe: TrainArguments) -> str:
    """A digest of both: [`recipe_facts`] and [`input_digests`]."""
    return digest(json.dumps(recipe_facts(recipe)), json.dumps(input_digests(recipe)))


def data_fingerprint(data: str, *splits: str) -> str:
    """A digest of a local catalogue's files, names and contents, and of the pictures that `splits` name by path, which
    may lie outside of its folder; of a Hub dataset, of its name and revision.

    Raises:
        DataError: if there is no such catalogue.
    """
    check_exists(data)
    if Path(data).exists():
        named = sorted({path for split in splits for path in pictures_by_path(data, split) if Path(path).is_file()})
        return digest(files_fingerprint(data), *map(files_fingerprint, named))
    try:
        return digest(data, str(datasets.load_dataset_builder(data, "corpus").hash))
    except Exception as error:  # see load_table
        raise DataError(f"{data}: is no catalogue in the retrieval layout: {error_reason(error)}") from error


def pictures_by_path(data: str, split: str) -> Iterator[str]:
    """The paths of the pictures that a local catalogue's split names and does not hold; none of a split that it lacks
    or that can't be read, which training tells of."""
    try:
        table, _ = load_table(data, "corpus", split) if split in split_names(data) else (None, "")
    except DataError:
        return
    if table is None or "image" not in table.column_names:
        return
    for chunk in table.data.column("image").chunks:
        if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
            chunk = chunk.flatten()
        if pa.types.is_struct(chunk.type) and {"bytes", "path"} <= {part.name for part in chunk.type}:
            chunk = chunk.field("path").filter(chunk.field("bytes").is_null())
        if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            yield from chunk.drop_null().to_pylist()


def files_fingerprint(name: str) -> str:
    """A digest of the names and contents of a file or folder's files; of the name alone if it is neither."""
    return digest(name, *(f"{path} {found}" for path, found in file_digests(Path(name)).items()))


def file_digests(root: Path) -> dict[str, str]:
    """The sha256 of a file, or of each file below a folder by its path in there; nothing if it is neither."""
    paths = sorted(path for path in (root, *root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in paths}
