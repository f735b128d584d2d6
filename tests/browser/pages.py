"""A page of ``isotherm serve`` on a feed of a test's own, in a real browser."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn

from isotherm.dashboard.feed import Feed
from isotherm.dashboard.web import make_app
from isotherm.observability.view import (
    HEAT_ROWS,
    FlowView,
    HeatView,
    Moment,
    MoveView,
    OwnerView,
    RangeView,
    TenantView,
    TierView,
    View,
    choose_ranges,
    rows_of,
)

OWNERS = 40
COLUMNS = 24
RANGE_BYTES = 2 << 20


class Many:
    """A run with so many ranges, hot ones elsewhere at every look.

    Attributes:
        looks: How often a view was asked for.
    """

    live = True

    def __init__(self, nr_ranges: int) -> None:
        self._nr = nr_ranges
        self.looks = 0

    def view(
        self,
        most_ranges: int = 64,
        *,
        heat: bool = False,
        order: Any = "heat",
        first: int = 0,
    ) -> View:
        """Return the next moment."""
        self.looks += 1
        rng = np.random.default_rng(self.looks)
        rate = rng.exponential(10.0, self._nr)
        share = rng.random(self._nr)
        size = rng.integers(1, 64, self._nr) * RANGE_BYTES
        start = (1 << 40) + 64 * RANGE_BYTES * np.arange(self._nr)
        chosen = choose_ranges(order, rate, size)[first : first + most_ranges]
        tiers = tuple(
            TierView(
                name=name,
                nodes=(node,),
                latency_ns=latency,
                capacity_bytes=1 << 36,
                used_bytes=(3 + node) << 33,
                managed_bytes=(2 + node) << 33,
            )
            for node, (name, latency) in enumerate((("DRAM", 80.0), ("CXL", 250.0)))
        )
        return View(
            live=True,
            title="many ranges",
            policy="isotherm",
            dry_run=False,
            time_s=float(self.looks),
            end_s=None,
            epochs=self.looks,
            epoch_s=1.0,
            fast_share=0.5 + 0.4 * float(np.sin(self.looks / 5)),
            prices_ns=(1000.0 * self.looks,),
            brake_share=1.0,
            cpu_share=0.01,
            cpu_budget=0.02,
            promised_ns=2e9,
            realised_ns=1e9,
            promoted_pages=100 * self.looks,
            demoted_pages=90 * self.looks,
            failed_pages=0,
            hints={"accessed-bit": 1000 * self.looks},
            tiers=tiers,
            owners=tuple(
                OwnerView(
                    pid=1000 + at,
                    name=f"pid {1000 + at}",
                    tier_bytes=(1 << 30, 1 << 31),
                    rate=100.0,
                )
                for at in range(OWNERS)
            ),
            ranges=tuple(
                RangeView(
                    owner=int(at) % OWNERS,
                    start=int(start[at]),
                    end=int(start[at] + size[at]),
                    rate=float(rate[at]),
                    fast_share=float(share[at]),
                    nr_pages=int(size[at]) // 4096,
                )
                for at in chosen
            ),
            nr_ranges=self._nr,
            moves=tuple(
                MoveView(
                    time_s=float(self.looks),
                    owner=at % OWNERS,
                    start=int(start[at]),
                    nr_pages=512,
                    src=1 - at % 2,
                    dst=at % 2,
                    reason="pays",
                    gain_ns=1e6,
                    errno=0,
                )
                for at in range(64)
            ),
            flows=(
                FlowView(src=0, dst=1, pages=90 * self.looks, recent_pages=90),
                FlowView(src=1, dst=0, pages=100 * self.looks, recent_pages=100),
            ),
            moments=tuple(
                Moment(
                    time_s=float(at),
                    fast_share=0.5 + 0.4 * float(np.sin(at / 5)),
                    promoted_pages=100 * at,
                    demoted_pages=90 * at,
                    brake_share=1.0,
                    price_ns=1000.0 * at,
                )
                for at in range(1, self.looks + 1)
            )[-400:],
            tenants=tuple(
                TenantView(
                    name=f"shop/{name}",
                    profile=profile,
                    bytes=1 << 34,
                    fast_bytes=1 << 32,
                    guarantee_bytes=1 << 32,
                    lent_bytes=0,
                    borrowed_bytes=0,
                    fast_share=0.9,
                    slowdown=1.2,
                    price_ns=1000.0,
                    pool="owed",
                    charged_bytes=self.looks << 20,
                )
                for name, profile in (("db", "latency-critical"), ("job", "batch"))
            ),
            heat=self._heat(rng) if heat else None,
        )

    def _heat(self, rng: np.random.Generator) -> HeatView:
        edge = np.linspace(1 << 40, 1 << 41, HEAT_ROWS + 1).astype(int)
        return HeatView(
            owner=tuple(at % OWNERS for at in range(HEAT_ROWS)),
            start=tuple(edge[:-1].tolist()),
            end=tuple(edge[1:].tolist()),
            time_s=tuple(float(at) for at in range(1, COLUMNS + 1)),
            rate=rows_of(rng.exponential(10.0, (HEAT_ROWS, COLUMNS))),
            fast_share=rows_of(rng.random((HEAT_ROWS, COLUMNS))),
        )


@contextmanager
def serving(feed: Feed, interval_s: float = 0.2) -> Iterator[str]:
    """Give the address of a page while it is served."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        app = make_app(feed, interval_s=interval_s)
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


def visit(browser: Any, address: str, width: int = 1280, **options: Any) -> Any:
    """Open the page, wait for its first view; gather what it complains of."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("html[data-state=live][data-drawn]", timeout=60_000)
    return SimpleNamespace(page=page, said=said)


def drawn(page: Any) -> int:
    """Return how many views the page has drawn."""
    return int(page.evaluate("document.documentElement.dataset.drawn"))


def await_drawn(page: Any, more: int) -> None:
    """Wait until so many more views are drawn."""
    page.wait_for_function(
        "least => Number(document.documentElement.dataset.drawn) >= least",
        arg=drawn(page) + more,
        timeout=60_000,
    )
