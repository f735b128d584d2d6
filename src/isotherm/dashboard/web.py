"""``isotherm serve``: the page, and what it asks for, as a Starlette application.

============================  =============================================
``/``                         the page; with its script and style from here
``/api/view``                 one view; ``?ranges=N``
``/api/events``               views as server-sent events, one a second
``/api/ranges``               other ranges: ``?order=heat&first=N&count=N``
``/api/explain``              why a range is where it is: ``?pid=&start=&end=``
``POST /api/whatif``          compare on what was seen lately; needs the token
``POST /api/wind``            a recording: ``time_s``, ``paused``, ``speed``
============================  =============================================

It only reads, but for what needs the token: a comparison takes CPU time. With a key
``/api/`` answers nobody who has not got it. Requests must name this host as the
browser's address bar does, so that a page from elsewhere cannot reach it through a
name of its own (DNS rebinding); what is sent must come from this page, not from
another that the browser has open; and the page may load nothing from anywhere else.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.socket import Question, ask
from isotherm.dashboard.feed import Feed, LiveFeed, PlayedFeed
from isotherm.lab.explain import explain
from isotherm.lab.whatif import compare_heat
from isotherm.observability.hosts import names_of, names_this_host
from isotherm.observability.jsonable import encode_json
from isotherm.observability.view import RangeOrder

#: Seconds between two events.
INTERVAL_S: Final = 1.0
#: Ranges of an event, the hottest, and most that can be asked for: a page shows so
#: many at once, and asks for others by their place in an order.
RANGES: Final = 50
MOST_RANGES: Final = 10_000
#: HTTP status by exit code of the command line.
STATUS: Final = {2: 400, 3: 501, 4: 403, 5: 410}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGES: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/draw.js": ("draw.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
Handler = Callable[[Request], Awaitable[Response]]


class Events:
    """One look a second, for everybody who listens."""

    def __init__(self, feed: Feed, interval_s: float = INTERVAL_S) -> None:
        self._feed, self._interval_s = feed, interval_s
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> AsyncIterator[bytes]:
        """Give events until the listener goes."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=2)
        self._listeners.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield b"retry: 1000\n\n"
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def _look(self) -> None:
        """Look while anybody listens."""
        while self._listeners:
            event = await to_thread.run_sync(self._event)
            for queue in self._listeners:
                if queue.full():  # a slow listener misses the older one
                    queue.get_nowait()
                queue.put_nowait(event)
            await asyncio.sleep(self._interval_s)

    def _event(self) -> bytes:
        try:
            if isinstance(self._feed, LiveFeed):  # as the daemon has written it
                view = self._feed.view_json(RANGES, heat=True)
            else:
                view = encode_json(self._feed.view(RANGES, heat=True))
        except IsothermError as error:
            return b"event: gone\ndata: " + encode_json(_told(error)) + b"\n\n"
        played = {}
        if isinstance(self._feed, PlayedFeed):
            played = {"paused": self._feed.paused, "speed": self._feed.speed}
        data = b'{"view":' + view + b',"played":' + encode_json(played) + b"}"
        return b"event: view\ndata: " + data + b"\n\n"

    def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()


def make_app(
    feed: Feed,
    *,
    token: str | None = None,
    key: str | None = None,
    names: Collection[str] | None = None,
    recording: Path | None = None,
    interval_s: float = INTERVAL_S,
) -> Starlette:
    """Return the application.

    Args:
        feed: Where views come from.
        token: What control needs; None: nothing can be controlled.
        key: What reading needs; None: whoever reaches it reads.
        names: That a browser may reach it by, beside addresses; None: of this host
            alone.
        recording: The directory that is played, for ``explain``.
        interval_s: Seconds between two events.
    """
    events = Events(feed, interval_s)
    busy = asyncio.Lock()

    async def page(request: Request) -> Response:
        name, kind = _PAGES[request.url.path]
        text = (files("isotherm.dashboard") / "static" / name).read_bytes()
        return Response(text, media_type=kind)

    async def view(request: Request) -> Response:
        count = _count(request, "ranges")
        found = await to_thread.run_sync(lambda: feed.view(count, heat=True))
        return Response(encode_json(found), media_type="application/json")

    async def ranges(request: Request) -> Response:
        first, count = int(_number(request, "first", 0)), _count(request, "count")
        order = _order(request)
        found = await to_thread.run_sync(
            lambda: feed.view(count, order=order, first=first)
        )
        some = {name: getattr(found, name) for name in ("nr_ranges", "ranges")}
        whose = [owner.name for owner in found.owners]
        pids = [owner.pid for owner in found.owners]
        told = {**some, "owners": whose, "pids": pids}
        return Response(encode_json(told), media_type="application/json")

    async def listen(_: Request) -> Response:
        return StreamingResponse(events.listen(), media_type="text/event-stream")

    async def why(request: Request) -> Response:
        start, end = _number(request, "start"), _number(request, "end")
        if end <= start:
            raise UsageError(
                f"range {start:x}-{end:x}: expected an end after the start"
            )
        if isinstance(feed, LiveFeed):
            pid = int(_number(request, "pid"))
            question = Question("explain", pid, int(start), int(end))
            path = Path(feed.run.socket or "")
            found = await to_thread.run_sync(ask, path, question)
        else:
            if recording is None:
                raise UsageError("explain: no recording to read")
            first, last = int(start) // PAGE_BYTES, -(-int(end) // PAGE_BYTES) - 1
            found = await to_thread.run_sync(explain, recording, first, last)
        return Response(encode_json(found), media_type="application/json")

    async def whatif(request: Request) -> Response:
        _check_origin(request)
        _check_token(request, token)
        if busy.locked():
            raise IsothermError("what-if: one is running; wait for it")
        async with busy:
            seen = await to_thread.run_sync(lambda: feed.view(0, heat=True))
            if seen.heat is None:
                raise UsageError("what-if: there is no heat map yet")
            found = await to_thread.run_sync(compare_heat, seen.heat)
        return Response(encode_json(found), media_type="application/json")

    async def wind(request: Request) -> Response:
        _check_origin(request)
        if not isinstance(feed, PlayedFeed):
            raise UsageError("wind: a live run cannot be wound")
        wanted = _parse_wind(await _body(request))
        if wanted.time_s is not None:
            feed.wind(wanted.time_s)
        if wanted.speed is not None:
            feed.wind(feed.time_s)
            feed.speed = wanted.speed
        if wanted.paused is not None and wanted.paused != feed.paused:
            feed.pause()
        return JSONResponse({"time_s": feed.time_s})

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        yield
        events.close()

    routes = [Route(path, _guarded(page)) for path in _PAGES]
    routes += [
        Route("/api/view", _guarded(view)),
        Route("/api/events", _guarded(listen)),
        Route("/api/ranges", _guarded(ranges)),
        Route("/api/explain", _guarded(why)),
        Route("/api/whatif", _guarded(whatif), methods=["POST"]),
        Route("/api/wind", _guarded(wind), methods=["POST"]),
    ]
    known = names_of("127.0.0.1") if names is None else names
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Gate, names=known, key=key)],
        lifespan=living,
        exception_handlers={HTTPException: _no_such_page},
    )


class _Gate:
    """Lets in who names this host and, where there is a key, has it.

    An event source cannot send headers: the key of its address does as well.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], key: str | None) -> None:
        self._app, self._names, self._key = app, names, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        answer = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if not names_this_host(request.headers.get("host", ""), self._names):
            return PlainTextResponse("not a name of this host", 400, HEADERS)
        if self._key is None or request.url.path in _PAGES:
            return None
        given = request.headers.get("x-isotherm-key", request.query_params.get("key"))
        if given is not None and hmac.compare_digest(
            given.encode(), self._key.encode()
        ):
            return None
        told = {
            "message": "this page is private",
            "hint": "open the address that serve --private prints",
        }
        return JSONResponse({"error": told}, 403, HEADERS)


class Wind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a recording is to be played.

    Attributes:
        time_s: Seconds into the run; None: as it is.
        paused: Whether it stands still.
        speed: Seconds of the run in a second.
    """

    time_s: float | None = None
    paused: bool | None = None
    speed: float | None = None


def _parse_wind(body: bytes) -> Wind:
    try:
        wanted = msgspec.json.decode(body, type=Wind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"wind: {error}") from None
    if wanted.speed is not None and not 0.1 <= wanted.speed <= 1000:
        raise UsageError(f"speed: expected 0.1 to 1000, got {wanted.speed:g}")
    return wanted


async def _body(request: Request, most: int = 1 << 12) -> bytes:
    """Return a small body.

    Raises:
        UsageError: It is larger.
    """
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise UsageError(f"a body of more than {most} bytes")
    return found


def _check_origin(request: Request) -> None:
    """Check that a request is not another page's: a browser says whose it is.

    Raises:
        NotAllowedError: It is.
    """
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is not None and origin != f"http://{host}":
        raise NotAllowedError(
            f"this page alone may ask for that, not {origin!r:.80}",
            hint=f"open http://{host}/",
        )


def _check_token(request: Request, token: str | None) -> None:
    """Check that whoever asks may control.

    Raises:
        NotAllowedError: No token, or another.
    """
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is None or not hmac.compare_digest(given.encode(), token.encode()):
        raise NotAllowedError(
            "this needs the token", hint="open the address that serve --control prints"
        )


class NotAllowedError(IsothermError):
    """The token is missing or wrong, or another page asks."""

    exit_code = 4


def _number(request: Request, name: str, default: float | None = None) -> float:
    """Return a number of the query.

    Raises:
        UsageError: It is missing or no number.
    """
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UsageError(f"{name}: expected a number, got nothing")
    try:
        value = int(text, 10)
    except ValueError:
        raise UsageError(f"{name}: expected a number, got {text!r}") from None
    if not 0 <= value < 1 << 63:
        raise UsageError(f"{name}: expected 0 to 2^63, got {value}")
    return value


def _count(request: Request, name: str) -> int:
    """Return how many ranges are asked for.

    Raises:
        UsageError: No number, or too many.
    """
    count = int(_number(request, name, RANGES))
    if count > MOST_RANGES:
        raise UsageError(f"{name}: expected 0 to {MOST_RANGES}, got {count}")
    return count


def _order(request: Request) -> RangeOrder:
    """Return what ranges are to be ordered by.

    Raises:
        UsageError: There is no such order.
    """
    text = request.query_params.get("order", "heat")
    for order in get_args(RangeOrder):
        if text == order:
            return order  # type: ignore[no-any-return]  # of the literal
    raise UsageError(f"order: expected heat, size or address, got {text!r}")


def _told(error: IsothermError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint}


async def _no_such_page(request: Request, error: Exception) -> Response:
    """Return the answer to an address or a method that nothing here has."""
    if not isinstance(error, HTTPException):
        raise error
    told = {"message": f"{request.method} {request.url.path}: {error.detail}"}
    return JSONResponse(
        {"error": {**told, "hint": None}},
        error.status_code,
        {**(error.headers or {}), **HEADERS},
    )


def _guarded(handler: Handler) -> Handler:
    """Return a handler whose errors are answers, with the headers of all answers."""

    async def guarded(request: Request) -> Response:
        try:
            answer = await handler(request)
        except IsothermError as error:
            answer = Response(
                json.dumps({"error": _told(error)}),
                STATUS.get(error.exit_code, 500),
                media_type="application/json",
            )
        answer.headers.update(HEADERS)
        return answer

    return guarded
