"""Inputs of many requests, computed together: a batch of sixteen queries takes little longer than one alone."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Lane:
    """Calls a function of a list with the inputs that requests bring, in threads of its own.

    Who comes while a batch is computed waits and goes with the next one; who comes alone does not wait. Inputs of
    requests that were given up are left out.

    Args:
        function (`Callable[[list], list]`): gives as many results as it gets inputs; what it raises, all of its batch
            get.
        most (`int`): inputs of a batch.
        workers (`ThreadPoolExecutor`): each computes a batch at a time; lanes may share them.
        seen (`Callable[[int], None]`): told the size of each batch.
    """

    def __init__(
        self, function: Callable[[list], list], most: int, workers: ThreadPoolExecutor, seen: Callable[[int], None]
    ):
        self.function = function
        self.most = most
        self.workers = workers
        self.seen = seen
        self.waiting: deque[tuple[Any, Future]] = deque()

    async def __call__(self, one: Any) -> Any:
        """The result for one input."""
        result: Future = Future()
        self.waiting.append((one, result))
        self.workers.submit(self._run)
        return await asyncio.wrap_future(result)

    def _run(self) -> None:
        if not (batch := list(self._next())):
            return
        self.seen(len(batch))
        try:
            found = self.function([one for one, _ in batch])
        except Exception as error:  # the requests' to tell
            for _, result in batch:
                result.set_exception(error)
        else:
            for (_, result), value in zip(batch, found, strict=True):
                result.set_result(value)

    def _next(self) -> Iterator[tuple[Any, Future]]:
        for _ in range(self.most):
            try:
                one, result = self.waiting.popleft()
            except IndexError:  # another worker has taken the last one
                return
            if result.set_running_or_notify_cancel():
                yield one, result
