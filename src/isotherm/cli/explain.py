"""``isotherm explain``: why a page range is where it is."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.output import (
    MAX_COLUMNS,
    print_json,
    print_table,
    print_text,
    start_logging,
    table,
)
from isotherm.core.errors import UsageError
from isotherm.core.units import PAGE_BYTES, render_bytes, render_ns

EPILOGUE = """\
Examples:
  isotherm simulate --workload drift --record run
  isotherm explain run --pages 0-63
  isotherm explain run --pages 4096 --json

Overhead: reads only the part of the recording that holds the range.
"""

app = App(name="explain", help_epilogue=EPILOGUE, help_format="plaintext")

#: Groups of moves that people are shown; --json has all.
MAX_MOVES = 16
#: Page ranges named for one group.
MAX_RANGES = 4


@app.default
def explain(
    directory: Path,
    /,
    *,
    pages: str,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Say where pages are, how hot they were, what moved when, and why.

    Parameters
    ----------
    directory
        A recording, made by isotherm simulate --record.
    pages
        First and last page, both included: 0-63; or one page.
    json
        Print one JSON document with raw units and every move.
    """
    start_logging()
    first, last = parse_pages(pages)

    from isotherm.lab.explain import explain as read  # noqa: PLC0415  # pyarrow

    found = read(directory, first, last)
    if json:
        print_json(found)
    else:
        _print(found)
    return 0


def parse_pages(text: str) -> tuple[int, int]:
    """Return first and last page of ``A-B`` or ``A``.

    Raises:
        UsageError: It is neither.

    >>> parse_pages("0-63"), parse_pages("7")
    ((0, 63), (7, 7))
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise UsageError(
            f"pages: expected first-last, got {text!r}", hint="try --pages 0-63"
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise UsageError(f"pages: expected first <= last, got {text!r}")
    return first, last


def _print(found: Mapping[str, Any]) -> None:
    first, last = found["pages"]
    count = last - first + 1
    print_text(
        f"pages {first}-{last} ({render_bytes(count * PAGE_BYTES)}) of"
        f" {found['workload']} under {found['policy']} on {found['machine']}"
    )
    for when, key in (("at the start", "start"), ("at the end", "end")):
        parts = [
            f"{nr} on node {node} ({found['nodes'].get(node, 'no memory')})"
            for node, nr in found[f"{key}_pages_per_node"].items()
        ]
        _wrapped(f"{when}: {', '.join(parts)}")
    _print_heat(found["heat"])
    _print_moves(found["moves"])
    print_text("why")
    for group in found["why"]:
        where = _ranges(group["pages"])
        _wrapped(
            f"{group['what']}, {group['nr_pages']} pages ({where}): {group['words']}"
        )


def _print_heat(heat: Sequence[Mapping[str, Any]]) -> None:
    believed = any(row["belief"] is not None for row in heat)
    columns = [("seconds", "left"), ("accesses/page/s", "right")]
    if believed:
        columns.append(("believed", "right"))
    made = table([*columns, ("in fast memory", "right"), ("", "left")])
    top = max((row["rate"] for row in heat), default=0.0) or 1.0
    for row in heat:
        cells = [f"{row['from_s']:.4g}-{row['to_s']:.4g}", f"{row['rate']:.3g}"]
        if believed:
            cells.append("" if row["belief"] is None else f"{row['belief']:.3g}")
        bar = "█" * round(20 * row["rate"] / top)
        made.add_row(*cells, f"{row['fast_share']:.0%}", bar)
    print_table(made)


def _print_moves(moves: Sequence[Mapping[str, Any]]) -> None:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for move in moves:
        key = tuple(move[name] for name in ("time_s", "src", "dst", "reason", "errno"))
        groups.setdefault(key, []).append(move)
    if not groups:
        print_text("no page of the range was moved or tried")
        return
    columns = [("seconds", "right"), ("pages", "left"), ("nodes", "left")]
    columns += [("reason", "left"), ("promised", "right"), ("earned", "right")]
    made = table(columns)
    shown = list(groups.items())
    cut = len(shown) - MAX_MOVES
    if cut > 0:
        shown = shown[: MAX_MOVES // 2] + shown[-MAX_MOVES // 2 :]
    for (time_s, src, dst, reason, errno), group in shown:
        pages = sorted(move["page"] for move in group)
        text = reason if errno == 0 else f"{reason}, {_errno(errno)}"
        made.add_row(
            f"{time_s:.5g}",
            f"{len(group)}: {pages[0]}" + ("…" if len(pages) > 1 else ""),
            f"{src} -> {dst}",
            text,
            _mean(group, "gain_ns"),
            _mean(group, "earned_ns"),
        )
    print_table(made)
    if cut > 0:
        print_text(f"{cut} groups of moves left out in the middle; --json has all")


def _errno(number: int) -> str:
    import errno  # noqa: PLC0415  # names only

    return errno.errorcode.get(number, str(number))


def _mean(group: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [move[name] for move in group if move[name] is not None]
    return render_ns(sum(values) / len(values)) if values else ""


def _ranges(ranges: Sequence[Sequence[int]]) -> str:
    said = [f"{a}-{b}" if b > a else str(a) for a, b in ranges[:MAX_RANGES]]
    if len(ranges) > MAX_RANGES:
        said.append("…")
    return ", ".join(said)


def _wrapped(text: str) -> None:
    print_text(
        textwrap.fill(text, MAX_COLUMNS, initial_indent="  ", subsequent_indent="    ")
    )
