"""``isotherm serve``: a run in the browser."""

import re
import secrets
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note
from isotherm.core.errors import UnsupportedError, UsageError

EPILOGUE = """\
Examples:
  isotherm serve
  isotherm serve --recording run --port 8000
  isotherm serve --control
  isotherm serve --private

Only this host can reach the page, unless --listen names another address; with
--private only who has the key. It reads; what takes CPU time (what-if) needs
the token of --control.

Exit codes: 0 done, 2 several runs and none named, 3 nothing can listen there or
starlette is not installed, 4 not permitted, 5 nothing runs, 130 interrupted.
"""

app = App(name="serve", help_epilogue=EPILOGUE, help_format="plaintext")

Flag = Parameter(negative=(), show_default=False)

#: The name of a host.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


@app.default
def serve(
    *,
    pid: int | None = None,
    recording: Path | None = None,
    speed: float = 10.0,
    listen: str = "127.0.0.1",
    port: int = 8977,
    control: Annotated[bool, Flag] = False,
    private: Annotated[bool, Flag] = False,
) -> int:
    """Show a run in the browser: tiers and flows, heat over time, decisions.

    Parameters
    ----------
    pid
        Of the isotherm to show, or of a process that it was told to manage.
    recording
        Play this directory of --record instead; of a simulation or of a live run.
    speed
        Seconds of a recording that pass in a second.
    listen
        Address to listen on.
    port
        Port to listen on; 0: a free one.
    control
        Allow what takes CPU time to whoever has the token that is printed.
    private
        Show it only to whoever has the address that is printed, key and all.
    """
    if pid is not None and recording is not None:
        raise UsageError("expected --pid or --recording, got both")
    check_address(listen)
    if not 0 <= port <= 65535:
        raise UsageError(f"port: expected 0 to 65535, got {port}")

    from isotherm.dashboard.feed import (  # noqa: PLC0415  # --help
        Feed,
        PlayedFeed,
        live_feed,
    )

    feed: Feed = live_feed(pid) if recording is None else PlayedFeed(recording, speed)
    feed.view(0)  # what is wrong is said before anything listens
    try:
        from isotherm.dashboard.server import serve_feed  # noqa: PLC0415  # an extra
    except ImportError:
        raise UnsupportedError(
            "serve needs starlette and uvicorn, which are not installed",
            hint="pip install 'isotherm[service]'",
        ) from None
    token = secrets.token_urlsafe(16) if control else None
    key = secrets.token_urlsafe(16) if private else None
    return serve_feed(feed, listen, port, token, key, recording, note)


def check_address(listen: str) -> None:
    """See that what is listened on is an address or the name of one.

    Raises:
        UsageError: It is neither.
    """
    try:
        ip_address(listen.partition("%")[0])
    except ValueError:
        looks_it = ":" in listen or listen.replace(".", "").isdecimal()
        if looks_it or not _NAME.fullmatch(listen):
            raise UsageError(
                f"listen: expected an address of this host, or a name, got {listen!r}",
                hint="--listen 127.0.0.1 for this host alone, 0.0.0.0 for all; --port"
                " names the port",
            ) from None
