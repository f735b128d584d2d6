"""Launches beside decisions: who waits for whom."""

import threading
from typing import Any

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry, HbmExhaustedError, Launch
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import SlotProtocol
from tests.gpu.devices import host_arena

ROW = Geometry(rows=20, row_dim=32, dtype="float32", rows_per_page=1, slots=4)


def make() -> Mover:
    """Return a mover on the numpy device."""
    backend = numpy_backend.create(ROW, host_arena(ROW))
    return Mover(backend, SlotProtocol(ROW.pages, ROW.slots))


def read(mover: Mover, times: int) -> None:
    """Read a row some times."""
    out = mover.backend.empty((1, ROW.row_dim))
    for _ in range(times):
        mover.launch(
            lambda launch: mover.backend.gather(np.array([3]), out, launch)
        ).result()


def test_a_launch_does_not_wait_for_a_decision() -> None:
    """While a policy holds the protocol, readers go on."""
    mover = make()
    with mover.lock:
        reader = threading.Thread(target=read, args=(mover, 3))
        reader.start()
        reader.join(60)
        assert not reader.is_alive()
    mover.settle()
    assert 3 == mover.protocol.readers.epoch
    assert () == mover.protocol.readers.running


def test_launches_and_answers_side_by_side() -> None:
    """Epochs are given out once each, and all of them end, whoever pumps meanwhile."""
    mover = make()
    readers = [threading.Thread(target=read, args=(mover, 50)) for _ in range(4)]
    for reader in readers:
        reader.start()
    page = np.arange(4, dtype=np.uint32)
    while any(reader.is_alive() for reader in readers):
        mover.promote(page, copy=True)
        mover.pump()
        mover.demote(page)
        mover.pump()
    mover.settle()
    assert 200 == mover.protocol.readers.epoch
    assert () == mover.protocol.readers.running


def test_a_pump_ends_while_launches_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that never pause do not keep the engine from its next decision."""
    mover = make()
    asked = []
    deposited = mover.backend.deposited

    def ask(slot: np.ndarray) -> Any:
        asked.append(len(slot))
        assert len(asked) < 100  # each question sees another launch end
        read(mover, 1)
        return deposited(slot)

    monkeypatch.setattr(mover.backend, "deposited", ask)
    read(mover, 1)
    mover.promote(np.array([0], np.uint32))  # nobody reads it: it stays wanted
    for _ in range(3):
        mover.pump()
    assert 1 <= len(asked) <= 3


def test_what_the_device_had_no_memory_for_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wish that failed for want of memory is neither lost nor done out of order."""
    mover = make()
    page = np.arange(4, dtype=np.uint32)
    copy_in = mover.backend.copy_in
    refused = []

    def refuse(page: np.ndarray, slot: np.ndarray) -> Any:
        if not refused:
            refused.append(len(page))
            raise HbmExhaustedError("device memory: none for a column")
        return copy_in(page, slot)

    monkeypatch.setattr(mover.backend, "copy_in", refuse)
    mover.promote(page, copy=True)
    with pytest.raises(HbmExhaustedError):
        mover.pump()
    mover.settle()
    assert [4] == refused
    assert [0, 1, 2, 3] == sorted(mover.backend.peek("loc")[page].tolist())


def test_a_deposit_of_a_launch_that_broke_off_is_not_believed() -> None:
    """Stamped, but never stored: the page is copied, not published as it lies."""
    mover = make()
    mover.promote(np.array([7], np.uint32))
    mover.pump()
    memory = mover.backend._memory  # type: ignore[attr-defined]  # the numpy device's

    def breaks(launch: Launch) -> Any:
        memory.dep[-2 - memory.loc[7]] = launch.epoch
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mover.launch(breaks)
    read(mover, 1)  # another row: its end makes the mover look
    mover.settle()
    slot = mover.backend.peek("loc")[7]
    assert slot >= 0
    np.testing.assert_array_equal(mover.backend.host[7], memory.slots[slot])


def test_settled_is_after_the_launches_before() -> None:
    """Whoever settles has waited for launches under way, not for moves only."""
    mover = make()
    waited = []

    class UnderWay:
        def done(self) -> bool:
            return bool(waited)

        def result(self) -> None:
            waited.append(1)

    mover.launch(lambda _: UnderWay())
    mover.settle()
    assert [1] == waited
