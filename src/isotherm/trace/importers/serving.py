"""Mooncake's requests as a server plays them: prefill, then decode step by step.

The trace says when a request came, which blocks its prompt has and how many tokens
it was answered with. A server reads what is cached of the prompt, writes the rest,
and then reads *all* blocks of the request for every token. The last is most of the
traffic of a key-value cache, and not in the list of references.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows, check_times
from isotherm.trace.source import ByteSource

_NS_PER_MS = 1_000_000
_EXPECTED = "{'timestamp': MS, 'output_length': TOKENS, 'hash_ids': [ID, ...]}"

#: A page stands for a block; to read the block is to read every line of the page.
LINES_A_READ = 64
#: Tokens for which a request's blocks are read once: each of them would be 98
#: million reads of the conversation trace.
TOKENS_A_READ = 64
#: Between two tokens of one request on a busy server: assumed.
NS_PER_TOKEN = 50 * _NS_PER_MS
#: Tokens that one request is answered with, at most: what a model's window holds.
MAX_OUTPUT = 1 << 20


class _Request(msgspec.Struct):
    timestamp: float | int
    hash_ids: list[int]
    output_length: int = 0


class _Pending:
    """Reads that are still to come, in order of time once they are taken."""

    def __init__(self) -> None:
        self._page: list[NDArray[np.uint64]] = []
        self._time: list[NDArray[np.int64]] = []
        self._write: list[NDArray[np.uint8]] = []

    def add(
        self, page: NDArray[np.uint64], time_ns: int, write: NDArray[np.uint8]
    ) -> None:
        """Add accesses at one time."""
        self._page.append(page)
        self._time.append(np.full(len(page), time_ns, np.int64))
        self._write.append(write)

    def take(self, before_ns: int | None) -> Rows | None:
        """Return what comes before a time, None: all; None if there is nothing."""
        if not self._page:
            return None
        page = np.concatenate(self._page)
        time_ns = np.concatenate(self._time)
        write = np.concatenate(self._write)
        order = np.argsort(time_ns, kind="stable")
        page, time_ns, write = page[order], time_ns[order], write[order]
        cut = len(page)
        if before_ns is not None:
            cut = int(np.searchsorted(time_ns, before_ns))
        self._page, self._time = [page[cut:]], [time_ns[cut:]]
        self._write = [write[cut:]]
        if cut == 0:
            return None
        count = np.full(cut, LINES_A_READ, np.uint32)
        return Rows(page[:cut], write[:cut], time_ns=time_ns[:cut], count=count)


def read_mooncake_serving(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the reads and writes of a server's key-value cache, in order of time.

    At its time a request reads the blocks that an earlier one has had and writes the
    others; then it reads all its blocks once in `TOKENS_A_READ` tokens, a token in
    `NS_PER_TOKEN`. Each is `LINES_A_READ` accesses: a page stands for one block of 512
    tokens, and is read whole.

    Raises:
        TraceFormatError: A line is no such object, or a time goes back.
    """
    options.details["pages"] = "one for each block of 512 tokens, read whole"
    options.details["decode"] = (
        f"all blocks once in {TOKENS_A_READ} tokens, {NS_PER_TOKEN // _NS_PER_MS} ms"
        " a token"
    )
    decoder = msgspec.json.Decoder(_Request)
    pending, cached = _Pending(), set[int]()
    last_ns, requests = 0, 0
    for block in source.blocks():
        for index, text in enumerate(block.text.splitlines()):
            if not text.strip():
                continue
            where = f"line {block.line + index}"
            try:
                request = decoder.decode(text)
                time_ns = int(request.timestamp * _NS_PER_MS)
                page = np.array(request.hash_ids, np.uint64)
            except (msgspec.MsgspecError, ValueError, OverflowError) as error:
                raise source.fail(where, f"{error}", _EXPECTED) from error
            steps = request.output_length // TOKENS_A_READ
            end_ns = time_ns + steps * TOKENS_A_READ * NS_PER_TOKEN
            if time_ns < 0 or end_ns > MAX_NS:
                raise source.fail(
                    f"{where}: timestamp", request.timestamp, "milliseconds from 0"
                )
            if not 0 <= request.output_length <= MAX_OUTPUT:
                raise source.fail(
                    f"{where}: output_length",
                    request.output_length,
                    f"0 to {MAX_OUTPUT} tokens",
                )
            at, number = np.array([time_ns]), block.line + index
            last_ns = check_times(source, at, last_ns, "line", number)
            fresh = np.array([h not in cached for h in request.hash_ids], np.uint8)
            cached.update(request.hash_ids)
            pending.add(page, time_ns, fresh)
            again = np.zeros(len(page), np.uint8)
            for step in range(1, steps + 1):
                pending.add(page, time_ns + step * TOKENS_A_READ * NS_PER_TOKEN, again)
            requests += 1
        rows = pending.take(last_ns)
        if rows is not None:
            yield rows
    rows = pending.take(None)
    if rows is not None:
        yield rows
    options.details["requests"] = str(requests)
