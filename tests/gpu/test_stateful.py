"""Random calls on a tiered tensor, moves forced between any two steps of its kernels.

The numpy backend holds its launches in a ``Stepper``; hypothesis chooses which lane
makes the next step, what is read, written, promoted, demoted. A plain array is the
model. Outputs begin as bytes that no row has.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from isotherm.gpu import arena
from isotherm.gpu.backend import Geometry
from isotherm.gpu.mover import Mover
from isotherm.gpu.numpy_backend import NumpyBackend, create
from isotherm.gpu.protocol import SlotProtocol
from isotherm.gpu.residents import give_back, send_away, write_back
from isotherm.gpu.stepping import Stepper

ROWS = 11
POISON = -77
rows = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=4)


@dataclass
class Read:
    """A gather under way.

    Attributes:
        row: Rows asked for.
        out: Its output.
        expected: What the model had when it was launched, [n].
        certain: Rows that no write may have changed beside it.
        pending: The launch.
        stream: Its stream.
    """

    row: np.ndarray
    out: np.ndarray
    expected: np.ndarray
    certain: np.ndarray
    pending: Any
    stream: int


class Tensor(RuleBasedStateMachine):
    """A tensor of eleven rows, and the array that it should be."""

    writable = False

    @initialize(per_page=st.sampled_from([1, 2, 3]), slots=st.integers(1, 4))
    def make(self, per_page: int, slots: int) -> None:
        """Make both."""
        dim = 16 if per_page == 2 else 32  # pages of 128 bytes, or of 384
        self.geometry = Geometry(ROWS, dim, "int32", per_page, slots)
        host = arena.allocate(self.geometry)
        self.model = np.arange(ROWS, dtype=np.int32)
        whole = np.repeat(self.model[:, None], dim, axis=1)
        arena.fill(self.geometry, host, whole)
        self.host = arena.elements(self.geometry, host)
        self.stepper = Stepper()
        self.device: NumpyBackend = create(self.geometry, host, stepper=self.stepper)
        self.protocol = SlotProtocol(
            self.geometry.pages,
            slots,
            writable=self.writable,
            deposits=self.device.deposits,
        )
        self.mover = Mover(self.device, self.protocol)
        self.reads: list[Read] = []
        self.writes: list[tuple[np.ndarray, Any]] = []
        self.next_value = 1000

    # ---- what users do

    @rule(row=rows, stream=st.integers(1, 3))
    def read(self, row: list[int], stream: int) -> None:
        """Launch a gather."""
        index = np.array(row)
        out = np.full((len(row), self.geometry.row_dim), POISON, np.int32)
        certain = np.ones(len(row), np.bool_)
        if stream != 1:  # writes are on stream 1: others see them when they have ended
            for written, pending in self.writes:
                if not pending.done():
                    certain &= ~np.isin(index, written)
        self.device.stream = stream
        pending = self.mover.launch(
            lambda launch: self.device.gather(index, out, launch)
        )
        self.reads.append(
            Read(index, out, self.model[index].copy(), certain, pending, stream)
        )

    @rule(page=st.lists(st.integers(0, 3), min_size=1, max_size=2), bag=st.booleans())
    def read_pages(self, page: list[int], bag: bool) -> None:
        """Read whole pages, or the sums of rows, to the end at once."""
        self.device.stream = 1
        if bag:
            return  # integers have no bags
        n = self.geometry.rows_per_page
        table = np.array(page) % self.geometry.pages
        out = np.full((len(page), n, self.geometry.row_dim), POISON, np.int32)
        self.mover.launch(
            lambda launch: self.device.read_blocks(table, out, launch)
        ).result()
        row = table[:, None] * n + np.arange(n)
        inside = row < ROWS
        np.testing.assert_array_equal(
            self.model[row[inside]], out[..., 0][inside], strict=True
        )
        assert (out == out[..., :1]).all()

    def write(self, row: list[int]) -> None:
        """Launch a scatter of new values."""
        index = np.unique(row)
        value = np.arange(self.next_value, self.next_value + len(index), dtype=np.int32)
        self.next_value += len(index)
        values = np.repeat(value[:, None], self.geometry.row_dim, axis=1)
        self.device.stream = 1
        pending = self.mover.launch(
            lambda launch: self.device.scatter(index, values, launch), writes=True
        )
        for read in self.reads:
            if read.stream != 1:  # a read beside a write of its row sees either
                read.certain &= ~np.isin(read.row, index)
        self.model[index] = value
        self.writes.append((index, pending))

    # ---- what the policy does

    @rule(page=st.lists(st.integers(0, 10), min_size=1, max_size=4), copy=st.booleans())
    def promote(self, page: list[int], copy: bool) -> None:
        """Promote pages."""
        self.mover.promote(self._pages(page), copy=copy)

    @rule(page=st.lists(st.integers(0, 10), min_size=1, max_size=4))
    def demote(self, page: list[int]) -> None:
        """Demote pages."""
        self.mover.demote(self._pages(page))

    @rule()
    def pump(self) -> None:
        """Let the protocol see what has ended and hand out what is next."""
        self.mover.pump()

    # ---- what the device does

    @rule(choice=st.integers(0, 100), count=st.integers(1, 6))
    def step(self, choice: int, count: int) -> None:
        """Let one lane make a few steps."""
        for _ in range(count):
            lanes = self.stepper.lanes()
            if not lanes:
                return
            self.stepper.step(lanes[choice % len(lanes)])
            self.check()

    # ---- what people do by hand

    @rule(page=st.integers(0, 10))
    def take_for_the_cpu(self, page: int) -> None:
        """Write a page on the host while nobody else has it."""
        mine = self._pages([page])
        if self.reads or not self.writable:
            return
        send_away(self.mover, mine)
        n = self.geometry.rows_per_page
        row = np.arange(mine[0] * n, min(ROWS, (mine[0] + 1) * n))
        np.testing.assert_array_equal(
            self.model[row], self.host[mine[0], : len(row), 0], strict=True
        )
        self.host[mine[0], : len(row)] += 500
        self.model[row] += 500
        self.protocol.hold(mine, on=False)

    @rule(slots=st.integers(0, 3))
    def shrink(self, slots: int) -> None:
        """Give slots back."""
        if slots < self.device.geometry.slots:
            give_back(self.mover, slots)
            assert slots == self.device.geometry.slots

    # ---- what must hold

    def _pages(self, page: list[int]) -> np.ndarray:
        return np.unique(np.array(page) % self.geometry.pages).astype(np.uint32)

    def check(self) -> None:
        """Compare what has been read."""
        left = []
        for read in self.reads:
            if not read.pending.done():
                left.append(read)
                continue
            assert (read.out[read.certain] == read.out[read.certain, :1]).all()
            np.testing.assert_array_equal(
                read.expected[read.certain], read.out[read.certain, 0], strict=True
            )
        self.reads = left

    def teardown(self) -> None:
        """In the end everything is as the model, in device memory and on the host."""
        if not hasattr(self, "mover"):
            return
        self.stepper.run()
        self.check()
        assert not self.reads
        everything = np.arange(ROWS)
        out = np.full((ROWS, self.geometry.row_dim), POISON, np.int32)
        self.device.stream = 1
        self.mover.launch(
            lambda launch: self.device.gather(everything, out, launch)
        ).result()
        np.testing.assert_array_equal(self.model, out[:, 0], strict=True)
        write_back(self.mover)
        assert [] == self.device.dirty_slots().result().tolist()
        flat = self.host.reshape(-1, self.geometry.row_dim)[:ROWS, 0]
        np.testing.assert_array_equal(self.model, flat, strict=True)
        at = np.flatnonzero(self.device.peek("loc") >= 0)
        assert (self.protocol.place[at] == 0).all()
        self.device.close()


class WritableTensor(Tensor):
    """The same with writes."""

    writable = True

    @rule(row=rows)
    def write_rows(self, row: list[int]) -> None:
        """Launch a scatter."""
        self.write(row)


QUICK = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestTensor = Tensor.TestCase
TestTensor.settings = QUICK
TestWritableTensor = WritableTensor.TestCase
TestWritableTensor.settings = QUICK
