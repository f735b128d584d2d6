"""Moves rounded to whole huge pages: never a part of one, never beyond the room."""

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
