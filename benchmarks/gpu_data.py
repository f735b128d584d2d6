"""Data of the accelerator tier's benchmark: table, indices, devices.

Every word of the table can be checked, the indices' distribution is known.

Everything runs in torch where there is torch, else in numpy, so that the benchmark
can be tried without a GPU.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu import arena, numpy_backend
from isotherm.gpu.backend import Backend, Geometry

MIB = 1 << 20
GIB = 1 << 30

#: Words that are made or checked at a time.
CHUNK_WORDS = 1 << 26


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        table_bytes: Host table of the mechanism's rows, 512 bytes and wider.
        narrow_bytes: The part of it that narrow rows use: ``loc`` stays small.
        policy_rows: Rows of 512 bytes of the policy's tables.
        batch: Rows of a batch of 512-byte rows; other rows: equal bytes.
        rotation: Different batches.
        timed: Batches of a measurement of the mechanism.
        warm: Batches before a policy is measured, or its hot set changes.
        after: Batches after that.
        every: Batches per epoch of a policy.
        row_bytes: Row sizes.
        footprints: Bytes over which zero-copy reads are spread.
        skews: Zipf exponents.
        shares: HBM over table.
        blocks: KV blocks of 64 KiB.
        sequences: That share them.
        matmul: Side of the co-running product.
        torn_s: Seconds of the torn-read stress.
    """

    table_bytes: int = 32 * GIB
    narrow_bytes: int = 8 * GIB
    policy_rows: int = 1 << 22
    batch: int = 1 << 18
    rotation: int = 64
    timed: int = 60
    warm: int = 200
    after: int = 200
    every: int = 2
    row_bytes: tuple[int, ...] = (512, 64, 128, 4096)
    footprints: tuple[int, ...] = (GIB, 4 * GIB, 8 * GIB, 32 * GIB)
    skews: tuple[float, ...] = (1.05, 0.99, 1.2)
    shares: tuple[float, ...] = (0.10, 0.01, 0.05, 0.20)
    blocks: int = 131072
    sequences: int = 64
    matmul: int = 8192
    torn_s: float = 15.0


TINY = Scale(
    table_bytes=MIB // 2,
    narrow_bytes=MIB // 8,
    policy_rows=1 << 10,
    batch=1 << 7,
    rotation=3,
    timed=3,
    warm=8,
    after=8,
    every=2,
    row_bytes=(512, 64),
    footprints=(MIB // 8, MIB // 2),
    skews=(1.05,),
    shares=(0.10,),
    blocks=48,
    sequences=2,
    matmul=64,
    torn_s=2.0,
)


class Rig:
    """A device, its clock, and the table on the host.

    Args:
        name: ``numpy``, ``torch`` or ``triton``.
        scale: Sizes.
    """

    def __init__(self, name: str, scale: Scale) -> None:
        self.name, self.scale = name, scale
        self.torch: Any = None
        self.device: Any = None
        if name != "numpy":
            import torch  # noqa: PLC0415  # not where numpy alone is tried

            from isotherm.gpu.torch_device import Device  # noqa: PLC0415  # as above

            self.torch, self.device = torch, Device(None)
        self.cuda = bool(self.device and self.device.cuda)
        #: Why the host table is not read in place, None where it is.
        self.refused: str | None = None

    @property
    def where(self) -> str:
        """Where launches run."""
        if self.cuda:
            return f"{self.torch.cuda.get_device_name()} ({self.device.torch})"
        how = {"numpy": "numpy", "torch": "torch", "triton": "Triton's interpreter"}
        return f"CPU, {how[self.name]}"

    def make(self, table: "Table", geometry: Geometry, **options: Any) -> Backend:
        """Return a backend on a table."""
        rows = table.arena(geometry)
        if self.name == "numpy":
            return numpy_backend.create(geometry, rows)
        if self.name == "torch" or options.pop("plain", False):
            from isotherm.gpu import torch_backend  # noqa: PLC0415  # optional

            return torch_backend.create(geometry, rows, device=self.device)
        from isotherm.gpu import triton_backend  # noqa: PLC0415  # optional

        return triton_backend.create(geometry, rows, device=self.device, **options)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.cuda:
            self.torch.cuda.synchronize()

    def seconds(self, run: Callable[[int], object], times: int) -> NDArray[np.float64]:
        """Return how long each of ``run(0)``, ``run(1)``, ... took on the device."""
        took = np.empty(times)
        if not self.cuda:
            for i in range(times):
                began = time.perf_counter()
                run(i)
                took[i] = time.perf_counter() - began
            return took
        events = [self.event() for _ in range(times + 1)]
        events[0].record()
        for i in range(times):
            run(i)
            events[i + 1].record()
        self.synchronise()
        for i in range(times):
            took[i] = events[i].elapsed_time(events[i + 1]) / 1e3
        return took

    def event(self) -> Any:
        """Return an event that takes the time."""
        return self.torch.cuda.Event(enable_timing=True)

    def array(self, values: NDArray[Any]) -> Any:
        """Return an array where launches read theirs."""
        if self.torch is None:
            return values
        return self.torch.from_numpy(values).to(self.device.torch)

    def close(self) -> None:
        """Let go of all memory that was registered."""
        if self.device is not None:
            self.device.close()


@dataclass(eq=False)
class Table:
    """Host memory whose 32-bit words are a hash of their number.

    Attributes:
        rig: Whose.
        bytes: uint8[size].
        seconds: What mapping, registering and filling took.
    """

    rig: Rig
    bytes: NDArray[np.uint8]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def create(cls, rig: Rig, size: int, *, floats: bool = False) -> "Table":
        """Map, touch, register and fill.

        Args:
            rig: Whose.
            size: Bytes, a multiple of 128.
            floats: Words are float32, whole numbers below 2**15: sums of 512 of them
                are exact in any order.
        """
        began = time.perf_counter()
        memory = arena.allocate(Geometry(size // 128, 32, "int32", 1, 0)).reshape(-1)
        table = cls(rig, memory)
        touch(table.bytes)
        table.seconds["touch"] = time.perf_counter() - began
        began = time.perf_counter()
        if rig.cuda:
            rig.refused = rig.device.register(table.bytes.ctypes.data, size, memory)
        table.seconds["register"] = time.perf_counter() - began
        began = time.perf_counter()
        words = table.bytes.view(np.float32 if floats else np.int32)
        for begin in range(0, len(words), CHUNK_WORDS):
            part = words[begin : begin + CHUNK_WORDS]
            if rig.torch is None:
                made = mixed(np.arange(begin, begin + len(part)))
                part[:] = made >> 16 if floats else made
                continue
            number = rig.torch.arange(begin, begin + len(part), device=rig.device.torch)
            made = mixed(number)
            kind = rig.torch.float32 if floats else rig.torch.int32
            made = (made >> 16 if floats else made).to(kind)
            rig.torch.from_numpy(part).copy_(made)
        table.seconds["fill"] = time.perf_counter() - began
        return table

    def arena(self, geometry: Geometry) -> NDArray[np.uint8]:
        """Return the beginning of the table in pages of a shape."""
        size = geometry.pages * geometry.page_bytes
        return self.bytes[:size].reshape(geometry.pages, geometry.page_bytes)

    def wrong_words(
        self, geometry: Geometry, index: Any, out: Any, written: Any = None
    ) -> int:
        """Return how many words of a gather are not those of its rows.

        Args:
            geometry: Rows of int32.
            index: What was read.
            out: int32[n, row_dim].
            written: How often each row was written: added to its words.
        """
        words = geometry.row_dim
        wrong = 0
        step = max(1, CHUNK_WORDS // 4 // words)
        for begin in range(0, len(index), step):
            i = index[begin : begin + step]
            i = i.astype(np.int64) if self.rig.torch is None else i.long()
            page, row = i // geometry.rows_per_page, i % geometry.rows_per_page
            first = page * (geometry.page_bytes // 4) + row * words
            xp = np if self.rig.torch is None else self.rig.torch
            column = (
                xp.arange(words)
                if self.rig.torch is None
                else xp.arange(words, device=out.device)
            )
            expected = mixed(first[:, None] + column[None, :])
            if written is not None:
                expected = expected + written[i][:, None]
            low = (out[begin : begin + step] ^ expected) & 0xFFFFFFFF
            wrong += int((low != 0).sum())
        return wrong


def mixed(number: Any) -> Any:
    """Return a hash of word numbers, int64 arrays of numpy or torch, as int32 values.

    Two rounds of multiply and shift, with constants of MurmurHash3's finaliser.
    """
    x = (number * 0x85EBCA6B) & 0xFFFFFFFF
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return x - ((x & 0x80000000) << 1)


def touch(memory: NDArray[np.uint8]) -> None:
    """Touch memory first by several threads: one fills a few GiB a second only."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # here alone

    def fill(begin: int) -> None:
        memory[begin : begin + 256 * MIB] = 0

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(fill, range(0, len(memory), 256 * MIB)))


# -- indices ---------------------------------------------------------------------


class Zipf:
    """Rows drawn by Zipf's law, its ranks scattered over the table.

    Args:
        rig: Draws on its device.
        rows: Of the table.
        skew: Exponent; 0: uniform.
        seed: For ranks and scattering.
    """

    def __init__(self, rig: Rig, rows: int, skew: float, seed: int) -> None:
        self.rig, self.rows, self.skew = rig, rows, skew
        self._random = np.random.default_rng(seed)
        self._edges: Any = None
        if rig.torch is None:
            self.place: Any = self._random.permutation(rows).astype(np.int32)
            self._weights = np.arange(1, rows + 1, dtype=np.float64) ** -skew
            self._edges = np.cumsum(self._weights)
        else:
            kind = {"device": rig.device.torch}
            rig.torch.manual_seed(seed)
            self.place = rig.torch.randperm(rows, dtype=rig.torch.int32, **kind)
            rank = rig.torch.arange(1, rows + 1, dtype=rig.torch.float64, **kind)
            self._weights = rank**-skew
            self._edges = self._weights.cumsum(0)
        self._edges = self._edges / self._edges[-1]

    def batch(self, size: int) -> Any:
        """Return rows, int32[size]."""
        if self.rig.torch is None:
            rank = np.searchsorted(self._edges, self._random.random(size))
            return self.place[np.minimum(rank, self.rows - 1)]
        # float64: 2**26 edges are closer together than float32 can tell.
        drawn = self.rig.array(self._random.random(size))
        rank = self.rig.torch.searchsorted(self._edges, drawn).clamp(max=self.rows - 1)
        return self.place[rank]

    def batches(self, number: int, size: int) -> list[Any]:
        """Return several batches."""
        return [self.batch(size) for _ in range(number)]

    def hottest(self, geometry: Geometry) -> NDArray[np.uint32]:
        """Return the pages with the highest weights, as many as fit, ascending."""
        slots = geometry.slots
        if geometry.rows_per_page == 1:
            best = self.place[:slots]
        elif self.rig.torch is None:
            weight = np.bincount(self.place // geometry.rows_per_page, self._weights)
            best = np.argpartition(-weight, slots)[:slots]
        else:
            page = self.place.long() // geometry.rows_per_page
            weight = self.rig.torch.zeros_like(self._weights[: geometry.pages])
            weight.index_add_(0, page, self._weights)
            best = weight.topk(slots).indices
        if self.rig.torch is not None:
            best = best.cpu().numpy()
        return np.sort(best).astype(np.uint32)

    def reshuffle(self, share: float, hot: int) -> None:
        """Give a share of the ``hot`` first ranks other rows, from all of the table."""
        rows = self.place if self.rig.torch is None else self.place.cpu().numpy()
        rows = rows.copy()
        if share >= 1:
            self._random.shuffle(rows)
        else:
            ranks = self._random.choice(hot, max(1, int(share * hot)), replace=False)
            others = np.unique(self._random.integers(hot, self.rows, len(ranks)))
            ranks = ranks[: len(others)]
            rows[ranks], rows[others] = rows[others], rows[ranks].copy()
        self.place = self.rig.array(rows)


def hit_rate(
    rig: Rig, geometry: Geometry, pages: NDArray[Any], batches: list[Any]
) -> float:
    """Return the share of rows in batches that are in a set of pages."""
    inside = np.zeros(geometry.pages, np.bool_)
    inside[pages] = True
    marks = rig.array(inside)
    hits = 0
    for batch in batches:
        page = batch // geometry.rows_per_page
        hits += int(marks[page if rig.torch is None else page.long()].sum())
    return hits / max(1, sum(len(b) for b in batches))


def rows_geometry(row_bytes: int, rows: int, slots: int) -> Geometry:
    """Return the shape of int32 rows: one a page, or as many as fill a line."""
    per_page = max(1, 128 // row_bytes)
    return Geometry(rows, row_bytes // 4, "int32", per_page, slots)


def place(backend: Backend, page: NDArray[np.uint32]) -> None:
    """Copy pages into the first slots and publish them."""
    slot = np.arange(len(page), dtype=np.uint32)
    for part in parts(len(page), 1 << 20):
        version = backend.copy_in(page[part], slot[part]).result()
        backend.commit(page[part], slot[part], version).result()


def parts(length: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size``."""
    for begin in range(0, length, size):
        yield slice(begin, min(length, begin + size))


def installed(module: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(module) is not None
