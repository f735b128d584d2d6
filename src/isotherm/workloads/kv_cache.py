"""The key-value cache of a language-model server: paged, append-only, prefix-shared.

A request is a turn of a conversation. Its prompt is prefilled (blocks cached
from the turn before are read, new ones written), then every decode step of the
batch reads all blocks of every live request and appends one token to each.
Finished conversations stay cached until their blocks are needed, least recently
used first.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from isotherm.workloads import spec
from isotherm.workloads.layout import chunk_pages, chunk_starts
from isotherm.workloads.rng import generator
from isotherm.workloads.stream import Generated

# Mooncake's conversation trace (12,031 requests over 3,537 s): prompt tokens of
# requests that find no more than the common first block cached, and output
# tokens of all requests, at these quantiles; blocks hold 512 tokens.
BLOCK_TOKENS = 512
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
INPUT_TOKENS = (891, 897, 1336, 5264, 13056, 25559, 38494, 89868, 126195)
OUTPUT_TOKENS = (1, 10, 156, 350, 472, 597, 698, 1118, 2000)
#: Share of requests that find more than the common block cached.
CONTINUE_SHARE = 0.387
#: New blocks that such a request brings, on average.
CONTINUE_BLOCKS = 6.82

NOTHING = np.empty(0, np.uint32)
Segment = tuple[NDArray[np.uint32], NDArray[np.uint8]]


class Request:
    """A live request: its conversation's blocks, tokens used, tokens to go.

    ``reads`` holds the pages that a step reads while the request is live: the
    common block and its own.
    """

    __slots__ = ("blocks", "reads", "tokens", "until")

    def __init__(
        self, blocks: list[int], reads: NDArray[np.uint32], tokens: int, until: int
    ) -> None:
        self.blocks = blocks
        self.reads = reads
        self.tokens = tokens
        self.until = until


class Server:
    """The block allocator and the batch; yields accesses in segments.

    Args:
        starts: First page of each block, and the end of the last.
        live_share: Share of the blocks that the batch fills.
        rng: Decides arrivals and lengths.
    """

    def __init__(
        self, starts: NDArray[np.int64], live_share: float, rng: np.random.Generator
    ) -> None:
        self._starts = starts
        self._rng = rng
        blocks = len(starts) - 1
        self._free: list[int] = (1 + rng.permutation(blocks - 1)).tolist()
        self._target = max(1, int(blocks * live_share))
        self._longest = max(1, (blocks - 1) // 4)
        self._batch: list[Request] = []
        self._batch_blocks = 0
        self._cached: list[Request] = []

    def segments(self) -> Iterator[Segment]:
        """Yield pages and writes, prefills and decode steps in turn, for ever."""
        started = False
        while True:
            while not self._batch or (
                self._batch_blocks < self._target and (self._free or self._cached)
            ):
                yield self._arrive(staggered=not started)
            started = True
            yield from self._decode()

    def _tokens(self, table: tuple[int, ...]) -> int:
        return int(np.interp(self._rng.random(), QUANTILES, table))

    def _arrive(self, *, staggered: bool) -> Segment:
        prior: Request | None = None
        if self._cached and self._rng.random() < CONTINUE_SHARE:
            # The more recent a conversation, the likelier it goes on.
            back = int(len(self._cached) * self._rng.random() ** 2)
            prior = self._cached.pop(-1 - back)
            fresh = int(self._rng.exponential(CONTINUE_BLOCKS * BLOCK_TOKENS)) + 1
        else:
            fresh = self._tokens(INPUT_TOKENS)
        blocks = [] if prior is None else prior.blocks
        tokens = fresh if prior is None else prior.tokens + fresh
        cached = len(blocks)
        wanted = -(-tokens // BLOCK_TOKENS) - 1  # the first is the common block
        while len(blocks) < wanted and self._grow(blocks):
            pass
        output = self._tokens(OUTPUT_TOKENS)
        if staggered:  # a server that has run for long: turns end one by one
            output = 1 + int(output * self._rng.random())
        reads = self._pages([0, *blocks])
        self._batch.append(Request(blocks, reads, tokens, tokens + output))
        self._batch_blocks += len(blocks) + 1
        mark = np.zeros(len(reads), np.uint8)
        if cached < len(blocks):
            mark[-len(self._pages(blocks[cached:])) :] = 1
        return reads, mark

    def _grow(self, blocks: list[int]) -> bool:
        """Add a block, from the free ones or the oldest conversations; True if so."""
        if len(blocks) >= self._longest:
            return False
        while not self._free and self._cached:
            self._free.extend(self._cached.pop(0).blocks)
        if not self._free:
            return False
        blocks.append(self._free.pop())
        return True

    def _pages(self, blocks: list[int]) -> NDArray[np.uint32]:
        return chunk_pages(self._starts, np.array(blocks, np.int64))

    def _decode(self) -> Iterator[Segment]:
        """Yield decode steps until a request ends; then take it off the batch."""
        batch = self._batch
        reads = np.concatenate([request.reads for request in batch])
        tail = np.array([r.blocks[-1] if r.blocks else 0 for r in batch], np.int64)
        low = self._starts[tail]
        length = self._starts[tail + 1] - low
        tokens = np.array([r.tokens for r in batch], np.int64)
        steps = max(
            1,
            min(
                min(BLOCK_TOKENS - r.tokens % BLOCK_TOKENS, r.until - r.tokens)
                for r in batch
            ),
        )
        none, all_of_them = (
            np.zeros(len(reads), np.uint8),
            np.ones(len(batch), np.uint8),
        )
        for step in range(steps):
            yield reads, none
            place = (tokens + step) % BLOCK_TOKENS * length // BLOCK_TOKENS
            yield (low + place).astype(np.uint32), all_of_them
        live: list[Request] = []
        self._batch_blocks = 0
        for request in batch:
            request.tokens += steps
            if request.until <= request.tokens:
                request.reads = NOTHING
                self._cached.append(request)
                continue
            # Its last block may be full now.
            if request.tokens % BLOCK_TOKENS == 0 and self._grow(request.blocks):
                request.reads = self._pages([0, *request.blocks])
            live.append(request)
            self._batch_blocks += len(request.blocks) + 1
        self._batch = live


class KvCacheStream:
    """Segments of a server, cut to what is asked for."""

    def __init__(self, server: Server) -> None:
        self._segments = server.segments()
        self._page = np.empty(0, np.uint32)
        self._write = np.empty(0, np.uint8)

    def tick(self, tick: int) -> None:
        """Change nothing: requests end after tokens, not after seconds."""

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses."""
        at = 0
        while at < len(page):
            if not len(self._page):
                self._page, self._write = next(self._segments)
            count = min(len(page) - at, len(self._page))
            page[at : at + count] = self._page[:count]
            if write is not None:
                write[at : at + count] = self._write[:count]
            self._page, self._write = self._page[count:], self._write[count:]
            at += count


def build_kv_cache(own: spec.KvCache, name: str, pages: int, seed: int) -> Generated:
    """Return the accesses of a server's key-value cache that fills the footprint."""
    starts = chunk_starts(pages, own.contiguity, generator(seed, "kv-cache blocks"))
    return Generated(
        name,
        pages,
        lambda: KvCacheStream(
            Server(starts, own.live_share, generator(seed, "kv-cache"))
        ),
        writes=True,
    )
