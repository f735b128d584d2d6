"""Moves rounded to whole huge pages: never a part of one, never beyond the room."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isotherm.machine.protocol import Usage
from isotherm.policy.huge_moves import HALF, whole_moves
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

RANGES, TIERS = 4, 2
TIER = np.full(256, TIERS, np.uint8)
TIER[:2] = 0, 1


def an_epoch(node: np.ndarray, free: int) -> Epoch:
    """Return an epoch with pages on nodes 0 and 1 and some pages free on node 0."""
    used = np.bincount(node, minlength=2).astype(np.int64)
    capacity = used + np.array([free, 1 << 20])
    said = Source.CONFIGURED
    kinds = (MemoryKind.DRAM, MemoryKind.CXL)
    topology = Topology(
        tuple(Node(i, kinds[i], said, 1 << 30, (0,) if i == 0 else ()) for i in (0, 1)),
        tuple(Tier(i, None, (i,), said) for i in (0, 1)),
        (Initiator(0, InitiatorKind.CPU, 0, "cpu0"),),
        (),
        {},
    )
    none = np.zeros(2, np.int64)
    return Epoch(
        index=0,
        now_ns=0,
        dt_ns=1,
        topology=topology,
        usage=Usage(capacity, used, none, none, none, none),
        node=node,
        latency_ns=np.ones((1, 2)),
        move_cost_ns=np.ones((2, 2)),
    )


def moves_of(up: np.ndarray, down: np.ndarray) -> Moves:
    """Return demotions that make room, then promotions that pay."""
    return Moves.concat(
        Moves.to(down, 1, Reason.MAKES_ROOM, 0.0), Moves.to(up, 0, Reason.PAYS, 1.0)
    )


def rounded(moves: Moves, epoch: Epoch, huge: list[bool]) -> Moves:
    """Return the moves rounded."""
    return whole_moves(moves, epoch, np.array(huge), TIER, TIERS)


def test_half_a_huge_page_takes_the_rest_along() -> None:
    """From half of its pages on all 512 move, one place, one gain; fewer stay."""
    node = np.ones(RANGES * 512, np.uint8)
    epoch = an_epoch(node, free=1024)
    huge = [True, True, False, False]
    some = moves_of(np.arange(512, 512 + HALF), np.empty(0, np.int64))
    got = rounded(some, epoch, huge)
    assert list(range(512, 1024)) == got.page.tolist()
    assert {0} == set(got.node.tolist())
    fewer = moves_of(np.arange(512, 512 + HALF - 1), np.empty(0, np.int64))
    assert 0 == len(rounded(fewer, epoch, huge))


def test_small_pages_stay_as_they_are() -> None:
    """Without a huge page among them the table is returned as it is."""
    node = np.ones(RANGES * 512, np.uint8)
    moves = moves_of(np.array([1100, 1101]), np.empty(0, np.int64))
    same = rounded(moves, an_epoch(node, free=2), [True, True, False, False])
    assert moves is same


@given(
    st.lists(st.booleans(), min_size=RANGES, max_size=RANGES),
    st.lists(st.booleans(), min_size=RANGES, max_size=RANGES),
    st.integers(0, 700),
    st.integers(0, 1 << 30),
)
def test_no_part_of_a_huge_page_and_no_more_than_fits(
    huge: list[bool], fast: list[bool], free: int, seed: int
) -> None:
    """Whatever is wished: whole huge pages, no page twice, arrivals fit."""
    rng = np.random.default_rng(seed)
    place = np.where(fast, 0, 1).astype(np.uint8)
    node = np.repeat(place, 512)
    small = ~np.repeat(np.array(huge), 512)
    node[small] = rng.integers(0, 2, int(small.sum()))
    page = rng.permutation(len(node))[: rng.integers(0, len(node))]
    up, down = page[node[page] == 1], page[node[page] == 0]
    got = rounded(moves_of(up, down), an_epoch(node, free), huge)
    if not any(huge):
        return
    count = np.bincount(got.page, minlength=len(node))
    assert count.max(initial=0) <= 1
    of_huge = count.reshape(RANGES, 512)[np.array(huge)].sum(1)
    assert {0, 512} >= set(of_huge.tolist())
    if np.array(huge)[np.unique(page // 512)].any():
        arriving = int((got.node == 0).sum())
        leaving = int((got.node == 1).sum())
        assert arriving <= leaving + free


def three_tiers(node: np.ndarray, free: tuple[int, int]) -> tuple[Epoch, np.ndarray]:
    """Return an epoch of three tiers, the last with room for all, and their ranks."""
    two = an_epoch(np.minimum(node, 1), 0)
    used = np.bincount(node, minlength=3).astype(np.int64)
    none = np.zeros(3, np.int64)
    usage = Usage(used + np.array([*free, 1 << 20]), used, none, none, none, none)
    tier = np.full(256, 3, np.uint8)
    tier[:3] = 0, 1, 2
    return replace(two, node=node, usage=usage), tier


def test_what_a_tier_in_the_middle_refuses_makes_no_room_above() -> None:
    """A huge page that cannot go down stays, and so does what was to take its place."""
    node = np.repeat(np.array([0, 1, 2], np.uint8), 512)
    epoch, tier = three_tiers(node, (0, 0))
    down, up = np.arange(512), np.arange(1024, 1536)
    moves = Moves.concat(
        Moves.to(down, 1, Reason.MAKES_ROOM, 0.0), Moves.to(up, 0, Reason.PAYS, 1.0)
    )
    huge = np.array([True, True, True])
    assert 0 == len(whole_moves(moves, epoch, huge, tier, 3))
    lower = Moves.to(np.arange(512, 1024), 2, Reason.MAKES_ROOM, 0.0)
    got = whole_moves(Moves.concat(lower, moves), epoch, huge, tier, 3)
    assert 3 * 512 == len(got)


@given(st.tuples(st.integers(0, 700), st.integers(0, 700)), st.integers(0, 1 << 30))
def test_no_tier_but_the_last_gets_more_than_it_has_room_for(
    free: tuple[int, int], seed: int
) -> None:
    """Whatever moves between three tiers: what arrives fits beside what leaves."""
    rng = np.random.default_rng(seed)
    ranges = 6
    node = np.repeat(rng.integers(0, 3, ranges), 512).astype(np.uint8)
    epoch, tier = three_tiers(node, free)
    whole = rng.random(ranges) < 0.7
    to = np.repeat(rng.integers(0, 3, ranges), 512).astype(np.uint8)
    page = np.flatnonzero(np.repeat(rng.random(ranges) < 0.8, 512) & (to != node))
    page = page[rng.random(len(page)) < 0.9]
    down = page[to[page] > node[page]]
    up = page[to[page] < node[page]]
    moves = Moves.concat(
        Moves.to(down, 0, Reason.MAKES_ROOM, 0.0), Moves.to(up, 0, Reason.PAYS, 1.0)
    )
    moves.node[:] = to[moves.page]
    got = whole_moves(moves, epoch, whole, tier, 3)
    if got is moves:  # none of them is huge
        return
    came = np.bincount(got.node, minlength=3)
    went = np.bincount(node[got.page], minlength=3)
    assert (came[:2] <= went[:2] + np.array(free)).all()
