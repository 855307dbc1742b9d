"""Work in threads of its own: each kind waits for its own kind alone, so that heavy work never keeps a search waiting.

Gradio's queue is one for all: when it is full of one kind, all others are turned away.
"""

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import gradio as gr
from arguments import is_sent_file
from sent_files import delete_file


class Workers:
    """Threads for one kind of work.

    Args:
        threads (`int`): how much of it is done at once.
        most (`int`): how many may be there, at work or waiting; who comes then is told to come again.
        patient (`bool`, *optional*, defaults to `False`): it gives way to other threads (on Linux).
    """

    def __init__(self, threads: int, most: int, patient: bool = False):
        give_way = (os.nice, (10,)) if patient and sys.platform == "linux" else (None, ())
        self.pool = ThreadPoolExecutor(threads, initializer=give_way[0], initargs=give_way[1])
        self.most, self.present = most, 0

    async def run(self, function: Callable, *args):
        """What a function gives, once it is its turn. Called in the server's event loop.

        Raises:
            gr.Error: if too many wait already.
        """
        if self.present >= self.most:
            raise gr.Error("Too many are waiting for this now; try again in a minute.", print_exception=False)
        self.present += 1
        try:
            call = functools.partial(copy_context().run, function, *args)  # gradio's progress is told by context
            return await asyncio.get_running_loop().run_in_executor(self.pool, call)
        finally:
            self.present -= 1


def in_turn(function: Callable, workers: Workers, with_file: Workers | None = None) -> Callable:
    """A function for gradio that runs in threads of its kind; files that were sent to it are deleted behind it.

    Args:
        function (`Callable`): what answers; its names and types are kept.
        workers (`Workers`): its threads.
        with_file (`Workers`, *optional*): those of calls that bring a file; the same if not given.
    """

    @functools.wraps(function)
    async def wrapper(*args):
        files = [value["path"] for value in args if is_sent_file(value)]
        try:
            return await ((with_file or workers) if files else workers).run(function, *args)
        finally:
            for file in files:
                delete_file(file)

    wrapper.__signature__ = inspect.signature(function)
    return wrapper
