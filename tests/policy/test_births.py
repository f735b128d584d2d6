"""Room for what is born, by the price of a slot."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.machine.protocol import Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.births import MOST, SETTLED, Births, in_parts
from isotherm.policy.cells import NOT_COUNTED
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms

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


def terms_of(node: np.ndarray, label: np.ndarray, floor: int, cap: int) -> Terms:
    """Return the terms of two tenants; the first is owed so much, at most so much."""
    held = np.bincount(label[node == 0], minlength=2)
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    return Terms(
        label, node, np.ones((2, 256), np.bool_), fast, held, np.array([floor, 0]),
        np.array([cap, PAGES]), np.ones(2), np.array([PAGES, PAGES]),
    )  # fmt: skip


def living_of_two(births: Births, node: np.ndarray, label: np.ndarray) -> None:
    """Let sixteen pages be born an epoch, at the end."""
    for k in range(60):
        counted = np.full(PAGES, 1, np.uint8)
        first = PAGES - 16 * (1 + k % 8)
        counted[first : first + 16] = NOT_COUNTED
        births.see(counted, node, TIER, label, 2)


def shared(node: np.ndarray, births: Births, terms: Terms) -> Moves:
    """Settle where what is born is hot; the first tenant's pages are the coldest."""
    kind = np.full(PAGES, 2, np.uint16)
    kind[: FAST // 2] = 0
    kind[PAGES // 2 :] = 1
    epoch = replace(epoch_of(node), tenant=terms.label)
    price = np.array([200.0, 200.0])
    moves, birth, _ = births.settle(
        Moves.none(), epoch, RATE, kind, 85.0, price, 2500.0, terms
    )
    assert birth is not None
    assert births.headroom == birth.headroom_pages == births.by_tenant.sum()
    return moves


@pytest.mark.parametrize(("floor", "leave"), [(FAST // 2, 0), (FAST // 2 - 5, 5)])
def test_of_a_tenant_only_what_it_is_not_owed_makes_room(
    node: np.ndarray, floor: int, leave: int
) -> None:
    """Its pages are the coldest; beyond what it may give, others' go, warmer ones."""
    label = np.zeros(PAGES, np.uint8)
    label[FAST // 2 :] = 1
    births = Births(epoch_of(node).topology)
    living_of_two(births, node, label)
    terms = terms_of(node, label, floor, PAGES)
    moves = shared(node, births, terms)
    assert len(moves) == births.headroom > 16
    assert leave == np.count_nonzero(label[moves.page] == 0)


def test_who_bears_pays_for_the_room(node: np.ndarray) -> None:
    """All births are the second tenant's: so are the headroom and its moves."""
    label = np.zeros(PAGES, np.uint8)
    label[PAGES // 2 :] = 1
    births = Births(epoch_of(node).topology)
    living_of_two(births, node, label)
    terms = terms_of(node, label, 0, PAGES)
    moves = shared(node, births, terms)
    assert [0, births.headroom] == births.by_tenant.tolist()
    ((page, payer),) = terms.charges
    assert set(moves.page.tolist()) == set(page.tolist())
    assert {1} == set(payer.tolist())


def test_nobody_is_kept_more_than_its_maximum(node: np.ndarray) -> None:
    """A tenant of five slots has no use for more room than that."""
    label = np.zeros(PAGES, np.uint8)
    label[: PAGES // 2] = 1
    births = Births(epoch_of(node).topology)
    living_of_two(births, node, label)
    shared(node, births, terms_of(node, label, 0, 5))
    assert [5, 0] == births.by_tenant.tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(0, 99)), min_size=1, max_size=65),
    st.floats(0, 1),
)
def test_parts_of_the_headroom_are_no_more_than_wanted(of, share) -> None:
    """All that there is is given, a page more or less by births, to nobody too much."""
    wanted = np.array([pages for pages, _ in of])
    most = int(share * wanted.sum())
    if most == wanted.sum():
        return
    births = np.array([each for _, each in of])
    parts = in_parts(wanted, most, births)
    assert most == parts.sum()
    assert (parts <= wanted).all()
    assert (abs(parts - wanted * most / wanted.sum()) < 1 + 1e-9).all()


def test_what_is_owed_is_not_kept_free(node: np.ndarray) -> None:
    """Of a tier that is owed but for seven slots, seven are kept."""
    label = np.zeros(PAGES, np.uint8)
    label[FAST // 2 :] = 1
    births = Births(epoch_of(node).topology)
    living_of_two(births, node, label)
    shared(node, births, terms_of(node, label, FAST - 7, PAGES))
    assert 7 == births.headroom


def test_births_of_who_comes_begin_anew(node: np.ndarray) -> None:
    """Who stays keeps its headroom, whatever its place; who comes has none."""
    label = np.zeros(PAGES, np.uint8)
    label[PAGES // 2 :] = 1
    births = Births(epoch_of(node).topology)
    living_of_two(births, node, label)
    shared(node, births, terms_of(node, label, 0, PAGES))
    before = births.headroom
    births.regroup(np.array([1, -1]))
    assert [before, 0] == births.by_tenant.tolist()


def test_of_a_large_memory_a_part_is_searched(
    node: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part an epoch, all of them in turn."""
    monkeypatch.setattr("isotherm.policy.coldest.SEARCHED", FAST // 2)
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
