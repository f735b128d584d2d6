"""``isotherm demo``: the main job on a fresh machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.compare import print_results
from isotherm.cli.options import at_least
from isotherm.cli.output import note, print_json, progress_bar, start_logging
from isotherm.core.compiling import FIRST_START
from isotherm.core.files import check_writable

EPILOGUE = """\
Examples:
  isotherm demo
  isotherm demo --report /tmp/report.html --jobs 4

Overhead: two to three minutes of two cores at the first start, half of it
later; nothing of this host is looked at or moved.
"""

app = App(name="demo", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def demo(
    *,
    report: Path = Path("isotherm-demo.html"),
    jobs: int | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Run recorded programs under a policy of each kind, with DRAM and CXL.

    Recordings of real programs come with isotherm. Each is run under every
    policy and the bounds; a table is printed and an HTML report is written.

    Parameters
    ----------
    report
        Where the report goes.
    jobs
        Processes (default: one per core).
    json
        Print one JSON document with raw units instead of the table.
    """
    start_logging()
    at_least("jobs", jobs, 1)
    check_writable(report)

    from isotherm.lab.compare import compare  # noqa: PLC0415  # brings numba
    from isotherm.lab.demo import demo_specs  # noqa: PLC0415  # likewise
    from isotherm.lab.report import timeline_wanted, write_report  # noqa: PLC0415

    specs = demo_specs()
    traces = len({spec.workload for spec in specs})
    note(f"{traces} recorded programs, {len(specs)} runs; {FIRST_START}")
    with progress_bar("demo") as bar:
        found = compare(
            specs, jobs=jobs, keep_timeline=timeline_wanted(specs), progress=bar
        )
    for failure in found.errors:
        note(f"left out: {failure['error']}")
    if json:
        print_json({"results": found.results})
    else:
        print_results(found.results)
    write_report(
        report,
        found.results,
        found.timelines,
        kicker="recorded programs on a simulated machine with DRAM and CXL",
    )
    note(f"report: {report.absolute()}")
    return 0
