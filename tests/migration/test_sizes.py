"""Changes of page size carried out: what was made, what it cost, what moved along."""

import msgspec
import numpy as np
import pytest

from isotherm.machine.sim.huge_machine import HugeSimMachine
from isotherm.machine.sim.huge_spec import HugeSpec
from isotherm.machine.sim.spec import load_machine
from isotherm.migration.holdback import HUGE_BATCHES, HoldBack
from isotherm.migration.sizes import Sizer
from isotherm.policy.sizes import SizeChanges

PAGES = 4 * 512
FAST, SLOW = 0, 1
ENOMEM = 12


def machine(fast_pages: int = 1024) -> HugeSimMachine:
    """Return a machine with all pages small and slow; collapses cost a quarter ms."""
    huge = HugeSpec(collapse_ns=250e3)
    spec = msgspec.structs.replace(load_machine("dram-cxl"), huge_pages=huge)
    made = HugeSimMachine(spec, PAGES, fast_pages / PAGES)
    made.place(np.full(PAGES, SLOW, np.uint8))
    return made


def changes(*page: int, huge: bool) -> SizeChanges:
    """Return changes of ranges."""
    n = len(page)
    return SizeChanges(
        np.array(page, np.uint32),
        np.full(n, huge),
        np.ones(n, np.float32),
        np.zeros(n, np.uint8),
    )


def promote(on: HugeSimMachine, pages: int) -> None:
    """Move the first pages to fast memory."""
    page = np.arange(pages, dtype=np.uint32)
    on.move(page, np.full(pages, FAST, np.uint8))


def test_pages_that_a_collapse_gathers_are_in_the_outcome() -> None:
    """100 of 512 come back to slow memory: from where, where to, and what it cost."""
    on = machine()
    promote(on, 100)
    sizer = Sizer(on)
    outcome = sizer.resize(changes(0, 512, huge=True))
    assert list(range(100)) == outcome.page.tolist()
    assert ({FAST}, {SLOW}) == (set(outcome.src.tolist()), set(outcome.node.tolist()))
    assert {0} == set(outcome.errno.tolist())
    assert 500e3 == outcome.cost_ns
    assert [0, 512] == sizer.done.page.tolist()
    totals = sizer.totals
    assert (2, 0, 100) == (totals.collapses, totals.splits, totals.gathered_pages)


def test_what_fails_is_counted_and_not_told_as_done() -> None:
    """A collapse without room is an errno; the other change is made all the same."""
    on = machine(fast_pages=300)
    promote(on, 300)
    sizer = Sizer(on)
    sizer.resize(changes(0, 512, huge=True))
    assert [512] == sizer.done.page.tolist()
    assert {ENOMEM: 1} == sizer.totals.failed
    sizer.resize(SizeChanges.none())
    assert 0 == len(sizer.done)


def test_costs_follow_what_changes_took() -> None:
    """The machine's belief holds until a change of that kind was measured."""
    on = machine()
    sizer = Sizer(on)
    assert (90e3, 250e3) == (sizer.look().split_ns, sizer.look().collapse_ns)
    on.huge_memory.spec = msgspec.structs.replace(
        on.huge_memory.spec, collapse_ns=400e3
    )
    sizer.resize(changes(0, huge=True))
    assert 400e3 == sizer.look().collapse_ns
    on.huge_memory.spec = msgspec.structs.replace(
        on.huge_memory.spec, collapse_ns=800e3
    )
    sizer.resize(changes(512, huge=True))
    assert 440e3 == pytest.approx(sizer.look().collapse_ns)
    assert 90e3 == sizer.look().split_ns


def test_a_brake_leaves_sizes_alone() -> None:
    """Below a full share nothing is changed and nothing counted."""
    on = machine()
    sizer = Sizer(on)
    sizer.share = 0.5
    assert 0 == len(sizer.resize(changes(0, huge=True)).page)
    assert not on.huge_pages().huge.any()
    assert 0 == sizer.totals.collapses


def test_a_huge_page_is_held_back_whole() -> None:
    """All rows of one are in one arm, over a few batches; small ones one by one."""
    hold_back = HoldBack(0.3, seed=3)
    hold_back.huge = np.array([True] * 200)
    page = np.arange(400 * 512, dtype=np.uint32)
    held, followed = hold_back.arm(page, 0)
    rows = held.reshape(400, 512).sum(1)
    assert {0, 512} == set(rows[:200].tolist())
    assert 30 <= int((rows[:200] == 512).sum()) <= 90
    assert ((rows[200:] > 0) & (rows[200:] < 512)).all()
    assert not (held & followed).any()
    same, _ = hold_back.arm(page, HUGE_BATCHES - 1)
    other, _ = hold_back.arm(page, HUGE_BATCHES)
    assert (held[: 200 * 512] == same[: 200 * 512]).all()
    assert (held[: 200 * 512] != other[: 200 * 512]).any()
