"""The device in torch: any CUDA GPU without Triton, and the CPU.

``TorchBackend`` is the life of a tensor on a device of torch: streams, order,
waiting, failure. What a launch or an operation does with the arrays stands in its
``Steps``: here in plain torch, in ``triton_backend`` as kernels.

Plain torch has no deposits, waits on the host for the number of misses of a launch,
and runs launches one after the other, because its counters are not atomic.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.gpu.backend import (
    CHANGED,
    DONE,
    DeviceFailedError,
    Drained,
    Geometry,
    HbmExhaustedError,
    Launch,
    Pending,
)
from isotherm.gpu.drained import ascending, drained_of, highest, joined
from isotherm.gpu.elements import SUM_DTYPE, numpy_dtype
from isotherm.gpu.torch_device import Device, Ended, Stage, UnderWay, first_line
from isotherm.gpu.torch_steps import State, Steps, TorchSteps

T = TypeVar("T")

log = structlog.get_logger()

#: Events of scatters that the mover has not waited for; beyond these the passed go.
MOST_WRITERS = 64


def create(
    geometry: Geometry,
    host: NDArray[np.uint8],
    *,
    device: str | Device | None = None,
    zero_copy: bool = True,
) -> "TorchBackend":
    """Return a device of torch.

    Args:
        geometry: The shape.
        host: The host arena, uint8[pages, page_bytes], C-contiguous.
        device: ``cuda``, ``cuda:1``, ``cpu``; None: CUDA where there is one. Or one
            that is open: tensors then share its streams, and memory that it has
            registered stays registered when they are closed.
        zero_copy: Let the device read the host arena in place; False, or where
            registering is refused: misses are gathered by the CPU and copied.

    Raises:
        HbmExhaustedError: There is no memory for the slots.
    """
    return TorchBackend(geometry, host, device, TorchSteps(), zero_copy)


class TorchBackend:
    """See ``create`` and ``backend.Backend``."""

    def __init__(
        self,
        geometry: Geometry,
        host: NDArray[np.uint8],
        device: Device | str | None,
        steps: Steps,
        zero_copy: bool,
    ) -> None:
        expected = (geometry.pages, geometry.page_bytes)
        if host.shape != expected or not host.flags.c_contiguous:
            raise UsageError(
                f"host arena: expected {expected}, contiguous, got {host.shape}"
            )
        #: Whether others use the device, so that closing this tensor leaves it open.
        self.shares_device = isinstance(device, Device)
        device = device if isinstance(device, Device) else Device(device)
        self._device = device
        self._steps = steps
        self._host = host
        self._closed = False
        seen: Any = torch.from_numpy(host)
        if device.cuda and zero_copy:
            seen, zero_copy = self._register(seen)
        try:
            with device.guard():
                self.state = State.create(geometry, seen, device, zero_copy)
        except RuntimeError as error:
            self._let_go()
            if "alloc" not in str(error):  # torch's CPU allocator has no type for it
                raise
            raise HbmExhaustedError(
                f"device {device.torch}: {first_line(error)}"
            ) from error
        except HbmExhaustedError:
            self._let_go()
            raise
        self._ordered: Any = None  # event of the last operation that saw versions
        self._writers: list[Any] = []  # events of scatters since then
        self._counted: Any = None  # event of the last launch, where they take turns
        self._takes_turns = not (steps.atomic and zero_copy)
        device.synchronise()

    def _register(self, seen: Any) -> tuple[Any, bool]:
        """Return the host arena as the device may see it, and whether in place."""
        refused = self._device.register(
            self._host.ctypes.data, self._host.nbytes, self._host
        )
        if refused is None:
            try:
                return self._device.view(self._host), True
            except RuntimeError as error:
                refused = first_line(error)
        log.warning("staging", reason=refused, bytes=self._host.nbytes)
        return seen, False

    # -- facts ---------------------------------------------------------------

    @property
    def name(self) -> str:
        """``torch`` or ``triton``."""
        return self._steps.name

    @property
    def device(self) -> str:
        """``cpu``, ``cuda:0``."""
        return str(self._device.torch)

    @property
    def geometry(self) -> Geometry:
        """The shape."""
        return self.state.geometry

    @property
    def deposits(self) -> bool:
        """Whether gathers deposit."""
        return self._steps.deposits and self.zero_copy and self.geometry.deposits

    @property
    def zero_copy(self) -> bool:
        """Whether the host arena is read in place."""
        return self.state.zero_copy

    @property
    def host(self) -> NDArray[np.uint8]:
        """The host arena."""
        return self._host

    @property
    def failed(self) -> str | None:
        """What the device said when it failed."""
        return self._device.failed

    # -- arrays --------------------------------------------------------------

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """Return values as a tensor on the device."""
        if not isinstance(values, torch.Tensor):
            values = np.ascontiguousarray(values)
            if dtype == "bfloat16" or (
                dtype is None
                and values.dtype == np.uint16
                and self.geometry.dtype == "bfloat16"
            ):
                values = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
            else:
                if dtype is not None:
                    values = values.astype(numpy_dtype(dtype), copy=False)
                if not values.flags.writeable:
                    values = values.copy()  # torch has no read-only tensors
                values = torch.from_numpy(values)
        elif dtype is not None:
            values = values.to(getattr(torch, dtype))
        with self._device.guard():
            return values.to(self._device.torch).contiguous()

    def empty(self, shape: tuple[int, ...]) -> Any:
        """Return a tensor of the tensor's dtype."""
        dtype = getattr(torch, self.geometry.dtype)
        with self._device.guard():
            return torch.empty(shape, dtype=dtype, device=self._device.torch)

    def numpy(self, array: Any) -> NDArray[Any]:
        """Wait for the caller's stream and return a copy."""
        with self._device.guard():
            there = array.detach().cpu()
        if there.dtype == torch.bfloat16:
            bits: NDArray[Any] = there.view(torch.int16).numpy().view(np.uint16).copy()
            return bits
        copied: NDArray[Any] = there.numpy().copy()
        return copied

    # -- running -------------------------------------------------------------

    def _launch(
        self, run: Callable[[], None], *, writes: bool = False
    ) -> Pending[None]:
        """Run a launch on the caller's stream."""
        with self._device.lock, self._device.guard():
            if not self._device.cuda:
                run()
                return Ended(None)
            stream = torch.cuda.current_stream()
            if self._takes_turns and self._counted is not None:
                stream.wait_event(self._counted)
            if writes and self._ordered is not None:
                stream.wait_event(self._ordered)
            try:
                run()
            except BaseException:
                stream.synchronize()  # some of it may be under way: nobody waits for it
                raise
            event = stream.record_event()
            if writes:
                if len(self._writers) >= MOST_WRITERS:
                    self._writers = [e for e in self._writers if not e.query()]
                self._writers.append(event)
            if self._takes_turns:
                self._counted = event
            return UnderWay(self._device, event, [], _nothing)

    def _move(
        self,
        run: Callable[..., Any],
        *columns: NDArray[Any],
        finish: Callable[[list[NDArray[Any]]], T],
        versions: bool = False,
        counts: bool = False,
    ) -> Pending[T]:
        """Run an operation on the mover's stream; its tensors go to ``finish``."""
        device = self._device
        with device.lock, device.guard():
            if not device.cuda:
                tensors = run(*(device.upload(column)[0] for column in columns))
                return Ended(finish([t.numpy() for t in tensors]))
            with torch.cuda.stream(device.mover):
                if versions:
                    for event in self._writers:
                        device.mover.wait_event(event)
                    self._writers = []
                if counts and self._takes_turns and self._counted is not None:
                    device.mover.wait_event(self._counted)
                sent: list[Stage] = []
                inputs = []
                for column in columns:
                    tensor, stages = device.upload(column)
                    inputs.append(tensor)
                    sent += stages
                results = [device.download(t) for t in run(*inputs)]
                event = device.mover.record_event()
                device.give_later(event, sent)
                if versions:
                    self._ordered = event
                if counts and self._takes_turns:
                    self._counted = event
            return UnderWay(device, event, results, finish)

    # -- launches ------------------------------------------------------------

    def gather(self, index: Any, out: Any, launch: Launch) -> Pending[None]:
        """Read rows."""
        return self._launch(lambda: self._steps.gather(self.state, index, out, launch))

    def gather_bag(
        self,
        index: Any,
        offsets: Any,
        out: Any,
        launch: Launch,
        *,
        mean: bool = False,
        weights: Any | None = None,
    ) -> Pending[None]:
        """Read sums of rows."""
        if self.geometry.dtype not in SUM_DTYPE:
            raise UsageError(
                f"gather_bag: expected one of {', '.join(SUM_DTYPE)},"
                f" got {self.geometry.dtype}"
            )
        return self._launch(
            lambda: self._steps.gather_bag(
                self.state, index, offsets, out, launch, mean, weights
            )
        )

    def read_blocks(self, table: Any, out: Any, launch: Launch) -> Pending[None]:
        """Read whole pages."""
        return self._launch(
            lambda: self._steps.read_blocks(self.state, table, out, launch)
        )

    def scatter(self, index: Any, values: Any, launch: Launch) -> Pending[None]:
        """Write rows where they are."""
        return self._launch(
            lambda: self._steps.scatter(self.state, index, values), writes=True
        )

    # -- the mover's lane ------------------------------------------------------

    def want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Ask for deposits."""
        return self._move(
            lambda p, s: [self._steps.want(self.state, p, s)],
            page,
            slot,
            finish=_unsigned,
        )

    def deposited(self, slot: NDArray[np.uint32]) -> Pending[NDArray[np.uint32]]:
        """Return the epochs of deposits."""
        return self._move(
            lambda s: [self.state.dep.index_select(0, s)], slot, finish=_unsigned
        )

    def copy_in(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Copy pages into slots."""
        return self._copy(page, slot, out=False)

    def copy_out(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Copy pages back."""
        return self._copy(page, slot, out=True)

    def _copy(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32], *, out: bool
    ) -> Pending[NDArray[np.uint32]]:
        def run(p: Any, s: Any) -> list[Any]:
            version = self.state.ver.index_select(0, p)  # before the first byte
            if len(p):
                self._steps.copy(self.state, p, s, out=out)
            return [version]

        return self._move(run, page, slot, finish=_unsigned)

    def commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Pending[NDArray[np.uint8]]:
        """Publish pages that have not been written."""
        return self._move(
            lambda p, s, v: [self._steps.commit(self.state, p, s, v)],
            page,
            slot,
            version,
            finish=_status,
            versions=True,
        )

    def clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Pending[NDArray[np.uint8]]:
        """Note that slots are clean whose pages have not been written."""

        def run(p: Any, s: Any, v: Any) -> list[Any]:
            same = self.state.ver.index_select(0, p) == v
            still = self.state.dirty.index_select(0, s) * ~same
            self.state.dirty.index_copy_(0, s.long(), still.to(torch.uint8))
            return [torch.where(same, DONE, CHANGED)]

        return self._move(run, page, slot, version, finish=_status, versions=True)

    def unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint8]]:
        """Send readers to the host arena."""
        return self._move(
            lambda p, s: [self._steps.unpublish(self.state, p, s)],
            page,
            slot,
            finish=_status,
            versions=True,
        )

    def dirty_slots(self) -> Pending[NDArray[np.uint32]]:
        """Return the dirty slots."""
        return self._move(
            lambda: [torch.nonzero(self.state.dirty)[:, 0].to(torch.int32)],
            finish=_unsigned,
            versions=True,
        )

    def drain(self, most: int | None = None) -> Pending[Drained]:
        """Return what was counted."""
        lists: list[tuple[Any, Any]] = []  # number and count, on the device

        def run() -> list[Any]:
            s = self.state
            misses = self._steps.take_counts(s.misses)
            hits = self._steps.take_counts(s.hits)
            lists.extend(((misses[0], misses[1]), (hits[0], hits[1])))
            totals = self._steps.take_totals(s)
            return [totals, misses[2], hits[2]]

        def finish(results: list[NDArray[Any]]) -> Drained:
            totals, *lengths = results
            columns = []
            full = False
            for length, (number, count) in zip(lengths, lists, strict=True):
                n = min(int(length[0]), len(number))
                full = full or n < length[0]
                fetched = (self._device.fetch(t[:n]) for t in (number, count))
                columns.append(ascending(*(f.view(np.uint32) for f in fetched)))
            drained = drained_of(totals, *columns)
            if full:  # the rest has kept its counts
                drained = joined(drained, self.drain().result())
            return highest(drained, most)

        return self._move(run, finish=finish, counts=True)

    # -- the rest --------------------------------------------------------------

    def peek(self, name: str) -> NDArray[Any]:
        """Wait for everything and return a copy of device state."""
        self.synchronise()
        copied = self.numpy(getattr(self.state, name))
        return copied.view(np.uint32) if name in ("ver", "dep") else copied

    def shrink(self, slots: int) -> None:
        """Give back the slots from ``slots`` on."""
        with self._device.lock:
            self.synchronise()
            with self._device.guard():
                self.state.shrink(slots)
                self.synchronise()  # the mover's stream may fill the new arena at once
                if self._device.cuda:
                    torch.cuda.empty_cache()

    def synchronise(self) -> None:
        """Wait for every launch and operation."""
        self._device.synchronise()

    def close(self) -> None:
        """Synchronise, let go of the host arena, free device memory."""
        if self._closed:
            return
        self._closed = True
        try:
            self.synchronise()
        except DeviceFailedError as error:
            log.warning("close", device=self.device, reason=str(error))
        self.state.free()
        self._let_go()

    def _let_go(self) -> None:
        """Close the device, unless others use it."""
        if not self.shares_device:
            self._device.close()


def _nothing(results: list[NDArray[Any]]) -> None:
    return None


def _unsigned(results: list[NDArray[Any]]) -> NDArray[np.uint32]:
    return results[0].astype(np.int32, copy=False).view(np.uint32)


def _status(results: list[NDArray[Any]]) -> NDArray[np.uint8]:
    return results[0].astype(np.uint8)
