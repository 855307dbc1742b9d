"""Queries of many visitors at once, embedded together: a batch of sixteen takes little longer than one alone."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any

MOST = 32


class Batched:
    """Calls a function of a list with the single items that threads bring.

    Who comes while a batch runs waits and goes with the next one; who comes alone does not wait.

    Args:
        function (`Callable[[list], list]`): gives as many results as it gets items.
    """

    def __init__(self, function: Callable[[list], list]):
        self.function = function
        self.waiting: list[tuple[Any, Future]] = []
        self.adding, self.running = Lock(), Lock()

    def __call__(self, item: Any) -> Any:
        """The result for one item.

        Raises:
            Exception: what the function raises, for all items of its batch.
        """
        result = Future()
        with self.adding:
            self.waiting.append((item, result))
        while not result.done():
            with self.running:
                if not result.done():
                    self._run()
        return result.result()

    def _run(self) -> None:
        with self.adding:
            batch, self.waiting = self.waiting[:MOST], self.waiting[MOST:]
        try:
            values = self.function([item for item, _ in batch])
        except Exception as error:
            for _, result in batch:
                result.set_exception(error)
        else:
            for (_, result), value in zip(batch, values, strict=True):
                result.set_result(value)
