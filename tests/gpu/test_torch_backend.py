"""Torch's device: failure, arrays, memory given back, staging."""

import gc
import importlib.util
import os
import weakref
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.gpu.backend import DeviceFailedError, Geometry, Launch
from tests.gpu.devices import host_arena, rows_of

ROW = Geometry(rows=40, row_dim=8, dtype="float32", rows_per_page=1, slots=6)


@pytest.fixture
def backend() -> Any:
    """Return the module, or skip."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed; make gpu has it")
    from isotherm.gpu import torch_backend

    return torch_backend


def test_a_device_that_has_failed_says_so(backend: Any) -> None:
    """After an error of the driver every call raises it; the host arena stays."""
    host = host_arena(ROW)
    device = backend.create(ROW, host)
    device._device.failed = "device cuda:0: CUDA error: an illegal memory access"
    assert "illegal memory access" in device.failed
    with pytest.raises(DeviceFailedError, match="illegal memory access"):
        device.drain()
    with pytest.raises(DeviceFailedError):
        device.gather(None, None, Launch(1))
    np.testing.assert_array_equal(host, device.host)
    device.close()
    device.close()


def test_a_driver_error_is_kept(backend: Any) -> None:
    """The first line of what the driver says is the reason from then on."""
    device = backend.create(ROW, host_arena(ROW))
    inner = device._device
    inner.cuda = True  # as if; nothing below asks the device itself
    inner.torch = "cuda:0"
    monkey = pytest.MonkeyPatch()
    monkey.setattr(backend.torch.cuda, "device", _Entered)
    told = pytest.raises(DeviceFailedError, match="CUDA error: unspecified")
    with told, inner.guard():
        raise RuntimeError("CUDA error: unspecified launch failure\nadvice")
    monkey.undo()
    assert "device cuda:0: CUDA error: unspecified launch failure" == device.failed


class _Entered:
    """A context that does nothing."""

    def __init__(self, device: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def test_other_errors_pass_through(backend: Any) -> None:
    """A mistake of the caller does not end the device."""
    device = backend.create(ROW, host_arena(ROW))
    with pytest.raises(RuntimeError, match="shape"), device._device.guard():
        raise RuntimeError("shape mismatch")
    assert device.failed is None
    device.close()


def test_a_child_of_a_fork_is_refused(backend: Any, monkeypatch: Any) -> None:
    """A CUDA context is not inherited: the child is told, and what to do."""
    device = backend.create(ROW, host_arena(ROW))
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(DeviceFailedError, match=f"opened by process {parent}"):
        device.drain()
    monkeypatch.undo()
    device.close()


def test_an_arena_of_another_shape(backend: Any) -> None:
    """It is refused with what was expected."""
    with pytest.raises(UsageError, match=r"host arena: expected \(40, 128\)"):
        backend.create(ROW, np.zeros((40, 64), np.uint8))


def test_bags_of_whole_numbers(backend: Any) -> None:
    """Sums are for floating types."""
    geometry = Geometry(rows=4, row_dim=8, dtype="int32", rows_per_page=1, slots=1)
    device = backend.create(geometry, host_arena(geometry))
    with pytest.raises(UsageError, match="got int32"):
        device.gather_bag(None, None, None, Launch(1))
    device.close()


def test_arrays_go_there_and_back(backend: Any) -> None:
    """numpy, lists and tensors become tensors; one that is there stays itself."""
    import torch

    device = backend.create(ROW, host_arena(ROW))
    there = device.array([1, 2, 3])
    assert there.data_ptr() == device.array(there).data_ptr()
    assert [1, 2, 3] == device.numpy(there).tolist()
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    assert [0.0, 1.0, 2.0] == device.numpy(device.array(frozen)).tolist()
    half = device.array(np.array([0x3F80], np.uint16), "bfloat16")
    assert torch.bfloat16 == half.dtype
    assert [1.0] == half.float().tolist()
    assert [0x3F80] == device.numpy(half).tolist()
    assert torch.float16 == device.array([0.5], "float16").dtype
    device.close()


def test_staged_reads_and_writes(backend: Any) -> None:
    """Without zero-copy rows on the host are read and written by the CPU."""
    host = host_arena(ROW)
    expected = rows_of(ROW, host)
    device = backend.create(ROW, host, zero_copy=False)
    assert not device.zero_copy
    version = device.copy_in(np.uint32([4]), np.uint32([2])).result()
    assert [0] == device.commit(np.uint32([4]), np.uint32([2]), version).result()
    expected[[4, 9]] = 3
    values = device.array(np.full((2, 8), 3, np.float32))
    device.scatter(device.array(np.array([4, 9])), values, Launch(1)).result()
    out = device.empty((40, 8))
    device.gather(device.array(np.arange(40)), out, Launch(2)).result()
    np.testing.assert_array_equal(expected, device.numpy(out))
    device.copy_out(np.uint32([4]), np.uint32([2])).result()
    device.synchronise()
    np.testing.assert_array_equal(expected, rows_of(ROW, host))
    device.close()


def test_what_the_device_holds_beside_the_slots(backend: Any) -> None:
    """Two words a page, three once it is written, 9 bytes a slot, and the totals."""
    device = backend.create(ROW, host_arena(ROW))
    totals = device.state.stats.numel() * 8
    one = 4  # the version of all pages
    assert 40 * 8 + one + 6 * 9 + totals == device.state.meta_bytes
    device.shrink(2)
    assert 40 * 8 + one + 2 * 9 + totals == device.state.meta_bytes
    row = device.array(np.array([3]))
    device.scatter(row, device.array(np.ones((1, 8), np.float32)), Launch(1)).result()
    assert 40 * 12 + 2 * 9 + totals == device.state.meta_bytes
    device.close()


def test_one_of_equal_indices_is_chosen(backend: Any) -> None:
    """The last of each."""
    import torch

    from isotherm.gpu.torch_steps import last_of_equal

    index = torch.tensor([3, 1, 3, 0, 1, 3])
    assert [0, 0, 0, 1, 1, 1] == last_of_equal(index).int().tolist()
    assert [] == last_of_equal(index[:0]).tolist()


class _Runtime:
    """CUDA's calls that lock memory; refuses after ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.locked: list[tuple[int, int]] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        """Return 0, or 2 (out of memory)."""
        assert 3 == flags  # portable, mapped
        if len(self.locked) == self.most:
            return 2
        self.locked.append((address, size))
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        """Return 0."""
        self.locked = [(a, n) for a, n in self.locked if a != address]
        return 0


def test_memory_is_locked_in_pieces(backend: Any, monkeypatch: Any) -> None:
    """All of it, once; and on close all is unlocked."""
    from isotherm.gpu import torch_device

    runtime = _Runtime(9)
    monkeypatch.setattr(torch_device, "_REGISTER_BYTES", 4096)
    monkeypatch.setattr(backend.torch.cuda, "cudart", lambda: runtime)
    device = torch_device.Device("cpu")
    assert device.register(1 << 20, 10_000) is None
    begin = 1 << 20
    expected = [(begin, 4096), (begin + 4096, 4096), (begin + 8192, 1808)]
    assert expected == runtime.locked
    assert device.register(begin + 4096, 100) is None  # it is already
    assert expected == runtime.locked
    device.close()
    assert [] == runtime.locked


def test_locked_memory_lives_until_it_is_unlocked(
    backend: Any, monkeypatch: Any
) -> None:
    """Else the next arena at the same address would be taken for the one before."""
    from isotherm.gpu import torch_device

    monkeypatch.setattr(backend.torch.cuda, "cudart", lambda: _Runtime(9))
    device = torch_device.Device("cpu")
    memory = np.zeros(4096, np.uint8)
    kept = weakref.ref(memory)
    assert device.register(memory.ctypes.data, memory.nbytes, memory) is None
    del memory
    gc.collect()
    assert kept() is not None
    device.close()
    assert kept() is None


def test_a_refusal_leaves_nothing_locked(backend: Any, monkeypatch: Any) -> None:
    """Pieces before the one refused are unlocked; the reason says what was asked."""
    from isotherm.gpu import torch_device

    runtime = _Runtime(2)
    monkeypatch.setattr(torch_device, "_REGISTER_BYTES", 4096)
    monkeypatch.setattr(backend.torch.cuda, "cudart", lambda: runtime)
    device = torch_device.Device("cpu")
    refused = device.register(1 << 20, 10_000)
    assert "cudaHostRegister of 1808 bytes: 2" == refused
    assert [] == runtime.locked


def test_staging_buffers_are_used_again(backend: Any) -> None:
    """A buffer comes back when its event has passed, and not before."""
    from isotherm.gpu.torch_device import Device

    class Event:
        passed = False

        def query(self) -> bool:
            return self.passed

    device, event = Device("cpu"), Event()
    first = device.stage((100,), np.dtype(np.int32))
    assert (100,) == first.array().shape
    device.give_later(event, [first])
    second = device.stage((100,), np.dtype(np.int32))
    assert first is not second
    event.passed = True
    assert first is device.stage((50, 2), np.dtype(np.int32))
    assert (50, 2) == first.array().shape
