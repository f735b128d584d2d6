"""The device in numpy: the reference for the others, and the tier without a GPU.

Launches run when they are called, unless a ``Stepper`` holds them.
"""

import threading
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu.backend import (
    Drained,
    Geometry,
    HbmExhaustedError,
    Launch,
)
from isotherm.gpu.elements import numpy_dtype
from isotherm.gpu.numpy_memory import NumpyMemory
from isotherm.gpu.stepping import Kernel, Stepper, Task

T = TypeVar("T")


def create(
    geometry: Geometry,
    host: NDArray[np.uint8],
    *,
    stepper: Stepper | None = None,
    most_slots: int | None = None,
    zero_copy: bool = True,
) -> "NumpyBackend":
    """Return a device in ordinary memory.

    Args:
        geometry: The shape.
        host: The host arena, uint8[pages, page_bytes], C-contiguous.
        stepper: Holds launches until it is stepped; None: they run at once.
        zero_copy: As for other backends; here it makes no difference.
        most_slots: As if the device had memory for so many; None: no limit.

    Raises:
        HbmExhaustedError: There is no memory for the slots.
    """
    if most_slots is not None and geometry.slots > most_slots:
        raise HbmExhaustedError(
            f"device memory: {geometry.slots} slots asked for, {most_slots} there"
        )
    return NumpyBackend(geometry, host, stepper)


class NumpyBackend:
    """See ``create`` and ``backend.Backend``."""

    name = "numpy"
    device = "cpu"
    zero_copy = True
    failed: str | None = None

    def __init__(
        self, geometry: Geometry, host: NDArray[np.uint8], stepper: Stepper | None
    ) -> None:
        self._stepper = stepper
        self._memory = NumpyMemory(geometry, host, stepped=stepper is not None)
        self._ordering = threading.RLock()  # rule 4, where launches run at once
        self._ordered: Task[Any] | None = None  # rule 4, where they are stepped
        self._writers: list[Task[Any]] = []
        #: Lane of the launches from now on (``Stepper``); >= 1.
        self.stream = 1

    @property
    def geometry(self) -> Geometry:
        """The shape."""
        return self._memory.geometry

    @property
    def deposits(self) -> bool:
        """Whether gathers deposit."""
        return self._memory.geometry.deposits

    @property
    def host(self) -> NDArray[np.uint8]:
        """The host arena."""
        return self._memory.host

    # -- arrays ------------------------------------------------------------

    def array(self, values: Any, dtype: str | None = None) -> NDArray[Any]:
        """Return values as an array."""
        return np.ascontiguousarray(
            values, None if dtype is None else numpy_dtype(dtype)
        )

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array of the tensor's dtype."""
        return np.empty(shape, self._memory.element)

    def numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        """Wait for the launches so far and return a copy."""
        self.synchronise()
        return array.copy()

    # -- running -----------------------------------------------------------

    def _launch(self, kernel: Kernel[T], *, writes: bool = False) -> Task[T]:
        """Run a kernel on the caller's stream, or leave it to the stepper."""
        if self._stepper is None:
            task = Task(kernel)
            if writes:
                with self._ordering:
                    task.result()
            else:
                task.result()
            return task
        after = () if self._ordered is None or not writes else (self._ordered,)
        task = self._stepper.add(kernel, self.stream, after)
        if writes:
            self._writers.append(task)
        return task

    def _move(self, kernel: Kernel[T], *, looks_at_versions: bool = False) -> Task[T]:
        """Run a kernel on the mover's lane."""
        if self._stepper is None:
            task = Task(kernel)
            if looks_at_versions:
                with self._ordering:
                    task.result()
            else:
                task.result()
            return task
        self._writers = [task for task in self._writers if not task.done()]
        after = tuple(self._writers) if looks_at_versions else ()
        task = self._stepper.add(kernel, 0, after)
        if looks_at_versions:
            self._ordered = task
        return task

    # -- launches ----------------------------------------------------------

    def gather(
        self, index: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Read rows."""
        return self._launch(self._memory.gather(index, out, launch))

    def gather_bag(
        self,
        index: NDArray[Any],
        offsets: NDArray[Any],
        out: NDArray[Any],
        launch: Launch,
        *,
        mean: bool = False,
        weights: NDArray[Any] | None = None,
    ) -> Task[None]:
        """Read sums of rows."""
        return self._launch(
            self._memory.bag(index, offsets, out, launch, mean, weights)
        )

    def read_blocks(
        self, table: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Read whole pages."""
        return self._launch(self._memory.blocks(table, out, launch))

    def scatter(
        self, index: NDArray[Any], values: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Write rows where they are."""
        return self._launch(self._memory.scatter(index, values), writes=True)

    # -- the mover's lane ----------------------------------------------------

    def want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Ask for deposits."""
        return self._move(self._memory.want(page.copy(), slot.copy()))

    def deposited(self, slot: NDArray[np.uint32]) -> Task[NDArray[np.uint32]]:
        """Return the epochs of deposits."""
        return self._move(self._memory.deposited(slot.copy()))

    def copy_in(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Copy pages into slots."""
        return self._move(
            self._memory.copy(
                page.copy(),
                self._memory.host,
                page.copy(),
                self._memory.slots,
                slot.copy(),
            )
        )

    def copy_out(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Copy pages back."""
        return self._move(
            self._memory.copy(
                page.copy(),
                self._memory.slots,
                slot.copy(),
                self._memory.host,
                page.copy(),
            )
        )

    def commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Task[NDArray[np.uint8]]:
        """Publish pages that have not been written."""
        kernel = self._memory.commit(page.copy(), slot.copy(), version.copy())
        return self._move(kernel, looks_at_versions=True)

    def clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Task[NDArray[np.uint8]]:
        """Note that slots are clean whose pages have not been written."""
        kernel = self._memory.clean(page.copy(), slot.copy(), version.copy())
        return self._move(kernel, looks_at_versions=True)

    def unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint8]]:
        """Send readers to the host arena."""
        kernel = self._memory.unpublish(page.copy(), slot.copy())
        return self._move(kernel, looks_at_versions=True)

    def dirty_slots(self) -> Task[NDArray[np.uint32]]:
        """Return the dirty slots."""
        return self._move(self._memory.dirty_slots(), looks_at_versions=True)

    def drain(self, most: int | None = None) -> Task[Drained]:
        """Return what was counted."""
        return self._move(self._memory.drain(most))

    # -- the rest ------------------------------------------------------------

    def peek(self, name: str) -> NDArray[Any]:
        """Wait and return a copy of device state."""
        self.synchronise()
        m = self._memory
        state: dict[str, NDArray[Any]] = {
            "slots": m.slots,
            "loc": m.loc,
            "ver": m.ver,
            "dirty": m.dirty,
            "dep": m.dep,
        }
        return state[name].copy()

    def shrink(self, slots: int) -> None:
        """Give back the slots from ``slots`` on."""
        self.synchronise()
        self._memory.shrink(slots)

    def synchronise(self) -> None:
        """Run what the stepper holds."""
        if self._stepper is not None:
            self._stepper.run()

    def close(self) -> None:
        """Run what is left; free the slots."""
        self.synchronise()
        self._memory.slots = self._memory.slots[:0]
