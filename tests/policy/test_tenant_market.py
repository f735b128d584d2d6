"""The market of tenants: guarantees, maxima, cpusets, who pays."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.machine.protocol import Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.cells import CELLS
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Moves, Reason, Setup
from isotherm.policy.switching import Transitions
from isotherm.policy.tenant_census import census, census_twin
from isotherm.policy.tenant_market import TenantMarket, make_market
from isotherm.policy.tenants import Amount, Tenancy, Tenant
from isotherm.topology.model import MemoryKind

PAGES = 1600
COLD, HOT = 1, 2
RATE = np.zeros(CELLS)
RATE[COLD], RATE[HOT] = 5.0, 60.0


@dataclass
class View:
    """As much of a tracker's view as a market asks for."""

    fresh_blocks: tuple[int, int] = (0, PAGES // 8)


@dataclass
class Host:
    """Pages of two cells and two tenants, halves of the memory; moves are made."""

    tenancy: Tenancy
    capacity: tuple[int, ...] = (400, 4000)
    machine: str = "dram-cxl"
    cell: np.ndarray = field(default_factory=lambda: np.full(PAGES, COLD, np.uint16))
    node: np.ndarray = field(default_factory=lambda: np.ones(PAGES, np.uint8))
    limit: int = 1 << 31
    index: int = 0

    def __post_init__(self) -> None:
        """Make the market."""
        self.topology = load_machine(self.machine).topology(list(self.capacity))
        self.tiers = len(self.topology.tiers)
        self.tier = np.full(256, self.tiers, np.uint8)
        for rank, tier in enumerate(self.topology.tiers):
            self.tier[list(tier.nodes)] = rank
        self.market = TenantMarket(self.topology, self.tier, 0.5, self.tenancy)
        self.label = np.repeat([0, 1], PAGES // 2).astype(np.uint8)
        self.transitions = Transitions()

    def step(self) -> Moves:
        """Decide once, carry the plan out, return it."""
        nodes = len(self.capacity)
        used = np.bincount(self.node, minlength=nodes)[:nodes]
        zero = np.zeros(nodes, np.int64)
        capacity = np.array(self.capacity)
        latency = np.array([[80.0, 250.0, 400.0][:nodes]])
        cost = np.full((nodes, nodes), 2500.0)
        epoch = Epoch(
            self.index,
            0,
            500_000_000,
            self.topology,
            Usage(capacity, used, zero, zero, zero, zero),
            self.node,
            latency,
            cost,
            hotness=View(),
            tenant=self.label,
        )
        population = np.zeros((CELLS, self.tiers), np.int64)
        np.add.at(population, (self.cell, self.tier[self.node]), 1)
        tier_ns = latency[0, [tier.nodes[0] for tier in self.topology.tiers]]
        moves, self.notes = self.market.trade(
            epoch, self.cell, RATE, population, self.transitions, tier_ns, 1.0,
            self.limit,
        )  # fmt: skip
        assert len(moves) == len(np.unique(moves.page))
        self.node[moves.page] = moves.node
        held = np.bincount(self.node, minlength=nodes)[:nodes]
        assert (held <= np.maximum(capacity, used)).all()
        self.index += 1
        return moves

    def settle(self, epochs: int = 12) -> None:
        """Decide until nothing more happens, or so often."""
        for _ in range(epochs):
            self.step()

    def fast(self, tenant: int) -> int:
        """Return a tenant's pages in the fast tier."""
        return int(np.count_nonzero((self.node == 0) & (self.label == tenant)))


def two(**terms) -> Tenancy:
    """Return two tenants: ``a`` with some terms, ``b`` without."""
    return Tenancy((Tenant("a", **terms), Tenant("b")))


def hot(host: Host, *ranges: tuple[int, int]) -> None:
    """Make some pages hot, all others cold."""
    host.cell[:] = COLD
    for start, end in ranges:
        host.cell[start:end] = HOT


def test_heat_decides_where_nothing_is_guaranteed() -> None:
    """The hot pages fill the tier, whoever has them."""
    host = Host(two())
    hot(host, (0, 100), (800, 1100))
    host.settle()
    assert (100, 300) == (host.fast(0), host.fast(1))
    assert ("common", "common") == tuple(s.pool for s in host.market.states[:2])


def test_a_guarantee_is_kept_against_heat() -> None:
    """A tenant of cold pages gets its guarantee beside one that would take all."""
    host = Host(two(guarantee=Amount(share=0.5), lend=0.0))
    hot(host, (800, 1600))
    host.settle()
    assert 200 == host.fast(0)
    state = host.market.states[0]
    assert ("owed", 200, 200) == (state.pool, state.owed_pages, state.guarantee_pages)
    assert state.price_ns < host.market.states[1].price_ns


@pytest.mark.parametrize(
    "claim",
    [
        {"guarantee": Amount(everything=True)},
        {"keep_out": frozenset({MemoryKind.CXL})},
    ],
    ids=["all of a footprint", "kept out of what is below"],
)
def test_a_claim_without_bound_takes_nothing_of_a_guarantee(claim) -> None:
    """Who asks for more than the tier has gets what is promised to nobody else."""
    promised = Tenant("a", guarantee=Amount(share=0.5), lend=0.0)
    host = Host(Tenancy((promised, Tenant("b", lend=0.0, **claim))))
    hot(host, (800, 1600))
    host.settle()
    assert (200, 200) == (host.fast(0), host.fast(1))
    assert 200 == host.market.states[0].owed_pages


def test_an_unused_guarantee_is_lent_and_comes_back() -> None:
    """Who needs none of its guarantee lends it; when it heats up it is there again."""
    host = Host(two(guarantee=Amount(share=0.5), lend=0.03))
    host.cell[:800] = 0  # nobody accesses it
    host.cell[800:] = HOT
    host.settle()
    assert 400 == host.fast(1)
    state = host.market.states[0]
    assert (200, 200) == (state.lent_pages, state.guarantee_pages)
    assert 400 == host.market.states[1].borrowed_pages
    host.cell[:200] = HOT
    moves = host.step()
    host.settle()
    assert 190 <= host.market.states[0].owed_pages <= host.fast(0) <= 200
    assert 400 == host.fast(0) + host.fast(1)
    up = moves.page[moves.node == 0]
    assert set(up.tolist()) <= set(range(200))
    payers = host.market.payers(moves.page, host.label)
    assert {1} == set(payers[moves.node != 0].tolist())  # who borrowed pays
    assert {0} == set(payers[moves.node == 0].tolist())


def test_a_maximum_holds() -> None:
    """A tenant beyond its maximum leaves, and does not come back."""
    host = Host(two(maximum=Amount(share=0.25)))
    host.node[:400] = 0
    hot(host, (0, 800))
    host.settle()
    assert 100 == host.fast(0)
    assert "capped" == host.market.states[0].pool


def test_a_tenant_is_kept_out_of_cxl() -> None:
    """All of its pages leave the CXL tier, cold ones as well, while there is room."""
    tenancy = two(keep_out=frozenset({MemoryKind.CXL}))
    host = Host(tenancy, capacity=(200, 900, 4000), machine="hbm-dram-cxl")
    host.node[:] = 2
    hot(host, (800, 1600))
    moves = host.step()
    up = moves.take(np.flatnonzero(moves.page < 800))
    assert {int(Reason.PROMISED)} <= set(up.reason.tolist())
    host.settle()
    assert 0 == np.count_nonzero((host.node == 2) & (host.label == 0))


def test_a_cpuset_bars_nodes() -> None:
    """Pages whose cpuset lacks the fast node are never planned there."""
    host = Host(two(nodes=frozenset({1})))
    hot(host, (0, 800))
    host.settle()
    assert 0 == host.fast(0)


def test_no_tier_left_is_refused() -> None:
    """A tenant that may be nowhere is a mistake of the file."""
    with pytest.raises(UsageError, match="no tier is left"):
        Host(two(keep_out=frozenset({MemoryKind.CXL, MemoryKind.DRAM})))


def test_fixed_parts_are_not_lent() -> None:
    """A partition is the guarantee and the rest by weight, whatever the heat."""
    tenancy = replace(two(guarantee=Amount(share=0.5)), sharing="partition")
    host = Host(tenancy)
    host.node[:400] = 0
    hot(host, (0, 800), (800, 1600))
    host.settle()
    assert (300, 100) == (host.fast(0), host.fast(1))


def test_moves_stay_within_the_limit() -> None:
    """No more moves are planned than may be made."""
    host = Host(two(guarantee=Amount(share=0.5)), limit=37)
    hot(host, (0, 800))
    for _ in range(5):
        assert len(host.step()) <= 37


def test_the_market_is_the_plain_one_without_tenants() -> None:
    """Without a tenancy, or with sharing none, nobody sees a difference."""
    topology = load_machine("dram-cxl").topology([10, 20])
    tier = np.zeros(256, np.uint8)
    setup = Setup(30, topology, np.array([10, 20]), 1, 1, frozenset())
    assert isinstance(make_market(setup, topology, tier, 0.5), Market)
    none = replace(setup, tenancy=replace(two(), sharing="none"))
    assert isinstance(make_market(none, topology, tier, 0.5), Market)
    shared = make_market(replace(setup, tenancy=two()), topology, tier, 0.5)
    assert isinstance(shared, TenantMarket)


def test_epochs_of_another_length() -> None:
    """Twice as long an epoch, twice the price of a slot."""
    host = Host(two(guarantee=Amount(share=0.5)))
    hot(host, (0, 100), (800, 1600))
    host.settle()
    before = host.market.price_ns
    host.market.repace(1.0)
    assert [2 * price for price in before] == pytest.approx(host.market.price_ns)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_the_census_equals_its_twin(seed: int) -> None:
    """The compiled count is the plain one."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 300))
    label = rng.integers(0, 3, n).astype(np.uint8)
    cell = rng.integers(0, CELLS, n).astype(np.uint16)
    node = rng.integers(0, 4, n).astype(np.uint8)
    tier = np.array([0, 1, 1, 2] + [2] * 252, np.uint8)
    out = [np.zeros((3, CELLS, 3), np.int32) for _ in range(2)]
    census(label, cell, node, tier, out[0])
    census_twin(label, cell, node, tier, out[1])
    assert np.array_equal(*out)
    assert n == out[0].sum()
