"""Views of a running daemon: they agree with the machine and with its result."""

import itertools

import msgspec
import numpy as np
import pytest

from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.answers import Answers
from isotherm.daemon.history import REGION_PAGES
from isotherm.daemon.socket import Question, ask
from isotherm.machine.protocol import Space
from isotherm.observability.view import (
    ALIKE,
    HEAT_ROWS,
    MOMENTS,
    Moment,
    Moments,
    View,
    alike_runs,
)
from tests.daemon.owned import Owned

START = 0x7F00_0000_0000
SPACES = (
    Space(0, 1024, "pid 4242 [heap]", START // PAGE_BYTES),
    Space(1024, 2048, "pid 4242", START // PAGE_BYTES + 5120),
    Space(3072, 1024, "pid 77", 512),
)


@pytest.fixture
def served(playing, tmp_path):
    """Return a service that has run for half a minute, and its answers."""
    played = playing()
    made = Answers(played.service, tmp_path / "s", "pid 4242, 77")
    made.history.machine = Owned(played.machine, SPACES)
    made.history.spaces = SPACES
    played.service.run(played.wait, 30.0)
    yield played, made
    made.close()


def view(made: Answers, **options) -> View:
    """Ask as a screen does."""
    found = ask(made.socket.path, Question("view", **options))
    return msgspec.convert(found, View)


@pytest.mark.slow
def test_a_view_agrees_with_the_machine_and_the_result(served) -> None:
    """Memory by tier and owner, moves and prices: the same from both sides."""
    played, made = served
    found, node = view(made), played.machine.placement()
    assert ["pid 4242", "pid 77"] == [owner.name for owner in found.owners]
    for owner, pages in zip(found.owners, (node[:3072], node[3072:]), strict=True):
        expected = tuple(int((pages == nid).sum()) * PAGE_BYTES for nid in (0, 1))
        assert expected == owner.tier_bytes
    for tier, described in enumerate(found.tiers):
        assert described.managed_bytes == sum(o.tier_bytes[tier] for o in found.owners)
        assert described.used_bytes <= described.capacity_bytes
    assert found.tiers[0].latency_ns < found.tiers[1].latency_ns
    result = played.service.result()
    assert result["promoted_pages"] == found.promoted_pages > 0
    assert result["fast_share"] == found.fast_share
    flows = {(flow.src, flow.dst): flow for flow in found.flows}
    assert result["promoted_pages"] == flows[1, 0].pages
    assert flows[1, 0].recent_pages == flows[1, 0].pages  # all of the last minute
    assert 1 == len(found.prices_ns)
    assert found.hints["accessed-bit"] > 0


@pytest.mark.slow
def test_ranges_are_whole_apart_and_hottest_first(served) -> None:
    """Together they are the memory whose heat is known, no byte twice."""
    _, made = served
    ranges = view(made, most_ranges=1000).ranges
    assert sorted((r.rate for r in ranges), reverse=True) == [r.rate for r in ranges]
    by_address = sorted(ranges, key=lambda r: r.start)
    for a, b in itertools.pairwise(by_address):
        assert a.end <= b.start
    assert 4096 == sum(r.nr_pages for r in ranges)
    assert ranges[:1] == view(made, most_ranges=1).ranges


@pytest.mark.slow
def test_moves_are_told_in_runs_at_their_addresses(served) -> None:
    """A run lies within one space, and its promise is of all of its pages."""
    _, made = served
    moves = view(made).moves
    assert any(move.nr_pages > 1 for move in moves) or len(moves) > 1
    for move in moves:
        begin, end = move.start, move.start + move.nr_pages * PAGE_BYTES
        assert any(
            s.start_page * PAGE_BYTES <= begin
            and end <= (s.start_page + s.pages) * PAGE_BYTES
            for s in SPACES
        )
        assert (move.owner == 1) == (begin < START)
        assert move.src != move.dst
    assert sorted(m.time_s for m in moves) == [m.time_s for m in moves]


@pytest.mark.slow
def test_the_heat_map_has_a_row_for_every_region(served) -> None:
    """Where there are few; columns are the stretches of time."""
    _, made = served
    assert view(made).heat is None
    heat = view(made, heat=True).heat
    assert 4096 // REGION_PAGES == len(heat.start) <= HEAT_ROWS
    assert (0,) * 6 + (1,) * 2 == heat.owner
    assert len(heat.time_s) == len(heat.rate[0]) == len(heat.fast_share[0])
    last = np.array([row[-1] for row in heat.fast_share], float)
    assert ((last >= 0) & (last <= 1)).all()


@pytest.mark.slow
def test_moments_follow_the_run(served) -> None:
    """Totals grow; the last one is what the view says."""
    _, made = served
    found = view(made)
    promoted = [m.promoted_pages for m in found.moments]
    assert sorted(promoted) == promoted
    assert found.promoted_pages == promoted[-1]
    assert found.moments[-1].time_s == pytest.approx(found.time_s)


def test_moments_thin_out_evenly() -> None:
    """Of any number of points at most twice as many as asked for are kept."""
    moments = Moments()
    for at in range(5000):
        moments.add(
            Moment(
                time_s=float(at),
                fast_share=None,
                promoted_pages=at,
                demoted_pages=0,
                brake_share=1.0,
                price_ns=None,
            )
        )
    times = [m.time_s for m in moments.all()]
    assert MOMENTS <= len(times) < 2 * MOMENTS
    assert 1 == len(set(np.diff(times)))
    assert 0.0 == times[0]


def test_runs_break_where_heat_jumps() -> None:
    """At a jump in heat or placement, and where a new neighbourhood begins."""
    new = np.array([1, 0, 0, 1, 0, 0], bool)
    rate = np.array([1.0, 1.9, 3.9, 3.9, 3.9 / ALIKE / 1.1, 3.9 / ALIKE / 1.1])
    share = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.9])
    assert [0, 2, 3, 4, 5] == alike_runs(new, rate, share).tolist()


@pytest.mark.slow
def test_a_view_is_made_once_an_epoch(served) -> None:
    """Whoever asks for the same gets the same until the next decision."""
    played, made = served
    asked = Question("view", most_ranges=3, heat=True)
    first = made.answer(asked)
    assert first is made.answer(Question("view", most_ranges=3, heat=True))
    assert first is not made.answer(Question("view", most_ranges=2, heat=True))
    epochs = view(made).epochs
    played.wait(1.0)
    played.service.epoch()
    assert epochs + 1 == view(made).epochs
    assert first is not made.answer(asked)


@pytest.mark.slow
def test_ranges_are_chosen_by_place_and_order(served) -> None:
    """Windows of an order put together are all of them."""
    _, made = served
    whole = view(made, most_ranges=1000, order="address")
    starts = [(r.owner, r.start) for r in whole.ranges]
    assert sorted(starts) == starts
    assert whole.nr_ranges == len(starts) > 3
    parts = [
        r
        for first in range(0, len(starts), 2)
        for r in view(made, most_ranges=2, first_range=first, order="address").ranges
    ]
    assert whole.ranges == tuple(parts)
    sizes = [r.nr_pages for r in view(made, most_ranges=1000, order="size").ranges]
    assert sorted(sizes, reverse=True) == sizes
