"""Threads of a process that search an index and change it."""

from threading import Condition


class SearchLock:
    """Lets many searches run at a time, or one change; a change that waits goes before later searches."""

    def __init__(self):
        self.condition = Condition()
        self.searches = 0
        self.changes = 0

    def __enter__(self) -> None:
        """Begins a search."""
        with self.condition:
            while self.changes:
                self.condition.wait()
            self.searches += 1

    def __exit__(self, *error) -> None:
        with self.condition:
            self.searches -= 1
            self.condition.notify_all()

    def changing(self) -> "ChangeLock":
        """A context manager for a change; only one thread at a time may ask for it."""
        return ChangeLock(self)


class ChangeLock:
    """See [`SearchLock.changing`]."""

    def __init__(self, lock: SearchLock):
        self.lock = lock

    def __enter__(self) -> None:
        with self.lock.condition:
            self.lock.changes += 1
            while self.lock.searches:
                self.lock.condition.wait()

    def __exit__(self, *error) -> None:
        with self.lock.condition:
            self.lock.changes -= 1
            self.lock.condition.notify_all()
