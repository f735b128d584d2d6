"""Traces of real programs that come with isotherm.

Each was recorded by ``isotherm trace record`` (:mod:`isotherm.trace.record`) and
says in its metadata which command and seed made it. docs/reference/recording.md
has the table; benchmarks/record_traces/ makes them again.
"""

from pathlib import Path

from isotherm.core.errors import UsageError

_FOLDER = Path(__file__).parent / "traces"

#: ``{name: what the program does to memory}``, in the order of the documentation.
_TRACES = {
    "sqlite-oltp": (
        "short transactions on sqlite: skewed look-ups, updates, small ranges"
    ),
    "sqlite-analytic": (
        "sqlite scans a fact table three times: joins, grouping, sorting"
    ),
    "redis": (
        "a key-value server is filled, then read by a skewed client; hot keys change"
    ),
    "pagerank": ("breadth-first search and PageRank on a power-law graph"),
    "hash-join": ("a hash table is built in order, then probed at random with skew"),
    "sort": ("GNU sort in memory: text read once, line pointers merged over and over"),
    "zstd": (
        "compression with a long window: a stream and random look-ups in its past"
    ),
    "gcc": ("the C compiler: a heap that grows, small hot structures, passes over it"),
}


def list_traces() -> list[str]:
    """Return the names of the traces that come with isotherm.

    A package may leave files out; their names are not in the list.
    """
    return [name for name in _TRACES if (_FOLDER / f"{name}.parquet").is_file()]


def describe_trace(name: str) -> str:
    """Return in one line what the traced program does to memory.

    Raises:
        UsageError: There is no trace of this name.
    """
    _check(name)
    return _TRACES[name]


def trace_path(name: str) -> Path:
    """Return the Parquet file of a shipped trace.

    Raises:
        UsageError: There is no trace of this name.
    """
    _check(name)
    return _FOLDER / f"{name}.parquet"


def _check(name: str) -> None:
    if name not in _TRACES:
        raise UsageError(
            f"no trace {name!r} comes with isotherm, there are: {', '.join(_TRACES)}"
        )
