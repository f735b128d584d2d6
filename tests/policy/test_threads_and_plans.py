"""Who ran where within an initiator is no evidence: plans are the same, bit for bit."""

import numpy as np
import pytest

from isotherm.hints.batch import HintBatch, Mechanism
from isotherm.hints.live.perf_event_samples import Accesses, Translator
from isotherm.hotness.tracker import GammaTracker
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.records.data_source import PhysicalNodes

PAGES = 2048
EPOCH_NS = 500_000_000
#: Two CPUs of each of two sockets.
INITIATORS = np.array([0, 0, 1, 1], np.uint8)
NOWHERE = PhysicalNodes(
    np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int16)
)


class OneProcess:
    """A process whose virtual pages are the flat ones."""

    def pids(self) -> tuple[int, ...]:
        """Return its number."""
        return (42,)

    def flat_pages(self, pid: int, vpage: np.ndarray) -> np.ndarray:
        """Return the pages themselves."""
        assert 42 == pid
        return vpage.astype(np.uint32)


def plans(cpu_of_thread: list[int], first_tid: int) -> list[Plan]:
    """Return the plans of 15 s in which four threads ran on these CPUs.

    Threads 0 and 1 use the lower half of memory, 2 and 3 the upper.
    """
    rng = np.random.default_rng(5)
    machine = SimMachine(load_machine("two-socket-cxl"), PAGES, 0.4)
    machine.place(rng.integers(0, 2, PAGES).astype(np.uint8) * 2)
    hints = frozenset({Mechanism.SAMPLING})
    setup = Setup(PAGES, machine.topology, machine.capacity, EPOCH_NS, 1, hints)
    tracker = GammaTracker(PAGES, EPOCH_NS, hints, 1)
    policy = Isotherm(setup)
    translate = Translator(OneProcess(), NOWHERE, initiator_of_cpu=INITIATORS)
    made = []
    for index in range(30):
        thread = rng.integers(0, 4, 600)
        page = rng.zipf(1.3, 600) % (PAGES // 2) + (thread >= 2) * (PAGES // 2)
        none = np.zeros(600, np.uint64)
        accesses = Accesses(
            np.full(600, 42, np.int32),
            (page.astype(np.uint64) << np.uint64(12)) | np.uint64(8),
            none,
            np.array(cpu_of_thread, np.int32)[thread],
            none.astype(np.uint8),
            none.astype(np.uint32),
            none.astype(np.uint8),
            (thread + first_tid).astype(np.int32),
        )
        seen, unknown = translate.samples(accesses, 200.0)
        assert 0 == unknown
        batch = HintBatch("pebs", index * EPOCH_NS, (index + 1) * EPOCH_NS, seen)
        view = tracker.update((batch,), (index + 1) * EPOCH_NS, 20.0)
        plan = policy.decide(
            Epoch(
                index, index * EPOCH_NS, EPOCH_NS, machine.topology, machine.usage(),
                machine.placement(), machine.latency_ns(), machine.move_cost_ns(),
                view, (batch,), 20.0,
            )
        )  # fmt: skip
        machine.move(plan.moves.page, plan.moves.node)
        made.append(plan)
    return made


def as_bytes(plan: Plan) -> tuple[bytes, ...]:
    """Return a plan's moves and notes, comparable."""
    moves = plan.moves
    columns = (moves.page, moves.node, moves.gain_ns, moves.reason)
    notes = np.array(list(plan.notes.values()), np.float64)
    return (*(column.tobytes() for column in columns), notes.tobytes())


@pytest.mark.parametrize("moved", [[1, 0, 3, 2], [0, 0, 2, 2], [1, 1, 3, 3]])
def test_threads_that_move_within_an_initiator_change_nothing(moved: list[int]) -> None:
    """Other CPUs of the same socket, and other thread ids: the same plans."""
    before, after = plans([0, 1, 2, 3], 100), plans(moved, 900)
    assert sum(len(plan.moves) for plan in before) > 100
    assert list(map(as_bytes, before)) == list(map(as_bytes, after))


def test_threads_that_move_to_another_initiator_change_plans() -> None:
    """What is the same above is not so because nobody looks."""
    before, after = plans([0, 1, 2, 3], 100), plans([2, 3, 0, 1], 100)
    assert list(map(as_bytes, before)) != list(map(as_bytes, after))
