"""Tenants in the simulator: parts of a mixed workload, and what each one meets.

Beside what a tenant met stands what it would have met alone, on a machine with as
much fast memory as it is guaranteed, under the same policy: its performance within
its guarantee.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import PAGE_BYTES
from isotherm.lab.future import stream_spaces
from isotherm.loop.epoch import Step
from isotherm.machine.sim.machine import SimMachine
from isotherm.migration.ranks import rank_column
from isotherm.policy.plan import Policy
from isotherm.policy.tenant_file import TenantFile, read_tenants
from isotherm.policy.tenant_ledger import TenantLedger
from isotherm.policy.tenant_market import TenantMarket
from isotherm.policy.tenants import Labeller, Tenancy
from isotherm.trace.stream import AccessChunk, AccessStream, Pace, Workload

Floats = NDArray[np.float64]


def open_tenants(path: str, workload: Workload) -> TenantFile:
    """Return a file of tenants whose parts a workload has.

    Raises:
        ConfigError: The file is wrong.
        UsageError: The workload is one, or has no such part.
    """
    file = read_tenants(Path(path))
    spaces = stream_spaces(workload)
    if not spaces:
        raise UsageError(
            f"{path}: workload {workload.name} does not say which pages are whose",
            hint="tenants are the parts of a mixture: docs/reference/workloads.md",
        )
    parts = {space.owner for space in spaces}
    known = sorted(parts | {part.partition(".")[0] for part in parts})
    for place, member in enumerate(file.members):
        where = f"{path}: tenant[{place}].workload"
        if not member.workload:
            raise UsageError(
                f"{where}: missing: whose accesses are tenant"
                f" {file.tenancy.tenants[place].name!r}'s",
                hint=f"parts of {workload.name}: {', '.join(known)}",
            )
        for part in member.workload:
            if part not in known:
                raise UsageError(
                    f"{where}: {workload.name} has no part {part!r}"
                    f"{did_you_mean(part, known)}",
                    hint="its parts: " + ", ".join(known),
                )
    return file


@dataclass(frozen=True, slots=True)
class TenantPart:
    """The accesses of one tenant of a workload, alone, when they were made.

    Attributes:
        whole: The workload.
        ranges: Its pages of the workload, [start, end), ascending.
        rows: Its streams, by number.
        pace: How the whole's accesses become time.
    """

    whole: Workload
    ranges: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    pace: Pace

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    @property
    def pages(self) -> int:
        """Its footprint."""
        return sum(end - start for start, end in self.ranges)

    @property
    def streams(self) -> tuple[AccessStream, ...]:
        """Those of its own."""
        streams: tuple[AccessStream, ...] = getattr(self.whole, "streams", ())
        return tuple(streams[row] for row in self.rows)

    @property
    def stream_starts(self) -> tuple[int, ...]:
        """First page of each."""
        ends = np.cumsum([end - start for start, end in self.ranges]).tolist()
        return (0, *ends[:-1])

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield its accesses of one epoch of the whole after the other."""
        number = np.full(256, 255, np.uint8)
        number[list(self.rows)] = np.arange(len(self.rows))
        shift = np.zeros(256, np.int64)
        for row, (start, _), mine in zip(
            self.rows, self.ranges, self.stream_starts, strict=True
        ):
            shift[row] = mine - start
        for chunk in self.whole.epochs(replace(self.pace, epoch_ns=pace.epoch_ns)):
            if chunk.stream is None:
                raise UsageError(f"workload {self.name}: its accesses name no stream")
            at = np.flatnonzero(number[chunk.stream] != 255)
            stream = chunk.stream[at]
            yield AccessChunk(
                (chunk.page[at] + shift[stream]).astype(np.uint32),
                None if chunk.write is None else chunk.write[at],
                None if chunk.initiator is None else chunk.initiator[at],
                None if chunk.time_ns is None else chunk.time_ns[at],
                number[stream],
                born=None if chunk.born is None else self._born(chunk.born),
            )

    def _born(self, page: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return its own of the pages that are new, by its own numbers."""
        parts = [
            page[(page >= start) & (page < end)].astype(np.int64) + mine - start
            for (start, end), mine in zip(self.ranges, self.stream_starts, strict=True)
        ]
        return np.concatenate(parts).astype(np.uint32)


class TenantRun:
    """What the tenants of one simulation meet and cause.

    Args:
        file: Who they are.
        workload: The mixture.
        machine: The machine.

    Raises:
        UsageError: The guarantees are more than the machine's fastest tier.
    """

    def __init__(
        self, file: TenantFile, workload: Workload, machine: SimMachine
    ) -> None:
        self.file, self._workload, self._machine = file, workload, machine
        self.tenancy: Tenancy = file.tenancy
        fast = np.flatnonzero(machine.tier_rank == 0)
        self._fast_pages = int(machine.capacity[fast].sum())
        self.tenancy.check_capacity(self._fast_pages * PAGE_BYTES, file.name)
        spaces = stream_spaces(workload)
        label = {space.owner: file.label(space.owner) for space in spaces}
        count = len(self.tenancy.all)
        self.labeller = Labeller(
            lambda space: label[space.owner], count - 1, spaces=spaces
        )
        self._spaces = spaces
        self.rows = [label[space.owner] for space in spaces]
        self.ledger = TenantLedger(count, rank_column(machine.topology, 256))
        self._held = np.zeros(count)  # fast pages, by epoch
        self._accesses: Floats = np.zeros(count)

    def follow(self, step: Step, policy: Policy) -> None:
        """Charge what an epoch took."""
        label = self.labeller.of((), self._machine.pages)
        self.ledger.moved(step.outcome, label, self.market(policy))
        made = self._machine.load.tally.accesses.astype(np.float64)
        now = np.bincount(self.rows, made, len(self._held)).astype(np.float64)
        self.ledger.looked(step.hints, label, now - self._accesses)
        self._accesses = now
        fast = self._machine.tier_rank[self._machine.placement()] == 0
        self._held += np.bincount(label[fast], minlength=len(self._held))

    def market(self, policy: Policy) -> TenantMarket | None:
        """Return the market of a policy that knows tenants."""
        market = getattr(policy, "tenants", None)
        return market if isinstance(market, TenantMarket) else None

    def slots(self, tenant: int) -> int:
        """Return the fast pages that a tenant is guaranteed, of its own at most."""
        own = self.pages(tenant)
        amount = self.tenancy.all[tenant].guarantee
        return min(own, amount.pages(self._fast_pages, own, PAGE_BYTES))

    def pages(self, tenant: int) -> int:
        """Return a tenant's footprint."""
        spaces = zip(self._spaces, self.rows, strict=True)
        return sum(space.pages for space, label in spaces if label == tenant)

    def part(self, tenant: int, pace: Pace) -> TenantPart:
        """Return the accesses of one tenant alone."""
        rows = tuple(i for i, label in enumerate(self.rows) if label == tenant)
        ranges = tuple(
            (self._spaces[i].base, self._spaces[i].base + self._spaces[i].pages)
            for i in rows
        )
        return TenantPart(self._workload, ranges, rows, pace)

    def report(
        self, policy: Policy, epochs: int, solo: dict[int, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return what every tenant has met and caused, as JSON values.

        Args:
            policy: Who has decided.
            epochs: How many were played.
            solo: Results of runs of single tenants.
        """
        tally = self._machine.load.tally
        market = self.market(policy)
        states = {s.name: s for s in market.states} if market is not None else {}
        out = []
        for place, (tenant, bill) in enumerate(
            zip(self.tenancy.all, self.ledger.bills(), strict=True)
        ):
            at = [i for i, label in enumerate(self.rows) if label == place]
            if not at:
                continue
            fast_ns, stall_ns = tally.all_fast_ns[at].sum(), tally.access_ns[at].sum()
            accesses = int(tally.accesses[at].sum())
            cost_ns = float(stall_ns) + bill.migration_ns + bill.looking_ns
            slowdown = cost_ns / float(fast_ns) if fast_ns else None
            alone = solo.get(place)
            state = states.get(tenant.name)
            out.append(
                {
                    "name": tenant.name,
                    "profile": tenant.profile,
                    "pages": self.pages(place),
                    "guarantee_pages": self.slots(place),
                    "mean_fast_pages": self._held[place] / max(1, epochs),
                    "accesses": accesses,
                    "fast_share": int(tally.fast_accesses[at].sum()) / max(1, accesses),
                    "stall_ns": float(stall_ns),
                    "all_fast_ns": float(fast_ns),
                    "slowdown": slowdown,
                    "solo_slowdown": None if alone is None else alone["slowdown"],
                    "solo_fast_share": None if alone is None else alone["fast_share"],
                    "kept": None
                    if alone is None or not slowdown
                    else alone["slowdown"] / slowdown,
                    "promoted_pages": bill.promoted_pages,
                    "demoted_pages": bill.demoted_pages,
                    "paid_moves": bill.paid_moves,
                    "migration_ns": bill.migration_ns,
                    "looking_ns": bill.looking_ns,
                    "price_ns": None if state is None else state.price_ns,
                    "pool": None if state is None else state.pool,
                }
            )
        return out
