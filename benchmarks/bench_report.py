"""What a report costs: keeping its runs, making the page, drawing the files.

Processor time of this process, the least of some repetitions; the numbers stand in
docs/reference/report.md.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from isotherm.lab.compare import compare
from isotherm.lab.export import export_charts
from isotherm.lab.grid import Grid
from isotherm.lab.report import vega_bundle, write_report
from isotherm.lab.shown import groups_of, pack, run_values, timeline_wanted
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.lab.watched import watch

POLICIES = ("isotherm", "tpp", "memtis")
WORKLOADS = ("drift", "gups")
RATIOS = (0.5, 0.2)
GRID_PAGES = 4096
REPETITIONS = 3


def cpu_s(work: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Return the least processor time of some repetitions, in seconds."""
    least = float("inf")
    for _ in range(repetitions):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
    return least


def main() -> None:
    """Print the costs."""
    print("keeping a run, 32,768 pages and 240 epochs: processor seconds")
    for policy in POLICIES:
        spec = SimulationSpec(policy, "drift")
        simulate(spec)  # compiles
        plain, kept = cpu_s(lambda: simulate(spec)), cpu_s(lambda: watch(spec))  # noqa: B023  # called here
        print(f"  {policy:10} {plain:.2f} alone, {kept:.2f} kept")
    common = SimulationSpec("isotherm", "drift", pages=GRID_PAGES)
    specs = Grid(POLICIES, WORKLOADS, fast_ratios=RATIOS, common=common).specs()
    found = compare(specs, jobs=1, keep_timeline=timeline_wanted(specs))
    groups = groups_of(found.results, found.timelines)
    sizes = [
        len(pack(run_values(policy, *group.lines[policy])))
        for group in groups
        for policy in group.full
    ]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "report.html"
        bundle = cpu_s(vega_bundle, 1)  # later ones come from its cache
        page = cpu_s(lambda: write_report(path, found.results, found.timelines))
        print(f"the page of {len(specs)} runs, {len(sizes)} of them in full")
        print(f"  {path.stat().st_size / 1e6:.2f} MB, of which programs", end=" ")
        print(f"{len(vega_bundle()) / 1e6:.2f} MB, a run in full", end=" ")
        print(f"{min(sizes) / 1e3:.0f} to {max(sizes) / 1e3:.0f} KB")
        print(f"  {page:.2f} s, and {bundle:.2f} s for collecting the programs")
        charts = Path(name) / "charts"
        took = cpu_s(lambda: export_charts(charts, found.results, found.timelines), 1)
        files = list(charts.iterdir())
        size = sum(one.stat().st_size for one in files) / 1e6
        print(f"{len(files) // 2} charts as files: {took:.1f} s, {size:.1f} MB")


if __name__ == "__main__":
    main()
