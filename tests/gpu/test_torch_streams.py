"""The order that torch's device asks CUDA for: who waits for whom, and what is told.

On a CPU, with streams that only write down what they wait for.
"""

import gc
import importlib.util
import os
from typing import Any

import numpy as np
import pytest

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry, Launch
from tests.gpu.devices import host_arena
from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.test_triton_backend import GEOMETRIES, ROW, play

SOME = np.array([4, 9], np.uint32)
SLOTS = np.array([0, 1], np.uint32)
KINDS = ("torch", "triton")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Return CUDA as it is not."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed; make gpu has it")
    return FakeCuda(monkeypatch)


def make(kind: str, fake: FakeCuda, geometry: Geometry = ROW, **options: Any) -> Any:
    """Return a backend on a device of its own."""
    if kind == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton's kernels are compiled here; these streams need a CPU")
    from isotherm.gpu import torch_backend, triton_backend

    module = {"torch": torch_backend, "triton": triton_backend}[kind]
    return module.create(
        geometry, host_arena(geometry), device=fake.device(), **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", sorted(GEOMETRIES))
def test_the_cuda_path_does_what_the_reference_does(
    kind: str, shape: str, fake: FakeCuda
) -> None:
    """Staging, events and fetches change no byte, no answer, no count."""
    geometry = GEOMETRIES[shape]
    expected = play(numpy_backend.create(geometry, host_arena(geometry)), seed=6)
    device = make(kind, fake, geometry)
    assert expected == play(device, seed=6)
    device.close()


def test_split_gathers_join_the_callers_stream(fake: FakeCuda) -> None:
    """Misses wait for the look; whoever comes after the launch waits for the misses."""
    device = make("triton", fake, mode="split")
    side = device._device.side
    index = device.array(np.array([1, 2, 3]))
    out = device.empty((3, ROW.row_dim))
    device.gather(index, out, Launch(1))
    assert ["caller"] == [event.stream.name for event in side.waits]
    assert ["side"] == [event.stream.name for event in fake.caller.waits]
    assert fake.caller.waits[0].number < fake.events[-1].number  # the launch's own
    np.testing.assert_array_equal(
        device.host[[1, 2, 3], : ROW.row_bytes].view(np.float32), device.numpy(out)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_is_done_when_its_event_has_passed(
    kind: str, fake: FakeCuda
) -> None:
    """``done`` never waits; ``result`` does; what it answers is the device's."""
    device = make(kind, fake)
    pending = device.copy_in(SOME, SLOTS)
    assert not pending.done()
    fake.end_all()
    assert pending.done()
    assert [0, 0] == pending.result().tolist()
    waiting = device.copy_in(SOME, SLOTS)
    assert [0, 0] == waiting.result().tolist()
    assert waiting.done()


@pytest.mark.parametrize("kind", KINDS)
def test_writes_and_looks_at_versions_exclude_each_other(
    kind: str, fake: FakeCuda
) -> None:
    """A commit waits for the writes before it, a write for the commit before it."""
    device = make(kind, fake)
    mover = device._device.mover
    values = device.array(np.ones((1, ROW.row_dim), np.float32))
    row = device.array(np.array([9]))
    version = device.copy_in(SOME, SLOTS).result()
    assert [] == mover.waits
    device.scatter(row, values, Launch(1))
    written = fake.events[-1]
    assert [] == mover.waits  # copies do not wait for writes
    device.copy_in(SOME, SLOTS)
    assert [] == mover.waits
    assert [0, 1] == device.commit(SOME, SLOTS, version).result().tolist()
    assert written in mover.waits
    committed = fake.events[-1]
    fake.caller.waits.clear()
    device.scatter(row, values, Launch(2))
    assert committed in fake.caller.waits
    seen = len(mover.waits)
    device.unpublish(SOME[:1], SLOTS[:1])
    device.clean(SOME[1:], SLOTS[1:], version[1:])
    assert 1 == len(mover.waits) - seen  # one write since: waited for once


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dirty_is_asked_behind_the_writes(kind: str, fake: FakeCuda) -> None:
    """A flush right after a write must not miss it: the question waits for writes."""
    device = make(kind, fake)
    values = device.array(np.ones((1, ROW.row_dim), np.float32))
    device.scatter(device.array(np.array([9])), values, Launch(1))
    written = fake.events[-1]
    device.dirty_slots()
    assert written in device._device.mover.waits


@pytest.mark.parametrize("kind", KINDS)
def test_writes_without_moves_pile_up_nothing(kind: str, fake: FakeCuda) -> None:
    """Events of writes that have ended are let go, though the mover never comes."""
    device = make(kind, fake)
    values = device.array(np.ones((1, ROW.row_dim), np.float32))
    row = device.array(np.array([9]))
    for number in range(1, 200):
        device.scatter(row, values, Launch(number))
        fake.end_all()
    assert len(device._writers) < 100


def test_a_launch_that_breaks_off_is_waited_for(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had begun on the device ends before anybody is told that it failed."""
    device = make("torch", fake)
    begun = []

    def breaks(*_: object) -> None:
        begun.append(fake.caller.record_event())
        raise KeyboardInterrupt

    monkeypatch.setattr(device._steps, "gather", breaks)
    with pytest.raises(KeyboardInterrupt):
        device.gather(device.array(np.array([4])), device.empty((1, 8)), Launch(1))
    assert [True] == [event.passed for event in begun]


def test_reads_wait_for_nothing(fake: FakeCuda) -> None:
    """Triton's gathers start whatever the mover does: its counters are atomic."""
    device = make("triton", fake)
    version = device.copy_in(SOME, SLOTS).result()
    device.commit(SOME, SLOTS, version)
    out = device.empty((1, ROW.row_dim))
    device.gather(device.array(np.array([4])), out, Launch(1))
    device.drain()
    device.gather(device.array(np.array([4])), out, Launch(2))
    assert [] == fake.caller.waits


def test_torchs_launches_take_turns(fake: FakeCuda) -> None:
    """Plain torch counts without atomics: drains and launches wait for each other."""
    device = make("torch", fake)
    mover = device._device.mover
    out = device.empty((1, ROW.row_dim))
    index = device.array(np.array([4]))
    device.gather(index, out, Launch(1))
    first = fake.events[-1]
    device.gather(index, out, Launch(2))
    assert [first] == fake.caller.waits
    second = fake.events[-1]
    device.drain()
    assert second in mover.waits
    drained = fake.events[-1]
    device.gather(index, out, Launch(3))
    assert drained == fake.caller.waits[-1]


def test_buffers_of_answers_nobody_asks_for_come_back(fake: FakeCuda) -> None:
    """Dropped before its end, an operation's buffers wait for its event."""
    device = make("torch", fake)
    inner = device._device
    pending = device.copy_in(SOME, SLOTS)
    inner._later.clear()
    del pending
    gc.collect()
    ((event, stages),) = inner._later
    assert (False, 1) == (event.query(), len(stages))
    free = len(inner._stages[len(stages[0].bytes)])
    fake.end_all()
    inner.stage((4,), np.dtype(np.int32))  # takes one, after all are back
    assert free == len(inner._stages[len(stages[0].bytes)])


@pytest.mark.parametrize("kind", KINDS)
def test_all_locked_memory_is_unlocked(kind: str, fake: FakeCuda) -> None:
    """Arena and staging buffers, on close; a second close does nothing."""
    device = make(kind, fake)
    device.copy_in(SOME, SLOTS).result()
    assert len(fake.runtime.locked) >= 2
    device.shares_device = False  # as one that has opened it
    device.close()
    device.close()
    assert set() == fake.runtime.locked


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_lock_means_staging(kind: str, fake: FakeCuda) -> None:
    """Then reads go through the CPU, are right, and the device says so."""
    fake.runtime.refuses = True
    device = make(kind, fake)
    assert (False, False) == (device.zero_copy, device.deposits)
    out = device.empty((2, ROW.row_dim))
    device.gather(device.array(np.array([5, 1])), out, Launch(1)).result()
    np.testing.assert_array_equal(
        device.host[[5, 1], : ROW.row_bytes].view(np.float32), device.numpy(out)
    )


def test_shrinking_returns_memory(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After everything has ended the arena is smaller, and torch gives memory back."""
    device = make("torch", fake)
    copied = []
    shrink = device.state.shrink

    def shrinks(slots: int) -> None:
        shrink(slots)
        copied.append(fake.caller.record_event())

    monkeypatch.setattr(type(device.state), "shrink", lambda _, n: shrinks(n))
    device.shrink(3)
    assert [True] == [event.passed for event in copied]  # before the mover fills it
    assert 3 == device.geometry.slots
    assert 3 == len(device.state.slots)
    assert 1 == fake.emptied
