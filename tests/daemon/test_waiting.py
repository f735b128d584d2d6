"""Waiting: for time, signals, and the end of a process."""

import os
import signal
import subprocess
import sys
import threading
import time

from isotherm.daemon.waiting import STOP_SIGNAL, Waiter


def test_time_passes():
    """Without a signal a wait lasts as long as it was asked to."""
    with Waiter() as waiter:
        began = time.monotonic()
        assert not waiter.wait(0.05)
        assert time.monotonic() - began >= 0.05
        assert waiter.signal is None


def test_a_signal_ends_a_wait_at_once():
    """The first signal is kept; every later wait ends at once."""
    with Waiter() as waiter:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        assert waiter.wait(60)
        assert time.monotonic() - began < 30
        os.kill(os.getpid(), signal.SIGINT)
        assert waiter.wait(60)
        assert signal.SIGTERM == waiter.signal


def test_the_end_of_a_process_ends_one_wait():
    """A watched process that ends is no signal, but a reason to look, once."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(child.pid)
    with Waiter() as waiter:
        waiter.watch(pidfd)
        assert not waiter.wait(0.01)
        assert child.stdin is not None
        child.stdin.close()
        began = time.monotonic()
        assert not waiter.wait(600)
        assert time.monotonic() - began < 60
        assert waiter.signal is None
        began = time.monotonic()
        assert not waiter.wait(0.05)
        assert time.monotonic() - began >= 0.05
    child.wait()
    os.close(pidfd)


def test_handlers_are_put_back():
    """Afterwards signals do what they did before."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)]
    with Waiter():
        assert before != [
            signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
        ]
    assert before == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
    ]


def test_what_goes_on_is_halted_in_the_handler() -> None:
    """At once, not when somebody waits next; not for a signal that asks for less."""
    halted = []
    with Waiter(reloads=True) as waiter:
        waiter.halt = lambda: halted.append(waiter.signal)
        os.kill(os.getpid(), signal.SIGHUP)
        assert [] == halted
        os.kill(os.getpid(), STOP_SIGNAL)
        assert [STOP_SIGNAL] == halted
        assert waiter.wait(60)
