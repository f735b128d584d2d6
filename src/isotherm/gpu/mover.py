"""Joins the protocol and a backend: launches go out, answers come in.

The protocol decides, the backend carries out. One lock guards the protocol; no
launch and no kernel runs under it. A smaller one, taken inside it, guards the epochs
under way: all that a launch takes, so that none waits for a decision.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.gpu.backend import Backend, DeviceFailedError, Launch, Pending
from isotherm.gpu.protocol import Instruction, Op, SlotProtocol

#: Multiplier of a Weyl sequence for salts: 2**32 over the golden ratio, odd.
WEYL = 0x9E3779B1

#: Launches whose end nobody has looked for: beyond these a launch looks itself.
MOST_LAUNCHES = 256


class Mover:
    """Runs a protocol on a backend.

    Args:
        backend: The device.
        protocol: Of as many pages and slots.
        hit_shift: One hit in ``2**hit_shift`` is counted.
        deterministic: Wait for every answer, so that the same calls have the same
            effect whatever the device's timing.
    """

    def __init__(
        self,
        backend: Backend,
        protocol: SlotProtocol,
        *,
        hit_shift: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.backend = backend
        self.protocol = protocol
        self.lock = threading.RLock()
        self._epochs = threading.Lock()
        self.hit_shift = hit_shift
        self.last_write = 0  # epoch
        self._deterministic = deterministic
        self._launches: list[tuple[int, Pending[None]]] = []
        self._asked: deque[tuple[Instruction, Pending[Any]]] = deque()
        self._wishes: deque[Instruction] = deque()  # not handed out yet

    # -- launches ------------------------------------------------------------

    def launch(
        self, call: Callable[[Launch], Pending[None]], *, writes: bool = False
    ) -> Pending[None]:
        """Make a launch: take its epoch first, remember it until it has ended.

        Raises:
            DeviceFailedError: The device has failed.
        """
        with self._epochs:
            epoch = self.protocol.launch()
            if writes:
                self.last_write = epoch
        word = epoch & 0xFFFFFFFF or 1  # 0 means none, where words have come round
        launch = Launch(
            word,
            (epoch * WEYL) & 0xFFFFFFFF,
            self.hit_shift,
            deposit=self.protocol.deposits,
        )
        try:
            pending = call(launch)
        except BaseException:
            with self._epochs:
                self.protocol.ended(epoch, whole=False)
            raise
        with self._epochs:
            self._launches.append((epoch, pending))
            crowded = len(self._launches) > MOST_LAUNCHES
        # Nobody has turned the loop for long; whoever decides now will.
        if crowded and self.lock.acquire(blocking=False):
            try:
                self.pump()
            finally:
                self.lock.release()
        return pending

    # -- the protocol's wishes -----------------------------------------------

    def promote(
        self, page: NDArray[np.uint32], *, copy: bool = False
    ) -> NDArray[np.int16]:
        """Promise pages a slot; see ``SlotProtocol.promote``."""
        with self.lock:
            return self.protocol.promote(page, copy=copy)

    def demote(self, page: NDArray[np.uint32]) -> NDArray[np.int16]:
        """Send pages back to the host; see ``SlotProtocol.demote``."""
        with self.lock:
            return self.protocol.demote(page)

    # -- answers ---------------------------------------------------------------

    def pump(self) -> bool:
        """Take what has ended and hand out what is next; return whether any was.

        Never waits, but where everything is to be deterministic: then for launches
        and answers under way.

        Raises:
            DeviceFailedError: The device has failed.
        """
        with self.lock:
            any_ = self._see_ends()
            # Ends that come meanwhile are the next call's: there may be no end of them.
            while self._answer():
                any_ = True
        return any_

    def _once(self) -> bool:
        """Do both once; return whether anything came of it."""
        ended = self._see_ends()
        return self._answer() or ended

    def _see_ends(self) -> bool:
        """Take note of launches that have ended; return whether any has."""
        moved = False
        with self._epochs:
            left = []
            for epoch, pending in self._launches:
                if self._deterministic:
                    pending.result()
                if pending.done():
                    self.protocol.ended(epoch)
                    moved = True
                else:
                    left.append((epoch, pending))
            self._launches = left
        return moved

    def _answer(self) -> bool:
        """Take answers, hand out what is next; return whether there was any."""
        moved = False
        while self._asked and (self._deterministic or self._asked[0][1].done()):
            told, answer = self._asked.popleft()
            said = answer.result()
            with self._epochs:
                self.protocol.answered(told.id, said)
            moved = True
        with self._epochs:
            self._wishes += self.protocol.tick()
        while self._wishes:  # where the device has no memory, again at the next call
            told = self._wishes[0]
            self._asked.append((told, self._carry_out(told)))
            self._wishes.popleft()
            moved = True
        return moved

    def _carry_out(self, told: Instruction) -> Pending[Any]:
        """Call the backend."""
        b, page, slot = self.backend, told.page, told.slot
        if told.op is Op.WANT:
            return b.want(page, slot)
        if told.op is Op.DEPOSITED:
            return b.deposited(slot)
        if told.op is Op.COPY_IN:
            return b.copy_in(page, slot)
        if told.op is Op.COPY_OUT:
            return b.copy_out(page, slot)
        if told.op is Op.UNPUBLISH:
            return b.unpublish(page, slot)
        if told.version is None:
            raise IsothermError(f"{told.op}: expected versions, got none")
        if told.op is Op.COMMIT:
            return b.commit(page, slot, told.version)
        return b.clean(page, slot, told.version)

    # -- waiting ---------------------------------------------------------------

    def settle(self, until: Callable[[], bool] | None = None) -> None:
        """Wait until a condition holds.

        None: until nothing is under way, launches made before this call included.

        Raises:
            DeviceFailedError: The device has failed.
        """
        last = self.protocol.readers.epoch

        def is_over() -> bool:
            with self._epochs:
                past = self.protocol.readers.are_past(last)
            return past and self.protocol.settled

        holds = until or is_over
        while True:
            self.pump()
            with self.lock:
                if holds():
                    return
                if not self._once():  # the condition may have had a wish
                    self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        """Wait for what is next to end: an answer, else a launch."""
        if self._asked:
            self._asked[0][1].result()
        elif self._launches:
            self._launches[0][1].result()
        elif not self.protocol.readers.running:
            raise IsothermError("engine: nothing is under way, and it waits")
        # else: another thread is between its epoch and its launch

    @property
    def is_quiet(self) -> bool:
        """Whether no launch and no operation is under way."""
        with self.lock:
            return not (self._asked or self._launches or self._wishes)

    # -- failure ---------------------------------------------------------------

    def possibly_dirty(self) -> NDArray[np.uint32]:
        """Return pages whose newest bytes may be in device memory only, ascending.

        Exact where the device can still be asked; else every resident page, if
        anything was written since it last was copied out.
        """
        p = self.protocol
        with self.lock:
            live = np.flatnonzero(p.owner >= 0)
            try:
                dirty = self.backend.peek("dirty")
            except DeviceFailedError:
                return (
                    np.sort(p.owner[live]).astype(np.uint32)
                    if self.last_write
                    else (np.empty(0, np.uint32))
                )
            slot = live[dirty[live] != 0]
            return np.sort(p.owner[slot]).astype(np.uint32)
