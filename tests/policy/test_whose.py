"""Savings by initiator: sums over a region's accesses, signs, and what follows."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from isotherm.hotness.initiators import InitiatorShares
from isotherm.hotness.stall import StallView, ratio_of
from isotherm.machine.protocol import SpacesChanged, Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms
from isotherm.policy.whose import Whose, unnamed_latency
from isotherm.topology.model import Topology, unnamed

REGION = 64
GPU, CPU = 0, 1
EPOCH_NS = 500_000_000
MACHINE = load_machine("gpu-coherent")
LOADED = np.array([[400.0, 900.0], [700.0, 110.0]])


@dataclass
class View:
    """Rates, and who accesses."""

    initiators: InitiatorShares
    rates: np.ndarray = field(default_factory=lambda: np.full(4 * REGION, 10.0))

    @property
    def fresh_blocks(self) -> tuple[int, int]:
        """Blocks worked out anew: all."""
        return 0, len(self.rates) // 8

    def rate(self, page: np.ndarray) -> np.ndarray:
        """Rates of pages."""
        return self.rates[page].astype(np.float32)


def seen(*rows: tuple[int, int, int], regions: int = 4) -> View:
    """Return a view after samples: (region, initiator, how many)."""
    shares = InitiatorShares(8 * regions)
    page = [np.full(count, region * REGION, np.uint32) for region, _, count in rows]
    who = [np.full(count, who, np.uint8) for _, who, count in rows]
    if rows:
        shares.add(np.concatenate(page), np.concatenate(who))
    return View(shares, np.full(regions * REGION, 10.0))


def topology() -> Topology:
    """Return the coherent machine."""
    return MACHINE.topology([128, 256])


def epoch(
    node: np.ndarray | None = None, *, latency_ns: np.ndarray = LOADED, room: int = 256
) -> Epoch:
    """Return an epoch; all pages are in HBM unless said otherwise."""
    node = np.zeros(4 * REGION, np.uint8) if node is None else node
    capacity = np.array([256, room + int((node == 1).sum())], np.int64)
    used = np.bincount(node, minlength=2).astype(np.int64)
    zero = np.zeros(2, np.int64)
    usage = Usage(capacity, used, zero, zero, zero, zero)
    cost = np.full((2, 2), 700.0)
    return Epoch(
        0, EPOCH_NS, EPOCH_NS, topology(), usage, node, latency_ns, cost,
        parallelism=64.0,
    )  # fmt: skip


def amended(whose: Whose, view: View, now: Epoch, epochs: int = 1, limit: int = 10**6):
    """Return the moves of the last of some epochs alike."""
    for index in range(epochs):
        later = replace(now, index=index, now_ns=(index + 1) * EPOCH_NS)
        whose.see(view, later)
        moves = whose.amend(Moves.none(), later, view, limit)
    return moves


def test_one_initiator_has_its_own_latencies() -> None:
    """Those of the one that was named; of nobody, those of the first one's kind."""
    whose = Whose(topology())
    for view, row in (
        (seen((0, CPU, 5)), CPU),
        (seen((0, GPU, 5)), GPU),
        (seen(), GPU),
        (seen((0, 255, 5)), GPU),
    ):
        whose.see(view, epoch())
        assert not whose.told
        assert (LOADED[row] / 64.0).tolist() == whose.tier_ns(epoch()).tolist()
        assert whose.weigh(None) is None
        assert 0 == len(whose.amend(Moves.none(), epoch(), view, 9))


def test_unnamed_accesses_on_other_machines() -> None:
    """CPUs where they come first, all of them; whoever there is without initiators."""
    two = load_machine("two-socket-cxl").topology([9, 9, 9])
    latency = np.array([[80.0, 140, 250], [140, 80, 310]])
    assert (0, 1) == unnamed(two)
    assert [110, 110, 280] == unnamed_latency(two, latency).tolist()
    nobody = Topology((), (), (), (), {})
    assert [110, 110, 280] == unnamed_latency(nobody, latency).tolist()


def test_a_region_is_worth_what_its_initiators_save() -> None:
    """The GPU's regions rank above mixed ones, these above the CPU's."""
    whose = Whose(topology())
    view = seen((0, GPU, 900), (1, CPU, 900), (2, GPU, 990), (2, CPU, 10))
    whose.see(view, epoch())
    assert (True, 2) == (whose.told, whose.named)
    weighed = whose.weigh(None)
    assert weighed is not None
    worth = ratio_of(weighed.shift[::8])
    assert worth[0] > worth[2] > 100 * worth[1]
    cost = whose.tier_ns(epoch())
    assert cost[1] > cost[0]


def test_what_stays_below_costs_what_it_does_there() -> None:
    """The CPU's accesses are not reckoned with in HBM, where nobody would put them."""
    whose = Whose(topology())
    whose.see(seen((0, GPU, 900), (1, CPU, 900)), epoch())
    low, high = whose.tier_ns(epoch())
    waits = np.array([1.0, 8.0]) / 64.0  # as much as parallelism hides
    share = waits / waits.sum()
    below = float(share @ LOADED[:, 1]) / 64.0
    above = below - share[GPU] * (900.0 - 400.0) / 64.0
    assert pytest.approx(below, rel=0.01) == high
    assert pytest.approx(above, rel=0.01) == low


def test_what_could_be_saved_is_known_before_who_accesses_what() -> None:
    """Regions that both are taken to access save nothing; apart, they would."""
    whose = Whose(topology())
    view = seen(*((region, who, 1) for region in range(4) for who in (GPU, CPU)))
    whose.see(view, epoch())
    mixed, apart = whose.tier_ns(epoch()), whose.apart_ns(epoch())
    assert pytest.approx(mixed[1]) == mixed[0]
    assert pytest.approx(mixed[1]) == apart[1]
    assert apart[0] < 0.9 * apart[1]
    one = Whose(topology())
    one.see(seen((0, CPU, 5)), epoch())
    assert one.tier_ns(epoch()).tolist() == one.apart_ns(epoch()).tolist()


def test_stall_that_a_source_tells_is_counted_once() -> None:
    """Where samples say what accesses wait, initiators' parallelism is not added."""
    whose = Whose(topology())
    view = seen((0, GPU, 900), (1, CPU, 900))
    whose.see(view, epoch())
    stall = StallView(np.zeros(32, np.int8), 0.5, 0.5)
    both = whose.weigh(stall)
    assert both is not None
    assert (0.5, 0.5, np.int8) == (both.mean, both.grain, both.shift.dtype)
    assert both.shift[0] > both.shift[8]
    assert -96 == both.shift[8]


def test_the_sum_decides_not_the_majority() -> None:
    """A CPU's access saves 9.4 times what a GPU's does: one in ten is the line."""
    for cpu, stays in ((30, True), (200, False)):
        whose = Whose(topology())
        view = seen((0, GPU, 1000 - cpu), (0, CPU, cpu), (1, GPU, 1000))
        moves = amended(whose, view, epoch(), epochs=20)
        assert stays == (0 == len(moves))
        if not stays:
            assert set(range(REGION)) == set(moves.page.tolist())


def test_pages_are_put_right_when_it_has_paid_long_enough() -> None:
    """A move of 700 ns against 10 accesses a second that lose 74 ns: after 1 s."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    whose = Whose(topology())
    lengths = []
    for index in range(3):
        later = replace(epoch(), now_ns=(index + 1) * EPOCH_NS)
        whose.see(view, later)
        moves = whose.amend(Moves.none(), later, view, 10**6)
        lengths.append(len(moves))
    assert [0, REGION, REGION] == lengths
    assert {1} == set(moves.node.tolist())
    assert {int(Reason.PAYS)} == set(moves.reason.tolist())
    assert np.isnan(moves.gain_ns).all()  # nobody follows that promise


def test_room_and_limit_are_kept() -> None:
    """Best pages first, no more than fit, no more than may go, none that is below."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    view.rates[REGION + 5] = 99.0
    whose = Whose(topology())
    assert 7 == len(amended(whose, view, epoch(room=7), epochs=9))
    few = amended(Whose(topology()), view, epoch(), epochs=9, limit=3)
    assert 3 == len(few)
    assert REGION + 5 == few.page[0]
    below = np.ones(4 * REGION, np.uint8)
    assert 0 == len(amended(whose, view, epoch(below), epochs=9))


@pytest.mark.parametrize(
    ("floor", "barred", "go"), [(REGION, 255, 0), (REGION - 9, 255, 9), (0, 1, 0)]
)
def test_pages_that_are_put_right_keep_to_their_tenants_terms(
    floor: int, barred: int, go: int
) -> None:
    """What it is owed stays, and nothing goes where its tenant may not be."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    whose, now = Whose(topology()), epoch()
    for index in range(9):
        now = replace(epoch(), index=index, now_ns=(index + 1) * EPOCH_NS)
        whose.see(view, now)
    label = np.zeros(4 * REGION, np.uint8)
    label[REGION : 2 * REGION] = 1
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    allowed = np.ones((2, 256), np.bool_)
    allowed[1, barred] = False
    many = np.full(2, 10**6)
    terms = Terms(
        label, now.node, allowed, fast, np.array([3 * REGION, REGION]),
        np.array([0, floor]), many, np.ones(2), many,
    )  # fmt: skip
    moves = whose.amend(Moves.none(), now, view, 10**6, terms)
    assert go == len(moves)
    assert REGION == len(whose.amend(Moves.none(), now, view, 10**6))


def test_moves_to_where_they_lose_are_left_out() -> None:
    """A trade that would bring the CPU's pages up; the GPU's goes on."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    now = epoch(np.ones(4 * REGION, np.uint8))
    whose = Whose(topology())
    whose.see(view, now)
    wished = Moves.to(np.array([3, REGION + 3]), 0, Reason.PAYS, 5.0)
    assert [3] == whose.amend(wished, now, view, 9).page.tolist()


def test_a_page_is_in_one_move() -> None:
    """What is put right is not also moved to make room."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    whose = Whose(topology())
    amended(whose, view, epoch(), epochs=9)
    wished = Moves.to(np.array([REGION + 3, 7]), 1, Reason.MAKES_ROOM, 0.0)
    later = replace(epoch(), now_ns=10 * EPOCH_NS)
    page = whose.amend(wished, later, view, 10**6).page.tolist()
    assert len(page) == len(set(page)) == REGION + 1


def test_a_busy_tier_is_no_wrong_place() -> None:
    """Load may turn latencies round; pages of the GPU stay nearer to it."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    busy = LOADED * np.array([12.0, 1.0])
    moves = amended(Whose(topology()), view, epoch(latency_ns=busy), epochs=9)
    assert set(range(REGION, 2 * REGION)) == set(moves.page.tolist())


@pytest.mark.parametrize("grown_to", [4, 9])
def test_renewed_pages_begin_anew(grown_to: int) -> None:
    """How long they were on the wrong side is forgotten; new regions have none."""
    view = seen((0, GPU, 900), (1, CPU, 900))
    whose = Whose(topology())
    amended(whose, view, epoch(), epochs=9)
    pages = grown_to * REGION
    whose.renew(SpacesChanged(pages, np.array([[0, 4 * REGION]], np.int64)))
    view = seen((0, GPU, 900), (1, CPU, 900), regions=grown_to)
    now = epoch(np.zeros(pages, np.uint8))
    assert 0 == len(amended(whose, view, now))
    assert REGION <= len(amended(whose, view, now, epochs=9))
    assert (1.0 == whose.relative(np.array([pages + 700], np.uint32))).all()
