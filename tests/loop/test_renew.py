"""The whole loop on a machine whose spaces come and go."""

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.hints.batch import Mechanism
from isotherm.hotness.tracker import GammaTracker
from isotherm.loop.epoch import Loop, run_epoch
from isotherm.machine.protocol import NOT_PRESENT, Space
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import load_machine
from isotherm.migration import BackgroundEngine, MigrationEngine
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Outcome, Setup
from isotherm.policy.registry import make_policy
from isotherm.trace.stream import AccessChunk
from tests.loop.scripted_spaces import ScriptedSpaces

pytestmark = pytest.mark.slow
DT_NS = 500_000_000
WHOLE = 4096
BITS = frozenset({Mechanism.ACCESSED_BIT})
DEADLINE_S = 20.0


class Bench:
    """A loop over scripted spaces, and a workload with a hot eighth in each."""

    def __init__(
        self,
        spaces,
        absent=(),
        engine=MigrationEngine,
        policy=None,
        shown=ScriptedSpaces,
        **rest,
    ):
        self.sim = SimMachine(load_machine("dram-cxl"), WHOLE, 0.25)
        node = np.ones(WHOLE, np.uint8)
        node[::4] = 0
        self.sim.place(node)
        self.machine = shown(self.sim, spaces, absent)
        table = SimPageTable(self.sim, faults=False, bits=True)
        source = AccessedBitSource(table, 30.0, DT_NS)
        setup = Setup(
            self.machine.pages, self.machine.topology, self.sim.capacity, DT_NS, 1,
            BITS, spaces=spaces,
        )  # fmt: skip
        self.policy = policy(setup) if policy else Isotherm(setup)
        self.loop = Loop(
            self.machine,
            (source,),
            GammaTracker(self.machine.pages, DT_NS, BITS),
            self.policy,
            engine(self.machine, **rest),
            Outcome.none(),
        )
        self.rng = np.random.default_rng(1)
        self.index = 0
        self.hot = np.empty(0, np.uint32)

    def hot_in(self, *ranges):
        """Let these ranges be hot from now on."""
        self.hot = np.concatenate([np.arange(a, b) for a, b in ranges]).astype(
            np.uint32
        )

    def step(self):
        """Let an epoch pass."""
        hot = self.rng.choice(self.hot, 20 * len(self.hot))
        rest = self.rng.integers(0, WHOLE, WHOLE // 2)
        page = np.concatenate([hot, rest]).astype(np.uint32)
        self.rng.shuffle(page)
        self.sim.advance(AccessChunk(page), DT_NS)
        step = run_epoch(self.loop, self.index, DT_NS)
        self.index += 1
        planned = self.machine.placement()[step.plan.moves.page]
        assert isinstance(self.loop.engine, BackgroundEngine) or (
            (planned != NOT_PRESENT).all()
        )
        return step

    def run(self, epochs):
        """Let epochs pass; return the last step."""
        for _ in range(epochs):
            step = self.step()
        return step

    def fast_share(self):
        """Return the share of the hot pages that is fast."""
        return float((self.sim.placement()[self.hot] == 0).mean())


ONE = Space(0, 2048, "one")
TWO = Space(2048, 1024, "two")
THREE = Space(0, 1024, "three")


def check_counts(bench):
    """The policy's population is that of the pages that are there, no others."""
    node = bench.machine.placement()
    counted = bench.policy._counted[: len(node)]
    tier = bench.policy._tier[node]
    assert tier.tolist() == counted.tolist()
    assert (
        np.bincount(tier, minlength=3).tolist() == bench.policy._count.sum(0).tolist()
    )


def test_a_space_that_comes_is_managed():
    """Its hot pages go up, though nobody knew of it at the start."""
    bench = Bench((ONE,))
    bench.hot_in((0, 256))
    bench.run(30)
    before = bench.fast_share()
    bench.machine.script = [(ONE, TWO)]
    bench.hot_in((2048, 2304))
    step = bench.step()
    assert 3072 == step.change.pages == len(bench.loop.tracker.code)
    bench.run(60)
    assert (before, bench.fast_share()) == (
        pytest.approx(1.0, abs=0.1), pytest.approx(1.0, abs=0.1)
    )  # fmt: skip
    assert [] == bench.machine.strangers
    check_counts(bench)


def test_a_page_number_given_to_another_begins_anew():
    """What was known of the old owner's pages decides nothing for the new one's."""
    bench = Bench((ONE,))
    bench.hot_in((0, 256))
    bench.run(30)
    ready = bench.loop.tracker.update((), bench.machine.clock.now_ns(), None)
    hot_before = ready.rate(np.arange(256, dtype=np.uint32)).mean()
    bench.machine.script = [(THREE, Space(1024, 1024, "one"))]
    bench.hot_in((512, 768))
    step = bench.step()
    assert [[0, 1024]] == step.change.renewed.tolist()
    fresh = step.hotness.rate(np.arange(256, dtype=np.uint32)).mean()
    assert fresh < 0.7 * hot_before
    bench.run(60)
    assert bench.fast_share() == pytest.approx(1.0, abs=0.1)
    check_counts(bench)


def test_a_space_that_goes_is_left_alone():
    """No plan names its pages, no wish for them is left, no move is tried."""
    bench = Bench((ONE, TWO), quota_pages_per_s=100.0)
    bench.hot_in((0, 512), (2048, 2560))
    bench.run(4)
    bench.machine.script = [(TWO,)]
    for _ in range(20):
        step = bench.step()
        assert (step.plan.moves.page >= 2048).all()
        assert (step.outcome.page >= 2048).all()
    assert [] == bench.machine.strangers
    check_counts(bench)
    bench.loop.engine.state.validate()


def test_pages_without_memory_are_in_no_tier():
    """Half of a space was never touched: it fills no slot and makes no mean."""
    absent = tuple(range(1024, 2048))
    bench = Bench((ONE,), absent)
    bench.hot_in((0, 256))
    bench.run(40)
    check_counts(bench)
    assert 1024 == bench.policy._count[:, :2].sum()
    assert bench.fast_share() == pytest.approx(1.0, abs=0.1)
    bench.machine.absent = set()
    bench.hot_in((1024, 1280))
    bench.run(60)
    check_counts(bench)
    assert bench.fast_share() == pytest.approx(1.0, abs=0.1)


def test_everything_goes_and_comes_back():
    """An epoch without a single page plans nothing; the next begins again."""
    bench = Bench((ONE,))
    bench.hot_in((0, 256))
    bench.run(5)
    bench.machine.script = [(), (), (TWO,)]
    for _ in range(2):
        assert 0 == len(bench.step().plan.moves)
    assert 0 == bench.policy._count[:, :2].sum()
    bench.hot_in((2048, 2176))
    bench.run(60)
    assert bench.fast_share() == pytest.approx(1.0, abs=0.1)


def test_before_the_first_space():
    """A loop may begin before there is a page."""
    bench = Bench(())
    bench.hot_in((0, 8))
    assert 0 == len(bench.run(3).plan.moves)
    bench.machine.script = [(ONE,)]
    bench.hot_in((0, 256))
    bench.run(60)
    assert bench.fast_share() == pytest.approx(1.0, abs=0.1)


def test_moves_beside_the_loop():
    """The asynchronous engine ends where the synchronous one does."""
    bench = Bench(
        (ONE,), engine=BackgroundEngine, epoch_ns=DT_NS, hold_back_share=0.0,
        validate=True,
    )  # fmt: skip
    engine = bench.loop.engine
    with engine:
        bench.hot_in((0, 256))
        for _ in range(30):
            bench.step()
            assert engine.finish(DEADLINE_S)
        assert bench.fast_share() == pytest.approx(1.0, abs=0.1)
        bench.machine.script = [(TWO,), (TWO, THREE)]
        bench.hot_in((2048, 2304))
        moved = 0
        for _ in range(60):
            moved += len(bench.step().outcome.page)
            assert engine.finish(DEADLINE_S)
        assert bench.fast_share() == pytest.approx(1.0, abs=0.1)
        assert moved > 100
    assert [] == bench.machine.strangers


@pytest.mark.parametrize("name", ["tpp", "numab2", "hemem", "memtis", "lru"])
def test_peers_say_that_they_follow_one_footprint(name):
    """They refuse with words, before they plan for pages of somebody else."""
    bench = Bench((ONE,), policy=lambda setup: make_policy(name, setup))
    bench.hot_in((0, 256))
    bench.step()
    bench.machine.script = [(ONE, TWO)]
    with pytest.raises(UnsupportedError, match="spaces have changed"):
        bench.step()


def test_first_touch_follows_anything():
    """It remembers no page."""
    bench = Bench((ONE,), policy=lambda setup: make_policy("first-touch", setup))
    bench.hot_in((0, 256))
    bench.machine.script = [(ONE, TWO), (THREE,)]
    assert 0 == len(bench.run(3).plan.moves)
