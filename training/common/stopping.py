"""An end that is asked for: SIGTERM, as spot machines and schedulers send it some time before they take a machine, or
Ctrl-C."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
STATUS = 128 + signal.SIGTERM
AGAIN = 0.01  # seconds


class Stopped(SystemExit):
    """The end of a process after SIGTERM, with status 143.

    Args:
        message (`str`): the line that tells of it.
        stop (`Stop`, *optional*): whose handler raises it.
    """

    def __init__(self, message: str, stop: "Stop | None" = None):
        super().__init__(STATUS)
        self.message = message
        self.stop = stop


class Stop:
    """What SIGTERM does: it ends the process at once or, while it waits, is only noted.

    Attributes:
        asked (`bool`): whether the signal came.
        waits (`bool`): whether the process ends itself, when it has saved its state.
    """

    def __init__(self):
        self.asked = self.waits = False

    def handle(self, *signal_and_frame) -> None:
        """The signal's handler."""
        already, self.asked = self.asked, True
        if not self.waits and not already:
            raise Stopped("stopped by SIGTERM; run the same command again", self)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block the signal is only noted."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
        if self.asked:
            raise Stopped("stopped by SIGTERM; run the same command again")


@contextmanager
def ends_on_sigterm() -> Iterator[Stop]:
    """Within the block SIGTERM ends the process in one line, which the first of several processes prints, and with
    status 143. In a thread, where Python handles no signals, nothing changes."""
    stop, in_main_thread = Stop(), threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop.handle) if in_main_thread else None
    try:
        yield stop
    except Stopped as end:
        if os.environ.get("RANK", "0") == "0":
            print(end.message, flush=True)
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def hear_again(ignored: "sys.UnraisableHookArgs") -> None:
    """`sys.unraisablehook` of commands: SIGTERM or Ctrl-C that came where Python ignores exceptions, as in a
    `__del__`, comes again."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        _ask_again(signal.SIGINT)
    elif isinstance(ignored.exc_value, Stopped) and ignored.exc_value.stop:
        ignored.exc_value.stop.asked = False
        _ask_again(signal.SIGTERM)
    else:
        sys.__unraisablehook__(ignored)


def _ask_again(number: int) -> None:
    """Sends the main thread a signal in a moment, when the finalizer has ended."""
    threading.Timer(AGAIN, signal.pthread_kill, [threading.main_thread().ident, number]).start()


def end_with_launcher() -> None:
    """Lets Linux send SIGTERM to this process when the one that launched it ends: `accelerate launch` dies of SIGTERM
    without a word to its child. A process that was started by hand may outlive its shell."""
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:  # accelerate launch always sets it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run_and_pass_on_signals(words: list[str], variables: Mapping[str, str]) -> int:
    """Runs a program to its end, whose status it returns (143 after SIGTERM).

    It is in a process group of its own, so that SIGTERM and Ctrl-C reach it once and from here alone; both wait for
    what it saves before it ends.
    """
    with subprocess.Popen(words, env=variables, process_group=0) as process:
        before = {
            number: signal.signal(number, lambda number, frame: process.send_signal(number))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def leave_to_parent(worker: int) -> None:
    """For a process of a data loader: whoever started it decides when it ends, also if all get the signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
