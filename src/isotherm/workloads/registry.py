"""Workloads by name: generators, TOML files, trace files, shipped traces.

Importing this module costs nothing: the generators, and numba with them, are
imported when a workload is made.
"""

from collections.abc import Mapping
from pathlib import Path

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.trace.stream import Workload

#: Largest footprint: page numbers are uint32, and page maps hold two orders.
MAX_PAGES = 1 << 31

WORKLOADS: dict[str, str] = {
    "zipf": "Zipf 0.99 over single pages in random order, as YCSB",
    "gups": "random updates, 90 % of them in a hot set of 1/16 of the pages",
    "gups-shift": "gups whose hot set moves at once after 60 s",
    "scan-zipf": "Zipf 0.9 with sweeps running through it, 40 % of the accesses",
    "drift": "a bell-shaped hot set that wanders over all pages in 120 s",
    "uniform": "every page alike: nothing to gain from moving",
    "latest": "the newest pages are the hottest, and newer ones keep coming",
    "phases": "two unrelated Zipf orders that take turns every 10 s",
    "graph": "skewed vertex data, and a frontier that jumps every 2 to 6 s",
    "btree": "look-ups in a B-tree: hot inner nodes, skewed leaves, scattered",
    "stream": "sequential sweeps over all pages, 64 accesses a page",
    "cold-on-dram": "a hot sweep that hides latency, a colder chase that cannot",
    "kv-cache": "a language-model server's paged key-value cache",
    "embedding": "embedding rows with the reuse of Meta's recommendation models",
    "silo": "YCSB on a database: a dense index, hot records in every huge page",
    "liblinear": "dense arrays: huge pages differ, the pages of each are alike",
}


def make_workload(
    spec: str,
    pages: int = 32768,
    seed: int = 1,
    options: Mapping[str, object] | None = None,
) -> Workload:
    """Return a workload by name or file.

    Args:
        spec: A name in ``WORKLOADS``; a ``.toml`` file that describes a
            workload; a trace file; or the name of a shipped trace.
        pages: Footprint of a generated workload, 1 to 2^31 pages; a trace
            brings its own.
        seed: Of a generated workload, >= 0.
        options: Parameters of the generator, numbers or text; of a trace
            ``window``: ``2/4`` is the second of four parts.

    Raises:
        UsageError: No such workload, or a value out of range.
        ConfigError: A TOML file or an option that its schema does not allow.
        TraceFormatError: A trace that cannot be read.
    """
    if not 1 <= pages <= MAX_PAGES:
        raise UsageError(f"pages: expected 1 to {MAX_PAGES}, got {pages}")
    if seed < 0:
        raise UsageError(f"seed: expected a number >= 0, got {seed}")
    if spec in WORKLOADS:
        return _generated(spec, pages, seed, options)
    path = Path(spec)
    if path.suffix == ".toml":
        from isotherm.workloads.toml_file import read_workload  # noqa: PLC0415  # lazy

        return read_workload(path, pages, seed, options)
    strange = sorted(set(options or ()) - {"window"})
    if strange:
        raise UsageError(
            f"{spec}: a trace has the option window alone, got {', '.join(strange)}"
        )
    window = str((options or {}).get("window", "1/1"))
    if path.exists():
        return _recorded(path, window)
    return _shipped(spec, window)


def _generated(
    name: str, pages: int, seed: int, options: Mapping[str, object] | None
) -> Workload:
    from isotherm.workloads.build import build  # noqa: PLC0415  # brings numba
    from isotherm.workloads.spec import parse_generator  # noqa: PLC0415  # as above

    if options and "kind" in options:
        raise ConfigError(f"{name}: kind: the name says it, got {options['kind']!r}")
    own = parse_generator({**(options or {}), "kind": name}, name, from_text=True)
    return build(own, name, pages, seed)


def _recorded(path: Path, window: str) -> Workload:
    from isotherm.workloads.recorded import open_recorded, parse_window  # noqa: PLC0415  # pyarrow

    workload: Workload = open_recorded(path, window=parse_window(window))
    return workload


def _shipped(name: str, window: str) -> Workload:
    try:
        from isotherm.data import list_traces, trace_path  # noqa: PLC0415  # optional
    except ImportError:
        shipped: list[str] = []
    else:
        shipped = [str(trace) for trace in list_traces()]
        if name in shipped:
            return _recorded(trace_path(name), window)
    known = [*WORKLOADS, *shipped]
    raise UsageError(
        f"workload: no generator, file or shipped trace is called {name!r}"
        + did_you_mean(name, known),
        hint="known: " + ", ".join(known),
    )
