"""A memory expander that compresses inline: capacity that depends on the data.

After the OCP hyperscale CXL tiered memory expander: blocks of 4 KiB, lossless
compression in the path of a read, a cache of decompressed blocks on the device,
an uncompressed region beside the compressed one. What the model does:

* A page that comes is compressed; its stored size is drawn from what the workload
  states (`isotherm.trace.compressibility`). Beyond ``refuse_above`` of the media it
  is refused, ENOMEM, as an allocation from a node without free pages fails.
* An access goes through the block cache. A hit saves ``decompress_ns``; a miss reads
  the whole stored block from the media. A block that was written is compressed when
  it leaves the cache, and may have grown: what no longer fits is a failed write.
* The capacity that the machine shows is what is stored and what would still fit at
  the mean size of what is stored.

Left out: garbage collection and fragmentation of the media, ECC, wear, and that a
failed write poisons the page: it is only counted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import CACHE_LINE_BYTES, NS_PER_S, PAGE_BYTES
from isotherm.machine.sim import expander_blocks as blocks
from isotherm.machine.sim.expander_spec import ExpanderSpec
from isotherm.machine.sim.queueing import latency_factor
from isotherm.trace.compressibility import Compressibility

MIB = 1 << 20
LEAST_BLOCKS = 16
#: Half the spread of a compressible page's stored size, as a share of the mean,
#: where the mean leaves room for it. Assumed.
SPREAD = 0.5


class Expander:
    """The device.

    Args:
        spec: What it is.
        pages: Footprint; as many pages as the compressed region shows.
        scale: Share of the reference machine that the footprint is.
        seed: For stored sizes.
        nodes: Nodes of the machine.
    """

    def __init__(
        self, spec: ExpanderSpec, pages: int, scale: float, seed: int, nodes: int
    ) -> None:
        self.spec = spec
        self.compressibility = Compressibility()  # until somebody says
        self.media_lines = int(pages * blocks.BLOCK_LINES / spec.advertised_ratio)
        self.limit_lines = int(self.media_lines * spec.refuse_above)
        self._nodes = nodes
        self._lines = np.zeros(pages, np.uint8)
        cache = int(spec.block_cache_mib * MIB * scale / PAGE_BYTES)
        ways = max(LEAST_BLOCKS, cache) // blocks.WAYS * blocks.WAYS
        self._tag = np.full(ways, blocks.EMPTY, np.uint32)
        self._used_at = np.zeros(ways, np.int64)
        self._dirty = np.zeros(ways, np.uint8)
        self._books = np.zeros(blocks.BOOKS, np.int64)
        self._told = self._books.copy()  # at the end of the last epoch
        self._seed = float(np.random.default_rng([seed, 0xE4]).integers(1 << 32))
        self._draws = 0
        self._mix = np.zeros(5)
        self._media_gb_s = (spec.media_bandwidth_gb_s or float("inf")) * scale
        self.pass_time(0)

    # ---- data

    def state(self, compressibility: Compressibility) -> None:
        """Say how the workload's data compress; before `place`."""
        self.compressibility = compressibility
        self.pass_time(0)

    def pass_time(self, now_ns: int) -> None:
        """What is written from now on compresses as the workload says of this time."""
        mix = self.compressibility.at(now_ns / NS_PER_S)
        # At full size there is no room for a spread: it would leave its range.
        spread = min(SPREAD, max(0.0, 1 / mix.size - 1)) if mix.size else 0.0
        mean = mix.size * blocks.BLOCK_LINES
        self._mix[:] = (self._seed, self._draws, mix.incompressible, mean, spread)
        self._draws += 1

    def place(self, node: NDArray[np.uint8]) -> None:
        """Store every page that is on the compressed node, regardless of room."""
        self._lines[:] = 0
        self._books[:] = self._told[:] = 0
        self._tag[:] = blocks.EMPTY
        page = np.flatnonzero(node == self.spec.compressed).astype(np.uint32)
        blocks.store_all(page, self._lines, self._mix, self._books)

    def access(
        self,
        flags: NDArray[np.uint8],
        page: NDArray[np.uint32],
        write: NDArray[np.uint8] | None,
    ) -> None:
        """Let accesses of all nodes pass by; those to the compressed one count."""
        blocks.access_blocks(
            flags,
            page,
            np.empty(0, np.uint8) if write is None else write,
            self.spec.compressed,
            self._tag,
            self._used_at,
            self._dirty,
            self._lines,
            self.media_lines,
            self._mix,
            self._books,
        )

    def move(
        self,
        flags: NDArray[np.uint8],
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        used: NDArray[np.int64],
        capacity: NDArray[np.int64],
        moved: NDArray[np.int64],
        errno: NDArray[np.int16],
    ) -> None:
        """Move pages as `isotherm.machine.sim.play.place` does, storing them."""
        blocks.place_blocks(
            flags,
            page,
            node,
            used,
            capacity,
            moved,
            errno,
            self.spec.compressed,
            self._tag,
            self._lines,
            self.limit_lines,
            self._mix,
            self._books,
        )

    def move_ns(self, moved: NDArray[np.int64]) -> float:
        """Return what compressing and decompressing adds to moves [from, to]."""
        node = self.spec.compressed
        packed = int(moved[:, node].sum()) * self.spec.compress_ns
        return packed + int(moved[node].sum()) * self.spec.decompress_ns

    # ---- what the machine shows

    @property
    def fill(self) -> float:
        """Share of the media that is taken; above 1 where pages were put by force."""
        return float(self._books[blocks.USED]) / max(1, self.media_lines)

    def capacity_pages(self, used: int) -> int:
        """Return how many pages fit: those stored, and more of their mean size.

        Args:
            used: Pages stored.
        """
        stored = int(self._books[blocks.USED])
        mean = stored / used if used else blocks.BLOCK_LINES * self._mean_size()
        room = self.limit_lines - stored
        return max(0, used + int(np.floor(room / max(1.0, mean))))

    def _mean_size(self) -> float:
        return float(self._mix[2] + (1 - self._mix[2]) * self._mix[3] / 64)

    def fills(self) -> NDArray[np.float64]:
        """Return `fill` at the compressed node, NaN at the others, float64[nodes]."""
        fill = np.full(self._nodes, np.nan)
        fill[self.spec.compressed] = self.fill
        return fill

    # ---- time

    def share_link(self, node_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return bytes per node, both regions loaded with what their link carries."""
        if self.spec.uncompressed is None:
            return node_bytes
        shared = node_bytes.copy()
        both = [self.spec.compressed, self.spec.uncompressed]
        shared[both] = node_bytes[both].sum()
        return shared

    def epoch_ns(self, dt_ns: int) -> float:
        """Return what the block cache and the media add to an epoch's latency.

        Negative where hits save more than the rest costs. A whole block is read
        for every miss, so the media queue before the link does.
        """
        now = self._books - self._told
        self._told[:] = self._books
        spec = self.spec
        factor = latency_factor(
            np.array([now[blocks.READ] * float(CACHE_LINE_BYTES)]),
            np.array([now[blocks.WRITTEN] * float(CACHE_LINE_BYTES)]),
            np.array([self._media_gb_s * dt_ns]),
            np.array([self._media_gb_s * dt_ns]),
        )[0]
        waits = float(now[blocks.MISSES]) * spec.decompress_ns * float(factor - 1)
        saved = float(now[blocks.HITS]) * spec.decompress_ns
        return float(now[blocks.PACKED]) * spec.compress_ns + waits - saved

    def report(self) -> dict[str, Any]:
        """Return what became of the device, for results."""
        books, line = self._books, CACHE_LINE_BYTES
        stored = int(np.count_nonzero(self._lines))
        looked = int(books[blocks.HITS] + books[blocks.MISSES])
        return {
            "compressibility": [
                self.compressibility.ratio,
                self.compressibility.end_ratio or self.compressibility.ratio,
            ],
            "media_bytes": self.media_lines * line,
            "stored_bytes": int(books[blocks.USED]) * line,
            "stored_pages": stored,
            "ratio": stored * PAGE_BYTES / max(1, int(books[blocks.USED]) * line),
            "fill": self.fill,
            "peak_fill": float(books[blocks.PEAK]) / max(1, self.media_lines),
            "block_cache_hit_share": int(books[blocks.HITS]) / max(1, looked),
            "failed_writes": int(books[blocks.FAILED]),
            "refused_pages": int(books[blocks.REFUSED]),
            "grown_blocks": int(books[blocks.GREW]),
        }
