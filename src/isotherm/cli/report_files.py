"""What ``compare`` writes beside its table: the report, and its charts as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotherm.cli.output import note, progress_bar
from isotherm.core.errors import UsageError
from isotherm.core.extras import require

if TYPE_CHECKING:
    from isotherm.lab.money import Costs
    from isotherm.observability.timeline import Timeline


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Files that were asked for.

    Attributes:
        report: The HTML file, or None.
        export: Directory of charts, or None.
        costs: Prices of memory.
        machines: Names and files of machines.
    """

    report: Path | None
    export: Path | None
    costs: "Costs"
    machines: Sequence[str]

    @staticmethod
    def asked(
        report: Path | None,
        export: Path | None,
        costs: Path | None,
        machines: Sequence[str],
    ) -> "ReportFiles | None":
        """Return what was asked for, None of nothing, before an hour of work.

        Raises:
            UsageError: Prices without a report, or a file that cannot be read.
            ConfigError: Prices that are none.
            UnsupportedError: The package that draws charts is missing.
        """
        if report is None and export is None:
            if costs is not None:
                raise UsageError("--costs: expected --report or --export beside it")
            return None
        if export is not None and export.exists() and not export.is_dir():
            raise UsageError(f"{export}: is a file, expected a directory to write to")
        from isotherm.lab.money import ASSUMED, read_costs  # noqa: PLC0415  # numba

        require("vl_convert")
        prices = ASSUMED if costs is None else read_costs(costs)
        return ReportFiles(report, export, prices, machines)

    def write(
        self, results: Sequence[Mapping[str, Any]], timelines: Mapping[int, "Timeline"]
    ) -> None:
        """Write the files and say where they are.

        Raises:
            UnsupportedError: The package that draws charts is missing.
            UsageError: A file cannot be written.
        """
        from isotherm.lab.export import export_charts  # noqa: PLC0415  # likewise
        from isotherm.lab.report import write_report  # noqa: PLC0415  # likewise

        if self.report is not None:
            write_report(
                self.report,
                results,
                timelines,
                costs=self.costs,
                machines=self.machines,
            )
            note(f"report: {self.report}")
        if self.export is not None:
            with progress_bar("charts") as bar:
                files = export_charts(
                    self.export,
                    results,
                    timelines,
                    costs=self.costs,
                    machines=self.machines,
                    progress=bar,
                )
            note(f"{len(files) // 2} charts, JSON and PNG of each: {self.export}")
