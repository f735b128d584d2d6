"""The daemon's memory of its run: exact where it keeps all, bounded where not."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.history import MAX_MOVES, STRETCHES, History, _Pages
from isotherm.loop.epoch import Step
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Moves, Outcome, Plan, Reason


def step(**given) -> Step:
    """Return a step in which nothing happened but what is given."""
    plan = Plan(given.pop("moves", Moves.none()), notes=given.pop("notes", {}))
    outcome = given.pop("outcome", Outcome.none())
    return Step((), None, plan, outcome, **given)


def outcome(page: list[int], node: int, errno: int = 0) -> Outcome:
    """Return the outcome of moves to one node."""
    n = len(page)
    return Outcome(
        np.array(page, np.uint32),
        np.full(n, node, np.uint8),
        np.full(n, errno, np.int16),
        1.0,
    )


@pytest.mark.parametrize("pages", [0, 1, 5, 4096])
def test_two_bits_hold_a_tier(pages):
    """What was kept of every page comes back; others are not known."""
    rng = np.random.default_rng(pages)
    code = rng.integers(0, 4, pages).astype(np.uint8)
    kept = _Pages()
    kept.set_all(code)
    page = np.arange(pages, dtype=np.uint32)
    assert code.tolist() == kept.get(page).tolist()
    assert [3] == kept.get(np.array([pages + 7], np.uint32)).tolist()
    assert kept.nbytes <= pages / 4 + 1


def test_some_pages_change_and_no_others():
    """Four pages share a byte: each keeps its own code, in any order, twice too."""
    rng = np.random.default_rng(1)
    code = rng.integers(0, 4, 400).astype(np.uint8)
    kept = _Pages()
    kept.set_all(code)
    page = rng.permutation(400)[:150].astype(np.uint32)
    code[page] = rng.integers(0, 4, 150)
    kept.set_some(page, code[page])
    kept.set_some(np.array([4000], np.uint32), np.array([1], np.uint8))
    assert code.tolist() == kept.get(np.arange(400)).tolist()


def test_moves_stand_where_their_batches_ended(playing):
    """A batch that ran beside the loop has its own time and source."""
    played = playing()
    history = History(played.machine)
    played.machine.clock.advance(10 * NS_PER_S)
    ended = replace(
        outcome([1, 2], 0),
        src=np.array([1, 1], np.uint8),
        time_ns=np.array([3, 4]) * NS_PER_S,
    )
    history.observe(step(outcome=ended))
    assert [3, 4] == (history.moves.time_ns // NS_PER_S).tolist()
    assert [1, 1] == history.moves.src.tolist()


def test_a_page_that_moves_twice_has_both_sources(playing):
    """The second move begins where the first one ended, heat kept or not."""
    machine = playing().machine
    history = History(machine)
    page = int(np.flatnonzero(machine.placement() == 1)[0])
    history.observe(step())
    history.observe(step(outcome=outcome([page], 0)))
    history.observe(step(outcome=outcome([page], 1)))
    assert [1, 0] == history.moves.src.tolist()


def test_moves_are_kept_with_source_and_promise(playing):
    """A move's source is where the page was before, its promise the plan's."""
    machine = playing().machine
    history = History(machine)
    slow = np.flatnonzero(machine.placement() == 1)[:2]
    moves = Moves.to(slow, 0, Reason.PAYS, 5.0)
    history.observe(step(moves=moves, outcome=outcome(slow.tolist(), 0)))
    kept = history.moves
    assert slow.tolist() == kept.page.tolist()
    assert ([1, 1], [0, 0]) == (kept.src.tolist(), kept.dst.tolist())
    assert ([5.0, 5.0], [0, 0]) == (kept.gain_ns.tolist(), kept.reason.tolist())


def test_moves_that_end_later_have_their_own_promise(playing):
    """An outcome that comes epochs later belongs to the plan that wished for it."""
    history = History(playing().machine)
    moves = Moves.to(np.array([7]), 0, Reason.PAYS, 5.0)
    history.observe(step(moves=moves))
    history.observe(step())
    history.observe(step(outcome=outcome([7, 8], 0)))
    assert [int(Reason.PAYS), 255] == history.moves.reason.tolist()


def test_no_more_than_the_latest_moves_are_kept(playing):
    """Beyond the limit the oldest go, and are counted."""
    history = History(playing().machine)
    pages = list(range(4096))
    rounds = MAX_MOVES // 4096 + 2
    for _ in range(rounds):
        history.observe(step(outcome=outcome(pages, 0)))
    assert MAX_MOVES == len(history.moves.page)
    assert rounds * 4096 - MAX_MOVES == history.dropped_moves


def test_heat_is_kept_in_a_bounded_number_of_stretches(playing):
    """However long the run, its whole time is covered, without gap or overlap."""
    played = playing()
    history = History(played.machine)
    for _ in range(200):
        played.machine.clock.advance(NS_PER_S)
        history.observe(step())
    stretches = history.stretches
    assert len(stretches) < 2 * STRETCHES
    assert history.began_ns == stretches[0].from_ns
    edges = [(a.to_ns, b.from_ns) for a, b in pairwise(stretches)]
    assert all(end == start for end, start in edges)
    fast = (played.machine.placement() == 0).reshape(-1, 512).mean(axis=1)
    for stretch in stretches:
        assert fast.tolist() == pytest.approx(stretch.fast_share.tolist())


def test_pages_of_a_new_owner_have_no_past(playing):
    """What was known of renewed pages is forgotten, and of no others."""
    history = History(playing().machine)
    history.observe(step(outcome=outcome([3, 700], 0)))
    change = SpacesChanged(4096, np.array([[0, 512]], np.int64))
    history.observe(step(change=change))
    assert [700] == history.moves.page.tolist()
    share = history.stretches[0].fast_share
    assert np.isnan(share[0])
    assert not np.isnan(share[1:]).any()


def test_the_history_is_small(playing):
    """Half a byte a page, and the moves."""
    played = playing()
    history = History(played.machine)
    for _ in range(100):
        played.machine.clock.advance(NS_PER_S)
        history.observe(step())
    assert history.bytes <= 4096 // 2
