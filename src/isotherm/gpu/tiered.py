"""A tensor larger than device memory that is read like any other.

Hot pages are in device memory, all are in the host arena; kernels read both in one
launch. What is hot is decided by the same tracker, policy and migration engine that
tier ordinary memory (``tiering.py``), and moved by a protocol that readers take no
part in (``protocol.py``).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.gpu.backend import (
    Backend,
    DeviceArray,
    Geometry,
    Launch,
    Pending,
)
from isotherm.gpu.building import EngineOptions, build
from isotherm.gpu.engine import Engine
from isotherm.gpu.indices import (
    RowIndexError,
    check_index,
    check_out,
    one_axis,
    pages_of,
)
from isotherm.gpu.life import Life
from isotherm.gpu.mover import Mover
from isotherm.gpu.opening import MIN_SLOTS
from isotherm.gpu.protocol import SAFE, Rules
from isotherm.gpu.residents import bring, bring_now, give_back, send_away, write_back
from isotherm.gpu.stats import TierStats, read_stats
from isotherm.gpu.tiering import Tiering

__all__ = ["RowIndexError", "TierStats", "TieredTensor"]


class TieredTensor:
    """Rows in two memories; made by ``from_host``.

    Reading and writing may be done by several threads and on several streams. On one
    stream reads and writes are in order; across streams, as with any tensor, it is
    the caller who orders a read against a write of the same row.

    Args:
        mover: Protocol and backend.
        engine: Who turns the loop.
        rows: Rows of the arena as elements, [pages, rows_per_page, row_dim].
        turn: ``thread``, ``inline`` or ``manual``.
        check: ``sync`` or ``async``.
    """

    def __init__(
        self,
        mover: Mover,
        engine: Engine,
        rows: NDArray[Any],
        *,
        turn: str,
        check: str,
    ) -> None:
        self._mover, self._engine, self._host_rows = mover, engine, rows
        self._turn, self._check = turn, check
        self._life = Life(self, mover, engine)

    # -- making one ----------------------------------------------------------

    @classmethod
    def from_host(
        cls,
        values: Any,
        dtype: str | None = None,
        row_dim: int | None = None,
        *,
        hbm_bytes: int | str = "10%",
        page: str | int = "auto",
        writable: bool = False,
        backend: str = "auto",
        deterministic: bool = False,
        engine: str = "thread",
        check: str = "async",
        policy: str = "isotherm",
        policy_options: Mapping[str, float] | None = None,
        epoch_rows: int | None = None,
        hit_shift: int | None = None,
        min_slots: int = MIN_SLOTS,
        bandwidths: tuple[float, float] | None = None,
        seed: int = 1,
        name: str = "tensor",
        rules: Rules = SAFE,
        **options: Any,
    ) -> "TieredTensor":
        """Return a tensor with the rows of an array, all of them on the host at first.

        Args:
            values: An array [rows, row_dim] of numpy or torch, which is copied; or a
                shape, for zeros.
            dtype: A key of ``backend.ITEM_BYTES``; None: the array's, or float32.
            row_dim: Elements of a row, where ``values`` does not say.
            hbm_bytes: Device memory for pages: bytes, a size such as ``"8GiB"``, or a
                share of the tensor such as ``"10%"``.
            page: What moves together: ``"auto"`` or ``"row"``: a row (as many as 128
                bytes hold); or a number of rows.
            writable: Whether ``scatter_`` is allowed.
            backend: ``auto``, ``numpy``, ``torch`` or ``triton``.
            deterministic: Same calls, same placement: epochs end within launches, and
                every answer of the device is waited for. Figures are not measured.
            engine: Who decides and moves: a ``thread``, launches themselves
                (``inline``), or only ``step`` (``manual``).
            check: An index outside reads row 0 and raises at a later call
                (``async``), or raises at once, for the price of a look at every
                index (``sync``).
            policy: As for ``isotherm simulate``.
            policy_options: Its parameters.
            epoch_rows: Rows read in an epoch; None: 16,384, or an eighth of the pages.
            hit_shift: One hit in ``2**hit_shift`` is counted; None: every one, on a
                device one in 16.
            min_slots: Fewer slots than this are none.
            bandwidths: Bytes per second that the device reads from its own memory and
                from the host's; None: measured, on a CPU those of an H100 assumed.
            seed: For every random choice.
            name: For people.
            rules: For tests of the protocol.
            options: For the backend's ``create``: ``device``, ``zero_copy``.

        Raises:
            UsageError: An argument is wrong.
            UnsupportedError: The backend is not installed.
            HostMemoryError: The host has no memory for the arena.
        """
        for what, value, known in (
            ("engine", engine, ("thread", "inline", "manual")),
            ("check", check, ("sync", "async")),
        ):
            if value not in known:
                raise UsageError(f"{what}: expected {', '.join(known)}, got {value!r}")
        mover, turner, host_rows = build(
            values,
            dtype,
            row_dim,
            hbm_bytes=hbm_bytes,
            page=page,
            backend=backend,
            min_slots=min_slots,
            backend_options=options,
            engine=EngineOptions(
                writable=writable,
                deterministic=deterministic,
                policy=policy,
                policy_options=policy_options,
                epoch_rows=epoch_rows,
                hit_shift=hit_shift,
                bandwidths=bandwidths,
                seed=seed,
                name=name,
                rules=rules,
            ),
        )
        turn = "inline" if deterministic else engine
        return cls(mover, turner, host_rows, turn=turn, check=check)

    # -- what it is ----------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and elements of a row."""
        g = self._backend.geometry
        return g.rows, g.row_dim

    @property
    def geometry(self) -> Geometry:
        """Rows, pages and slots."""
        return self._backend.geometry

    @property
    def backend(self) -> Backend:
        """The device."""
        return self._backend

    @property
    def mover(self) -> Mover:
        """The protocol on its device."""
        return self._mover

    @property
    def tiering(self) -> Tiering | None:
        """Counters, tracker, policy, migration engine; None without slots."""
        return self._engine.tiering

    @property
    def failed(self) -> str | None:
        """What ended it; None: it works."""
        return self._life.failed

    @property
    def _backend(self) -> Backend:
        return self._mover.backend

    def __len__(self) -> int:
        return self._backend.geometry.rows

    # -- reading and writing -------------------------------------------------

    def gather(self, index: Any, out: DeviceArray | None = None) -> DeviceArray:
        """Return rows, [n, row_dim], where the device has its arrays.

        Args:
            index: Rows, int32 or int64[n], on the host or the device.
            out: Where to write them; None: a new array.

        Raises:
            RowIndexError: An index of this call (``check="sync"``) or of an earlier
                one is outside.
            DeviceFailedError: The device has failed; see ``dirty_pages``.
        """
        index = self._index(index, len(self))
        out = self._out(out, len(index), self.geometry.row_dim)
        self._launch(
            lambda launch: self._backend.gather(index, out, launch),
            len(index),
            bytes_each=self.geometry.row_bytes,
        )
        return out

    def gather_bag(
        self,
        index: Any,
        offsets: Any,
        out: DeviceArray | None = None,
        *,
        mean: bool = False,
        weights: Any | None = None,
    ) -> DeviceArray:
        """Return sums of rows, [bags, row_dim], as ``torch.nn.EmbeddingBag`` has them.

        Args:
            index: As for ``gather``.
            offsets: Where each bag begins in ``index``, ascending from 0.
            out: Where to write them.
            mean: Means instead of sums.
            weights: Of each row, float32[n].

        Raises:
            RowIndexError: As for ``gather``.
        """
        index = self._index(index, len(self))
        offsets = self._backend.array(offsets)
        if weights is not None:
            weights = self._backend.array(weights, "float32")
            if weights.shape != index.shape:
                raise UsageError(f"weights: expected one for each of {len(index)} rows")
        out = self._out(out, len(offsets), self.geometry.row_dim)
        self._launch(
            lambda launch: self._backend.gather_bag(
                index, offsets, out, launch, mean=mean, weights=weights
            ),
            len(index),
            bytes_each=self.geometry.row_bytes,
        )
        return out

    def read_blocks(self, table: Any, out: DeviceArray | None = None) -> DeviceArray:
        """Return whole pages, [n, rows_per_page, row_dim].

        Args:
            table: Pages, int32 or int64[n].
            out: Where to write them.

        Raises:
            RowIndexError: As for ``gather``, of pages.
        """
        g = self.geometry
        table = self._index(table, g.pages)
        out = self._out(out, len(table), g.rows_per_page, g.row_dim)
        self._launch(
            lambda launch: self._backend.read_blocks(table, out, launch),
            len(table),
            bytes_each=g.rows_per_page * g.row_bytes,
        )
        return out

    def scatter_(self, index: Any, values: Any) -> None:
        """Write rows where they are.

        Args:
            index: As for ``gather``; what is outside is not written.
            values: [n, row_dim], of the tensor's type.

        Raises:
            UsageError: The tensor is not writable.
            RowIndexError: As for ``gather``.
        """
        if not self._mover.protocol.writable:
            raise UsageError("scatter_: the tensor was made with writable=False")
        index = self._index(index, len(self))
        values = self._backend.array(values, self.geometry.dtype)
        if tuple(values.shape) != (len(index), self.geometry.row_dim):
            raise UsageError(
                f"values: expected [{len(index)}, {self.geometry.row_dim}], got"
                f" {list(values.shape)}"
            )
        self._launch(
            lambda launch: self._backend.scatter(index, values, launch),
            len(index),
            writes=True,
        )

    def _index(self, index: Any, end: int) -> DeviceArray:
        """Return an index on the device; looked at, where that was asked for."""
        if self._check == "sync":
            check_index(index, end)
        index = np.asarray(index, np.int64) if isinstance(index, list) else index
        return one_axis(self._backend.array(index))

    def _out(self, out: DeviceArray | None, *shape: int) -> DeviceArray:
        """Return where a launch stores its rows: a new array, or one that fits."""
        if out is None:
            return self._backend.empty(shape)
        check_out(out, shape, self.geometry.dtype)
        return out

    def _launch(
        self,
        call: Callable[[Launch], Pending[None]],
        count: int,
        *,
        bytes_each: int = 0,
        writes: bool = False,
    ) -> None:
        self._life.check()
        if self._turn == "thread" and not self._engine.runs:
            self._engine.start()
        with self._life.failing():
            self._mover.launch(call, writes=writes)
            if not writes:
                self._engine.launched(count, bytes_each)
            if self._turn == "inline":
                self._mover.pump()
                if self._engine.is_due:
                    self._engine.step()
        self._life.raise_noticed()

    # -- deciding ------------------------------------------------------------

    def step(self) -> None:
        """End an epoch: count, decide, begin to move; also beside a thread.

        Raises:
            RowIndexError: A launch since the last was given an index outside.
        """
        self._life.check()
        with self._life.failing():
            self._engine.step()
        self._life.raise_noticed()

    def start(self) -> None:
        """Let a thread decide and move from now on."""
        self._life.check()
        self._turn = "thread"
        self._engine.start()

    def stop(self) -> None:
        """End the thread: from now on only ``step`` decides and moves."""
        self._turn = "manual"
        self._engine.stop()

    def settle(self) -> None:
        """Wait until nothing is under way: launches, moves, grace periods."""
        self._life.check()
        with self._life.failing():
            self._mover.settle()

    # -- placing by hand -----------------------------------------------------

    def prefetch(self, index: Any, *, wait: bool = False) -> int:
        """Copy rows' pages to device memory; the coldest there make room.

        Args:
            index: Rows.
            wait: Until they are there.

        Returns:
            Pages that are there, or will be.
        """
        self._life.check()
        page = pages_of(index, self.geometry)
        with self._life.failing():
            if wait:
                return bring_now(self._mover, self._engine.tiering, page)
            count = bring(self._mover, self._engine.tiering, page)
            self._mover.pump()
        return count

    def pin(self, index: Any, *, on: bool = True) -> int:
        """Keep rows' pages in device memory, or (``on=False``) no longer.

        Returns:
            Pages that are kept.

        Raises:
            UsageError: There are not so many slots.
        """
        self._life.check()
        page = pages_of(index, self.geometry)
        with self._mover.lock:
            self._mover.protocol.pin(page, on=on)
        if not on:
            return 0
        with self._life.failing():
            if bring_now(self._mover, self._engine.tiering, page) < len(page):
                self.pin(index, on=False)
                raise UsageError(
                    f"pin: {len(page)} pages do not fit into"
                    f" {self._mover.protocol.end} slots"
                )
        return len(page)

    def flush(self) -> int:
        """Copy dirty pages back to the host arena; they stay where they are.

        Returns:
            Pages that were dirty.
        """
        self._life.check()
        with self._life.failing():
            return write_back(self._mover)

    @contextmanager
    def host(self, pages: Any, mode: str = "r") -> Iterator[NDArray[Any]]:
        """Lend the host arena to the CPU, as far as some pages go.

        Args:
            pages: Which pages may be looked at, or written.
            mode: ``r``: their newest bytes are there when the block begins. ``w``:
                also, nobody else reads or holds them until it ends, but launches that
                are made meanwhile.

        Yields:
            The whole arena, [pages, rows_per_page, row_dim]; read-only for ``r``.
        """
        self._life.check()
        if mode not in {"r", "w"}:
            raise UsageError(f"mode: expected r or w, got {mode!r}")
        page = np.unique(np.asarray(pages).astype(np.int64)).astype(np.uint32)
        if len(page) and page[-1] >= self.geometry.pages:
            raise RowIndexError(f"pages: expected 0 to {self.geometry.pages - 1}")
        if mode == "r":
            self.flush()
            view = self._host_rows.view()
            view.flags.writeable = False
            yield view
            return
        try:
            with self._life.failing():
                send_away(self._mover, page)
            yield self._host_rows
        finally:
            with self._mover.lock:
                self._mover.protocol.hold(page, on=False)

    def shrink(self, bytes_: int) -> int:
        """Give device memory back, for others to use.

        Returns:
            Bytes that were given back: whole slots, and at most what there is.
        """
        self._life.check()
        g = self.geometry
        with self._life.failing():
            give_back(self._mover, max(0, g.slots - -(-bytes_ // g.page_bytes)))
        return (g.slots - self.geometry.slots) * g.page_bytes

    # -- how it stands -------------------------------------------------------

    def stats(self) -> TierStats:
        """Return what was counted up to the last epoch, and how it stands."""
        return read_stats(self._mover, self._engine)

    def dirty_pages(self) -> NDArray[np.uint32]:
        """Return pages whose newest bytes may be in device memory only, ascending.

        After a failure the host arena holds the newest bytes of all others.
        """
        return self._mover.possibly_dirty()

    def host_rows(self) -> NDArray[Any]:
        """Return the host arena, [pages, rows_per_page, row_dim]; also after a failure.

        Of a dirty page it is older than what launches read; see ``flush``.
        """
        return self._host_rows

    # -- the end -------------------------------------------------------------

    def close(self) -> None:
        """Wait for everything, unlock the host's memory, free the device's."""
        self._life.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
