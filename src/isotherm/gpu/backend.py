"""The seam to a device: two arenas, an indirection table, kernels, completion.

A backend does what it is told and decides nothing. Which page goes where, and
when a slot may be used again, is said by ``protocol.py``; the rules that make
readers safe without locks are written there. A backend owes it these five:

1. Launches and operations are asynchronous where the device is; each answers
   with a ``Pending`` that tells when its last store is visible to all.
2. Operations of the mover (``want`` to ``drain``) run one after the other, in
   the order of the calls, on a lane of their own; what a later one reads, an
   earlier one has written. Each is called by one thread at a time.
3. A launch (``gather`` to ``scatter``) runs on the caller's stream, at any time
   beside the mover's, and looks at ``loc`` once a page or row, with one aligned
   32-bit load.
4. ``scatter`` and the four of the mover that look at what it writes (``commit``,
   ``clean``, ``unpublish``, ``dirty_slots``) exclude each other: neither starts
   before those that were called earlier have ended. ``scatter`` is not ordered
   against copies; it adds to ``ver`` of each page it wrote, after its stores.
5. Slots are multiples of 128 bytes apart, so that no cache line holds two.

Encoding of ``loc``, int32[pages]:

========  =====================================================================
>= 0      the slot that holds the page: read it there
-1        read it in the host arena
<= -2     as -1, and a launch that reads the whole page anyway also stores it in
          slot ``-2 - loc`` and its own epoch in ``dep`` of that slot (a deposit)
========  =====================================================================
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError

#: ``loc`` of a page that only the host arena holds.
ON_HOST = -1

#: Slots and host pages begin at multiples of this: an L2 line (rule 5).
LINE_BYTES = 128

#: What ``commit``, ``clean`` and ``unpublish`` answer for a page.
DONE, CHANGED, DIRTY = 0, 1, 2

#: Bytes of an element. bfloat16 is carried as uint16 where numpy stands alone.
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
}

#: An array of the backend: numpy.ndarray or torch.Tensor.
DeviceArray = Any

T_co = TypeVar("T_co", covariant=True)


class HbmExhaustedError(IsothermError):
    """The device has no memory for so many slots."""


class DeviceFailedError(IsothermError):
    """The device has reported an error that ends its context."""


def wanted(slot: int) -> int:
    """Return the ``loc`` of a page that is to be deposited in a slot.

    >>> wanted(0), wanted(5), -2 - wanted(5)
    (-2, -7, 5)
    """
    return -2 - slot


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape of a tiered tensor: rows in pages, pages in slots.

    Row ``i`` is row ``i % rows_per_page`` of page ``i // rows_per_page``. It begins
    ``(i % rows_per_page) * row_bytes`` into its page; pages and slots begin at
    multiples of ``page_bytes``.

    Attributes:
        rows: Rows of the tensor, >= 1.
        row_dim: Elements of a row, >= 1.
        dtype: A key of ``ITEM_BYTES``.
        rows_per_page: Rows that move together, >= 1.
        slots: Pages that fit in device memory, >= 0.
    """

    rows: int
    row_dim: int
    dtype: str
    rows_per_page: int
    slots: int

    def __post_init__(self) -> None:
        for name, least in (
            ("rows", 1),
            ("row_dim", 1),
            ("rows_per_page", 1),
            ("slots", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name}: expected at least {least}, got {getattr(self, name)}"
                )
        if self.dtype not in ITEM_BYTES:
            raise UsageError(
                f"dtype: expected one of {', '.join(ITEM_BYTES)}, got {self.dtype!r}"
            )
        if self.pages >= 1 << 31:
            raise UsageError(
                f"pages: expected less than 2**31, got {self.pages}",
                hint="larger pages",
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.row_dim * ITEM_BYTES[self.dtype]

    @property
    def page_bytes(self) -> int:
        """Bytes from one page to the next: a multiple of 128, padding included."""
        full = self.rows_per_page * self.row_bytes
        return -(-full // LINE_BYTES) * LINE_BYTES

    @property
    def pages(self) -> int:
        """Pages of the tensor; the last may hold rows beyond the end."""
        return -(-self.rows // self.rows_per_page)

    @property
    def deposits(self) -> bool:
        """Whether reading a row is reading its page, or a line of it.

        Only then may a gather deposit: a page of one row, or one of 128 bytes,
        which the bus carries whole.
        """
        return self.rows_per_page == 1 or self.page_bytes == LINE_BYTES


@dataclass(frozen=True, slots=True)
class Launch:
    """What a launch carries beside its data.

    Attributes:
        epoch: Its number, uint32, >= 1, ascending; stored in ``dep`` of the slots it
            deposits in.
        salt: For the choice of hits that are counted, uint32.
        hit_shift: One hit in ``2**hit_shift`` adds one to ``hit_cnt``.
        deposit: Whether it deposits pages that are wanted.
    """

    epoch: int
    salt: int = 0
    hit_shift: int = 0
    deposit: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Drained:
    """What the kernels counted since the last drain; the counters are zero again.

    Attributes:
        miss_page: Pages read in the host arena, uint32[n], ascending.
        miss_count: Rows (or blocks) read of each, uint32[n], all of them.
        hit_slot: Slots with counted hits, uint32[m], ascending.
        hit_count: Hits that were counted of each, uint32[m]; see ``hit_shift``.
        hits: Rows (or blocks) read in slots, all of them.
        misses: Those read in the host arena.
        deposits: Pages deposited; one deposited by two rows counts twice.
        left_out: Accesses counted on pages that ``most`` left out.
        out_of_range: Indices outside the tensor, read as row 0.
        bad_index: One of these, None where there is none.
    """

    miss_page: NDArray[np.uint32]
    miss_count: NDArray[np.uint32]
    hit_slot: NDArray[np.uint32]
    hit_count: NDArray[np.uint32]
    hits: int
    misses: int
    deposits: int
    left_out: int = 0
    out_of_range: int = 0
    bad_index: int | None = None


class Pending(Protocol[T_co]):
    """Something under way on the device."""

    def done(self) -> bool:
        """Return whether it has ended; never waits.

        Raises:
            DeviceFailedError: The device has failed.
        """
        ...

    def result(self) -> T_co:
        """Wait for its end and return what it answers.

        Raises:
            DeviceFailedError: The device has failed.
        """
        ...


class Backend(Protocol):
    """A device with the arenas of one tensor.

    Made by ``create(geometry, host, ...)`` of its module, which raises
    HbmExhaustedError where the slots cannot be had. Page and slot columns of the
    mover are numpy arrays in host memory, uint32[n], no page and no slot twice; the
    backend copies what it still needs after the call. Index, offset, table and
    data arrays of launches are the backend's own (``DeviceArray``).
    """

    @property
    def name(self) -> str:
        """``numpy``, ``torch`` or ``triton``."""
        ...

    @property
    def device(self) -> str:
        """``cpu``, ``cuda:0``."""
        ...

    @property
    def geometry(self) -> Geometry:
        """The shape; ``slots`` as they are after ``shrink``."""
        ...

    @property
    def deposits(self) -> bool:
        """Whether gathers deposit wanted pages."""
        ...

    @property
    def zero_copy(self) -> bool:
        """Whether launches read the host arena in place; False: through staging."""
        ...

    @property
    def host(self) -> NDArray[np.uint8]:
        """The host arena, uint8[pages, page_bytes]: memory that was given to it."""
        ...

    @property
    def failed(self) -> str | None:
        """What the device said when it failed, None while it works.

        After that every method but ``host``, ``peek`` (as far as it can) and
        ``close`` raises DeviceFailedError.
        """
        ...

    # -- arrays ------------------------------------------------------------

    def array(self, values: Any, dtype: str | None = None) -> DeviceArray:
        """Return values as an array on the device; one that is there already, as is.

        Args:
            values: A numpy array, a list, or an array of the backend.
            dtype: A key of ``ITEM_BYTES``; None: as it is.
        """
        ...

    def empty(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return an array of the tensor's dtype, its content anything."""
        ...

    def numpy(self, array: DeviceArray) -> NDArray[Any]:
        """Wait for the caller's stream and return a copy; bfloat16 as uint16."""
        ...

    # -- launches ----------------------------------------------------------

    def gather(
        self, index: DeviceArray, out: DeviceArray, launch: Launch
    ) -> Pending[None]:
        """Read rows: ``out[k] = row index[k]``.

        An index outside [0, rows) reads row 0 and is reported by ``drain``.

        Args:
            index: int32[n] or int64[n]; any row any number of times.
            out: [n, row_dim], contiguous.
            launch: Epoch, sampling, deposits.
        """
        ...

    def gather_bag(
        self,
        index: DeviceArray,
        offsets: DeviceArray,
        out: DeviceArray,
        launch: Launch,
        *,
        mean: bool = False,
        weights: DeviceArray | None = None,
    ) -> Pending[None]:
        """Read sums of rows: ``out[b] = sum(rows index[offsets[b]:offsets[b + 1]])``.

        The last bag ends with ``index``; an empty one gives zeros. Floating types
        only. Sums are taken in float32 (float64 for float64), in the order of
        ``index``, and rounded once.

        Args:
            index: As for ``gather``.
            offsets: int32[bags] or int64[bags], ascending, beginning with 0.
            out: [bags, row_dim], contiguous.
            launch: As for ``gather``.
            mean: Divide by the length of the bag (by 1 where it is empty).
            weights: Multiplied to each row before it is added, float32[n].
        """
        ...

    def read_blocks(
        self, table: DeviceArray, out: DeviceArray, launch: Launch
    ) -> Pending[None]:
        """Read whole pages: ``out[k] = the rows of page table[k]``.

        A page outside [0, pages) reads page 0 and is reported by ``drain``. Pages
        that are wanted are deposited whatever their size.

        Args:
            table: int32[n] or int64[n].
            out: [n, rows_per_page, row_dim], contiguous. Rows beyond the end of the
                tensor are as the arena has them.
            launch: As for ``gather``.
        """
        ...

    def scatter(
        self, index: DeviceArray, values: DeviceArray, launch: Launch
    ) -> Pending[None]:
        """Write rows where they are: ``row index[k] = values[k]``.

        A row in a slot makes the slot dirty; its page's version rises by at least
        one after the stores (rule 4). Of an index given twice
        every element has one of the values. An index outside is not written and is
        reported by ``drain``.

        Args:
            index: As for ``gather``.
            values: [n, row_dim], contiguous, of the tensor's dtype.
            launch: As for ``gather``; writes are not counted as accesses.
        """
        ...

    # -- the mover's lane ----------------------------------------------------

    def want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Ask for deposits: clear ``dep[slot]``, then ``loc[page] = -2 - slot``.

        Returns:
            ``ver[page]`` as it was before that, uint32[n].
        """
        ...

    def deposited(self, slot: NDArray[np.uint32]) -> Pending[NDArray[np.uint32]]:
        """Return ``dep[slot]``: the epoch of a launch that deposited, 0 none."""
        ...

    def copy_in(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Copy pages from the host arena into slots; ``loc`` stays.

        Returns:
            ``ver[page]`` as it was before the first byte was read, uint32[n].
        """
        ...

    def commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Pending[NDArray[np.uint8]]:
        """Publish: where ``ver[page]`` is ``version``, ``loc[page] = slot``.

        The slot starts clean, its ``hit_cnt`` zero.

        Returns:
            DONE or CHANGED (the page has been written; nothing was stored), uint8[n].
        """
        ...

    def copy_out(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint32]]:
        """Copy pages from slots back to the host arena; ``loc`` stays.

        Returns:
            ``ver[page]`` as it was before the first byte was read, uint32[n].
        """
        ...

    def clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Pending[NDArray[np.uint8]]:
        """Where ``ver[page]`` is ``version``, note that the slot is clean.

        Returns:
            DONE or CHANGED, uint8[n].
        """
        ...

    def unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Pending[NDArray[np.uint8]]:
        """Send readers to the host arena: ``loc[page] = -1`` unless the slot is dirty.

        Also takes back a ``want``. The slot is not free yet: launches that looked at
        ``loc`` before may still read it, or store in it.

        Returns:
            DONE or DIRTY (nothing was stored), uint8[n].
        """
        ...

    def dirty_slots(self) -> Pending[NDArray[np.uint32]]:
        """Return the dirty slots, ascending; every scatter before it has ended then."""
        ...

    def drain(self, most: int | None = None) -> Pending[Drained]:
        """Return what was counted, and set the counters to zero.

        A launch that runs meanwhile is counted in this drain or the next, never in
        both and never in neither.

        Args:
            most: Return at most so many pages with misses, those with the highest
                counts; None: all.
        """
        ...

    # -- the rest ------------------------------------------------------------

    def peek(self, name: str) -> NDArray[Any]:
        """Wait for everything and return a copy of device state, for tests.

        Args:
            name: ``slots`` uint8[slots, page_bytes], ``loc`` int32[pages], ``ver``
                uint32[pages], ``dirty`` uint8[slots], ``dep`` uint32[slots].
        """
        ...

    def shrink(self, slots: int) -> None:
        """Give back the slots from ``slots`` on; nobody uses them any more.

        Waits for everything first. Less may be given back than asked for, never more.
        """
        ...

    def synchronise(self) -> None:
        """Wait for every launch and operation."""
        ...

    def close(self) -> None:
        """Synchronise, let go of the host arena, free the slots; may be repeated."""
        ...
