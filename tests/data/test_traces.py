"""The traces that come with isotherm."""

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.data import list_traces, trace_path
from isotherm.trace.format import TraceReader


def test_there_are_enough_and_they_are_small() -> None:
    """Six programs or more, 12 MB or less in all, and no file without a name."""
    paths = [trace_path(name) for name in list_traces()]

    assert len(paths) >= 6
    assert sorted(paths) == sorted(paths[0].parent.glob("*.parquet"))
    assert sum(path.stat().st_size for path in paths) <= 12_000_000


@pytest.mark.parametrize("name", list_traces())
def test_the_metadata_equals_the_content(name: str) -> None:
    """Pages, accesses, writes and duration are those of the rows."""
    reader = TraceReader(trace_path(name))
    accesses = writes = last_ns = 0
    seen = np.zeros(reader.info.pages, np.bool_)
    for chunk in reader.chunks():
        assert chunk.write is not None
        assert chunk.time_ns is not None
        accesses += len(chunk)
        writes += int(chunk.write.sum())
        last_ns = int(chunk.time_ns[-1])
        seen[chunk.page] = True

    info = reader.info
    assert (info.accesses, info.writes, info.duration_ns) == (accesses, writes, last_ns)
    assert seen.all()
    assert info.pages >= 2000


@pytest.mark.parametrize("name", list_traces())
def test_the_provenance_says_how_it_was_made(name: str) -> None:
    """Command, tool, cache, seed and the recipe stand in the file."""
    info = TraceReader(trace_path(name)).info
    found = info.provenance

    assert (found.tool, found.source) == ("valgrind lackey", "recorded")
    assert found.command
    assert found.note
    assert found.llc_bytes
    assert found.llc_bytes * 8 <= info.pages * info.page_bytes
    assert found.details["made_by"] == f"benchmarks/record_traces/record.py {name}"
    assert found.details["seed"].isdecimal()
    assert found.details["exit_status"] in ("0", "ended at the limit")


@pytest.mark.parametrize("name", list_traces())
def test_raw_pages_are_distinct(name: str) -> None:
    """Dense indices and the program's page numbers map one to one."""
    reader = TraceReader(trace_path(name))
    raw = reader.raw_pages()

    assert raw is not None
    assert len(np.unique(raw)) == reader.info.pages


def test_an_unknown_name_lists_the_known() -> None:
    """The error names what there is."""
    with pytest.raises(UsageError, match="there are: sqlite-oltp, "):
        trace_path("nosuch")
