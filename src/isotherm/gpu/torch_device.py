"""A device of torch: streams, events, page-locked memory, failure.

On the CPU every operation has ended when its call returns, one at a time (Triton's
interpreter is not re-entrant). On CUDA launches run on the caller's current stream
and the mover's operations on a stream of their own with the lowest priority.

Memory rules on CUDA:

- Device memory comes from torch (``cudaMalloc``); managed memory is never used: a
  driver that pages it can hang, and explicit copies were measured ten times as fast.
- The host arena and the staging buffers are ordinary mappings, registered with
  ``cudaHostRegister`` as they are. Never ``pin_memory()``, which rounds its size up
  to a power of two.
- Between CPU and GPU there are no atomics: PCIe hosts have none.
"""

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from isotherm.gpu.backend import DeviceFailedError, HbmExhaustedError

log = structlog.get_logger()

T = TypeVar("T")

#: cudaHostRegister's flags (driver_types.h).
_PORTABLE, _MAPPED = 1, 2

#: The arena is registered in pieces: one call over tens of GiB holds a driver lock.
_REGISTER_BYTES = 1 << 30

#: Smallest staging buffer; sizes are powers of two.
_STAGE_BYTES = 1 << 16

#: How errors of the driver begin, in torch's words and in Triton's.
_DRIVER_SAYS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]")


class Ended(Generic[T]):
    """A Pending that has ended."""

    def __init__(self, value: T) -> None:
        self._value = value

    def done(self) -> bool:
        """Return True."""
        return True

    def result(self) -> T:
        """Return the answer."""
        return self._value


class UnderWay(Generic[T]):
    """A Pending on CUDA: an event, and what to make of the results behind it."""

    def __init__(
        self, device: "Device", event: Any, results: list["Stage"], finish: Any
    ) -> None:
        self._device = device
        self._event = event
        self._results = results
        self._finish: Callable[[list[NDArray[Any]]], T] | None = finish
        self._value: Any = None

    def done(self) -> bool:
        """Return whether the event has passed."""
        if self._finish is None:
            return True
        with self._device.guard():
            return bool(self._event.query())

    def result(self) -> T:
        """Wait for the event, and return the answer."""
        if self._finish is not None:
            with self._device.guard():
                self._event.synchronize()
                self._value = self._finish([stage.array() for stage in self._results])
            self._finish = None
            self._device.give(self._results)
            self._results = []
        value: T = self._value
        return value

    def __del__(self) -> None:
        if self._results:  # nobody asked: the device may still write there
            self._device.give_later(self._event, self._results)


class Stage:
    """A page-locked buffer, holding one array at a time."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        self.registered = False
        self._shape: tuple[int, ...] = (0,)
        self._dtype = np.dtype(np.uint8)

    def hold(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the buffer as an array."""
        self._shape, self._dtype = shape, dtype
        size = int(np.prod(shape)) * dtype.itemsize
        return self.bytes[:size].view(dtype).reshape(shape)

    def array(self) -> NDArray[Any]:
        """Return a copy of what is held."""
        return self.hold(self._shape, self._dtype).copy()


class Device:
    """See the module.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``; None: CUDA where there is one.
    """

    def __init__(self, name: str | None) -> None:
        if name is None:
            name = "cuda" if torch.cuda.is_available() else "cpu"
        self.torch = torch.device(name)
        self.cuda = self.torch.type == "cuda"
        if self.cuda and self.torch.index is None:
            self.torch = torch.device("cuda", torch.cuda.current_device())
        self.failed: str | None = None
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self._stages: dict[int, list[Stage]] = {}
        self._later: list[tuple[Any, list[Stage]]] = []
        self._registered: list[tuple[int, int]] = []
        self._kept: list[object] = []  # what owns it: freed memory stays locked
        if self.cuda:
            with torch.cuda.device(self.torch):
                self.mover = torch.cuda.Stream()  # the default priority is the lowest
                self.fetcher = torch.cuda.Stream()
                self.side = torch.cuda.Stream()
            self.processors = int(
                torch.cuda.get_device_properties(self.torch).multi_processor_count
            )
        else:
            self.mover = self.fetcher = self.side = None
            self.processors = 1

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run something on the device; note it when the device fails.

        Raises:
            DeviceFailedError: It has failed, now or before, or this is a child of
                the process that opened it: a CUDA context is not inherited.
            HbmExhaustedError: It has no memory for something.
        """
        if self.failed is not None:
            raise DeviceFailedError(self.failed)
        if os.getpid() != self._pid:
            raise DeviceFailedError(
                f"device {self.torch}: opened by process {self._pid}, used by its"
                f" child {os.getpid()}",
                hint="open tiered tensors after the fork, or use the spawn method",
            )
        try:
            if self.cuda:
                with torch.cuda.device(self.torch):
                    yield
            else:
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise HbmExhaustedError(
                f"device {self.torch}: {first_line(error)}"
            ) from error
        except RuntimeError as error:
            if not self.cuda or not str(error).startswith(_DRIVER_SAYS):
                raise
            self.failed = f"device {self.torch}: {first_line(error)}"
            raise DeviceFailedError(
                self.failed, hint="the host arena still holds every clean page"
            ) from error

    # -- page-locked memory --------------------------------------------------

    def register(self, address: int, size: int, owner: object = None) -> str | None:
        """Lock memory for the device to read in place, unless this device has.

        ``owner`` lives as long as the lock: memory that was freed and given out anew at
        the same address would be seen by the device as it was.

        Returns:
            None, or what refused; nothing is registered then.
        """
        with self.lock:
            if any(a <= address < a + n for a, n in self._registered):
                return None
        done: list[tuple[int, int]] = []
        runtime = torch.cuda.cudart()
        for begin in range(address, address + size, _REGISTER_BYTES):
            part = min(_REGISTER_BYTES, address + size - begin)
            status = runtime.cudaHostRegister(begin, part, _PORTABLE | _MAPPED)
            if int(status) != 0:
                for other, _ in done:
                    runtime.cudaHostUnregister(other)
                self._forget_error()
                return f"cudaHostRegister of {part} bytes: {status}"
            done.append((begin, part))
        self._registered += done
        self._kept.append(owner)
        return None

    def _forget_error(self) -> None:
        """Let the runtime report its last error, which we know of, to nobody else."""
        try:
            torch.zeros(1, device=self.torch)
        except RuntimeError as error:
            log.debug("register", reason=first_line(error))

    def view(self, array: NDArray[Any]) -> Any:
        """Return registered memory as a tensor on the device: no copy.

        Raises:
            RuntimeError: Torch takes no such memory.
        """
        exported = _Exported(array)
        return torch.as_tensor(exported, device=self.torch)

    def stage(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Stage:
        """Return a buffer that holds such an array."""
        size = max(_STAGE_BYTES, int(np.prod(shape)) * dtype.itemsize)
        size = 1 << (size - 1).bit_length()
        with self.lock:
            still = []
            for event, stages in self._later:
                if event.query():
                    self.give(stages)
                else:
                    still.append((event, stages))
            self._later = still
            free = self._stages.setdefault(size, [])
            stage = free.pop() if free else Stage(size)
        if self.cuda and not stage.registered:
            # Unregistered it serves as well; the copies then wait.
            stage.registered = (
                self.register(stage.bytes.ctypes.data, len(stage.bytes), stage) is None
            )
        stage.hold(shape, dtype)
        return stage

    def give(self, stages: list[Stage]) -> None:
        """Take buffers back."""
        with self.lock:
            for stage in stages:
                self._stages.setdefault(len(stage.bytes), []).append(stage)

    def give_later(self, event: Any, stages: list[Stage]) -> None:
        """Take buffers back when an event has passed."""
        with self.lock:
            self._later.append((event, stages))

    # -- copies --------------------------------------------------------------

    def upload(self, column: NDArray[Any]) -> tuple[Any, list[Stage]]:
        """Return a column as a tensor on the device, and the buffer to give later."""
        if column.dtype == np.uint32:
            column = column.view(np.int32)
        if not self.cuda:
            return torch.from_numpy(column.copy()), []
        if not column.size:
            return torch.empty(column.shape, dtype=torch.int32, device=self.torch), []
        stage = self.stage(column.shape, column.dtype)
        held = stage.hold(column.shape, column.dtype)
        held[...] = column
        return torch.from_numpy(held).to(self.torch, non_blocking=True), [stage]

    def download(self, tensor: Any) -> Stage:
        """Copy a tensor to a buffer, behind what the current stream has to do."""
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        stage = self.stage(tuple(tensor.shape), dtype)
        if tensor.numel():
            held = torch.from_numpy(stage.hold(tuple(tensor.shape), dtype))
            held.copy_(tensor, non_blocking=True)
        return stage

    def fetch(self, tensor: Any) -> NDArray[Any]:
        """Return a copy of a tensor that nobody writes any more; waits."""
        if not self.cuda:
            copied: NDArray[Any] = tensor.numpy().copy()
            return copied
        with torch.cuda.stream(self.fetcher):
            stage = self.download(tensor)
            self.fetcher.synchronize()
        array = stage.array()
        self.give([stage])
        return array

    def synchronise(self) -> None:
        """Wait for everything on the device."""
        if self.cuda:
            with self.guard():
                torch.cuda.synchronize(self.torch)

    def close(self) -> None:
        """Unlock all memory. What still runs must have ended."""
        if not self._registered or os.getpid() != self._pid:
            return
        runtime = torch.cuda.cudart()
        for address, _ in self._registered:
            status = runtime.cudaHostUnregister(address)
            if int(status) != 0:  # after a failure nothing can be unregistered
                log.debug("unregister", address=address, status=str(status))
        self._registered, self._kept = [], []
        self._stages = {}


class _Exported:
    """Memory as CUDA libraries hand it to one another (numba's array interface)."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 3,
            "strides": None,
        }
        self.kept = array


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: the rest is advice to debuggers."""
    return (str(error).splitlines() or [type(error).__name__])[0]
