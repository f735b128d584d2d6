"""The kernel's LRU lists and kswapd, step by step."""

import numpy as np

from isotherm.hints.batch import Look, Mechanism
from isotherm.policy.kernel_lru import ACTIVE, REFERENCED, KernelLru, Kswapd
from isotherm.policy.paths import TierPaths
from isotherm.policy.plan import Outcome

ALL = np.ones(4, np.bool_)


def went(*page):
    """Return an outcome in which these pages moved to node 0."""
    n = len(page)
    return Outcome(
        np.array(page, np.uint32), np.zeros(n, np.uint8), np.zeros(n, np.int16), 0.0
    )


def test_untouched_tail_is_the_victim(hint):
    """Touched pages are passed over; the first untouched one from the tail leaves."""
    lru = KernelLru(4, 1.0)
    lru.see([hint.touched([0, 1])])
    assert [2] == lru.reclaim(ALL, 1).tolist()


def test_second_chance_then_active(hint):
    """Found young once: back to the head, referenced; found young twice: active."""
    lru = KernelLru(4, 1.0)
    lru.see([hint.touched([0])])
    assert [1, 2, 3] == lru.reclaim(ALL, 4).tolist()
    assert REFERENCED == lru.flags[0]
    lru.see([hint.touched([0])])
    only = np.array([True, False, False, False])
    assert [] == lru.reclaim(only, 1).tolist()
    assert ACTIVE == lru.flags[0]


def test_rotated_pages_go_to_the_head(hint):
    """A page that was given a second chance comes after all that were not scanned."""
    lru = KernelLru(4, 1.0)
    lru.see([hint.touched([0])])
    assert [1] == lru.reclaim(ALL, 1).tolist()
    rest = np.array([True, False, True, True])
    assert [2, 3, 0] == lru.reclaim(rest, 3).tolist()


def test_arrivals_join_at_the_head():
    """A page that moved in is reclaimed after those that were there."""
    lru = KernelLru(4, 1.0)
    lru.moved(went(0))
    assert [1, 2, 3, 0] == lru.reclaim(ALL, 4).tolist()


def test_failed_moves_join_nothing():
    """A page whose move failed stays where it was on its list."""
    lru = KernelLru(4, 1.0)
    lru.moved(
        Outcome(
            np.array([0], np.uint32), np.zeros(1, np.uint8), np.array([16], np.int16), 0
        )
    )
    assert [0] == lru.reclaim(ALL, 1).tolist()


def test_active_tail_refills_the_inactive_list(hint):
    """With no inactive page half of the active ones go there, and wait a pass."""
    lru = KernelLru(4, 1.0)
    lru.activate(np.arange(4, dtype=np.uint32))
    assert [] == lru.reclaim(ALL, 1).tolist()
    assert [0, 0, ACTIVE, ACTIVE] == lru.flags.tolist()
    lru.see([hint.touched([0])])
    assert [1] == lru.reclaim(ALL, 1).tolist()


def test_active_per_inactive_grows_with_memory():
    """int_sqrt(10 GiB): 1 below a GiB, 3 at one, 31 at a hundred."""
    lru = KernelLru(1, 1.0)
    gib = 1 << 18
    assert [1, 3, 10, 31] == [lru.inactive_ratio(n * gib) for n in (0, 1, 10, 100)]


def test_ratio_of_a_scale_model():
    """A 512th of the pages stands for the whole: 1 GiB of 512 GiB gives 71."""
    assert 71 == KernelLru(1, 1 / 512).inactive_ratio(1 << 18)


def run(kswapd, table, *, low=0, promo=0, wanted=0, node=0):
    """Run kswapd for one epoch with the same figures for all nodes."""
    n = len(table.capacity)
    want = np.zeros(n, np.int64)
    want[node] = wanted
    return kswapd.run(table.epoch(), np.full(n, low), np.full(n, promo), want)


def kswapd_of(table, *, sees_bits):
    """Return kswapd with fresh lists."""
    setup = table.setup()
    lru = KernelLru(setup.pages, 1.0)
    return Kswapd(lru, TierPaths(setup.topology), setup.pages, sees_bits=sees_bits)


def test_sleeps_above_low(bench):
    """With free pages at the low mark and no promotions nothing happens."""
    table = bench([0, 0, 1, 1], [3, 9])
    moves, room, looks = run(kswapd_of(table, sees_bits=True), table, low=1, promo=2)
    assert (0, [0, 0], ()) == (len(moves), room.tolist(), looks)


def test_wakes_below_low_and_works_to_promo(bench):
    """Free 0 of low 1: reclaims until 2 pages are free."""
    table = bench([0, 0, 0, 1], [3, 9])
    moves, _, _ = run(kswapd_of(table, sees_bits=False), table, low=1, promo=2)
    assert ([0, 1], [1, 1]) == (moves.page.tolist(), moves.node.tolist())


def test_looks_at_bits_before_it_reclaims(bench):
    """The first epoch only asks for accessed bits of its node; the second demotes."""
    table = bench([0, 0, 0, 1], [3, 9])
    kswapd = kswapd_of(table, sees_bits=True)
    moves, _, looks = run(kswapd, table, low=1, promo=2)
    assert 0 == len(moves)
    assert (Look(Mechanism.ACCESSED_BIT, 0, 4, node=0),) == looks
    moves, _, _ = run(kswapd, table, low=1, promo=2)
    assert [0, 1] == moves.page.tolist()


def test_once_awake_it_works_up_to_its_mark(bench):
    """A promotion that waits for the next window finds the room that it asked for."""
    table = bench([0, 0, 0, 1], [3, 9])
    kswapd = kswapd_of(table, sees_bits=True)
    run(kswapd, table, promo=2, wanted=1)  # looks; nothing has room
    moves, _, _ = run(kswapd, table, promo=2)  # the rate limit: no promotion
    assert [0, 1] == moves.page.tolist()


def test_promotions_wake_it_and_get_the_room(bench):
    """Three promotions into a full node: three victims, room for three."""
    table = bench([0, 0, 0, 0, 1, 1, 1], [4, 9])
    moves, room, _ = run(kswapd_of(table, sees_bits=False), table, wanted=3)
    assert [0, 1, 2] == moves.page.tolist()
    assert [3, 0] == room.tolist()


def test_victims_go_to_the_next_tier_with_room(bench):
    """One page fits into the middle tier, the other goes below it."""
    table = bench([0, 0, 1, 2], [2, 2, 9], tiers=((0,), (1,), (2,)))
    moves, _, _ = run(kswapd_of(table, sees_bits=False), table, wanted=2)
    assert ([0, 1], [1, 2]) == (moves.page.tolist(), moves.node.tolist())


def test_no_victims_without_room_below(bench):
    """A full lower tier: nothing is reclaimed, nothing has room."""
    table = bench([0, 0, 1, 1], [2, 2])
    moves, room, _ = run(kswapd_of(table, sees_bits=False), table, wanted=2)
    assert (0, [0, 0]) == (len(moves), room.tolist())


def test_up_to_the_high_mark_there_is_no_room_for_promotions(bench):
    """It works up to its mark alone, and of the room above high nothing is left."""
    table = bench([0, 0, 0, 0, 1, 1, 1], [4, 9])
    kswapd = kswapd_of(table, sees_bits=False)
    one, three = np.array([1, 0]), np.array([3, 0])
    moves, room, _ = kswapd.run(table.epoch(), one, one, three, makes_room=False)
    assert 1 == len(moves)
    assert [1, 0] == room.tolist()
