"""Isotherm as a policy: what it plans from what it is shown."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.hints.batch import AccessedBits, HintBatch, Mechanism, Samples
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged, Usage
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Epoch, Outcome, Plan, Reason, Setup
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

EPOCH_NS = 500_000_000
EPOCH_S = 0.5
MOVE_NS = 2500.0
LATENCY_NS = (80.0, 250.0, 700.0)
BOTH = frozenset({Mechanism.SAMPLING, Mechanism.ACCESSED_BIT})


def topology(tiers):
    """Return a machine with these nodes in these tiers and one CPU initiator."""
    nodes = sorted(n for tier in tiers for n in tier)
    return Topology(
        tuple(Node(n, MemoryKind.DRAM, Source.CONFIGURED, None) for n in nodes),
        tuple(
            Tier(rank, None, tier, Source.CONFIGURED) for rank, tier in enumerate(tiers)
        ),
        (Initiator(0, InitiatorKind.CPU, 0, "cpu0"),),
        (),
        {},
    )


@dataclass
class World:
    """Poisson pages on a machine, seen by samples and accessed bits.

    Plans are carried out at once and in full; what a plan must never ask for is
    checked on the way.
    """

    rate: np.ndarray
    node: np.ndarray
    capacity: list[int]
    tiers: tuple[tuple[int, ...], ...] = ((0,), (1,))
    hints: frozenset[Mechanism] = BOTH
    period: int = 100
    seed: int = 1
    limit: int = 1 << 31
    blind: bool = False
    parallelism: float = 1.0  # latency is so much longer, and so many share it
    plans: list[Plan] = field(default_factory=list)
    dry: bool = False  # nothing is moved

    def __post_init__(self) -> None:
        """Make policy and tracker."""
        self.rng = np.random.default_rng(self.seed)
        self.topology = topology(self.tiers)
        self.rank = np.full(256, 255)
        for rank, tier in enumerate(self.tiers):
            self.rank[list(tier)] = rank
        self.policy = Isotherm(
            Setup(
                len(self.rate),
                self.topology,
                np.array(self.capacity, np.int64),
                EPOCH_NS,
                self.seed,
                self.hints,
                self.period,
            )
        )
        self.tracker = GammaTracker(len(self.rate), EPOCH_NS, self.hints, self.seed)

    def renew(self, pages: int, *ranges: tuple[int, int]) -> None:
        """Let the index grow, and ranges get a new owner on the slowest node."""
        change = SpacesChanged(pages, np.array(ranges, np.int64).reshape(-1, 2))
        more = pages - len(self.rate)
        self.rate = np.append(self.rate, np.full(more, 2.0))
        self.node = np.append(self.node, np.full(more, NOT_PRESENT, np.uint8))
        for start, end in ranges:
            self.node[start:end] = len(self.capacity) - 1
        self.tracker.renew(change)
        self.policy.renew(change)

    def _batches(self, looks):
        """Return what sampling and the looks asked for would see."""
        out = []
        for look in looks:
            if look.mechanism is Mechanism.SAMPLING and look.period:
                self.period = look.period
        if Mechanism.SAMPLING in self.hints:
            n = self.rng.poisson(self.rate * EPOCH_S / self.period)
            page = np.repeat(np.arange(len(n)), n).astype(np.uint32)
            out.append(Samples(page, None, None, float(self.period)))
        for look in looks:
            if look.mechanism is Mechanism.ACCESSED_BIT:
                t = look.window_s or look.stripes * EPOCH_S
                hit = self.rng.random(len(self.rate)) < -np.expm1(-self.rate * t)
                block = np.arange(look.stripe, len(self.rate) // 8, look.stripes)
                bits = np.packbits(hit, bitorder="little")[block]
                interval = np.full(len(block), t, np.float32)
                out.append(AccessedBits(block.astype(np.uint32), bits, interval))
        return tuple(HintBatch("test", 0, EPOCH_NS, seen) for seen in out)

    def _usage(self):
        here = self.node[self.node != NOT_PRESENT]
        used = np.bincount(here, minlength=len(self.capacity)).astype(np.int64)
        zero = np.zeros(len(self.capacity), np.int64)
        capacity = np.array(self.capacity, np.int64)
        return Usage(capacity, used, zero, zero, zero, zero)

    def step(self) -> Plan:
        """Let one epoch pass."""
        index = len(self.plans)
        looks = self.plans[-1].look if self.plans else ()
        batches = () if self.blind else self._batches(looks)
        now_ns = (index + 1) * EPOCH_NS
        rate = float(self.rate.mean())
        nodes = len(self.capacity)
        latency = [LATENCY_NS[min(self.rank[n], 2)] for n in range(nodes)]
        plan = self.policy.decide(
            Epoch(
                index,
                now_ns,
                EPOCH_NS,
                self.topology,
                self._usage(),
                self.node.copy(),
                np.array([latency]) * self.parallelism,
                np.full((nodes, nodes), MOVE_NS),
                self.tracker.update(batches, now_ns, rate),
                batches,
                rate,
                self.parallelism,
                outcome=self._outcome(),
                move_limit_pages=self.limit,
            )
        )
        self._check(plan)
        if not self.dry:
            self.node[plan.moves.page] = plan.moves.node
        self.plans.append(plan)
        return plan

    def _outcome(self) -> Outcome:
        """Return what became of the plan before: all of it, or nothing."""
        if self.dry or not self.plans:
            return Outcome.none()
        m = self.plans[-1].moves
        return Outcome(m.page, m.node, np.zeros(len(m), np.int16), len(m) * MOVE_NS)

    def _check(self, plan: Plan) -> None:
        """No page twice, each to another tier, within the limit and the room."""
        page = plan.moves.page
        assert len(page) == len(set(page.tolist()))
        assert len(page) <= self.limit
        assert (self.node[page] != NOT_PRESENT).all()
        before, after = self.rank[self.node[page]], self.rank[plan.moves.node]
        assert (after != before).all()
        assert np.isfinite(plan.moves.gain_ns).all()
        up = after < before
        assert {int(Reason.PAYS)} >= set(plan.moves.reason[up].tolist())
        room = {int(Reason.MAKES_ROOM), int(Reason.WATERMARK)}  # the latter: births
        assert room >= set(plan.moves.reason[~up].tolist())
        then = self.node.copy()
        then[page] = plan.moves.node
        for rank, tier in enumerate(self.tiers):
            room = sum(self.capacity[n] for n in tier)
            assert int((self.rank[then] == rank).sum()) <= room

    def run(self, epochs: int) -> int:
        """Let epochs pass; return pages moved."""
        return sum(len(self.step().moves) for _ in range(epochs))

    def share_on(self, pages: np.ndarray, rank: int) -> float:
        """Return the share of pages that are in a tier."""
        return float((self.rank[self.node[pages]] == rank).mean())


def shuffled(counts, seed=7):
    """Return nodes in random order, ``[pages on node 0, on node 1, ...]``."""
    node = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    return np.random.default_rng(seed).permutation(node)


def hot_and_cold(pages, hot, *, of=40.0, rest=2.0):
    """Return rates: runs of 64 hot pages spread over the memory."""
    rate = np.full(pages, rest)
    runs = np.arange(pages // 64)
    chosen = np.random.default_rng(11).permutation(runs)[: hot // 64]
    for r in chosen:
        rate[r * 64 : r * 64 + 64] = of
    return rate


def machine(pages=2048, fast=512, **rest):
    """Return a machine of two full tiers with as many hot pages as fit."""
    node = shuffled([fast, pages - fast])
    capacity = [fast, pages]
    return World(hot_and_cold(pages, fast), node, capacity, **rest)


def moved(plan):
    """Return the moves of a plan as plain values."""
    m = plan.moves
    return [c.tolist() for c in (m.page, m.node, m.gain_ns, m.reason)]


@pytest.mark.slow
def test_hot_pages_end_up_in_the_fast_tier():
    """And each page moves about once."""
    world = machine()
    hot = np.flatnonzero(world.rate > 10)
    assert world.share_on(hot, 0) < 0.35
    pages_moved = world.run(60)
    assert world.share_on(hot, 0) > 0.95
    assert pages_moved < 1.3 * 2 * 512


@pytest.mark.parametrize("hints", [BOTH, *(frozenset({m}) for m in sorted(BOTH))])
def test_any_subset_of_its_hints_will_do(hints):
    """Samples alone and bits alone find the hot pages too."""
    world = machine(hints=hints)
    hot = np.flatnonzero(world.rate > 10)
    world.run(60)
    assert world.share_on(hot, 0) > 0.85


def test_without_evidence_nothing_moves():
    """Full tiers, and nobody has seen anything."""
    assert 0 == machine(blind=True).run(20)


def test_flat_memory_is_left_alone():
    """Where every page is alike, at most a few move."""
    world = machine()
    world.rate[:] = 10.0
    assert world.run(60) < 0.1 * len(world.rate)


@pytest.mark.slow
def test_settled_memory_stays():
    """Once the hot pages are in, moves cease."""
    world = machine()
    world.run(60)
    assert world.run(40) < 0.05 * len(world.rate)


@pytest.mark.slow
def test_heat_that_moves_is_followed():
    """When other pages become hot, the fast tier changes hands."""
    world = machine()
    world.run(60)
    world.rate = world.rate[::-1].copy()
    hot = np.flatnonzero(world.rate > 10)
    world.run(120)
    assert world.share_on(hot, 0) > 0.85


def test_dear_moves_are_not_made():
    """When a move costs more than heat can bring, all stays in place."""
    world = machine()
    world.rate *= 1e-6  # a few accesses a day
    assert 0 == world.run(40)


def test_a_free_fast_tier_is_filled():
    """Free slots go to pages that are worth a move."""
    world = machine()
    world.node[:] = 1
    world.run(60)
    assert world.share_on(np.flatnonzero(world.rate > 10), 0) > 0.95


def test_the_limit_is_kept_and_the_hottest_go_first():
    """With few moves an epoch, those that gain most are made."""
    world = machine(limit=20)
    plans = [world.step() for _ in range(30)]
    assert max(len(p.moves) for p in plans) > 10
    for plan in plans:
        gain = plan.moves.gain_ns[plan.moves.reason == int(Reason.PAYS)]
        assert (np.diff(gain) <= 0).all()


def test_same_evidence_same_plan():
    """Two policies that are shown the same decide the same, to the bit."""
    one, two = machine(), machine()
    for _ in range(25):
        a, b = one.step(), two.step()
        assert moved(a) == moved(b)
        assert a.look == b.look
        assert dict(a.notes) == dict(b.notes)


def test_latency_counts_over_its_parallelism():
    """Four times the latency, shared by four accesses, is the same time."""
    one, four = machine(), machine(parallelism=4.0)
    for _ in range(15):
        a, b = one.step(), four.step()
        assert moved(a) == moved(b)
        assert a.look == b.look


def test_evidence_is_what_decides():
    """Another draw of the same chance gives another plan."""
    one, two = machine(), machine(seed=2)
    one.run(10)
    two.run(10)
    assert [moved(p) for p in one.plans] != [moved(p) for p in two.plans]


@pytest.mark.slow
def test_three_tiers_sort_themselves():
    """Hot, warm and cold: pages cross both boundaries, and end where they belong."""
    pages = 2048
    rate = np.repeat(np.tile([60.0, 8.0, 1.0, 1.0], pages // 256), 64)
    node = shuffled([512, 512, 1024])
    world = World(rate, node, [512, 512, 1024 + 64], ((0,), (1,), (2,)))
    world.run(120)
    between = set()
    for plan in world.plans:
        notes = plan.notes
        between |= {k for k in notes if k.startswith("price_ns_") and notes[k] > 0}
    assert {"price_ns_0", "price_ns_1"} == between
    assert world.share_on(np.flatnonzero(rate == 60), 0) > 0.85
    assert world.share_on(np.flatnonzero(rate == 8), 1) > 0.7
    assert world.share_on(np.flatnonzero(rate == 1), 2) > 0.85


def test_several_nodes_make_one_tier():
    """Two fast and two slow nodes: the hot pages end up on either fast one."""
    rate = hot_and_cold(2048, 512)
    node = shuffled([256, 256, 768, 768])
    world = World(rate, node, [256, 256, 1024, 1024], ((0, 1), (2, 3)))
    world.run(60)
    hot = np.flatnonzero(rate > 10)
    assert world.share_on(hot, 0) > 0.95
    assert {0, 1} == set(world.node[world.rank[world.node] == 0].tolist())


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 300), st.integers(0, 64)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**32 - 1),
)
def test_counts_are_those_of_the_pages_that_are_there(changes, seed):
    """Whatever comes and goes: the population is a full count of pages in tiers."""
    world = machine(pages=512, fast=128, seed=seed)
    world.capacity = [512, 4096]
    for start, length, more in changes:
        world.run(3)
        pages = len(world.rate) + 8 * more
        end = min(start + length, pages)
        world.renew(pages, (start, end))
        world.node[end : end + 40] = NOT_PRESENT
        world.step()
        tier = np.minimum(world.policy._tier[world.node], 2)
        # Moves of the last plan are counted when their outcome is told.
        assert pages == int(world.policy._count.sum())
        there = int((world.node != NOT_PRESENT).sum())
        assert there == int(world.policy._count[:, :2].sum())
        assert len(tier) == len(world.policy._cell) == len(world.policy._counted)
        assert (world.policy._count >= 0).all()


def test_pages_without_memory_are_not_moved():
    """A page that is not present is nobody's to move, and fills no slot."""
    world = machine()
    gone = np.arange(0, 2048, 16)
    world.rate[gone] = 1e-9
    world.node[gone] = NOT_PRESENT
    world.run(40)  # the check of every plan refuses such a move
    assert (world.node[gone] == NOT_PRESENT).all()


def test_what_an_entry_costs_is_learnt():
    """Cheaper walks are believed at once, a dear one not; where all are dear, they are.

    Pages drawn at random say nothing of the cost of walks.
    """
    policy = machine().policy

    def walk(entry_ns, times=1, source="accessed-bit"):
        block = np.arange(16, dtype=np.uint32)
        seen = AccessedBits(block, block.astype(np.uint8), np.ones(16, np.float32))
        batch = HintBatch(source, 0, EPOCH_NS, seen, background_ns=128 * entry_ns)
        for _ in range(times):
            found = policy._learn_bits(batch, seen)
        return policy._entry.ns, found is None

    policy._counted[:] = 0
    assert (20.0, False) == walk(20.0)
    assert (20.0, False) == walk(200.0, 3)
    assert (25.0, False) == walk(25.0)
    assert (25.0, False) == walk(200.0, 7)
    assert (200.0, False) == walk(200.0)
    assert (200.0, True) == walk(5000.0, 20, "page-out")


def test_epochs_of_another_length():
    """What was learnt stays: no burst of moves, and the hot pages are still found."""
    world = machine()
    world.run(60)
    learnt = world.policy._rates.weights.copy()
    price = world.policy._market.price_ns[0]
    world.policy.repace(2 * EPOCH_NS)
    assert learnt.tolist() == world.policy._rates.weights.tolist()
    assert 2 * price == world.policy._market.price_ns[0]
    assert 2 * EPOCH_S == world.policy._scan._epoch_s == world.policy._poison._epoch_s
    assert world.run(10) < 0.05 * len(world.rate)


def test_notes_say_why():
    """Price, cost, threshold and belief stand in every plan."""
    world = machine()
    world.run(30)
    notes = world.plans[-1].notes
    assert MOVE_NS == notes["cost_ns_0"]
    assert notes["price_ns_0"] > 0
    assert 2.0 < notes["threshold_rate"] < 60.0
    assert 0.0 <= notes["belief"] <= 1.0
    assert 0.0 < notes["recoverable"] < 1.0
    assert float(world.rate.mean()) == pytest.approx(notes["mean_rate"])


@pytest.mark.slow
def test_looking_becomes_rare_where_nothing_is_to_be_gained():
    """Flat memory: longer periods, more stripes; uneven memory: what was asked for."""
    flat, uneven = machine(period=200), machine(period=200)
    flat.rate[:] = 10.0
    flat.run(80)
    uneven.run(80)
    stripes = [max(k.stripes for k in world.plans[-1].look) for world in (flat, uneven)]
    assert stripes[0] > 2 * stripes[1]
    assert flat.period > uneven.period == 200


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_every_plan_is_allowed(seed):
    """Any rates, placement, tiers and limit: see what `World` checks."""
    rng = np.random.default_rng(seed)
    pages = 8 * int(rng.integers(8, 60))
    tiers = ((0,), (1,), (2,))[: int(rng.integers(2, 4))]
    counts = rng.multinomial(pages, np.full(len(tiers), 1 / len(tiers)))
    rate = np.repeat(10.0 ** rng.uniform(-1, 2, pages // 8), 8)
    world = World(
        rate,
        shuffled(counts, seed),
        [int(c) + int(rng.integers(0, 9)) for c in counts],
        tiers,
        limit=int(rng.choice([1, 7, 1 << 31])),
        period=20,
        seed=seed,
    )
    world.run(15)


@pytest.mark.slow
@pytest.mark.parametrize("calm_epochs", [100, 300])
def test_memory_that_was_flat_for_long_is_not_given_up(calm_epochs):
    """Heat that comes after minutes of none is moved like any other."""
    world = machine()
    skewed, world.rate = world.rate, np.full(2048, float(world.rate.mean()))
    assert world.run(calm_epochs) < 100
    world.rate = skewed
    world.run(200)
    assert world.share_on(np.flatnonzero(skewed > 10), 0) > 0.95


@pytest.mark.slow
def test_a_dry_run_goes_on_planning():
    """What would be moved is said as long as it would be."""
    world = machine(dry=True)
    world.run(150)
    assert len(world.step().moves) > 300
