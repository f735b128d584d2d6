"""What systemd is told, read from a real socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from isotherm.daemon.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(10)
        yield server


def test_states_are_datagrams_of_lines(manager: socket.socket) -> None:
    """As sd_notify(3) has them."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("managing cgroup a.slice")
    notifier.alive()
    notifier.reloading()
    notifier.stopping()
    found = [manager.recv(4096).decode().split("\n") for _ in range(4)]
    assert ["READY=1", "STATUS=managing cgroup a.slice"] == found[0]
    assert ["WATCHDOG=1"] == found[1]
    assert "RELOADING=1" == found[2][0]
    assert found[2][1].removeprefix("MONOTONIC_USEC=").isdigit()
    assert ["STOPPING=1"] == found[3]


def test_an_abstract_name_is_reached() -> None:
    """It begins with an at sign in the variable, with a zero in the kernel."""
    name = f"isotherm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        server.settimeout(10)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert b"READY=1" == server.recv(4096)


def test_nobody_who_listens_is_no_error(tmp_path: Path) -> None:
    """Without a manager, with one that has gone, with one that does not read."""
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        for _ in range(10_000):
            notifier.alive()


def test_the_watchdog_is_this_process_s() -> None:
    """Another's, or none, is None."""
    assert 30.0 == Notifier({"WATCHDOG_USEC": "30000000"}).watchdog_s
    assert Notifier({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({}).watchdog_s is None


def test_variables_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a run starts does not speak for the service."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "5")
    Notifier()
    assert "NOTIFY_SOCKET" not in os.environ
    assert "WATCHDOG_USEC" not in os.environ
