"""What a running daemon says of itself in figures: one snapshot every epoch."""

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from isotherm import __version__
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.page_cache import read_unmapped_bytes
from isotherm.daemon.tenant_metrics import tenant_families
from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    RangeCounts,
    RegionCounts,
    Samples,
)
from isotherm.loop.epoch import Step
from isotherm.observability.metrics import Family, one
from isotherm.policy.plan import Outcome

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

#: Counters of /proc/vmstat beside ours (mm/vmstat.c), and whose moves are in them:
#: migrate_pages() counts every migration, move_pages(2)'s with it; promotion and
#: demotion are counted only where the kernel itself decides (mm/migrate.c,
#: mm/vmscan.c).
KERNEL: Final = {
    "pgmigrate_success": "everybody",
    "pgmigrate_fail": "everybody",
    "thp_migration_success": "everybody",
    "pgpromote_success": "kernel",
    "pgpromote_candidate": "kernel",
    "pgdemote_kswapd": "kernel",
    "pgdemote_direct": "kernel",
    "pgdemote_khugepaged": "kernel",
    "numa_hint_faults": "kernel",
    "numa_pages_migrated": "kernel",
    "workingset_refault_anon": "kernel",
    "workingset_refault_file": "kernel",
}


class Meter:
    """Keeps figures of a service; an observer, and what a scrape reads.

    Args:
        root: Where ``proc`` is.
        pods: Returns how many pods there are, by what is made of them; None: pods
            are not followed.

    A snapshot is made in the thread of the loop and read in another: it is never
    changed once made.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        pods: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self._root, self._vmstat = root, root / "proc/vmstat"
        self._pods = pods
        self._crossed: dict[tuple[str, ...], float] = {}
        self._ours: dict[str, int] = {}
        self._seen: dict[str, list[float]] = {}
        self._snapshot: tuple[Family, ...] = ()

    def __call__(self, service: "Service", step: Step) -> None:
        """Take in one epoch, before the service has counted it."""
        for batch in step.hints:
            counts = self._seen.setdefault(batch.source, [0.0, 0.0, 0.0, 0.0])
            counts[0] += observations(batch)
            counts[1] += batch.lost
            counts[2] += batch.application_ns / NS_PER_S
            counts[3] += batch.background_ns / NS_PER_S
        self._cross(service, step.outcome)
        tally = service.tally
        self._ours = {
            "promotion": tally.promoted_pages,
            "demotion": tally.demoted_pages,
        }
        self._snapshot = (
            *_about(service),
            *_tiers(service),
            *_moves(service),
            self._crossings(),
            *_decision(service, step),
            *_brake(service),
            *self._hints(),
            *_own_cost(service),
            *self._shared(service),
        )

    def _cross(self, service: "Service", outcome: Outcome) -> None:
        """Count pages that went from a tier to another."""
        if outcome.src is None or not len(outcome.page):
            return
        went = outcome.errno == 0
        pair = 256 * service.rank[outcome.src[went]] + service.rank[outcome.node[went]]
        for both, pages in zip(*np.unique(pair, return_counts=True), strict=True):
            key = (str(int(both) >> 8), str(int(both) & 255))
            before = self._crossed.get(key, 0.0)
            self._crossed[key] = before + float(pages) * service.unit_pages

    def _crossings(self) -> Family:
        return Family(
            "tier_moved_pages",
            "counter",
            "Pages that isotherm moved, by the tiers that they came from and went to.",
            ("src", "dst"),
            dict(self._crossed),
        )

    def _shared(self, service: "Service") -> Iterator[Family]:
        if service.tenants is not None:
            yield from tenant_families(service.tenants.report(nodes=False))
        if self._pods is not None:
            yield Family(
                "pods",
                "gauge",
                "Pods of this node by what is made of them: terms, rest, left-alone,"
                " unknown.",
                ("state",),
                {(state,): float(count) for state, count in self._pods().items()},
            )

    def figures(self) -> tuple[Family, ...]:
        """Return the last snapshot, and the kernel's figures as they are now."""
        kernel = (
            *kernel_counters(self._vmstat),
            *movers(self._vmstat, self._ours),
            *unmapped_cache(self._root),
        )
        return (*self._snapshot, *kernel)

    def _hints(self) -> Iterator[Family]:
        names = (
            ("hint_observations", "Looks, samples, faults or ranges reported."),
            ("hint_losses", "Observations that the mechanism dropped."),
            ("hint_application_seconds", "Time that looking took from applications."),
            ("hint_background_seconds", "Time that looking took on other CPUs."),
        )
        for at, (name, text) in enumerate(names):
            rows: dict[tuple[str, ...], float] = {
                (source,): counts[at] for source, counts in self._seen.items()
            }
            yield Family(name, "counter", text, ("source",), rows)


def observations(batch: HintBatch) -> int:
    """Return how many observations a batch holds."""
    seen = batch.seen
    if isinstance(seen, Samples):
        return len(seen.page)
    if isinstance(seen, AccessedBits):
        return 8 * len(seen.block)
    if isinstance(seen, FaultDelays):
        return len(seen.page)
    if isinstance(seen, RegionCounts | RangeCounts):
        return len(seen.start)
    raise TypeError(type(seen).__name__)


def kernel_counters(vmstat: Path) -> Iterator[Family]:
    """Give what the kernel counted since boot; nothing where it cannot be read."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return
    rows: dict[tuple[str, ...], float] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if name in KERNEL:
            rows[name, KERNEL[name]] = float(value)
    yield Family(
        "kernel_events",
        "counter",
        "Counters of /proc/vmstat since boot; moves=everybody: isotherm's are in it,"
        " moves=kernel: they are not.",
        ("counter", "moves"),
        rows,
    )


def unmapped_cache(root: Path) -> Iterator[Family]:
    """Give the page cache that nobody maps; nothing where nobody says."""
    size = read_unmapped_bytes(root)
    if size is not None:
        yield one(
            "unmapped_cache_bytes",
            "gauge",
            "Page cache of the host that no process maps: isotherm leaves it alone.",
            size,
        )


def movers(vmstat: Path, ours: Mapping[str, int]) -> Iterator[Family]:
    """Give pages moved by mover; no page stands in two rows.

    The kernel's are those that it promoted and demoted itself: counters in which
    isotherm's moves are as well are left out.

    Args:
        vmstat: ``/proc/vmstat``.
        ours: Pages that isotherm moved, by direction; empty: it moves none.
    """
    rows: dict[tuple[str, ...], float] = {
        ("isotherm", direction): float(pages) for direction, pages in ours.items()
    }
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "pgpromote_success" or name.startswith("pgdemote_"):
            way = "promotion" if name == "pgpromote_success" else "demotion"
            key = ("kernel", way)
            rows[key] = rows.get(key, 0.0) + float(value)
    if rows:
        yield Family(
            "mover_pages",
            "counter",
            "Pages moved between tiers by mover: isotherm's since its start, the"
            " kernel's own since boot; no page is in both.",
            ("mover", "direction"),
            rows,
        )


def _about(service: "Service") -> Iterator[Family]:
    labels = ("version", "policy", "dry_run")
    values = (
        __version__,
        service.config.loop.policy,
        "true" if service.dry_run else "false",
    )
    yield Family("build_info", "gauge", "What runs; always 1.", labels, {values: 1.0})
    yield one("epochs", "counter", "Decisions made.", service.epochs + 1)
    yield one(
        "epoch_seconds",
        "gauge",
        "Seconds between decisions now.",
        service.pacer.epoch_s,
    )
    yield one(
        "unit_bytes",
        "gauge",
        "Memory that is followed as one.",
        service.unit_pages * PAGE_BYTES,
    )


def _tiers(service: "Service") -> Iterator[Family]:
    machine = service.machine
    node, usage = machine.placement(), machine.usage()
    unit_bytes = service.unit_pages * PAGE_BYTES
    names = ("node_capacity_bytes", "node_used_bytes", "node_managed_bytes")
    columns: list[dict[tuple[str, ...], float]] = [{}, {}, {}]
    for tier, described in enumerate(machine.topology.tiers):
        for nid in described.nodes:
            key = (str(tier), str(nid))
            managed = int(np.count_nonzero(node == nid))
            values = (usage.capacity_pages[nid], usage.used_pages[nid], managed)
            for column, pages in zip(columns, values, strict=True):
                column[key] = float(pages) * unit_bytes
    texts = (
        "Capacity of a node of a tier; tier 0 is the fastest.",
        "Memory in use on a node, by anybody.",
        "Memory of what is managed on a node.",
    )
    for name, text, column in zip(names, texts, columns, strict=True):
        yield Family(name, "gauge", text, ("tier", "node"), column)
    shares: dict[tuple[str, ...], float] = {
        (str(tier),): float(share) for tier, share in enumerate(service.tier_shares)
    }
    yield Family(
        "tier_access_share_ratio",
        "gauge",
        "Share of accesses served by a tier, estimated.",
        ("tier",),
        shares,
    )
    if service.fast_share is not None:
        yield one(
            "fast_share_ratio",
            "gauge",
            "Share of accesses served by the fastest tier, estimated.",
            service.fast_share,
        )


def _moves(service: "Service") -> Iterator[Family]:
    tally = service.tally
    yield Family(
        "moved_pages",
        "counter",
        "Pages that isotherm moved.",
        ("direction",),
        {("promotion",): tally.promoted_pages, ("demotion",): tally.demoted_pages},
    )
    up, down = service.wished_pages
    yield Family(
        "wished_pages",
        "counter",
        "Pages that were to be moved, in a dry run too.",
        ("direction",),
        {("promotion",): up, ("demotion",): down},
    )
    yield one(
        "ping_pong_pages", "counter", "Pages moved back soon.", tally.ping_pong_pages
    )
    yield one(
        "held_back_pages",
        "counter",
        "Moves held back, to measure the rest by.",
        tally.held_back_pages,
    )
    yield Family(
        "move_failures",
        "counter",
        "Tries of a page that failed.",
        ("errno",),
        {
            (errno.errorcode.get(code, str(code)),): float(pages)
            for code, pages in tally.errno.items()
        },
    )
    yield Family(
        "gain_seconds",
        "gauge",
        "Access time saved by moves that were followed to their end.",
        ("what",),
        {
            ("promised",): tally.promised_ns / NS_PER_S,
            ("realised",): tally.realised_ns / NS_PER_S,
        },
    )


def _decision(service: "Service", step: Step) -> Iterator[Family]:
    prices: dict[tuple[str, ...], float] = {}
    for name, value in step.plan.notes.items():
        if name.startswith("price_ns_"):
            prices[(name.removeprefix("price_ns_"),)] = float(value) / NS_PER_S
    yield Family(
        "slot_price_seconds",
        "gauge",
        "What a place above a boundary between tiers costs, access time per epoch.",
        ("boundary",),
        prices,
    )


def _brake(service: "Service") -> Iterator[Family]:
    yield one(
        "brake_share_ratio",
        "gauge",
        "Share of the migration rate that is let through; 0: nothing moves.",
        service.brake.share,
    )
    shifts: dict[tuple[str, ...], float] = {}
    for shift in service.shifts:
        key = (shift.event, shift.sign.value)
        shifts[key] = shifts.get(key, 0.0) + 1.0
    yield Family(
        "brake_shifts",
        "counter",
        "Times that the brake acted.",
        ("event", "sign"),
        shifts,
    )


def _own_cost(service: "Service") -> Iterator[Family]:
    costs = service.costs
    yield Family(
        "cost_seconds",
        "counter",
        "What the run took: cpu of the daemon and for it in the kernel; application:"
        " time that looking took from applications; migration: time of moves.",
        ("of",),
        {
            ("cpu",): costs.cpu_ns / NS_PER_S,
            ("application",): costs.application_ns / NS_PER_S,
            ("background",): costs.background_ns / NS_PER_S,
            ("migration",): costs.migration_ns / NS_PER_S,
        },
    )
    budget = service.config.budget
    yield one(
        "cpu_budget_ratio",
        "gauge",
        "CPU allowed, of one core.",
        budget.cpu_percent / 100,
    )
