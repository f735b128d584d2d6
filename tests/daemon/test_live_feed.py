"""A running daemon as screens find and ask it."""

import os
from pathlib import Path

import pytest

from isotherm.core.errors import TargetGoneError
from isotherm.daemon.answers import Answers
from isotherm.daemon.rundir import RunDirectory, RunRecord, start_ticks
from isotherm.dashboard.feed import live_feed


def announce(directory: Path, socket: Path) -> RunDirectory:
    """Leave word of a daemon that is this process."""
    runs = RunDirectory(directory)
    runs.announce(
        RunRecord(
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            since_s=0.0,
            mover="isotherm",
            targets="pid 4242",
            pids=(4242,),
            command=("isotherm",),
            socket=str(socket),
        )
    )
    return runs


@pytest.mark.slow
def test_a_running_daemon_is_found_and_asked(playing, tmp_path: Path) -> None:
    """By its own number, by that of what it manages, and without one."""
    service = playing()
    runs = announce(tmp_path, tmp_path / "s")
    try:
        with Answers(service.service, tmp_path / "s", "pid 4242"):
            service.service.run(service.wait, 5.0)
            for pid in (None, os.getpid(), 4242):
                view = live_feed(pid, tmp_path).view()
                assert view.live
                assert 5 == view.epochs
            with pytest.raises(TargetGoneError, match="pid 7: no isotherm"):
                live_feed(7, tmp_path)
            feed = live_feed(None, tmp_path)
        with pytest.raises(TargetGoneError):
            feed.view()
    finally:
        runs.close()
