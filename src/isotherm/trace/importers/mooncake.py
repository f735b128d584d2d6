"""Mooncake: requests to a language model server, one JSON object a line."""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows, check_times
from isotherm.trace.source import ByteSource

_NS_PER_MS = 1_000_000
_EXPECTED = "{'timestamp': MS, 'hash_ids': [ID, ...], ...}"


class _Request(msgspec.Struct):
    timestamp: float | int
    hash_ids: list[int]


def read_mooncake(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield one reference for each hash id, at the time of its request.

    A page is one block of the key-value cache, 512 tokens; how many bytes that
    is depends on the model. Whether a block was read or filled is not told.

    Raises:
        TraceFormatError: A line is no such object, or a time goes back.
    """
    options.details["pages"] = "one for each block of 512 tokens"
    decoder = msgspec.json.Decoder(_Request)
    last_ns, requests = 0, 0
    for block in source.blocks():
        pages: list[NDArray[np.uint64]] = []
        times: list[int] = []
        lines: list[str] = []
        for index, text in enumerate(block.text.splitlines()):
            if not text.strip():
                continue
            try:
                request = decoder.decode(text)
                time_ns = int(request.timestamp * _NS_PER_MS)
                # numpy refuses what is below 0 or above 2^64 - 1.
                page = np.array(request.hash_ids, np.uint64)
            except (msgspec.MsgspecError, ValueError, OverflowError) as error:
                raise source.fail(
                    f"line {block.line + index}", f"{error}", _EXPECTED
                ) from error
            if not 0 <= time_ns <= MAX_NS:
                raise source.fail(
                    f"line {block.line + index}: timestamp",
                    request.timestamp,
                    "milliseconds from 0",
                )
            pages.append(page)
            times.append(time_ns)
            lines.append(f"line {block.line + index}")
        requests += len(times)
        time_column = np.array(times, np.int64)
        last_ns = check_times(source, time_column, last_ns, lines.__getitem__, 0)
        if pages:
            lengths = np.array([len(page) for page in pages], np.int64)
            yield Rows(np.concatenate(pages), time_ns=np.repeat(time_column, lengths))
    options.details["requests"] = str(requests)
