"""A real session in a process of its own: what it has lost, and what it still can."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isotherm.core.errors import IsothermError, UsageError
from isotherm.mover.drop import check, find_user

SCRIPT = Path(__file__).parent / "session.py"
ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives rights up")


def begin(managed: Any, what: str) -> subprocess.Popen[str]:
    """Start the two processes."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(managed.pid), str(managed.start), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"ISOTHERM_KERNELS": "numpy"},
    )


@needs_root
@pytest.mark.slow
@pytest.mark.usefixtures("rights")
def test_a_session_has_no_rights_and_can_work(managed: Any) -> None:
    """It sees frames and moves pages through the mover, and nothing by itself."""
    out, errors = begin(managed, "work").communicate(timeout=120)
    assert out, errors
    found = json.loads(out)
    status = found["status"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert 0 == int(status[name], 16), name
    assert ["65534"] * 4 == status["Uid"].split()
    assert "1" == status["NoNewPrivs"]
    assert "" == status["Groups"]
    # 0, 1, 2, three channels; the managed process's own were closed again or are two.
    assert found["descriptors"] <= 9
    assert all(found["image"])  # what an exec changes, hidden from those without rights
    assert 2 == found["threads"]
    assert (16, 16, 16) == (found["frames"], found["there"], found["moved"])
    assert "" == found["mapped"]
    assert found["own_frames"]
    assert found["zero_frame"]
    assert found["managed"] > 0
    assert {
        "root": "PermissionError",
        "mover": "PermissionError",
        "movers memory": "PermissionError",
        "stranger": "NotPermittedError",
        "maps": "PermissionError",
        "journal": "NotPermittedError",
        "weights": "PermissionError",
    } == found["refused"]
    assert found["signalled_by_parent"]
    assert managed.is_whole()


@needs_root
@pytest.mark.slow
def test_a_session_ends_with_its_mover(managed: Any) -> None:
    """SIGKILL for the mover is SIGKILL for the session."""
    mover = begin(managed, "wait")
    assert mover.stdout is not None
    session = int(mover.stdout.readline())
    pidfd = os.pidfd_open(session)
    try:
        mover.send_signal(signal.SIGKILL)
        mover.wait()
        end = time.monotonic() + 60
        while True:
            try:
                state = Path(f"/proc/{session}/stat").read_text().rpartition(")")[2]
            except OSError:
                break
            if state.split()[0] in "ZX":
                break
            assert time.monotonic() < end, "the session lives on"
            time.sleep(0.01)
    finally:
        os.close(pidfd)
        mover.communicate()


def test_users_that_there_are_not() -> None:
    """An unknown name and root are refused with a word of what to do."""
    with pytest.raises(UsageError, match="expected a user of this host"):
        find_user("no such user")
    for name in ("root", "0"):
        with pytest.raises(UsageError, match="got root"):
            find_user(name)


@needs_root
def test_rights_that_are_left_are_found() -> None:
    """A process that has not given them up does not pass the check."""
    with pytest.raises(IsothermError, match="CapEff"):
        check()
