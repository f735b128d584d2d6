"""DAMON's regions: what a region's access checks found becomes counts of its pages."""

from collections.abc import Iterator

import numpy as np

from isotherm.core.errors import TraceFormatError
from isotherm.records.damon import Aggregated, RawForm, Snapshot, decode_json
from isotherm.trace.importers.perf import SPACE_SHIFT
from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows
from isotherm.trace.source import ByteSource

#: Rows handed on at once.
_CHUNK_ROWS = 1 << 18
#: A larger region wants larger pages: 64 GiB of 4 KiB pages.
MAX_REGION_PAGES = 1 << 24
#: JSON is decoded whole.
_MAX_JSON_BYTES = 1 << 30
_MAX_COUNT = (1 << 32) - 1
_MAX_TARGETS = 1 << (64 - SPACE_SHIFT)


def read_damo(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield, for each snapshot, a row for each page of each accessed region.

    A region whose checks were positive ``k`` times in a window gives each of its
    pages a count of ``k``, spread over the window in order of address; a region
    with ``k = 0`` gives none. The n-th target to appear adds ``n << 52`` to its
    page numbers, the first none.

    Raises:
        TraceFormatError: The text or JSON has another form, a region is larger
            than 2^24 pages, a window goes back in time.
    """
    targets: dict[int, int] = {}
    last_ns = 0
    options.details["count"] = "access checks of the region that were positive"
    for snapshot, where in _snapshots(source):
        if not 0 <= snapshot.start_ns <= snapshot.end_ns <= MAX_NS:
            raise source.fail(
                where,
                f"a window from {snapshot.start_ns} to {snapshot.end_ns} ns",
                "an end after the start, and below 2^63 ns",
            )
        space = targets.setdefault(snapshot.target, len(targets))
        if space >= _MAX_TARGETS:
            raise source.fail(where, "too many targets", f"at most {_MAX_TARGETS}")
        start_ns = max(snapshot.start_ns, last_ns)
        last_ns = max(snapshot.end_ns, start_ns)
        yield from _spread(source, where, snapshot, space, start_ns, last_ns, options)
    if len(targets) > 1:
        options.details["targets"] = ",".join(str(target) for target in targets)


def _spread(
    source: ByteSource,
    where: str,
    snapshot: Snapshot,
    space: int,
    start_ns: int,
    end_ns: int,
    options: ImportOptions,
) -> Iterator[Rows]:
    """Yield the rows of one snapshot, at even steps from its start to its end."""
    shift = int(options.shift)
    spans = []
    for region in snapshot.regions:
        first, last = region.start >> shift, ((region.end - 1) >> shift) + 1
        if region.nr_accesses == 0:
            continue
        if last - first > MAX_REGION_PAGES:
            raise TraceFormatError(
                f"{source.path}: {where}: region {region.start:x}-{region.end:x} has "
                f"{last - first} pages, expected at most {MAX_REGION_PAGES}",
                hint="import with --page-bytes 2MiB",
            )
        if region.nr_accesses > _MAX_COUNT:
            raise source.fail(where, region.nr_accesses, "nr_accesses below 2^32")
        spans.append((first, last, region.nr_accesses))
    total = sum(last - first for first, last, _ in spans)
    done = 0
    for first, last, accesses in spans:
        for begin in range(first, last, _CHUNK_ROWS):
            end = min(begin + _CHUNK_ROWS, last)
            row = np.arange(done, done + end - begin)
            # Whole steps first: the product of window and row could overflow.
            step, rest = divmod(end_ns - start_ns, total)
            time_ns = start_ns + row * step + (row * (rest / total)).astype(np.int64)
            page = np.arange(begin, end, dtype=np.uint64)
            yield Rows(
                page | np.uint64(space << SPACE_SHIFT),
                time_ns=time_ns,
                count=np.full(end - begin, accesses, np.uint32),
            )
            done += end - begin


def _snapshots(source: ByteSource) -> Iterator[tuple[Snapshot, str]]:
    head = source.peek(1 << 12).lstrip()
    if head.startswith((b"[", b"{")):
        document = source.read(_MAX_JSON_BYTES + 1)
        if len(document) > _MAX_JSON_BYTES:
            raise source.fail("size", "more than 1 GiB of JSON", "less")
        try:
            for number, snapshot in enumerate(decode_json(document)):
                yield snapshot, f"snapshot {number}"
        except ValueError as error:
            raise source.fail("JSON", "another document", f"{error}") from error
        return
    decoder = Aggregated() if b"damon_aggregated:" in source.peek() else RawForm()
    number = 0
    for block in source.blocks():
        for index, line in enumerate(block.text[:-1].split(b"\n")):
            number = block.line + index
            try:
                snapshot_or_none = decoder.decode(line)
            except ValueError as error:
                shown = ascii(line.decode("ascii", "backslashreplace"))
                raise source.fail(f"line {number}", shown, f"{error}") from error
            if snapshot_or_none is not None:
                yield snapshot_or_none, f"line {number}"
    try:
        decoder.finish()
    except ValueError as error:
        raise source.fail(f"line {number}", "the end", f"{error}") from error
