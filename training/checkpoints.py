"""Checkpoints from which an interrupted training goes on exactly as if nothing had happened."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from training.data import DataError
from training.files import write_json


class Checkpoints:
    """The state of a run, saved now and then: weights, optimizer, random numbers and how far it got.

    A checkpoint appears whole or not at all, whenever the process dies; the one before is removed after that. Those of
    another recipe are not used.

    Args:
        accelerator (`Accelerator`): whose models and optimizers are saved.
        output (`Path`): run folder; checkpoints are `output/checkpoint-N`.
        recipe (`str`): a digest of the recipe.
        minutes (`float`): time between checkpoints; 0 makes one after every step.
    """

    def __init__(self, accelerator: Accelerator, output: Path, recipe: str, minutes: float):
        self.accelerator, self.output, self.recipe, self.minutes = accelerator, output, recipe, minutes
        self.saved_at = time.monotonic()
        self.progress = {}
        accelerator.register_for_checkpointing(self)

    def state_dict(self) -> dict:
        """Called by accelerate."""
        return self.progress

    def load_state_dict(self, state: dict) -> None:
        """Called by accelerate."""
        self.progress = state

    @property
    def done(self) -> list[str]:
        """The stages that this recipe has finished in the output folder."""
        file = self.output / "progress.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
        return found.get("done", []) if found.get("recipe") == self.recipe else []

    def finish(self, stage: str) -> None:
        """Remembers that a stage is finished and its model saved; its checkpoints are removed."""
        if self.accelerator.is_main_process:
            write_json(self.output / "progress.json", {"recipe": self.recipe, "done": [*self.done, stage]})
            self._remove(self._found())
        self.accelerator.wait_for_everyone()

    def clear(self) -> None:
        """Removes all traces of the run; called when it has ended well, or when another recipe begins."""
        if self.accelerator.is_main_process:
            self._remove(self._found())
            (self.output / "progress.json").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint; the same in all processes."""
        due = [time.monotonic() - self.saved_at >= 60 * self.minutes]
        return broadcast_object_list(due)[0]

    def save(self, stage: str, progress: dict) -> None:
        """Saves the run's state.

        Args:
            stage (`str`): the stage that runs.
            progress (`dict`): tensors, numbers, strings, lists and dictionaries.
        """
        self.progress = progress
        number = max((number for number, _ in self._found()), default=0) + 1
        partial, folder = self.output / ".checkpoint.partial", self.output / f"checkpoint-{number}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with cannot_write(partial):
            self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(partial / "run.json", {"recipe": self.recipe, "stage": stage})
            partial.rename(folder)
            self._remove([(other, path) for other, path in self._found() if other != number])
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def restore(self, stage: str) -> dict | None:
        """Brings a stage back to its last checkpoint and returns its progress; `None` if there is none."""
        for _, folder in sorted(self._found(), reverse=True):
            if json.loads((folder / "run.json").read_text()) == {"recipe": self.recipe, "stage": stage}:
                self.accelerator.load_state(str(folder))
                return self.progress
        return None

    def _found(self) -> list[tuple[int, Path]]:
        matches = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in self.output.glob("checkpoint-*"))
        return [(int(match[1]), path) for match, path in matches if match]

    def _remove(self, found: list[tuple[int, Path]]) -> None:
        for _, folder in found:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cannot_write(folder: Path) -> Iterator[None]:
    """Turns what libraries raise when a disk is full into one line, and leaves nothing half-written behind.

    Raises:
        DataError: naming the folder.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if "DataLoader worker" in str(error):  # torch tells of a dead worker wherever the program is just then
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder}: can't be written ({reason}); is the disk full? Run the same command again"
        ) from error


def copy_of(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """A copy of the parameters' values."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def write_into(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    """Sets the parameters to values of the same names."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
