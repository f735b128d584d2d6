"""Whatever happens in whatever order, the invariants hold."""

import errno

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isotherm.machine.protocol import NOT_PRESENT, SpacesChanged, Usage
from isotherm.migration import BatchDone, MigrationState, PlanArrived, Renewed, Tick
from isotherm.policy.plan import Moves

PAGES = 24
CAPACITY = np.array([6, 8, 14], np.int64)
CODES = (0, 0, 0, errno.EBUSY, errno.ENOMEM, errno.EAGAIN, errno.ENOENT, errno.EPERM)


class AnyOrder(RuleBasedStateMachine):
    """Plans, ends of batches and ticks, against a model of the memory."""

    def __init__(self):
        super().__init__()
        self.node = np.repeat([0, 1, 2], [5, 8, 11]).astype(np.uint8)
        self.now_ns = 0
        self.flying = {}
        self.state = MigrationState(
            PAGES,
            [0, 1, 2],
            quota_pages_per_s=30.0,
            quota_burst_s=1.0,
            batch_pages=2,
            max_in_flight_pages=7,
            backoff_ns=100_000_000,
            max_tries=3,
            rest_ns=2_000_000_000,
            log_events=1000,
        )

    def usage(self):
        """Return usage of the model."""
        zero = np.zeros(3, np.int64)
        used = np.bincount(self.node[self.node != NOT_PRESENT], minlength=3)
        return Usage(CAPACITY, used.astype(np.int64), zero, zero, zero, zero)

    def feed(self, *events):
        """Hand events in, keep the instructions, look for pages on the way twice."""
        for batch in self.state.handle(*events):
            assert 1 <= len(batch) <= 2
            assert 1 == len(set(zip(batch.src, batch.node, strict=True)))
            assert batch.id not in self.flying
            self.flying[batch.id] = batch
        pages = [p for b in self.flying.values() for p in b.page.tolist()]
        assert len(set(pages)) == len(pages)
        assert len(pages) <= 7

    @rule(
        wishes=st.lists(
            st.tuples(st.integers(0, PAGES - 1), st.integers(0, 2)),
            min_size=1,
            max_size=24,
        )
    )
    def plan(self, wishes):
        """A plan arrives, with repeated and needless wishes among it."""
        n = len(wishes)
        moves = Moves(
            np.array([w[0] for w in wishes], np.uint32),
            np.array([w[1] for w in wishes], np.uint8),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint8),
        )
        self.feed(PlanArrived(self.now_ns, moves, self.usage(), self.node))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def batch_done(self, data):
        """Some batches end, each page with its own errno."""
        ids = data.draw(
            st.lists(st.sampled_from(sorted(self.flying)), min_size=1, unique=True)
        )
        events = []
        for one in ids:
            batch = self.flying.pop(one)
            codes = [data.draw(st.sampled_from(CODES)) for _ in batch.page]
            for page, to, code in zip(batch.page, batch.node, codes, strict=True):
                if code == 0:
                    self.node[page] = to
                elif code == errno.ENOENT:
                    self.node[page] = NOT_PRESENT
            events.append(BatchDone(self.now_ns, one, np.array(codes, np.int16), 1.0))
        used = self.usage().used_pages
        assert (used <= CAPACITY).all()
        self.feed(*events)

    @rule(
        delta_ns=st.integers(0, 2_000_000_000),
        counted=st.booleans(),
    )
    def tick(self, delta_ns, counted):
        """Time passes; sometimes somebody counts the pages."""
        self.now_ns += delta_ns
        self.feed(Tick(self.now_ns, self.usage() if counted else None))

    @rule(
        start=st.integers(0, PAGES - 1),
        length=st.integers(1, PAGES),
        more=st.integers(0, 2),
    )
    def renewed(self, start, length, more):
        """A range gets a new owner, with memory on the slowest node or none."""
        end = min(start + length, len(self.node))
        flying = [b.page for b in self.flying.values()]
        here = np.arange(start, end)
        self.node[np.setdiff1d(here, np.concatenate([*flying, []]))] = NOT_PRESENT
        self.node = np.append(self.node, np.full(more, NOT_PRESENT, np.uint8))
        change = SpacesChanged(len(self.node), np.array([[start, end]], np.int64))
        totals = self.state.totals
        before = totals.applied
        self.feed(Renewed(self.now_ns, change))
        assert before == totals.applied
        waiting = self.state.to_dict()["waiting_pages"]
        assert 0 <= waiting <= len(self.node)

    @invariant()
    def holds(self):
        """All invariants of the state, and the model's capacity, hold."""
        self.state.validate()
        assert set(self.flying) == set(self.state.to_dict()["in_flight_batches"])

    def teardown(self):
        """The log, replayed, ends in the same state."""
        again = MigrationState(
            PAGES, [0, 1, 2], quota_pages_per_s=30.0, quota_burst_s=1.0, batch_pages=2,
            max_in_flight_pages=7, backoff_ns=100_000_000, max_tries=3,
            rest_ns=2_000_000_000,
        )  # fmt: skip
        for events in self.state.log:
            again.handle(*events)
        assert self.state.to_dict() == again.to_dict()


TestAnyOrder = pytest.mark.slow(AnyOrder.TestCase)
TestAnyOrder.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
