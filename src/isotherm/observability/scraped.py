"""A small HTTP server for figures: few connections at once, and none for long.

It stands in the daemon's own process. Whoever reaches the port, slow or in crowds, may
keep others from their figures for a moment, and takes neither threads nor descriptors
nor time that the daemon needs.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from isotherm.observability.hosts import names_this_host

#: Connections at once. From CROWD on the eldest one that has not said what it wants
#: gives way to a new one; from MOST on a new one is closed unheard.
CROWD: Final = 8
MOST: Final = 16
#: Seconds for a read or a write, and for a connection from beginning to end.
PATIENCE_S: Final = 5.0
#: Connections a second that are taken, after so many at once: each is some 2 ms of the
#: daemon's own budget of CPU time.
PER_S: Final = 10.0
AT_ONCE: Final = 20
WHOLE_S: Final = 10.0

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
#: What a request comes on: a socket here.
_Connection = Any


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """Serves an application; see the module.

    Args:
        host: Address or name to listen on.
        port: 0: a free one.
        application: What answers.
        names: That requests may be for, beside addresses; None: any.

    Raises:
        OSError: Nothing can listen there.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        application: Application,
        names: Collection[str] | None = None,
    ) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = found[0]
        self.patience_s, self.whole_s = PATIENCE_S, WHOLE_S
        self._since: dict[_Connection, float] = {}  # connections that are open
        self._heard: set[_Connection] = set()  # of them, those that have asked
        self._leaving: set[_Connection] = set()  # and those that were told to go
        self._guard = threading.Lock()
        self._tokens, self._at_s = float(AT_ONCE), time.monotonic()
        super().__init__(found[4][:2], _Handler)  # type: ignore[arg-type]  # host, port
        self.set_app(_named(application, names))

    def server_bind(self) -> None:
        """Bind; without asking who has our address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore[assignment]  # of the environment
        self.setup_environ()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        with self._guard:
            return len(self._since)

    def process_request(self, request: _Connection, client_address: Any) -> None:
        """Answer in a thread of its own, when it is time and if there is room."""
        self._keep_pace()
        with self._guard:
            if len(self._since) - len(self._leaving) >= CROWD:
                busy = self._heard | self._leaving
                waiting = [one for one in self._since if one not in busy]
                if waiting:  # in the order in which they came
                    self._leaving.add(waiting[0])
                    _end(waiting[0])
            full = len(self._since) >= MOST
            if not full:
                self._since[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def _keep_pace(self) -> None:
        """Wait until one more may be taken; others wait in the kernel's queue."""
        now_s = time.monotonic()
        came = (now_s - self._at_s) * PER_S
        self._tokens, self._at_s = min(float(AT_ONCE), self._tokens + came), now_s
        self._tokens -= 1.0
        if self._tokens < 0.0:
            time.sleep(-self._tokens / PER_S)

    def hear(self, request: _Connection) -> None:
        """Note that a connection has said what it wants."""
        with self._guard:
            if request in self._since:
                self._heard.add(request)

    def shutdown_request(self, request: _Connection) -> None:
        """Close a connection."""
        with self._guard:
            self._since.pop(request, None)
            self._heard.discard(request)
            self._leaving.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that take too long; called twice a second."""
        now_s = time.monotonic()
        with self._guard:
            for request, since_s in self._since.items():
                if now_s - since_s > self.whole_s:
                    _end(request)

    def server_close(self) -> None:
        """Stop listening and end what is open."""
        super().server_close()
        with self._guard:
            for request in self._since:
                _end(request)

    def handle_error(self, request: _Connection, client_address: Any) -> None:
        """Say nothing: a reader that has gone is no fault of anything here."""


class _Handler(WSGIRequestHandler):
    """Answers one request, and closes."""

    server: ScrapeServer

    def setup(self) -> None:
        """Begin; no read or write waits longer than so."""
        self.timeout = self.server.patience_s  # type: ignore[misc]  # of the class
        super().setup()

    def get_environ(self) -> dict[str, Any]:
        """Return the request: it has been read."""
        self.server.hear(self.request)
        return super().get_environ()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name
        """Log nothing."""


def _named(application: Application, names: Collection[str] | None) -> Application:
    """Return an application that refuses requests for others than this host."""
    if names is None:
        return application

    def named(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if names_this_host(environ.get("HTTP_HOST", ""), names):
            return application(environ, start)
        start("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"not a name of this host\n"]

    return named


def _end(request: _Connection) -> None:
    """Have whoever reads or writes find the end; its thread closes it."""
    with contextlib.suppress(OSError):  # it has ended by itself
        request.shutdown(socket.SHUT_RDWR)
