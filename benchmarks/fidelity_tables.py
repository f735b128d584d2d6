"""The tables of docs/results/fidelity.md: published experiments and ours.

    python benchmarks/fidelity_tables.py [EXPERIMENT...] > tables.md

plays them, or all (four minutes of one core), and prints Markdown.
"""

import sys

from isotherm.lab.fidelity.runner import run
from isotherm.lab.fidelity.verdict import Figure, TableVerdict, Verdict, right_share


def told(figure: Figure, played: TableVerdict) -> str:
    """Return ours and its error; calibrated figures have a star for it."""
    ours = f"{figure.cell.value:.3g} → {figure.ours:.3g}"
    if figure.cell.seen:
        return f"{ours} *"
    relative = played.table.error == "relative"
    error = f"{figure.error:+.1%}" if relative else f"{figure.error:+.3f}"
    return f"{ours} ({error})" if figure.within else f"**{ours} ({error})**"


def show_table(played: TableVerdict) -> None:
    """Print a table: a row a condition, a column a system."""
    by_row: dict[str, dict[str, Figure]] = {}
    for figure in played.figures:
        by_row.setdefault(figure.cell.row, {})[figure.cell.system] = figure
    print(f"\n| {played.table.name} |", " | ".join(played.table.systems), "|")
    print("|---" * (1 + len(played.table.systems)) + "|")
    for row, figures in by_row.items():
        cells = [
            told(figures[system], played) if system in figures else "-"
            for system in played.table.systems
        ]
        print(f"| {row} |", " | ".join(cells), "|")
    if played.median is not None:
        form = ".1%" if played.table.error == "relative" else ".3f"
        print(
            f"\nUnseen: median error {played.median:{form}}, worst"
            f" {played.worst_error:{form}}; claimed {played.table.median:{form}} and"
            f" {played.table.worst:{form}}: {'holds' if played.holds else 'missed'}."
        )


def show(verdict: Verdict) -> None:
    """Print an experiment."""
    published = verdict.published
    print(f"\n## {verdict.name}\n\n{published.title}. *{published.source}.*\n")
    print(f"**Scale.** {published.scale}.\n")
    print(f"**Calibrated.** {published.calibration}.")
    if published.constants:
        found = (f"`{k}` {v:g}" for k, v in published.constants.items())
        print(f"\nConstants: {', '.join(found)}.")
    for played in verdict.tables:
        show_table(played)
    if verdict.pairs:
        right = sum(p.right for p in verdict.pairs)
        print(f"\nOrder: {right} of {len(verdict.pairs)} pairs.")
    wrong = [f"{p.better} > {p.worse}" for p in verdict.pairs if not p.right]
    if wrong:
        print(f"Missed: {'; '.join(wrong)}.")
    for miss in published.misses:
        print(f"\n**Why `{miss.cells}` misses.** {miss.why}.")


def main() -> None:
    """Play everything, then print."""
    verdicts = list(
        run(sys.argv[1:], announce=lambda name: print(name, file=sys.stderr))
    )
    print("| experiment | unseen figures | median | worst | pairs right | seconds |")
    print("|---|---|---|---|---|---|")
    for v in verdicts:
        right = sum(p.right for p in v.pairs)
        for t in v.tables:
            unseen = sum(not f.cell.seen for f in t.figures)
            form = ".1%" if t.table.error == "relative" else ".3f"
            if t.median is None:
                continue
            errors = f"{t.median:{form}} | {t.worst_error:{form}}"
            order = f"{right} of {len(v.pairs)}" if v.pairs else "-"
            print(
                f"| {v.name}: {t.table.name} | {unseen} | {errors} | {order} |"
                f" {v.wall_s:.0f} |"
            )
    pairs = sum(len(v.pairs) for v in verdicts)
    if pairs:
        print(f"\nOrder of systems: {right_share(verdicts):.1%} of {pairs} pairs.")
    for v in verdicts:
        show(v)


if __name__ == "__main__":
    main()
