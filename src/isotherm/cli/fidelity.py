"""``isotherm fidelity``: published results beside the simulator's."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_table, print_text, table

if TYPE_CHECKING:
    from isotherm.lab.fidelity.verdict import TableVerdict, Verdict

EPILOGUE = """\
Examples:
  isotherm fidelity
  isotherm fidelity colloid tpp
  isotherm fidelity --check
  isotherm fidelity --json > fidelity.json

Experiments: colloid, soar, tpp, numab, pghot, far-memory, thermostat.
A figure marked * is one that the model was calibrated on: no error is told.
What was published, where, and what is calibrated: docs/results/fidelity.md.

Overhead: one core, four minutes for all, ten seconds to a minute each.
"""

#: Of the published pairs of systems: so many in their order, for --check.
RIGHT_SHARE = 0.9

app = App(name="fidelity", help_epilogue=EPILOGUE, help_format="plaintext")

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@app.default
def fidelity(
    *experiments: str,
    quick: _Flag = False,
    check: _Flag = False,
    seed: int = 1,
    json: _Flag = False,
) -> int:
    """Play published experiments in the simulator and compare.

    Parameters
    ----------
    experiments
        Which (default: all).
    quick
        Fewer conditions and shorter runs.
    check
        Exit with 1 unless 90 % of the published orders come out and Colloid's
        errors are within what is claimed.
    seed
        For everything random.
    json
        Print one JSON document with raw figures.
    """
    from isotherm.lab.fidelity.runner import check_names, run  # noqa: PLC0415  # numba
    from isotherm.lab.fidelity.verdict import right_share  # noqa: PLC0415  # as above

    check_names(experiments)
    verdicts = []
    for verdict in run(experiments, quick=quick, seed=seed, announce=note):
        verdicts.append(verdict)
        if not json:
            _print(verdict)
    share = right_share(verdicts)
    pairs = sum(len(v.pairs) for v in verdicts)
    if json:
        print_json(
            {
                "pairs": pairs,
                "pairs_right_share": share if pairs else None,
                "quick": quick,
                "seed": seed,
                "experiments": [as_json(v) for v in verdicts],
            }
        )
    elif pairs:
        print_text(f"order of systems: {share:.1%} of {pairs} published pairs")
    held = all(
        t.holds for v in verdicts if v.name in MUST_HOLD for t in v.tables
    ) and not (pairs and share < RIGHT_SHARE)
    return int(check and not held)


#: Experiments whose claims --check insists on.
MUST_HOLD = ("colloid",)


def as_json(verdict: "Verdict") -> dict[str, Any]:
    """Return a verdict as JSON values."""
    return {
        "name": verdict.name,
        "title": verdict.published.title,
        "source": verdict.published.source,
        "calibration": verdict.published.calibration,
        "constants": verdict.published.constants,
        "wall_s": verdict.wall_s,
        "pairs": len(verdict.pairs),
        "pairs_right": sum(p.right for p in verdict.pairs),
        "wrong": [
            {"table": p.table, "better": p.better, "worse": p.worse}
            for p in verdict.pairs
            if not p.right
        ],
        "tables": [_table_json(t) for t in verdict.tables],
    }


def _table_json(played: "TableVerdict") -> dict[str, Any]:
    return {
        "name": played.table.name,
        "error": played.table.error,
        "claimed_median": played.table.median,
        "claimed_worst": played.table.worst,
        "median": played.median,
        "worst": played.worst,
        "holds": played.holds,
        "figures": [
            {
                "row": f.cell.row,
                "system": f.cell.system,
                "published": f.cell.value,
                "ours": f.ours,
                "error": f.error,
                "calibrated": f.cell.seen,
                "within": f.within,
                "why": f.why,
            }
            for f in played.figures
        ],
    }


def _print(verdict: "Verdict") -> None:
    print_text(f"{verdict.name}: {verdict.published.title}")
    for played in verdict.tables:
        made = table(
            [
                (played.table.name, "left"),
                ("system", "left"),
                ("published", "right"),
                ("ours", "right"),
                ("error", "right"),
            ]
        )
        for f in played.figures:
            error = "*" if f.cell.seen else _told(played, f.error, "+")
            if not (f.within or f.cell.seen):
                error = f"! {error}"
            made.add_row(
                f.cell.row,
                f.cell.system,
                f"{f.cell.value:.3f}",
                f"{f.ours:.3f}",
                error,
            )
        print_table(made)
        if played.median is not None:
            found = played.median, played.worst_error
            claimed = played.table.median, played.table.worst
            print_text(
                "  unseen: median {}, worst {}; claimed {} and {}".format(
                    *(_told(played, figure) for figure in (*found, *claimed))
                )
            )
    for pair in verdict.pairs:
        if not pair.right:
            print_text(f"  order missed: {pair.better} > {pair.worse}")
    print_text()


def _told(played: "TableVerdict", error: float, sign: str = "") -> str:
    """Return an error as its table counts it."""
    if played.table.error == "relative":
        return f"{error:{sign}.1%}"
    return f"{error:{sign}.3f}"
