"""Room for what is born, by the price of a slot."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.machine.protocol import Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.births import MOST, SETTLED, Births
from isotherm.policy.cells import NOT_COUNTED
from isotherm.policy.plan import Epoch, Moves, Reason

PAGES, FAST = 4096, 1024
TIER = np.full(256, 2, np.uint8)
TIER[:2] = 0, 1
#: Rates of three kinds of page: cold, hot, in between.
RATE = np.array([0.1, 100.0, 5.0])


def epoch_of(node: np.ndarray, limit: int = 1 << 30) -> Epoch:
    """Return an epoch on DRAM, full, and CXL."""
    used = np.bincount(node, minlength=2)
    none = np.zeros(2, np.int64)
    usage = Usage(np.array([FAST, PAGES]), used, none, none, none, none)
    topology = load_machine("dram-cxl").topology([FAST, PAGES])
    return Epoch(
        9, 0, 500_000_000, topology, usage, node, np.array([[80.0, 250.0]]),
        np.full((2, 2), 2500.0), move_limit_pages=limit,
    )  # fmt: skip


@pytest.fixture
def node() -> np.ndarray:
    """Return a placement that fills the fast tier."""
    return np.repeat(np.array([0, 1], np.uint8), [FAST, PAGES - FAST])


def living(births: Births, node: np.ndarray, each: int, epochs: int = 60) -> np.ndarray:
    """Let so many pages be born an epoch, at the end; return the counted column."""
    counted = np.full(PAGES, 1, np.uint8)
    for k in range(epochs):
        counted[:] = 1
        first = PAGES - each * (1 + k % 8)
        counted[first : first + each] = NOT_COUNTED
        births.see(counted, node, TIER)
    return counted


def settled(
    births: Births, node: np.ndarray, young: int, price_ns: float = 200.0
) -> tuple[Moves, dict[str, float]]:
    """Settle where pages at the end are of a kind, and all others cold."""
    kind = np.zeros(PAGES, np.uint16)
    kind[PAGES // 2 :] = young
    moves, birth, notes = births.settle(
        Moves.none(), epoch_of(node), RATE, kind, 85.0, price_ns, 2500.0
    )
    assert birth is None or births.headroom == birth.headroom_pages
    return moves, notes


def test_hot_births_get_room_and_a_little_more(node: np.ndarray) -> None:
    """Sixteen an epoch: the room holds them, and the coldest pages make it."""
    births = Births(epoch_of(node).topology)
    living(births, node, 16)
    moves, notes = settled(births, node, 1)
    assert 16 <= births.headroom <= 32
    assert births.headroom == len(moves) == notes["headroom_pages"]
    assert {1} == set(moves.node.tolist())
    assert {int(Reason.WATERMARK)} == set(moves.reason.tolist())
    assert (node[moves.page] == 0).all()
    kept = births.reserve(epoch_of(node)).usage.capacity_pages
    assert FAST - births.headroom == kept[0]


def test_cold_births_get_none(node: np.ndarray) -> None:
    """What is not worth a slot need not be born in one."""
    births = Births(epoch_of(node).topology)
    living(births, node, 16)
    moves, _ = settled(births, node, 0)
    assert 0 == births.headroom == len(moves)
    epoch = epoch_of(node)
    assert epoch is births.reserve(epoch)


def test_a_dearer_slot_is_kept_free_more_rarely(node: np.ndarray) -> None:
    """The headroom falls with the price, and is none where it exceeds the gain."""
    found = []
    for price in (1.0, 300.0, 400.0, 1e4):
        births = Births(epoch_of(node).topology)
        living(births, node, 16)
        settled(births, node, 2, price)
        found.append(births.headroom)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] == 0


def test_no_more_than_a_share_of_the_tier(node: np.ndarray) -> None:
    """However much is born, the tier is for what lives."""
    births = Births(epoch_of(node).topology)
    living(births, node, 250)
    settled(births, node, 1)
    assert FAST * MOST == births.headroom


def test_the_first_pages_are_no_births(node: np.ndarray) -> None:
    """At the start, and where tiers have changed, every page is new to us."""
    births = Births(epoch_of(node).topology)
    for _ in range(SETTLED):
        births.see(np.full(PAGES, NOT_COUNTED, np.uint8), node, TIER)
    _, notes = settled(births, node, 1)
    assert {} == notes


def test_of_tenants_nobody_is_made_to_leave(node: np.ndarray) -> None:
    """A guaranteed page, or one to be kept out of CXL, makes no room for births."""
    births = Births(epoch_of(node).topology)
    living(births, node, 16)
    kind = np.zeros(PAGES, np.uint16)
    kind[PAGES // 2 :] = 1
    shared = replace(epoch_of(node), tenant=np.zeros(PAGES, np.uint8))
    moves, birth, _ = births.settle(
        Moves.none(), shared, RATE, kind, 85.0, 200.0, 2500.0
    )
    assert 0 == len(moves) == births.headroom
    assert birth is None


def test_of_a_large_memory_a_part_is_searched(
    node: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part an epoch, all of them in turn."""
    monkeypatch.setattr("isotherm.policy.births.SEARCHED", FAST // 2)
    births = Births(epoch_of(node).topology)
    counted = living(births, node, 16)
    parts = []
    for _ in range(PAGES // (FAST // 2)):
        moves, _ = settled(births, node, 1)
        parts += np.unique(moves.page // (FAST // 2)).tolist()
        births.see(counted, node, TIER)
    assert [0, 1] == sorted(parts)


def test_moves_keep_to_the_limit(node: np.ndarray) -> None:
    """Room is made with what the trades have left."""
    births = Births(epoch_of(node).topology)
    living(births, node, 16)
    kind = np.zeros(PAGES, np.uint16)
    kind[PAGES // 2 :] = 1
    moves, _, _ = births.settle(
        Moves.none(), epoch_of(node, 5), RATE, kind, 85.0, 200.0, 2500.0
    )
    assert 5 == len(moves)
