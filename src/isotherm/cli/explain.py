"""``isotherm explain``: why a page range is where it is."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
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
  isotherm explain --pid 4242
  isotherm explain --pid 4242 --range 7f3a40000000-7f3a40200000

Overhead: of a recording only the part that holds the range is read. A running
daemon answers in a thread of its own from what it remembers, half a byte a
page.
"""

app = App(name="explain", help_epilogue=EPILOGUE, help_format="plaintext")

#: Groups of moves that people are shown; --json has all.
MAX_MOVES = 16
#: What the two columns of gain are, which span different times.
EARNED = (
    "promised: when it moved, over the time that the page was thought to stay hot,"
    " less the price of the slot and the cost of the moves; earned: by the"
    " accesses that came until it moved again or the run ended, less its cost"
)
#: Page ranges named for one group.
MAX_RANGES = 4


@app.default
def explain(
    directory: Path | None = None,
    /,
    *,
    pages: str | None = None,
    pid: int | None = None,
    range: str | None = None,  # noqa: A002  # the option's name
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Say where pages are, how hot they are, what moved when, and why.

    Parameters
    ----------
    directory
        A recording, made by isotherm simulate --record or isotherm run --record.
        Without one, the running daemon that manages --pid is asked.
    pages
        First and last page, both included: 0-63; or one page. Of a recording, or
        counted from the first managed page of --pid.
    pid
        A process that a running isotherm manages.
    range
        Addresses of --pid, hexadecimal, the second not included: 7f00-8f00.
    json
        Print one JSON document with raw units and every move.
    """
    start_logging()
    if directory is None:
        return _explain_running(pid, pages, range, json=json)
    if pid is not None or range is not None or pages is None:
        raise UsageError(
            f"{directory}: a recording takes --pages, and neither --pid nor --range",
            hint=f"isotherm explain {directory} --pages 0-63",
        )
    first, last = parse_pages(pages)

    from isotherm.lab.explain import explain as read  # noqa: PLC0415  # pyarrow

    found = read(directory, first, last)
    if json:
        print_json(found)
    else:
        _print(found)
    return 0


def _explain_running(
    pid: int | None, pages: str | None, addresses: str | None, *, json: bool
) -> int:
    """Ask a running daemon; without a process, list what the daemons manage."""
    from isotherm.daemon.asking import (  # noqa: PLC0415  # --help is quick
        ask_about,
        list_managed,
    )

    if pid is None:
        if pages is not None or addresses is not None:
            raise UsageError("explain: --pages and --range need a recording or --pid")
        managed = list_managed()
        if json:
            print_json({"daemons": managed})
        else:
            _print_managed(managed)
        return 0
    if pages is not None and addresses is not None:
        raise UsageError("explain: expected one of --pages and --range")
    found = ask_about(
        pid,
        None if addresses is None else parse_addresses(addresses),
        None if pages is None else parse_pages(pages),
    )
    if json:
        print_json(found)
    else:
        _print_live(found)
    return 0


def parse_addresses(text: str) -> tuple[int, int]:
    """Return first address and the one past the last of ``A-B``, hexadecimal.

    Raises:
        UsageError: It is not a range.

    >>> parse_addresses("1000-0x3000")
    (4096, 12288)
    """
    match = re.fullmatch(
        r"(?:0x)?([0-9a-fA-F]{1,16})-(?:0x)?([0-9a-fA-F]{1,16})", text.strip()
    )
    if match is None or not int(match[1], 16) < int(match[2], 16):
        raise UsageError(
            f"range: expected hexadecimal START-END, START below END, got {text!r}",
            hint="as in /proc/PID/maps: --range 7f3a40000000-7f3a40200000",
        )
    return int(match[1], 16), int(match[2], 16)


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
        _print_nodes(when, found[f"{key}_pages_per_node"], found["nodes"])
    _print_heat(found["heat"])
    _print_moves(found["moves"], str)
    _print_sizes(found["sizes"], _ranges)
    _print_initiators(found["initiators"])
    print_text("why")
    _print_why(found["why"], _ranges)


def _print_initiators(found: Mapping[str, Any]) -> None:
    """Say who was named, and what unnamed accesses were taken for."""
    named, taken = found["named"], ", ".join(found["unnamed_taken_for"])
    if named is None or not taken:
        return
    said = f"samples named {named} initiators" if named != 1 else "samples named one"
    if named == 0:
        said = "nobody named who accesses"
    _wrapped(f"initiators: {said}; accesses without a name count as of {taken}")


def _print_live(found: Mapping[str, Any]) -> None:
    """Print what a daemon answered: addresses instead of page numbers."""
    state = found["state"]
    start, end = found["range"]
    size = render_bytes(found["nr_pages"] * found["page_bytes"])
    print_text(f"pid {found['pid']}: {start:x}-{end:x}, {size} managed")
    said = f"policy {state['policy']}, an epoch of {state['epoch_s']:g} s"
    if state["dry_run"]:
        said += ", a dry run: nothing is moved"
    elif state["brake_share"] < 1:
        said += f", the brake lets {state['brake_share']:.0%} of moves go"
    _wrapped(said)
    _wrapped(
        f"in all promoted {state['promoted_pages']}, demoted {state['demoted_pages']}"
        f" pages; sampled moves promised {render_ns(state['promised_ns'])} and"
        f" earned {render_ns(state['realised_ns'])}"
    )
    _print_nodes("now", found["end_pages_per_node"], found["nodes"])
    _print_hot_ranges(found["ranges"], found["page_bytes"])
    _print_heat(found["heat"])
    size_of = found["page_bytes"]
    _print_moves(found["moves"], lambda page: f"{page * size_of:x}")
    _print_sizes(found["sizes"], lambda ranges: _address_ranges(ranges, size_of))
    print_text("why")
    _print_why(found["why"], lambda ranges: _address_ranges(ranges, size_of))


def _print_managed(daemons: Sequence[Mapping[str, Any]]) -> None:
    if not daemons:
        print_text("no isotherm runs")
    for daemon in daemons:
        print_text(f"isotherm {daemon['pid']}: {daemon['targets']}")
        for process in daemon["processes"]:
            mapped = render_bytes(process["mapped_bytes"])
            print_text(f"  pid {process['pid']}  {mapped} mapped")


def _print_nodes(when: str, nodes: Mapping[str, int], names: Mapping[str, str]) -> None:
    parts = [
        f"{nr} on node {node} ({names.get(node, 'no memory')})"
        for node, nr in nodes.items()
    ]
    _wrapped(f"{when}: {', '.join(parts)}")


def _print_why(
    groups: Sequence[Mapping[str, Any]],
    where: Callable[[Sequence[Sequence[int]]], str],
) -> None:
    for group in groups:
        _wrapped(
            f"{group['what']}, {group['nr_pages']} pages ({where(group['pages'])}):"
            f" {group['words']}"
        )


def _print_sizes(
    sizes: Sequence[Mapping[str, Any]],
    where: Callable[[Sequence[Sequence[int]]], str],
) -> None:
    """Say which ranges became huge or small, and why, the latest."""
    for made in sizes[-MAX_MOVES:]:
        gain = made["gain_ns"]
        said = "" if gain is None else f", {render_ns(gain)} an epoch"
        _wrapped(
            f"at {made['time_s']:.4g} s {made['what']} {where([made['pages']])}:"
            f" {made['why']}{said}"
        )


def _print_hot_ranges(ranges: Sequence[Mapping[str, Any]], page_bytes: int) -> None:
    if not ranges:
        return
    made = table(
        [
            ("range", "left"),
            ("size", "right"),
            ("accesses/page/s", "right"),
            ("in fast memory", "right"),
        ]
    )
    for run in ranges[:MAX_MOVES]:
        made.add_row(
            f"{run['start']:x}-{run['end']:x}",
            render_bytes(run["nr_pages"] * page_bytes),
            f"{run['rate']:.3g}",
            f"{run['fast_share']:.0%}",
        )
    print_table(made)
    if len(ranges) > MAX_MOVES:
        print_text(f"{len(ranges) - MAX_MOVES} colder ranges left out")


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


def _print_moves(
    moves: Sequence[Mapping[str, Any]], name: Callable[[int], str]
) -> None:
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
            f"{len(group)}: {name(pages[0])}" + ("…" if len(pages) > 1 else ""),
            f"{src} -> {dst}",
            text,
            _mean(group, "gain_ns"),
            _mean(group, "earned_ns"),
        )
    print_table(made)
    if cut > 0:
        print_text(f"{cut} groups of moves left out in the middle; --json has all")
    _wrapped(EARNED)


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


def _address_ranges(ranges: Sequence[Sequence[int]], page_bytes: int) -> str:
    said = [
        f"{a * page_bytes:x}-{(b + 1) * page_bytes:x}" for a, b in ranges[:MAX_RANGES]
    ]
    if len(ranges) > MAX_RANGES:
        said.append("…")
    return ", ".join(said)


def _wrapped(text: str) -> None:
    print_text(
        textwrap.fill(text, MAX_COLUMNS, initial_indent="  ", subsequent_indent="    ")
    )
