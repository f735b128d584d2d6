"""Launches beside decisions: who waits for whom."""

import threading
from typing import Any

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry
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
