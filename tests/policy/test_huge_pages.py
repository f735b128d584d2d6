"""When page sizes change: what has been paid for, what others undo."""

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S
from isotherm.machine.protocol import HugePages, SpacesChanged
from isotherm.policy.huge_pages import REST_S, PageSizes, Weighed, check_mode
from isotherm.policy.sizes import SizeChanges, SizeReason

EPOCH_S = 0.5
SPLIT_NS, COLLAPSE_NS, PAGE_NS = 90e3, 500e3, 2500.0


def found(huge: list[bool], round_s: float = np.inf) -> HugePages:
    """Return ranges that are huge or not, with a kernel thread or none."""
    n = len(huge)
    return HugePages(
        np.array(huge),
        round_s,
        np.full(n, np.isfinite(round_s)),
        entries=1536,
        walk_ns=50.0,
        huge_walk_ns=5.0,
        move_ns=448e3,
        split_ns=SPLIT_NS,
        collapse_ns=COLLAPSE_NS,
    )


def weighed(
    *rows: tuple[float, float, int], fast: int = 512, room: int = 1 << 20
) -> Weighed:
    """Return ranges of (misses a second if small, gain apart, pages that would go)."""
    column = np.zeros((len(rows), 4))
    for at, (misses, apart, far) in enumerate(rows):
        column[at] = 1000.0, misses, apart, far
    have = np.zeros((len(rows), 3), np.int32)
    have[:, 0], have[:, 1] = fast, 512 - fast
    return Weighed(
        column,
        np.zeros(len(rows), np.uint8),
        have,
        stays_s=np.inf,
        page_ns=PAGE_NS,
        room=np.array([room, room, 0]),
        parallelism=1.0,
        dt_s=EPOCH_S,
    )


def play(
    sizes: PageSizes, huge: HugePages, worth: Weighed, epochs: int
) -> list[tuple[int, bool]]:
    """Return the epoch and the direction of every change of range 0, made at once."""
    made, changes = SizeChanges.none(), []
    for epoch in range(epochs):
        now_ns = round(epoch * EPOCH_S * NS_PER_S)
        sizes.observe(huge, made, now_ns)
        made, _ = sizes.decide(huge, worth, now_ns)
        for page, to_huge in zip(made.page.tolist(), made.huge.tolist(), strict=True):
            huge.huge[page // 512] = to_huge
            changes.append((epoch, to_huge))
    return changes


def test_a_split_waits_until_not_splitting_has_cost_as_much() -> None:
    """40 pages that go cost 190 us with the split; 50 us an epoch pay in the fourth."""
    worth = weighed((0.0, 50e3, 40))
    assert [(3, False)] == play(PageSizes(512), found([True]), worth, 20)


def test_a_collapse_waits_until_its_misses_have_cost_as_much() -> None:
    """4000 misses a second of 50 ns are 100 us an epoch: due in the fifth."""
    worth = weighed((4000.0, 0.0, 0))
    assert [(4, True)] == play(PageSizes(512), found([False]), worth, 20)


def test_what_gains_on_neither_side_stays() -> None:
    """A range whose misses cost what its pages would gain apart changes nothing."""
    worth = weighed((4000.0, 100e3, 40))
    assert [] == play(PageSizes(512), found([True]), worth, 50)
    assert [] == play(PageSizes(512), found([False]), worth, 50)


def test_a_gain_that_comes_and_goes_is_not_added_up() -> None:
    """The sum falls with every epoch that says the contrary, and not below nothing."""
    sizes, huge = PageSizes(512), found([True])
    up, down = weighed((0.0, 50e3, 40)), weighed((4000.0, 50e3, 40))
    for epoch in range(40):
        sizes.observe(huge, SizeChanges.none(), epoch)
        changes, _ = sizes.decide(huge, up if epoch % 2 else down, epoch)
        assert 0 == len(changes)


def test_changes_say_why_and_what_they_save() -> None:
    """Best first; a split is for skew, a collapse for misses."""
    sizes, huge = PageSizes(1024), found([True, False])
    worth = weighed((0.0, 200e3, 40), (40_000.0, 0.0, 0))
    changes, notes = sizes.decide(huge, worth, 0)
    assert [512, 0] == changes.page.tolist()
    assert [True, False] == changes.huge.tolist()
    assert [SizeReason.FEWER_MISSES, SizeReason.SKEWED] == changes.reason.tolist()
    assert [1000e3, 200e3] == changes.gain_ns.tolist()
    assert 1 == notes["huge_ranges"]


def test_a_range_is_collapsed_only_where_it_should_be() -> None:
    """Not while most of it is in another tier, nor where the rest has no room."""
    dear = (40_000.0, 0.0, 0)
    elsewhere = weighed(dear, fast=100)
    assert [] == play(PageSizes(512), found([False]), elsewhere, 5)
    no_room = weighed(dear, fast=400, room=111)
    assert [] == play(PageSizes(512), found([False]), no_room, 5)
    room = weighed(dear, fast=400, room=112)
    assert [(0, True)] == play(PageSizes(512), found([False]), room, 5)


def test_what_somebody_undoes_rests_twice_as_long_each_time() -> None:
    """A split that is undone is tried again after a rest, then after two."""
    sizes, worth = PageSizes(512), weighed((0.0, 500e3, 40))
    huge, made, tried = found([True]), SizeChanges.none(), []
    for second in range(230):
        now_ns = second * NS_PER_S
        sizes.observe(huge, made, now_ns)
        made, _ = sizes.decide(huge, worth, now_ns)
        if len(made):
            tried.append(second)
            huge.huge[0] = False
            sizes.observe(huge, made, now_ns)
            huge.huge[0] = True  # somebody else, before the next look
            made = SizeChanges.none()
    assert 0 == tried[0]
    gaps = np.diff(tried).tolist()
    assert [REST_S, 2 * REST_S, 4 * REST_S] == pytest.approx(gaps, abs=2)
    assert sizes.undone == len(tried)


def test_the_kernels_own_work_is_left_to_it() -> None:
    """Where khugepaged comes by, a range is ours only after it has passed twice."""
    worth = weighed((40_000.0, 0.0, 0))
    changes = play(PageSizes(512), found([False], round_s=10.0), worth, 100)
    assert [(40, True)] == changes


def test_fixed_modes_price_nothing() -> None:
    """Always-split splits, always-huge collapses, never-split does neither."""
    free = weighed((0.0, 0.0, 0), (0.0, 0.0, 0))
    for mode, expected in (
        ("always-split", [(0, False)]),
        ("always-huge", [(512, True)]),
        ("never-split", []),
    ):
        sizes = PageSizes(1024, mode)
        changes, _ = sizes.decide(found([True, False]), free, 0)
        got = list(zip(changes.page.tolist(), changes.huge.tolist(), strict=True))
        assert expected == got
        assert {SizeReason.ALWAYS} >= set(changes.reason.tolist())


def test_changes_of_an_epoch_keep_to_its_budget() -> None:
    """5 % of half a second are 50 collapses of 500 us, the best ones."""
    n = 200
    rows = [(40_000.0 + 100 * i, 0.0, 0) for i in range(n)]
    sizes = PageSizes(512 * n)
    changes, _ = sizes.decide(found([False] * n), weighed(*rows), 0)
    assert list(range(n - 1, n - 51, -1)) == (changes.page // 512).tolist()


def test_a_renewed_range_starts_anew() -> None:
    """What was added up for an owner does not count for the next one."""
    sizes, huge, worth = PageSizes(512), found([True]), weighed((0.0, 50e3, 40))
    for epoch in range(3):
        sizes.decide(huge, worth, epoch)
    sizes.renew(SpacesChanged(1024, np.array([[0, 512]], np.int64)))
    both = found([True, True])
    twice = weighed((0.0, 50e3, 40), (0.0, 50e3, 40))
    assert 0 == len(sizes.decide(both, twice, 3)[0])


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    """The message names them."""
    with pytest.raises(UsageError, match="expected priced, never-split"):
        check_mode("sometimes")
