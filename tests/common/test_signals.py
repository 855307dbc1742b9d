"""Signals that come where Python ignores exceptions are heard all the same."""

import subprocess
import sys
import textwrap

import pytest
from helpers import IMPORTED

from training.common import cli
from training.common.stopping import hear_again
from training.index import IndexArguments

PROGRAM = """
    import os, signal, sys, time
    from training.common.stopping import ends_on_sigterm, hear_again

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), NUMBER)
            time.sleep(0.05)

    sys.unraisablehook = hear_again
    with ends_on_sigterm():
        Finalized()
        time.sleep(20)
"""


@pytest.mark.parametrize(
    "number, status, line",
    [
        ("signal.SIGINT", -2, "KeyboardInterrupt"),
        ("signal.SIGTERM", 143, "stopped by SIGTERM; run the same command again"),
    ],
)
def test_a_signal_in_a_finalizer_ends_the_program(number, status, line):
    words = [sys.executable, "-c", textwrap.dedent(PROGRAM).replace("NUMBER", number)]
    done = subprocess.run(words, env={"PYTHONPATH": IMPORTED}, capture_output=True, text=True, timeout=15)
    assert done.returncode == status and line in done.stdout + done.stderr


def test_commands_hear_such_signals(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["index", "--help"])
    monkeypatch.setattr(sys, "unraisablehook", None)
    with pytest.raises(SystemExit):
        cli.run(print, IndexArguments, "")
    assert sys.unraisablehook is hear_again
