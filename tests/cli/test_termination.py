"""A program that is told to end does so, wherever it is."""

import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import time
from isotherm.cli.termination import tidy_end

class Busy:
    def __del__(self):
        print("in a destructor", flush=True)
        time.sleep(1)

with tidy_end():
    try:
        busy = Busy()
        del busy
        time.sleep(60)
    finally:
        print("tidied", flush=True)
"""


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    """The exception cannot leave it: the signal comes again, and cleanups run."""
    words = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert "in a destructor\n" == run.stdout.readline()
        run.terminate()
        assert "tidied\n" == run.stdout.readline()
        assert 143 == run.wait(30)
