"""The consistency protocol of slots: who holds one, when it may be used again.

A state machine without I/O. It is told of launches, wishes and answers, and says
what the backend is to do next. Readers take no lock; these rules make them safe:

1. Publish last: ``loc`` points to a slot only when its copy is complete.
2. Reclaim after a grace period: a slot whose page was unpublished, or whose WANTED
   was taken back, is filled again only when every launch that had taken its epoch
   before the *answer* to that came has ended. (Before the answer, not before the
   call: the store runs later than the call, and launches in between see the old
   ``loc``.)
3. A deposit is published when the launch whose epoch stands in ``dep`` has ended.
   Where the tensor is writable, the WANTED is taken back first and a grace period
   waited for: a slow reader could store the old page over a write to the slot.
4. What is published carries the version from before the copy; a page written since
   is copied again, and after ``MOST_TRIES`` left where it is for a while. Dirty
   pages go back to the host arena before they are unpublished, by the same rule.

``tests/gpu/test_protocol_model.py`` runs this very class against every interleaving
of small readers, writers and a mover, and finds each rule necessary.
"""

import errno
from collections import deque

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu.backend import CHANGED, DIRTY
from isotherm.gpu.readers import Readers
from isotherm.gpu.slots import (
    HBM,
    HOST,
    SAFE,
    Instruction,
    Op,
    Pages,
    Rules,
    Slot,
    Totals,
    Waiting,
)
from isotherm.gpu.thrash import ThrashGuard

__all__ = ["HBM", "HOST", "SAFE", "Instruction", "Op", "Rules", "Slot", "SlotProtocol"]

MOST_TRIES = 3  # of a copy while its page is written


class SlotProtocol:
    """The state machine; see the module.

    Args:
        pages: Pages of the tensor.
        slots: Slots of the device.
        writable: Whether pages may be written.
        deposits: Whether readers deposit.
        rules: All of them, but in tests.
        guard: Against pages that come and go; None: the default one.
    """

    def __init__(
        self,
        pages: int,
        slots: int,
        *,
        writable: bool = False,
        deposits: bool = True,
        rules: Rules = SAFE,
        guard: ThrashGuard | None = None,
    ) -> None:
        self.writable, self.deposits, self.rules = writable, deposits, rules
        self.readers = Readers()
        self.guard = guard or ThrashGuard()
        self.totals = Totals()
        #: Where every page is, or will be as soon as the device gets to it: HBM or
        #: HOST, uint8[pages].
        self.place = np.full(pages, HOST, np.uint8)
        #: The slot that is taken for a page, or -1, int32[pages].
        self.slot_of = np.full(pages, -1, np.int32)
        self.state = np.full(slots, Slot.FREE, np.uint8)
        self.owner = np.full(slots, -1, np.int32)
        self.version = np.zeros(slots, np.uint32)
        self.tries = np.zeros(slots, np.uint8)
        self.doomed = np.zeros(slots, np.bool_)
        self._copies = np.zeros(slots, np.bool_)  # filled by a copy, not by a reader
        self.end = slots  # slots from here on are not to be used
        self.placed = 0  # pages in HBM
        self._pinned: NDArray[np.bool_] | None = None
        self._held: NDArray[np.bool_] | None = None
        self._free = np.arange(slots - 1, -1, -1, dtype=np.uint32)  # the last is next
        self._frees = slots
        self._queue: deque[tuple[Pages, bool]] = deque()
        self._wanted = np.empty(0, np.uint32)
        self._lists = Waiting()
        self._under_way: deque[tuple[Instruction, int]] = deque()
        self._out: list[Instruction] = []
        self._ids = 0
        self._probing = False
        self._probe = False

    # -- launches ------------------------------------------------------------

    def launch(self) -> int:
        """Return the epoch of a launch that is about to be made."""
        return self.readers.take()

    def ended(self, epoch: int, *, whole: bool = True) -> None:
        """Take note of the end of a launch; not ``whole``: it was made in part."""
        self.readers.end(epoch)
        if not whole:
            if not np.isin(self.state, (Slot.WANTING, Slot.WANTED)).any():
                self.readers.spoiled.clear()  # there is nothing that they stamped
            self.readers.spoiled.add(epoch & 0xFFFFFFFF or 1)
        self._probe = True

    # -- wishes ----------------------------------------------------------------

    @property
    def room(self) -> int:
        """Pages that may still be promoted."""
        return max(0, self.end - self.placed)

    def promote(self, page: Pages, *, copy: bool = False) -> NDArray[np.int16]:
        """Promise pages a slot, the first ones first.

        Args:
            page: No page twice.
            copy: Copy them, also those that wait for a reader so far; False: let
                readers deposit them, where they do.

        Returns:
            0, or the errno: EBUSY (held, or it comes and goes too often), EAGAIN (on
            its way out), ENOMEM (no room), int16[n].
        """
        status = np.zeros(len(page), np.int16)
        away = self.place[page] == HOST
        slot = self.slot_of[page]
        if copy:
            self._hurry(slot[~away & (slot >= 0)].astype(np.uint32))
        stays = away & (slot >= 0)
        state = self.state[slot[stays]]
        back = np.isin(state, (Slot.SAVING, Slot.LEAVING), invert=True)
        back &= slot[stays] < self.end
        status[np.flatnonzero(stays)[~back]] = errno.EAGAIN
        fresh = away & (slot < 0)
        if self._held is not None:
            status[away & self._held[page]] = errno.EBUSY
        row = np.flatnonzero(away & (status == 0))
        status[row[self.room :]] = errno.ENOMEM
        row = np.flatnonzero(fresh & (status == 0))
        refused = self.guard.refuse(page[row], self.readers.epoch)
        status[row[refused]] = errno.EBUSY
        row = np.flatnonzero(away & (status == 0))
        self.totals.refused += int(np.count_nonzero(status))
        self.place[page[row]] = HBM
        self.placed += len(row)
        kept = slot[row] >= 0
        self.doomed[slot[row][kept]] = False
        row = row[~kept]
        if len(row):
            self._queue.append((page[row].astype(np.uint32), copy or not self.deposits))
        return status

    def demote(self, page: Pages) -> NDArray[np.int16]:
        """Send pages back to the host.

        Args:
            page: No page twice.

        Returns:
            0, or the errno: EBUSY (pinned), int16[n].
        """
        status = np.zeros(len(page), np.int16)
        here = self.place[page] == HBM
        if self._pinned is not None:
            pinned = here & self._pinned[page]
            status[pinned] = errno.EBUSY
            here &= ~pinned
        page = page[here]
        self.place[page] = HOST
        self.placed -= len(page)
        slot = self.slot_of[page]
        slot = slot[slot >= 0]  # the rest is in the queue only
        self._leave(slot.astype(np.uint32))
        return status

    def pin(self, page: Pages, *, on: bool = True) -> None:
        """Refuse to demote pages from now on; or let go of them."""
        if self._pinned is None:
            self._pinned = np.zeros(len(self.place), np.bool_)
        self._pinned[page] = on

    def is_pinned(self, page: Pages) -> NDArray[np.bool_]:
        """Return which pages are not to be demoted, bool[n]."""
        if self._pinned is None:
            return np.zeros(len(page), np.bool_)
        pinned: NDArray[np.bool_] = self._pinned[page]
        return pinned

    def hold(self, page: Pages, *, on: bool = True) -> None:
        """Refuse to promote pages from now on; or let go of them."""
        if self._held is None:
            self._held = np.zeros(len(self.place), np.bool_)
        self._held[page] = on

    def flush(self, slot: Pages) -> None:
        """Copy dirty slots out; their pages stay. Those on their way are left.

        A page that is written during each of ``MOST_TRIES`` copies stays dirty.
        """
        slot = slot[self.state[slot] == Slot.LIVE]
        self.tries[slot] = 0
        self._save(slot, Slot.FLUSHING)

    def shrink(self, slots: int) -> None:
        """Use no slot from ``slots`` on any more; pages there leave."""
        self.end = min(self.end, slots)
        tail = np.arange(self.end, len(self.state), dtype=np.uint32)
        owner = self.owner[tail]
        page = owner[owner >= 0].astype(np.uint32)
        if self._pinned is not None:
            self._pinned[page] = False
        self.demote(page)
        surplus = self.placed - self.end
        if surplus > 0:  # promised a slot that will not come
            self.demote(self._unplaced()[-surplus:])
        self._free_up(tail[self.state[tail] == Slot.FREE])

    def _unplaced(self) -> Pages:
        """Return pages that wait for a slot, in their order."""
        parts = [np.empty(0, np.uint32), *(page for page, _ in self._queue)]
        page = np.concatenate(parts)
        _, first = np.unique(page, return_index=True)
        page = page[np.sort(first)]
        waits = (self.place[page] == HBM) & (self.slot_of[page] < 0)
        found: Pages = page[waits]
        return found

    @property
    def is_shrunk(self) -> bool:
        """Whether no slot beyond the end is in use any more."""
        return bool((self.state[self.end :] == Slot.GONE).all())

    # -- what is to be done ------------------------------------------------------

    def tick(self) -> list[Instruction]:
        """Return what is to be done now, in this order."""
        for waiting, ripe in (
            (self._lists.grace, self._free_up),
            (self._lists.sealed, self._publish_sealed),
        ):
            while waiting and self._is_past(waiting[0][0]):
                ripe(waiting.popleft()[1])
        self._fill()
        if len(self._wanted) and self._probe and not self._probing:
            self._issue(Op.DEPOSITED, self._wanted, Slot.WANTED)
            self._probing, self._probe = True, False
        out, self._out = self._out, []
        return out

    def answered(self, instruction: int, answer: NDArray[np.integer]) -> None:
        """Take what the backend answered to an instruction; the oldest one first.

        Raises:
            ValueError: Another instruction is older.
        """
        told, called = self._under_way.popleft()
        if told.id != instruction:
            raise ValueError(f"answer: expected of {told.id}, got of {instruction}")
        if told.op is Op.WANT:
            self._wanting_done(told, answer)
        elif told.op is Op.DEPOSITED:
            self._probed(told, answer)
        elif told.op is Op.COPY_IN:
            self._copied(told, answer)
        elif told.op is Op.COMMIT:
            self._committed(told, answer)
        elif told.op is Op.COPY_OUT:
            self._saved(told, answer)
        elif told.op is Op.CLEAN:
            self._cleaned(told, answer)
        else:
            self._unpublished(told, answer, called)

    @property
    def grace_slots(self) -> int:
        """Slots that wait for readers."""
        return sum(len(slot) for _, slot in (*self._lists.grace, *self._lists.sealed))

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing would be but for readers."""
        return not (self._under_way or self._out or self._lists.sealed)

    @property
    def settled(self) -> bool:
        """Whether no page waits for anything but to be read."""
        waits = self._lists.grace or len(self._unplaced())
        return self.idle and not waits

    def _hurry(self, slot: Pages) -> None:
        """Copy what waits for a reader: its want is taken back first."""
        self._copies[slot[self.state[slot] == Slot.WANTING]] = True
        slot = slot[self.state[slot] == Slot.WANTED]
        self._copies[slot] = True
        self._wanted = self._wanted[np.isin(self._wanted, slot, invert=True)]
        self._issue(Op.UNPUBLISH, slot, Slot.SEALING)

    # -- coming --------------------------------------------------------------------

    def _fill(self) -> None:
        """Give free slots to pages that were promised one."""
        while self._queue and self._frees:
            page, copy = self._queue[0]
            page = page[(self.place[page] == HBM) & (self.slot_of[page] < 0)]
            some, rest = page[: self._frees], page[self._frees :]
            self._queue.popleft()
            if len(rest):
                self._queue.appendleft((rest, copy))
            if not len(some):
                continue
            self._frees -= len(some)
            slot = self._free[self._frees : self._frees + len(some)][::-1].copy()
            self.owner[slot] = some.astype(np.int32)
            self.slot_of[some] = slot.astype(np.int32)
            self.tries[slot] = 0
            self.doomed[slot] = False
            self._copies[slot] = copy
            if not copy:
                self._issue(Op.WANT, slot, Slot.WANTING)
            elif self.rules.publish_last:
                self._issue(Op.COPY_IN, slot, Slot.COPYING)
            else:
                self._issue(Op.COMMIT, slot, Slot.COPYING)
                self._issue(Op.COPY_IN, slot, Slot.COPYING)

    def _wanting_done(self, told: Instruction, version: NDArray[np.integer]) -> None:
        self.version[told.slot] = version
        self.state[told.slot] = Slot.WANTED
        doomed, hurried = self.doomed[told.slot], self._copies[told.slot]
        waits = told.slot[~doomed & ~hurried]
        self._wanted = np.concatenate([self._wanted, waits])
        self._issue(Op.UNPUBLISH, told.slot[doomed], Slot.LEAVING)
        self._issue(Op.UNPUBLISH, told.slot[~doomed & hurried], Slot.SEALING)
        self._probe = True

    def _probed(self, told: Instruction, epoch: NDArray[np.integer]) -> None:
        """Publish deposits of launches that have ended."""
        self._probing = False
        there = epoch != 0
        if self.readers.spoiled:  # stamped, but perhaps not stored: copied instead
            spoiled = np.isin(epoch, list(self.readers.spoiled))
            self._hurry(told.slot[spoiled])
            there &= ~spoiled
        for word in np.unique(epoch[there]).tolist():
            if not self.readers.has_ended(word):
                there &= epoch != word
        slot = told.slot[there & (self.state[told.slot] == Slot.WANTED)]
        if not len(slot):
            return
        self._wanted = self._wanted[np.isin(self._wanted, slot, invert=True)]
        if self.writable and self.rules.seal_deposits:
            self._issue(Op.UNPUBLISH, slot, Slot.SEALING)
        else:
            self._issue(Op.COMMIT, slot, Slot.COMMITTING)

    def _publish_sealed(self, slot: Pages) -> None:
        doomed = self.doomed[slot]
        self._vacate(slot[doomed])
        self._free_up(slot[doomed])
        copies = self._copies[slot]
        self._issue(Op.COMMIT, slot[~doomed & ~copies], Slot.COMMITTING)
        self._issue(Op.COPY_IN, slot[~doomed & copies], Slot.COPYING)

    def _copied(self, told: Instruction, version: NDArray[np.integer]) -> None:
        if not self.rules.publish_last:  # it is read already
            self.state[told.slot] = Slot.LIVE
            return
        self.version[told.slot] = version
        doomed = self.doomed[told.slot]
        gone = told.slot[doomed]  # no reader has ever seen these
        self.totals.aborted += len(gone)
        self._vacate(gone)
        self._free_up(gone)
        self._issue(Op.COMMIT, told.slot[~doomed], Slot.COMMITTING)

    def _committed(self, told: Instruction, answer: NDArray[np.integer]) -> None:
        if not self.rules.publish_last:
            return
        slot, changed = told.slot, answer == CHANGED
        doomed = self.doomed[slot]
        self.state[slot[~changed]] = Slot.LIVE
        copied = int(np.count_nonzero(self._copies[slot[~changed]]))
        self.totals.copied += copied
        self.totals.deposited += int(np.count_nonzero(~changed)) - copied
        self._issue(Op.UNPUBLISH, slot[~changed & doomed], Slot.LEAVING)
        if not changed.any():
            return
        # Nobody has seen these slots: of a deposit the readers were waited for.
        self.tries[slot[changed]] += 1
        self.totals.aborted += int(np.count_nonzero(changed))
        spent = self.tries[slot] >= MOST_TRIES
        up = slot[changed & (doomed | spent)]
        hot = told.page[changed & spent & ~doomed]
        if len(hot):
            self.guard.hold(hot, self.readers.epoch)
            self.place[hot] = HOST
            self.placed -= len(hot)
        self._vacate(up)
        self._free_up(up)
        again = slot[changed & ~doomed & ~spent]
        self._copies[again] = True
        self._issue(Op.COPY_IN, again, Slot.COPYING)

    # -- going ---------------------------------------------------------------------

    def _leave(self, slot: Pages) -> None:
        """Begin to empty slots, or note that they are to be emptied."""
        self.doomed[slot] = True
        state = self.state[slot]
        wanted = slot[state == Slot.WANTED]
        if len(wanted):
            self._wanted = self._wanted[np.isin(self._wanted, wanted, invert=True)]
        self.tries[slot] = 0
        now = (state == Slot.WANTED) | (state == Slot.LIVE)
        self._issue(Op.UNPUBLISH, slot[now], Slot.LEAVING)

    def _unpublished(
        self, told: Instruction, answer: NDArray[np.integer], called: int
    ) -> None:
        slot, state = told.slot, self.state[told.slot]
        sealing = state == Slot.SEALING
        retire = self.readers.epoch if self.rules.grace_from_answer else called
        if sealing.any():
            self.state[slot[sealing]] = Slot.SEALED
            self._lists.sealed.append((retire, slot[sealing]))
        dirty = ~sealing & (answer == DIRTY)
        spent = dirty & (self.tries[slot] >= MOST_TRIES)
        self._stay(slot[spent])
        self._save(slot[dirty & ~spent], Slot.SAVING)
        gone = slot[~sealing & ~dirty]
        if len(gone):
            self.guard.left(told.page[~sealing & ~dirty], self.readers.epoch)
            self.totals.left += len(gone)
            self._vacate(gone)
            self.state[gone] = Slot.GRACE
            self._lists.grace.append((retire, gone))

    def _save(self, slot: Pages, state: Slot) -> None:
        self._issue(Op.COPY_OUT, slot, state)

    def _saved(self, told: Instruction, version: NDArray[np.integer]) -> None:
        self.version[told.slot] = version
        for state in (Slot.SAVING, Slot.FLUSHING):
            self._issue(Op.CLEAN, told.slot[self.state[told.slot] == state], state)

    def _cleaned(self, told: Instruction, answer: NDArray[np.integer]) -> None:
        slot, changed = told.slot, answer == CHANGED
        self.totals.saved += int(np.count_nonzero(~changed))
        self.tries[slot] += 1
        spent = self.tries[slot] >= MOST_TRIES
        leaves = self.state[slot] == Slot.SAVING
        # A page that leaves gives up: it is written so often that it is better off
        # where it is. A flush gives up too, and leaves the page dirty.
        self._stay(slot[leaves & changed & spent])
        self._save(slot[leaves & changed & ~spent], Slot.SAVING)
        self._save(slot[~leaves & changed & ~spent], Slot.FLUSHING)
        flushed = ~leaves & (~changed | spent)
        self.state[slot[flushed]] = Slot.LIVE
        goes = (leaves & ~changed) | (flushed & self.doomed[slot])
        self._issue(Op.UNPUBLISH, slot[goes], Slot.LEAVING)

    def _stay(self, slot: Pages) -> None:
        """Give up emptying slots."""
        page = self.owner[slot]
        self.place[page] = HBM
        self.placed += len(page)
        self.doomed[slot] = False
        self.state[slot] = Slot.LIVE
        self.totals.aborted += len(page)

    # -- slots -----------------------------------------------------------------------

    def _vacate(self, slot: Pages) -> None:
        """Forget the pages of slots."""
        self.slot_of[self.owner[slot]] = -1
        self.owner[slot] = -1

    def _free_up(self, slot: Pages) -> None:
        """Let slots be used again, those before the end."""
        if not len(slot):
            return
        beyond = slot >= self.end
        self.state[slot[beyond]] = Slot.GONE
        ours = slot[~beyond]
        self.state[ours] = Slot.FREE
        if beyond.any():
            keep = self._free[: self._frees]
            keep = keep[keep < self.end]
            self._free[: len(keep)] = keep
            self._frees = len(keep)
        self._free[self._frees : self._frees + len(ours)] = ours[::-1]
        self._frees += len(ours)

    def _is_past(self, epoch: int) -> bool:
        return not self.rules.grace or self.readers.are_past(epoch)

    def _issue(self, op: Op, slot: Pages, state: Slot) -> None:
        """Put an instruction behind those of before."""
        if not len(slot):
            return
        self.state[slot] = state
        self._ids += 1
        told = Instruction(
            self._ids,
            op,
            self.owner[slot].astype(np.uint32),
            slot,
            self.version[slot] if op in {Op.COMMIT, Op.CLEAN} else None,
        )
        self._under_way.append((told, self.readers.epoch))
        self._out.append(told)
