"""DAMON's regions: what a region's access checks found becomes counts of its pages."""

from collections.abc import Generator, Iterator

import numpy as np

from isotherm.core.errors import TraceFormatError
from isotherm.records.damon import Aggregated, RawForm, Region, Snapshot, decode_json
from isotherm.trace.importers.perf import SPACE_SHIFT
from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows
from isotherm.trace.source import ByteSource

#: Rows handed on at once.
_CHUNK_ROWS = 1 << 18
#: A larger region wants larger pages: 64 GiB of 4 KiB pages.
MAX_REGION_PAGES = 1 << 24
#: JSON and the raw form are read whole, some four bytes of memory for each byte.
_MAX_WHOLE_BYTES = 1 << 28
_MAX_COUNT = (1 << 32) - 1
_MAX_TARGETS = 1 << (64 - SPACE_SHIFT)


def read_damo(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield, for each snapshot, a row for each page of each accessed region.

    A region whose checks were positive ``k`` times in a window gives each of its
    pages a count of ``k``, spread over the window in order of address; a region
    with ``k = 0`` gives none. Targets watched in the same window share it. The
    n-th target to appear adds ``n << 52`` to its page numbers, the first none.

    Raises:
        TraceFormatError: The text or JSON has another form, a region is larger
            than 2^24 pages, a window ends before it starts.
    """
    targets: dict[int, int] = {}
    last_ns, end_ns = 0, 0
    group: list[tuple[int, Snapshot, str]] = []
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
        seen = any(space == other for other, _, _ in group)
        if group and (seen or snapshot.start_ns >= end_ns):
            last_ns = yield from _spread(source, group, last_ns, options)
            group = []
        end_ns = max(end_ns, snapshot.end_ns)
        group.append((space, snapshot, where))
    yield from _spread(source, group, last_ns, options)
    if len(targets) > 1:
        options.details["targets"] = ",".join(str(target) for target in targets)


def _spread(
    source: ByteSource,
    group: list[tuple[int, Snapshot, str]],
    last_ns: int,
    options: ImportOptions,
) -> Generator[Rows, None, int]:
    """Yield the rows of one window at even steps, return when it ended.

    A window that begins before ``last_ns`` is cut: times never go back.
    """
    spans = [
        (*_pages(source, where, region, options), region.nr_accesses, space)
        for space, snapshot, where in group
        for region in snapshot.regions
        if region.nr_accesses
    ]
    start_ns = min((s.start_ns for _, s, _ in group), default=0)
    start_ns = max(start_ns, last_ns)
    end_ns = max((s.end_ns for _, s, _ in group), default=0)
    end_ns = max(end_ns, start_ns)
    total = sum(last - first for first, last, _, _ in spans)
    done = 0
    for first, last, accesses, space in spans:
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
    return end_ns


def _pages(
    source: ByteSource, where: str, region: Region, options: ImportOptions
) -> tuple[int, int]:
    """Return the first page of a region and the one after its last."""
    shift = int(options.shift)
    first, last = region.start >> shift, ((region.end - 1) >> shift) + 1
    if last - first > MAX_REGION_PAGES:
        raise TraceFormatError(
            f"{source.path}: {where}: region {region.start:x}-{region.end:x} has "
            f"{last - first} pages, expected at most {MAX_REGION_PAGES}",
            hint="import with --page-bytes 2MiB",
        )
    if region.nr_accesses > _MAX_COUNT:
        raise source.fail(where, region.nr_accesses, "nr_accesses below 2^32")
    return first, last


def _snapshots(source: ByteSource) -> Iterator[tuple[Snapshot, str]]:
    """Yield the snapshots by their start, each with its place in the file."""
    head = source.peek()
    if head.lstrip().startswith((b"[", b"{")):
        try:
            found = list(decode_json(_whole(source)))
        except ValueError as error:
            raise source.fail("JSON", "another document", f"{error}") from error
        for number, snapshot in enumerate(found):
            yield snapshot, f"snapshot {number}"
    elif b"damon_aggregated:" in head:
        yield from _decoded(source, Aggregated())
    else:
        # damo prints one target after the other, each from its start.
        everything = list(_decoded(source, RawForm()))
        yield from sorted(everything, key=lambda item: item[0].start_ns)


def _whole(source: ByteSource) -> bytes:
    document = source.read(_MAX_WHOLE_BYTES + 1)
    if len(document) > _MAX_WHOLE_BYTES:
        raise source.fail("size", "more than 256 MiB", "less: this form is read whole")
    return document


def _decoded(
    source: ByteSource, decoder: Aggregated | RawForm
) -> Iterator[tuple[Snapshot, str]]:
    number = size = 0
    for block in source.blocks():
        size += len(block.text)
        if size > _MAX_WHOLE_BYTES and isinstance(decoder, RawForm):
            raise source.fail(
                "size", "more than 256 MiB", "less: this form is read whole"
            )
        for index, line in enumerate(block.text[:-1].split(b"\n")):
            number = block.line + index
            try:
                snapshot = decoder.decode(line)
            except ValueError as error:
                shown = ascii(line.decode("ascii", "backslashreplace"))
                raise source.fail(f"line {number}", shown, f"{error}") from error
            if snapshot is not None:
                yield snapshot, f"line {number}"
    try:
        decoder.finish()
    except ValueError as error:
        raise source.fail(f"line {number}", "the end", f"{error}") from error
