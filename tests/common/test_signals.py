"""Signals that come where Python ignores exceptions are heard all the same."""

import subprocess
import sys
import textwrap

import pytest
from helpers import IMPORTED

COMMAND = """
    import os, signal, sys, time
    from dataclasses import dataclass
    from training.common.cli import run
    from training.common.stopping import ends_on_sigterm

    @dataclass
    class Arguments:
        '''A command.

        Args:
            times: How often the signal falls into a finalizer.
        '''
        times: int = 1

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), NUMBER)
            time.sleep(0.05)

    def main(arguments):
        with ends_on_sigterm():
            for _ in range(arguments.times):
                Finalized()
            time.sleep(30)

    run(main, Arguments, "")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, status, line",
    [
        ("signal.SIGINT", 130, "error: interrupted; run the same command again"),
        ("signal.SIGTERM", 143, "stopped by SIGTERM; run the same command again"),
    ],
)
def test_a_signal_in_a_finalizer_ends_the_command(number, status, line):
    words = [sys.executable, "-c", textwrap.dedent(COMMAND).replace("NUMBER", number)]
    done = subprocess.run(words, env={"PYTHONPATH": IMPORTED}, capture_output=True, text=True, timeout=25)
    assert done.returncode == status and line in done.stdout + done.stderr and "Traceback" not in done.stderr
