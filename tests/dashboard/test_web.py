"""What the page asks for: answers, errors, and who is let in."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from isotherm.dashboard.feed import Feed, PlayedFeed  # noqa: E402  # needs them
from isotherm.dashboard.web import make_app  # noqa: E402  # likewise

pytestmark = pytest.mark.slow


@contextmanager
def serving(
    feed: Feed,
    token: str | None = None,
    recording: Path | None = None,
    port: int = 0,
    interval_s: float = 0.2,
    key: str | None = None,
) -> Iterator[str]:
    """Give the address of a page while it is served."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        app = make_app(
            feed, token=token, key=key, recording=recording, interval_s=interval_s
        )
        config = uvicorn.Config(
            app, log_level="error", timeout_graceful_shutdown=1, lifespan="on"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            end_s = time.monotonic() + 60
            while not server.started and time.monotonic() < end_s:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


def fetch(
    address: str, data: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    request = urllib.request.Request(address, data, headers)  # noqa: S310  # ours
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310  # likewise
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def fetch_json(address: str, data: bytes | None = None, **headers: str) -> Any:
    """Return a JSON document."""
    return json.loads(fetch(address, data, **headers)[2])


@pytest.fixture(scope="module")
def feed(recording: Path) -> PlayedFeed:
    """Return a recording that stands at its end."""
    made = PlayedFeed(recording)
    made.paused = True
    made.wind(1e9)
    return made


@pytest.fixture(scope="module")
def address(feed: PlayedFeed, recording: Path) -> Iterator[str]:
    """Return a page with control."""
    with serving(feed, "secret", recording) as found:
        yield found


def test_a_view_is_what_the_feed_says(address: str, feed: PlayedFeed) -> None:
    """With its heat map; ranges as many as asked for."""
    found = fetch_json(address + "api/view?ranges=3")
    assert 3 == len(found["ranges"])
    assert feed.played.end_s == found["time_s"]
    assert found["heat"] is not None


def test_ranges_are_given_by_their_place(address: str, feed: PlayedFeed) -> None:
    """In an order, from a place; with how many there are, and whose they are."""
    whole = feed.view(10_000, order="address").ranges
    path = address + "api/ranges?order=address&first=1&count=2"
    found = fetch_json(path)
    assert [r.start for r in whole[1:3]] == [r["start"] for r in found["ranges"]]
    assert len(whole) == found["nr_ranges"]
    assert [owner.name for owner in feed.view(0).owners] == found["owners"]
    by_size = fetch_json(address + "api/ranges?order=size")["ranges"]
    pages = [r["nr_pages"] for r in by_size]
    assert sorted(pages, reverse=True) == pages
    assert [] == fetch_json(address + "api/ranges?first=99999")["ranges"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ranges?order=colour", "order: expected heat, size or address"),
        ("ranges?count=10001", "count: expected 0 to 10000"),
        ("ranges?first=-1", "first: expected 0 to"),
        ("view?ranges=100000", "ranges: expected 0 to 10000"),
    ],
)
def test_wrong_windows_are_told(address: str, query: str, said: str) -> None:
    """With the status of a bad request."""
    status, _, body = fetch(address + "api/" + query)
    assert 400 == status
    assert said in json.loads(body)["error"]["message"]


def test_events_are_views_one_after_the_other(address: str) -> None:
    """As server-sent events, to everybody who listens."""
    with (
        urllib.request.urlopen(address + "api/events", timeout=60) as one,  # noqa: S310
        urllib.request.urlopen(address + "api/events", timeout=60) as two,  # noqa: S310
    ):
        assert "text/event-stream; charset=utf-8" == one.headers["content-type"]
        for listener in (one, two):
            seen = 0
            while seen < 2:
                line = listener.readline()
                if line.startswith(b"data: "):
                    assert "view" in json.loads(line.removeprefix(b"data: "))
                    seen += 1


def test_why_is_what_explain_says(address: str) -> None:
    """Of the pages of the range."""
    found = fetch_json(address + "api/explain?start=4096&end=40960")
    assert [1, 9] == found["pages"]
    assert found["why"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("start=4096&end=4096", "expected an end after"),
        ("start=x&end=1", "start: expected a number"),
        ("start=-1&end=1", "start: expected 0 to"),
        ("start=1", "end: expected a number"),
        ("start=0&end=99999999999999", "expected a range within"),
    ],
)
def test_wrong_ranges_are_told(address: str, query: str, said: str) -> None:
    """With the status of a bad request, in one sentence."""
    status, _, body = fetch(address + "api/explain?" + query)
    assert 400 == status
    assert said in json.loads(body)["error"]["message"]


def test_control_needs_the_token(address: str) -> None:
    """Without it, with another, and where there is none at all."""
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
    ):
        status, _, body = fetch(address + "api/whatif", b"", **headers)
        assert 403 == status
        assert "needs the token" in json.loads(body)["error"]["message"]


def test_nothing_is_controlled_without_a_token_of_its_own(feed: PlayedFeed) -> None:
    """An empty word does not match the missing one."""
    with serving(feed) as address:
        for given in ("Bearer ", "Bearer None", ""):
            assert 403 == fetch(address + "api/whatif", b"", authorization=given)[0]


def test_what_if_compares_what_was_seen(address: str, feed: PlayedFeed) -> None:
    """Policies and bounds on the accesses of the heat map; more memory is no slower."""
    found = fetch_json(address + "api/whatif", b"", authorization="Bearer secret")
    rows = {(r["policy"], r["fast_ratio"]): r for r in found["results"]}
    heat = feed.view(heat=True).heat
    assert heat is not None
    seen = sum(
        rate * (end - start) / 4096 * (b - a)
        for row, start, end in zip(heat.rate, heat.start, heat.end, strict=True)
        for rate, a, b in zip(row, (0.0, *heat.time_s), heat.time_s, strict=False)
    )
    accesses = rows["first-touch", 0.5]["accesses"]
    assert seen == pytest.approx(accesses, rel=0.02)
    for policy in ("first-touch", "static-oracle"):
        assert rows[policy, 0.5]["slowdown"] <= rows[policy, 0.1]["slowdown"]
    assert (
        rows["static-oracle", 0.2]["slowdown"] <= rows["first-touch", 0.2]["slowdown"]
    )


def test_a_recording_is_wound_from_the_page(recording: Path) -> None:
    """To a time, held, faster; nonsense is refused."""
    feed = PlayedFeed(recording)
    with serving(feed) as address:
        fetch(address + "api/wind", b'{"paused": true}')
        found = fetch_json(address + "api/wind", b'{"time_s": 3.0}')
        assert {"time_s": 3.0} == found
        fetch(address + "api/wind", b'{"speed": 2}')
        assert 2 == feed.speed
        for body in (b"", b"[]", b'{"speed": 0}', b'{"x": 1}', b" " * 5000):
            assert 400 == fetch(address + "api/wind", body)[0]
    assert feed.paused


def test_another_page_of_the_browser_winds_nothing(recording: Path) -> None:
    """It can send here, as any page can; only this page is listened to."""
    feed = PlayedFeed(recording)
    with serving(feed) as address:
        paused = b'{"paused": true}'
        for origin in ("http://evil.example", "null", address.replace("http", "https")):
            status, _, body = fetch(address + "api/wind", paused, Origin=origin)
            assert 403 == status
            assert "this page alone" in json.loads(body)["error"]["message"]
        assert not feed.paused
        status, *_ = fetch(address + "api/wind", paused, Origin=address.rstrip("/"))
        assert 200 == status
    assert feed.paused


def test_only_names_of_this_host_are_let_in(address: str) -> None:
    """A name from elsewhere that points here is not one of them."""
    assert 400 == fetch(address, Host="evil.example")[0]
    assert 200 == fetch(address, Host="localhost")[0]
    assert 400 == fetch(address, Host="localhost.evil.example:80")[0]
    assert 200 == fetch(address, Host="[::1]:8977")[0]


def test_a_private_page_shows_nothing_without_its_key(
    feed: PlayedFeed, recording: Path
) -> None:
    """Another user of this host gets the page, empty, and no answer to anything."""
    with serving(feed, "secret", recording, key="key") as address:
        for path in ("", "page.js", "draw.js", "page.css"):
            assert 200 == fetch(address + path)[0]
        asked = "view", "events", "ranges", "explain?pid=1&start=0&end=1", "view?key=x"
        for path in (f"api/{name}" for name in asked):
            for headers in ({}, {"x-isotherm-key": "kex"}, {"x-isotherm-key": ""}):
                status, _, body = fetch(address + path, **headers)
                assert 403 == status
                assert {"error"} == set(json.loads(body))
        assert 403 == fetch(address + "api/whatif", b"", authorization="Bearer key")[0]
        assert 403 == fetch(address + "api/wind", b'{"paused": false}')[0]
        assert 404 == fetch(address + "no", **{"x-isotherm-key": "key"})[0]
        found = fetch(address + "api/view", **{"x-isotherm-key": "key"})
        assert 200 == found[0]
        events = f"{address}api/events?key=key"
        with urllib.request.urlopen(events, timeout=60) as stream:  # noqa: S310  # ours
            assert b"retry: 1000\n" == stream.readline()
    assert feed.paused


def test_pages_may_load_nothing_from_elsewhere(address: str) -> None:
    """Neither script nor style nor picture, and nobody may frame them."""
    for path in ("", "page.js", "draw.js", "page.css", "api/view"):
        status, headers, _ = fetch(address + path)
        assert 200 == status
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
    status, headers, body = fetch(address + "etc/passwd")
    assert 404 == status
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "GET /etc/passwd: Not Found" == json.loads(body)["error"]["message"]
    status, _, body = fetch(address + "api/view", b"{}")
    assert 405 == status
    assert "POST /api/view" in json.loads(body)["error"]["message"]
    _, _, body = fetch(address + "api/explain")
    assert (
        "start: expected a number, got nothing" == json.loads(body)["error"]["message"]
    )
    assert 404 == fetch(address + "../cli/main.py")[0]
