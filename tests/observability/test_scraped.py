"""Figures over HTTP: few connections, none for long, whatever comes to the port."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from isotherm.observability.hosts import names_of
from isotherm.observability.scraped import CROWD, MOST, ScrapeServer

pytestmark = pytest.mark.slow


def answer(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    """Return a line; at /much more than a socket holds."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * (16 << 20) if environ["PATH_INFO"] == "/much" else b"figures"]


@contextmanager
def serving(**patience: float) -> Iterator[ScrapeServer]:
    """Give a server that listens."""
    server = ScrapeServer("127.0.0.1", 0, answer, names_of("127.0.0.1"))
    for name, value in patience.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
        assert poll(lambda: server.connections == 0)


def poll(holds: Callable[[], bool], limit_s: float = 60.0) -> bool:
    """Return whether something comes true in time."""
    end_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def fetch(server: ScrapeServer, **headers: str) -> int:
    """Return the status of a scrape; 0 for none."""
    port = server.server_address[1]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as page:  # noqa: S310  # ours
            assert b"figures" == page.read()
            return int(page.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def connect(server: ScrapeServer) -> socket.socket:
    """Return a connection that has said nothing yet."""
    return socket.create_connection(server.server_address[:2], 60)


def has_ended(end: socket.socket) -> bool:
    """Return whether a connection has been closed by the other side."""
    try:
        return end.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    ("name", "status"),
    [("localhost:9", 200), ("[::1]", 200), ("evil.example", 400), ("", 400)],
)
def test_requests_name_this_host(name: str, status: int) -> None:
    """A page from elsewhere whose name points here reads nothing."""
    with serving() as server:
        assert status == fetch(server, Host=name)


def test_who_says_nothing_is_dropped() -> None:
    """After a while, with the thread and the descriptor that it had."""
    with serving(patience_s=0.2) as server, connect(server) as silent:
        assert has_ended(silent)
        assert poll(lambda: server.connections == 0)
        assert 200 == fetch(server)


def test_who_dribbles_is_dropped_all_the_same() -> None:
    """A byte now and then keeps no connection: its time is over as a whole."""
    with serving(whole_s=0.3) as server, connect(server) as slow:
        slow.settimeout(0.02)

        def dribble() -> bool:
            with suppress(OSError):
                slow.send(b"G")
            return has_ended(slow)

        assert poll(dribble)
        assert poll(lambda: server.connections == 0)


def test_who_does_not_read_is_dropped() -> None:
    """What does not fit in the socket waits for nobody for long."""
    with serving(patience_s=0.2) as server, connect(server) as deaf:
        deaf.sendall(b"GET /much HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert poll(lambda: server.connections == 1)
        assert poll(lambda: server.connections == 0)


def test_a_crowd_takes_no_more_than_its_share() -> None:
    """Silent ones give way to who comes later; who asks is answered."""
    before = threading.active_count()
    with serving(patience_s=600.0, whole_s=600.0) as server, ExitStack() as stack:
        crowd = [stack.enter_context(connect(server)) for _ in range(30)]
        assert poll(lambda: fetch(server) == 200)
        assert poll(lambda: 0 < server.connections <= CROWD)
        assert threading.active_count() <= before + 1 + MOST
        for one in crowd:
            one.settimeout(0.001)
        assert poll(lambda: sum(map(has_ended, crowd)) >= len(crowd) - CROWD)
