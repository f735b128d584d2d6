"""The state machine of slots, one wish at a time."""

import errno

import numpy as np
import pytest

from isotherm.gpu.backend import CHANGED, DIRTY, DONE
from isotherm.gpu.protocol import (
    HBM,
    HOST,
    MOST_TRIES,
    Instruction,
    Op,
    Slot,
    SlotProtocol,
)
from isotherm.gpu.thrash import ThrashGuard


def u32(*values: int) -> np.ndarray:
    """Return a column."""
    return np.array(values, np.uint32)


def answer(p: SlotProtocol, told: Instruction, value: int = 0) -> None:
    """Answer an instruction with the same value for every page."""
    p.answered(told.id, np.full(len(told.page), value, np.uint32))


def live(p: SlotProtocol, *page: int) -> None:
    """Bring pages in by copies."""
    assert [0] * len(page) == p.promote(u32(*page), copy=True).tolist()
    while todo := p.tick():
        for told in todo:
            answer(p, told)
    assert (p.state[p.slot_of[list(page)]] == Slot.LIVE).all()


def ops(todo: list[Instruction]) -> list[str]:
    """Return the operations by name."""
    return [told.op.value for told in todo]


def test_a_copy_is_published_last() -> None:
    """Copy, then commit with the version from before it."""
    p = SlotProtocol(8, 2)
    p.promote(u32(5), copy=True)
    (told,) = p.tick()
    assert (Op.COPY_IN, [5], [0]) == (told.op, told.page.tolist(), told.slot.tolist())
    assert [] == p.tick()
    answer(p, told, 7)
    (told,) = p.tick()
    assert Op.COMMIT is told.op
    assert told.version is not None
    assert [7] == told.version.tolist()
    answer(p, told, DONE)
    assert p.settled
    assert (1, 0) == (p.totals.copied, p.totals.aborted)


def test_a_deposit_waits_for_its_launch() -> None:
    """Published when the launch that stored it has ended, not before."""
    p = SlotProtocol(8, 2)
    p.promote(u32(5))
    (want,) = p.tick()
    assert Op.WANT is want.op
    answer(p, want)
    epoch = p.launch()
    (probe,) = p.tick()
    assert Op.DEPOSITED is probe.op
    p.answered(probe.id, u32(epoch))
    assert [] == p.tick()
    p.ended(epoch)
    (probe,) = p.tick()
    p.answered(probe.id, u32(epoch))
    (commit,) = p.tick()
    assert Op.COMMIT is commit.op
    answer(p, commit, DONE)
    assert 1 == p.totals.deposited


def test_of_a_writable_tensor_a_deposit_is_sealed_first() -> None:
    """The want is taken back and readers waited for before it is published."""
    p = SlotProtocol(8, 2, writable=True)
    p.promote(u32(5))
    answer(p, p.tick()[0])
    first = p.launch()
    late = p.launch()
    p.ended(first)
    (probe,) = p.tick()
    p.answered(probe.id, u32(first))
    (seal,) = p.tick()
    assert Op.UNPUBLISH is seal.op
    answer(p, seal, DONE)
    assert [] == p.tick()
    p.ended(late)
    assert ["commit"] == ops(p.tick())


@pytest.mark.parametrize("answered", [True, False])
def test_what_waits_for_a_reader_can_be_copied_after_all(answered: bool) -> None:
    """A second promotion, by a copy, takes the want back and waits for readers."""
    p = SlotProtocol(8, 2)
    p.promote(u32(5))
    (want,) = p.tick()
    if answered:
        answer(p, want)
    reader = p.launch()
    assert [0] == p.promote(u32(5), copy=True).tolist()
    if not answered:
        answer(p, want)
    (back,) = p.tick()
    assert Op.UNPUBLISH is back.op
    answer(p, back, DONE)
    assert [] == p.tick()
    p.ended(reader)
    (copy,) = p.tick()
    assert Op.COPY_IN is copy.op
    answer(p, copy)
    answer(p, p.tick()[0], DONE)
    assert (HBM, 1, 0) == (p.place[5], p.totals.copied, p.totals.deposited)
    assert p.settled


def test_a_slot_rests_until_readers_have_ended() -> None:
    """A page that left frees its slot when all launches up to the answer are over."""
    p = SlotProtocol(8, 1)
    live(p, 3)
    before = p.launch()
    assert [0] == p.demote(u32(3)).tolist()
    (out,) = p.tick()
    between = p.launch()  # after the call, before its answer: may see the slot
    answer(p, out, DONE)
    after = p.launch()
    assert [0] == p.promote(u32(4), copy=True).tolist()
    assert 1 == p.grace_slots
    p.ended(before)
    assert [] == p.tick()
    p.ended(between)
    (told,) = p.tick()
    assert (Op.COPY_IN, [4]) == (told.op, told.page.tolist())
    p.ended(after)


def test_what_was_not_seen_needs_no_rest() -> None:
    """A page that leaves while it is copied frees its slot at once."""
    p = SlotProtocol(8, 1)
    p.promote(u32(3), copy=True)
    (copy,) = p.tick()
    p.launch()
    p.demote(u32(3))
    assert [] == p.tick()
    answer(p, copy)
    p.promote(u32(4), copy=True)
    assert ["copy_in"] == ops(p.tick())


@pytest.mark.parametrize("stage", ["want", "copy_in", "commit"])
def test_a_page_called_back_on_its_way_stays(stage: str) -> None:
    """Demoted and promoted again before anything was answered, it comes as before."""
    p = SlotProtocol(8, 1)
    p.promote(u32(3), copy=stage != "want")
    (told,) = p.tick()
    if stage == "commit":
        answer(p, told)
        (told,) = p.tick()
    assert stage == told.op.value
    p.demote(u32(3))
    assert HOST == p.place[3]
    assert [0] == p.promote(u32(3)).tolist()
    answer(p, told, DONE)
    assert HBM == p.place[3]
    assert "unpublish" not in ops(p.tick())


def test_a_page_on_its_way_out_is_not_called_back() -> None:
    """EAGAIN until it has left."""
    p = SlotProtocol(8, 2)
    live(p, 3)
    p.demote(u32(3))
    assert [errno.EAGAIN] == p.promote(u32(3)).tolist()
    answer(p, p.tick()[0], DONE)
    assert [0] == p.promote(u32(3)).tolist()


def test_a_written_page_is_copied_again_and_then_left() -> None:
    """After three copies that a write has overtaken the page is held for a while."""
    p = SlotProtocol(8, 1, writable=True)
    p.promote(u32(3), copy=True)
    for _ in range(MOST_TRIES):
        (copy,) = p.tick()
        answer(p, copy)
        (commit,) = p.tick()
        answer(p, commit, CHANGED)
    assert [] == p.tick()
    assert (HOST, 0, Slot.FREE) == (p.place[3], p.placed, p.state[0])
    assert [errno.EBUSY] == p.promote(u32(3)).tolist()
    for _ in range(400):
        p.ended(p.launch())
    assert [0] == p.promote(u32(3)).tolist()


def test_a_dirty_page_is_saved_before_it_leaves() -> None:
    """Copied out, found clean, unpublished."""
    p = SlotProtocol(8, 1, writable=True)
    live(p, 3)
    p.demote(u32(3))
    (out,) = p.tick()
    answer(p, out, DIRTY)
    (save,) = p.tick()
    assert Op.COPY_OUT is save.op
    answer(p, save, 9)
    (clean,) = p.tick()
    assert clean.version is not None
    assert (Op.CLEAN, [9]) == (clean.op, clean.version.tolist())
    answer(p, clean, DONE)
    (out,) = p.tick()
    assert Op.UNPUBLISH is out.op
    answer(p, out, DONE)
    assert (1, 1) == (p.totals.saved, p.totals.left)


@pytest.mark.parametrize("clean", [True, False])
def test_a_page_written_faster_than_it_is_saved_stays(clean: bool) -> None:
    """After three rounds it stays where it is, and is counted there."""
    p = SlotProtocol(8, 1, writable=True)
    live(p, 3)
    p.demote(u32(3))
    for _ in range(40):
        todo = p.tick()
        if not todo:
            break
        (told,) = todo
        value = {Op.UNPUBLISH: DIRTY, Op.CLEAN: DONE if clean else CHANGED}
        answer(p, told, value.get(told.op, 0))
    assert [] == p.tick()
    assert (HBM, 1, Slot.LIVE) == (p.place[3], p.placed, p.state[0])
    assert 1 == p.totals.aborted


@pytest.mark.parametrize("leaves", [False, True])
def test_a_flush_ends_although_the_page_is_written(leaves: bool) -> None:
    """After so many tries the page is dirty as before; one that is to leave does."""
    p = SlotProtocol(8, 2, writable=True)
    live(p, 3)
    p.flush(u32(int(p.slot_of[3])))
    if leaves:
        p.demote(u32(3))
    seen = []
    while len(seen) < 2 * MOST_TRIES:
        (told,) = p.tick()
        seen.append(told.op.value)
        answer(p, told, CHANGED if told.op is Op.CLEAN else 7)
    assert ["copy_out", "clean"] * MOST_TRIES == seen
    if leaves:
        assert ["unpublish"] == ops(p.tick())
    else:
        assert p.settled
        assert Slot.LIVE == p.state[p.slot_of[3]]


def test_there_is_room_for_as_many_pages_as_slots() -> None:
    """Slots that rest count as room: what is promised one waits for it."""
    p = SlotProtocol(8, 2)
    live(p, 0, 1)
    assert [errno.ENOMEM] == p.promote(u32(2)).tolist()
    p.launch()
    p.demote(u32(0, 1))
    answer(p, p.tick()[0], DONE)
    assert [0, 0, errno.ENOMEM] == p.promote(u32(4, 5, 6)).tolist()
    assert [] == p.tick()
    assert not p.settled
    p.demote(u32(4))
    p.ended(1)
    (want,) = p.tick()
    assert [5] == want.page.tolist()


def test_pins_and_holds() -> None:
    """A pinned page does not leave, a held one does not come."""
    p = SlotProtocol(8, 4)
    live(p, 3)
    p.pin(u32(3))
    assert [errno.EBUSY] == p.demote(u32(3)).tolist()
    p.pin(u32(3), on=False)
    assert [0] == p.demote(u32(3)).tolist()
    p.hold(u32(5))
    assert [errno.EBUSY, 0] == p.promote(u32(5, 6)).tolist()
    p.hold(u32(5), on=False)
    assert [0] == p.promote(u32(5)).tolist()


def test_slots_are_given_back_when_nobody_looks_at_them() -> None:
    """Free ones at once, others after their page has left and readers have ended."""
    p = SlotProtocol(8, 4)
    live(p, 0, 1, 2)
    epoch = p.launch()
    p.shrink(1)
    assert Slot.GONE == p.state[3]
    (out,) = p.tick()
    assert [1, 2] == out.page.tolist()
    answer(p, out, DONE)
    assert not p.is_shrunk
    p.ended(epoch)
    p.tick()
    assert p.is_shrunk
    assert [errno.ENOMEM] == p.promote(u32(7)).tolist()
    p.demote(u32(0))
    answer(p, p.tick()[0], DONE)
    assert [0] == p.promote(u32(7)).tolist()
    (want,) = p.tick()
    assert [0] == want.slot.tolist()


def test_answers_come_in_order() -> None:
    """An answer to a younger instruction first is an error, not a guess."""
    p = SlotProtocol(8, 4)
    p.promote(u32(1))
    p.tick()
    p.promote(u32(2))
    (second,) = p.tick()
    with pytest.raises(ValueError, match="expected of 1, got of 2"):
        answer(p, second)


def test_a_page_that_comes_and_goes_is_held() -> None:
    """Three returns soon after leaving, and it stays on the host for a while."""
    guard = ThrashGuard(returns=3, window_epochs=8, hold_epochs=50)
    for epoch in (10, 12, 14):
        guard.left(u32(4, 6), epoch)
        expected = [epoch == 14, False]
        assert expected == guard.refuse(u32(4, 5), epoch + 1).tolist()
    assert [True, False] == guard.refuse(u32(4, 6), 40).tolist()
    assert 1 == guard.holds(40)
    assert [False] == guard.refuse(u32(4), 66).tolist()


def test_returns_far_apart_are_none() -> None:
    """A page that comes back after the window begins anew."""
    guard = ThrashGuard(returns=2, window_epochs=8, hold_epochs=50)
    for epoch in range(10, 200, 20):
        guard.left(u32(4), epoch)
        assert [False] == guard.refuse(u32(4), epoch + 15).tolist()
