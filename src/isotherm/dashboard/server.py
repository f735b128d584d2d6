"""Serves the page until it is told to end."""

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from isotherm.core.errors import UnsupportedError
from isotherm.dashboard.feed import Feed
from isotherm.dashboard.web import make_app
from isotherm.observability.hosts import names_of


def serve_feed(
    feed: Feed,
    listen: str,
    port: int,
    token: str | None,
    key: str | None,
    recording: Path | None,
    say: Callable[[str], None],
) -> int:
    """Serve until SIGINT or SIGTERM; return an exit code.

    Args:
        feed: Where views come from.
        listen: Address.
        port: 0: a free one.
        token: What control needs; None: nothing can be controlled.
        key: What reading needs; None: whoever reaches it reads.
        recording: The directory that is played.
        say: Called with the address of the page.

    Raises:
        UnsupportedError: Nothing can listen there.
    """
    server = _bind(listen, port)
    host, bound = server.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    app = make_app(
        feed, token=token, key=key, names=names_of(listen), recording=recording
    )
    address = f"http://{shown}:{bound}/"
    # What follows # stays in the browser: it is in no request and no log.
    secrets = {"token": token, "key": key}
    after = "&".join(f"{name}={word}" for name, word in secrets.items() if word)
    say(f"serving {address}{f'#{after}' if after else ''}  (^C ends)")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    with server:
        uvicorn.Server(config).run(sockets=[server])
    return 0


def _bind(listen: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0][0]
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((listen, port))
            server.listen()  # before anybody is told the address
        except OSError:
            server.close()
            raise
    except OSError as error:
        raise UnsupportedError(
            f"cannot listen on {listen}:{port}: {error.strerror or error}",
            hint="--port names another port, --listen another address",
        ) from None
    return server
