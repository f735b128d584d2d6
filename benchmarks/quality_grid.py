"""Which runs the judgement of policies consists of, and which of them are stale.

A *cell* is a workload, a ratio of fast memory, a seed and a sampling period,
under one *regime* (rate, placement, hints, contiguity). In each cell isotherm
runs, every peer twice (published defaults, best of its tuning grid), and two
bounds. What does not depend on the sampling period is one run for all periods.
"""

import ast
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Final

import isotherm
from isotherm.data import list_traces, trace_path
from isotherm.lab.catalogue import FLAT_WORKLOADS
from isotherm.lab.grid import spec_key
from isotherm.lab.simulate import DEFAULT_PAGES, SimulationSpec
from isotherm.policy.registry import TUNING_GRID
from isotherm.workloads.registry import WORKLOADS
from isotherm.workloads.spec import SCHEMAS

MACHINE: Final = "dram-cxl"
RATIOS: Final = (1 / 2, 1 / 5, 1 / 9)
PERIODS: Final = (200, 2000, 20000)
SEEDS: Final = (1, 2, 3)
QUICK_PERIOD: Final = 2000
QUICK_SEED: Final = 1
OURS: Final = "isotherm"
PEERS: Final = ("numab2", "tpp", "hemem", "memtis", "lru", "first-touch")
BOUNDS: Final = ("static-oracle", "clairvoyant")
#: Those that see samples; to all others the sampling period is nothing.
SAMPLED: Final = frozenset({"isotherm", "hemem", "memtis"})
#: Of page sizes: benchmarks/huge_pages.py.
HUGE_WORKLOADS: Final = frozenset({"silo", "liblinear"})
#: On these, and on no others, the best entry of a peer's tuning grid is chosen.
TUNING_WORKLOADS: Final = ("zipf", "gups", "drift", "scan-zipf")

#: Before the name of a recorded program: "graph" is a generator as well.
TRACE: Final = "trace:"

#: What tells the rows of a table of cells apart.
PLACE: Final = (
    *("regime", "workload", "fast_ratio", "seed", "period"),
    *("policy", "variant", "options"),
)


@dataclass(frozen=True, slots=True)
class Regime:
    """What all cells of one table have in common.

    Attributes:
        name: For ``--only`` and the Parquet file.
        title: For the report.
        rate: Accesses per page and second; None: the traces' own times.
        placement: Where pages are before the run.
        bits_only: isotherm gets accessed bits alone; peers that need samples
            do not run.
        ragged: Contiguity is aligned to nothing (workloads that have it).
        traces: The shipped traces instead of generators.
        mean_bar: Highest mean regret that is good enough; None: no bar.
        max_bar: Highest regret of a cell that is good enough; None: no bar.
    """

    name: str
    title: str
    rate: float | None = 10.0
    placement: str = "random"
    bits_only: bool = False
    ragged: bool = False
    traces: bool = False
    mean_bar: float | None = None
    max_bar: float | None = None


REGIMES: Final[Mapping[str, Regime]] = {
    regime.name: regime
    for regime in (
        Regime("main", "10 accesses per page and second", mean_bar=0.2, max_bar=0.45),
        Regime(
            "rate-100", "100 accesses per page and second", rate=100.0, mean_bar=0.08
        ),
        Regime("rate-1", "1 access per page and second", rate=1.0, mean_bar=0.55),
        Regime("bits-only", "accessed bits only", bits_only=True, mean_bar=0.3),
        Regime("ragged", "contiguity aligned to nothing", ragged=True, mean_bar=0.3),
        Regime("first-access", "placed by first access", placement="first-access"),
        Regime("traces", "recorded programs, own times", rate=None, traces=True),
    )
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What part of the grid is meant."""

    workloads: Sequence[str] | None = None
    ratios: Sequence[float] = RATIOS
    periods: Sequence[int] = PERIODS
    seeds: Sequence[int] = SEEDS
    peers: Sequence[str] = PEERS
    pages: int = DEFAULT_PAGES


@dataclass(frozen=True, slots=True)
class Planned:
    """One policy in one cell.

    Attributes:
        regime: Name of the regime.
        period: The cell's, whether the policy sees it or not.
        variant: "default" or "tuned" for a peer that has a grid, else "only".
        spec: The run; several cells may share it.
    """

    regime: str
    period: int
    variant: str
    spec: SimulationSpec

    @property
    def cell(self) -> tuple[object, ...]:
        """What the runs of one cell have in common."""
        spec = self.spec
        return (self.regime, spec.workload, spec.fast_ratio, spec.seed, self.period)

    @property
    def options(self) -> str:
        """The policy's options as text."""
        return " ".join(f"{k}={v:g}" for k, v in self.spec.options.items())

    @property
    def place(self) -> tuple[object, ...]:
        """Where its row stands in a table of cells; see ``PLACE``."""
        spec = self.spec
        return (
            *(self.regime, spec.workload.removeprefix(TRACE), spec.fast_ratio),
            *(spec.seed, self.period, spec.policy, self.variant, self.options),
        )

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return spec_key(self.spec)


def workloads_of(regime: Regime, wanted: Sequence[str] | None) -> list[str]:
    """Return the workloads of a regime, in the order of the documentation."""
    names = [name for name in WORKLOADS if name not in HUGE_WORKLOADS]
    if regime.traces:
        names = [f"{TRACE}{name}" for name in list_traces()]
    if regime.ragged:
        names = [n for n in names if "contiguity" in SCHEMAS[n].__struct_fields__]
    return [n for n in names if wanted is None or n in wanted]


def make_spec(
    regime: Regime,
    policy: str,
    workload: str,
    ratio: float,
    seed: int,
    period: int,
    options: Mapping[str, float],
    pages: int,
) -> SimulationSpec:
    """Return one run; the same for every period if the policy sees no samples."""
    bits_only = regime.bits_only and policy == OURS
    sees_period = policy in SAMPLED and not bits_only
    return SimulationSpec(
        policy=policy,
        workload=workload,
        machine=MACHINE,
        fast_ratio=ratio,
        pages=None if regime.traces else pages,
        seed=seed,
        rate=regime.rate,
        placement=regime.placement,
        hints=("accessed-bit",) if bits_only else None,
        sampling_period=period if sees_period else QUICK_PERIOD,
        options=dict(options),
        workload_options={"contiguity": "ragged"} if regime.ragged else {},
    )


def plan(
    regime: Regime, selection: Selection, tuned: Mapping[str, int]
) -> Iterator[Planned]:
    """Yield every policy of every cell of a regime.

    Args:
        regime: The regime.
        selection: The part of the grid.
        tuned: Index into ``TUNING_GRID`` of each peer's best entry; a peer that
            is not in it runs at its defaults alone.
    """
    periods = (QUICK_PERIOD,) if regime.bits_only else selection.periods
    for workload, seed, ratio, period in product(
        workloads_of(regime, selection.workloads),
        selection.seeds,
        selection.ratios,
        periods,
    ):
        for policy, variant, options in _contenders(regime, selection.peers, tuned):
            spec = make_spec(
                regime, policy, workload, ratio, seed, period, options, selection.pages
            )
            yield Planned(regime.name, period, variant, spec)


def _contenders(
    regime: Regime, peers: Sequence[str], tuned: Mapping[str, int]
) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for bound in BOUNDS:
        yield bound, "only", {}
    yield OURS, "only", {}
    for peer in dict.fromkeys((*peers, "first-touch")):
        if regime.bits_only and peer in SAMPLED:
            continue
        grid = TUNING_GRID[peer]
        yield peer, "default" if len(grid) > 1 else "only", grid[0]
        if len(grid) > 1 and peer in tuned:
            yield peer, "tuned", grid[tuned[peer]]


def tuning_specs(selection: Selection) -> dict[tuple[str, int], list[SimulationSpec]]:
    """Return the runs on which grids are judged, by peer and entry.

    Rate 10, first seed, all ratios and periods, whatever else is selected.
    """
    main = REGIMES["main"]
    specs: dict[tuple[str, int], list[SimulationSpec]] = {}
    for peer in selection.peers:
        grid = TUNING_GRID[peer]
        if len(grid) < 2:
            continue
        for entry, options in enumerate(grid):
            runs = [
                make_spec(main, peer, w, r, QUICK_SEED, p, options, selection.pages)
                for w, r, p in product(TUNING_WORKLOADS, RATIOS, PERIODS)
            ]
            specs[peer, entry] = list({spec_key(run): run for run in runs}.values())
    return specs


def choose(
    specs: Mapping[tuple[str, int], Sequence[SimulationSpec]],
    done: Mapping[str, Mapping[str, Any]],
) -> dict[str, int]:
    """Return each peer's entry of lowest geometric mean slowdown, the first of equals.

    Raises:
        KeyError: A run is not among the finished ones.
    """
    best: dict[str, tuple[float, int]] = {}
    for (peer, entry), runs in specs.items():
        logs = [math.log(done[spec_key(run)]["slowdown"]) for run in runs]
        best[peer] = min(
            best.get(peer, (math.inf, 0)), (math.fsum(logs) / len(logs), entry)
        )
    return {peer: entry for peer, (_, entry) in best.items()}


def in_order(specs: Iterable[SimulationSpec]) -> list[SimulationSpec]:
    """Return runs, none twice, those of one access stream together."""
    unique = {spec_key(spec): spec for spec in specs}
    return sorted(unique.values(), key=_stream_of)


def _stream_of(spec: SimulationSpec) -> tuple[object, ...]:
    options = str(sorted(spec.workload_options.items()))
    return (spec.rate or 0.0, spec.workload, options, spec.seed)


def is_flat(workload: str) -> bool:
    """Return whether a workload offers nothing to gain."""
    return workload in FLAT_WORKLOADS


# ---- which code made a run

#: What decides a run besides the policy itself and what that imports.
_ENTRY: Final = "isotherm.lab.simulate"
#: Left aside when imports are followed: they do not decide what a run does.
_ASIDE: Final = (
    "isotherm.core",
    "isotherm.data",
    "isotherm.lab.cpu_advice",  # only where asked for, as the next two
    "isotherm.lab.huge_pages",
    "isotherm.lab.tenants",
    "isotherm.observability",
    "isotherm.policy.registry",
    "isotherm.records",
    "isotherm.topology",
    "isotherm.trace",
)
#: What isotherm alone uses: for every other policy the simulation makes no tracker.
_OURS_ALONE: Final = ("isotherm.hotness", "isotherm.policy.isotherm")


def code_of(policy: str, workload: str) -> str:
    """Return a digest of the code and trace that a run's result depends on.

    Comments, docstrings and layout do not count. Simulation, machine, hints,
    migration, workloads and the policy's own modules do; isotherm's policy and the
    tracker count for isotherm alone, the one policy that uses the tracker.
    """
    own = _code_of_policy(policy)
    if not workload.startswith(TRACE):
        return own
    path = trace_path(workload.removeprefix(TRACE))
    return f"{own}-{_digest_of_file(path)}"


def newest_change() -> int:
    """Return when a file of isotherm was last changed, in nanoseconds."""
    root = Path(str(isotherm.__file__)).parent
    return max(path.stat().st_mtime_ns for path in root.rglob("*.py"))


def forget_code() -> None:
    """Read the code anew the next time that `code_of` is asked."""
    for kept in (_code_of_policy, _tree_of, _imports_of, _is_module, _digest_of_module):
        kept.cache_clear()


@functools.cache
def _code_of_policy(policy: str) -> str:
    from isotherm.policy.registry import _CLASS  # noqa: PLC0415  # no public way

    module = _CLASS[policy].partition(":")[0]
    aside = _ASIDE if policy == OURS else (*_ASIDE, *_OURS_ALONE)
    seen = modules_of(module, aside)
    text = "\n".join(f"{name} {_digest_of_module(name)}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def modules_of(module: str, aside: tuple[str, ...] = _ASIDE) -> set[str]:
    """Return the modules that a policy's module and the simulation reach.

    Args:
        module: Dotted name of the policy's module.
        aside: Names, or beginnings of them, that are left aside.
    """
    todo, seen = [_ENTRY, module], set[str]()
    while todo:
        name = todo.pop()
        if name not in seen and not name.startswith(aside):
            seen.add(name)
            todo += _imports_of(name)
    return seen


@functools.cache
def _tree_of(module: str) -> ast.Module:
    found = find_spec(module)
    if found is None or found.origin is None:
        return ast.Module([], [])
    text = Path(found.origin).read_text()
    try:
        return ast.parse(text)
    except SyntaxError:  # somebody is writing it just now
        return ast.Module([ast.Expr(ast.Constant(text.encode()))], [])


@functools.cache
def _imports_of(module: str) -> list[str]:
    names = []
    for node in ast.walk(_tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            names += [p for p in parts if p.startswith("isotherm.") and _is_module(p)]
    return names


@functools.cache
def _is_module(name: str) -> bool:
    root = Path(str(isotherm.__file__)).parent
    path = root.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file()


@functools.cache
def _digest_of_module(module: str) -> str:
    tree = _tree_of(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]  # has one
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


@functools.cache
def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
