"""Checkpoints from which an interrupted training goes on exactly as if nothing had happened."""

import json
import re
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from modeling_mmfusion.errors import DataError
from training.common.environment import digest
from training.common.files import cannot_write, sha256_of, write_json
from training.common.stopping import Stop, Stopped
from training.learning.provenance import file_digests

RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"


class Checkpoints:
    """The state of a run, saved now and then: weights, optimizer, random numbers and how far it got.

    A checkpoint appears whole or not at all, whenever the process dies; the one before is removed after that. It names
    the recipe and the data that it belongs to and the sha256 of its files, which [`begin`] compares.

    Args:
        accelerator (`Accelerator`): whose models and optimizers are saved.
        output (`Path`): run folder; checkpoints are `output/checkpoint-N`, and `output/progress.json` tells which
            stages are finished.
        recipe (`dict`): see [`recipe_facts`].
        inputs (`dict[str, str]`): see [`input_digests`].
        minutes (`float`): time between checkpoints; 0 makes one after every step.
        stop (`Stop`, *optional*): tells whether the process was asked to end.

    Attributes:
        done (`list[str]`): the stages that are finished.
        lines (`list[dict]`): their lines of metrics.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output: Path,
        recipe: dict,
        inputs: dict[str, str],
        minutes: float,
        stop: Stop | None = None,
    ):
        self.accelerator, self.output, self.recipe, self.inputs = accelerator, output, recipe, inputs
        self.minutes, self.stop = minutes, stop or Stop()
        self.saved_at = time.monotonic()
        self.progress, self.done, self.lines = {}, [], []
        accelerator.register_for_checkpointing(self)

    def state_dict(self) -> dict:
        """Called by accelerate."""
        return self.progress

    def load_state_dict(self, state: dict) -> None:
        """Called by accelerate."""
        self.progress = state

    def begin(self) -> None:
        """Looks at what an earlier run left here. What is of another recipe or other data, or damaged, is removed, and
        one line says so."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.output / ".checkpoint.partial", ignore_errors=True)  # of a run that was killed
            if faults := list(dict.fromkeys(self._remove_unfit())):
                left = self._found() or self._progress_file.is_file()
                then = "training goes on from what is left" if left else "training starts anew"
                print(f"{self.output}: {'; '.join(faults)}; {then}", flush=True)
        self.accelerator.wait_for_everyone()
        if self._progress_file.is_file():
            said = read_description(self._progress_file)
            self.done, self.lines = said["done"], said["lines"]

    def finish(self, stage: str, model: Path, lines: list[dict]) -> None:
        """Remembers that a stage is finished; its checkpoints give way to the random numbers that the next one begins
        with.

        Args:
            stage (`str`): the stage.
            model (`Path`): the folder below the run folder that its model was saved to.
            lines (`list[dict]`): the metrics of all stages so far.
        """
        number = self._write(_end_of(stage), {})
        self.done = [*self.done, stage]
        if self.accelerator.is_main_process:
            files = {f"{model.name}/{name}": found for name, found in file_digests(model).items()}
            self._describe(self._progress_file, {"done": self.done, "lines": lines}, files)
            self._remove_all_but(number)
        self.accelerator.wait_for_everyone()

    def clear(self) -> None:
        """Removes all traces of the run; called when it has ended well."""
        if self.accelerator.is_main_process:
            self._remove_all()
        self.accelerator.wait_for_everyone()

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint, or any process was asked to end; the same in all processes."""
        its_time = self.accelerator.is_main_process and time.monotonic() - self.saved_at >= 60 * self.minutes
        return self._any(its_time or self.stop.asked)

    def end_is_asked(self) -> bool:
        """Whether any process was asked to end; the same in all processes."""
        return self._any(self.stop.asked)

    def end_if_asked(self) -> None:
        """Ends all processes, just after [`save`], if any was asked to end."""
        if self.end_is_asked():
            self.accelerator.end_training()
            name = self._found()[-1][1].name
            raise Stopped(f"stopped by SIGTERM; {name} saved; the same command goes on")

    def save(self, stage: str, progress: dict) -> None:
        """Saves the run's state.

        Args:
            stage (`str`): the stage that runs.
            progress (`dict`): tensors, numbers, strings, lists and dictionaries.
        """
        number = self._write(stage, progress)
        if self.accelerator.is_main_process:
            self._remove_all_but(number)
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def restore(self, stage: str) -> dict | None:
        """Brings a stage back to its last checkpoint and returns its progress; `None` if there is none."""
        for _, folder in reversed(self._found()):
            if read_description(folder / RUN_FILE)["stage"] == stage:
                self.accelerator.load_state(str(folder))
                return self.progress
        return None

    def restore_random_state(self) -> None:
        """Goes on with the random numbers where the last finished stage ended."""
        if self.done:
            self.restore(_end_of(self.done[-1]))

    @property
    def _progress_file(self) -> Path:
        return self.output / PROGRESS_FILE

    def _any(self, flag: bool) -> bool:
        if flag:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _write(self, stage: str, progress: dict) -> int:
        """Writes a checkpoint beside those that are there; returns its number."""
        self.progress = progress
        number = max((number for number, _ in self._numbered()), default=0) + 1
        partial, folder = self.output / ".checkpoint.partial", self.output / f"checkpoint-{number}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            with cannot_write(partial):
                self.accelerator.save_state(str(partial))
        except DataError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._describe(partial / RUN_FILE, {"stage": stage}, file_digests(partial))
            partial.rename(folder)
        self.accelerator.wait_for_everyone()
        return number

    def _describe(self, file: Path, facts: dict, files: dict[str, str]) -> None:
        """Writes what [`read_description`] reads: facts, what they belong to, and the sha256 of files and itself."""
        said = facts | {"recipe": self.recipe, "inputs": self.inputs, "files": files}
        write_json(file, said | {"digest": digest(json.dumps(said))})

    def _remove_unfit(self) -> list[str]:
        """Removes what can't be gone on from, and says why. Without the finished stages' model that is everything."""
        fault = self._fault_of(self._progress_file) if self._progress_file.is_file() else None
        if fault:
            self._remove_all()
            return [fault]
        faults = [(folder, self._fault_of(folder / RUN_FILE)) for _, folder in self._found()]
        for folder, fault in faults:
            if fault:
                shutil.rmtree(folder, ignore_errors=True)
        return [fault for _, fault in faults if fault]

    def _fault_of(self, file: Path) -> str | None:
        """Why what a description tells of can't be gone on from; `None` if it can."""
        try:
            said = read_description(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{file.relative_to(self.output)} is damaged"
        kinds = {"data": differing(said["inputs"], self.inputs), "recipe": differing(said["recipe"], self.recipe)}
        if faults := [f"the {kind} differs ({', '.join(names)})" for kind, names in kinds.items() if names]:
            return " and ".join(faults)
        for name, expected in said["files"].items():
            path = file.parent / name
            if not path.is_file():
                return f"{path.relative_to(self.output)} is missing"
            if sha256_of(path) != expected:
                return f"{path.relative_to(self.output)} is damaged or was changed"
        return None

    def _numbered(self) -> list[tuple[int, Path]]:
        """All folders `checkpoint-N`, in order."""
        matches = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in self.output.glob("checkpoint-*"))
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _found(self) -> list[tuple[int, Path]]:
        """Those of our trainings, in order; others are left alone."""
        return [(number, folder) for number, folder in self._numbered() if is_ours(folder / RUN_FILE)]

    def _remove_all_but(self, number: int) -> None:
        for other, folder in self._found():
            if other != number:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_all(self) -> None:
        self._remove_all_but(0)
        self._progress_file.unlink(missing_ok=True)


def _end_of(stage: str) -> str:
    """What a checkpoint between two stages is of."""
    return f"end of {stage}"


def is_ours(file: Path) -> bool:
    """Whether a `run.json`, be it damaged, is that of one of our checkpoints."""
    content = file.read_bytes() if file.is_file() else b""
    return b'"stage"' in content and b'"recipe"' in content


def read_description(file: Path) -> dict:
    """What a checkpoint or the finished stages are of: see [`Checkpoints`].

    Raises:
        ValueError: if the file is damaged.
    """
    said = json.loads(file.read_text(encoding="utf-8"))
    if said.pop("digest") != digest(json.dumps(said)):
        raise ValueError(f"{file}: is damaged")
    return said


def differing(one: dict, other: dict, prefix: str = "") -> list[str]:
    """The names of options that differ, those of nested ones with dots."""
    names = []
    for name in dict.fromkeys([*one, *other]):
        first, second = one.get(name), other.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            names += differing(first, second, f"{prefix}{name}.")
        elif first != second:
            names.append(prefix + name)
    return names


def copy_of(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """A copy of the parameters' values."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def write_into(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    """Sets the parameters to values of the same names."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
