"""Figures of a view as words of a terminal: bars, rates, lines."""

from typing import Final

from isotherm.core.units import PAGE_BYTES, render_bytes, render_ns
from isotherm.observability.view import MoveView, View

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_STEPS: Final = "▁▂▃▄▅▆▇█"


def bar(share: float, width: int) -> str:
    """Return a bar of a share in [0, 1], in eighths of a column.

    >>> bar(0.5, 4), bar(0.0, 2), bar(1.0, 2)
    ('██  ', '  ', '██')
    """
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def line(values: list[float | None], width: int) -> str:
    """Return the last values as a line of blocks, the highest at the top.

    >>> line([0.0, None, 0.5, 1.0], 4)
    '▁ ▅█'
    """
    shown = values[-width:]
    there = [value for value in shown if value is not None]
    low, high = (min(there), max(there)) if there else (0.0, 0.0)
    span = high - low
    drawn = ""
    for value in shown:
        if value is None:
            drawn += " "
        else:
            drawn += _STEPS[round(7 * (value - low) / span)] if span else _STEPS[0]
    return drawn


def rate(per_s: float | None) -> str:
    """Return accesses a second.

    >>> rate(1234.0), rate(None), rate(0.25), rate(2.5e7)
    ('1.2k', '-', '0.2', '25M')
    """
    if per_s is None:
        return "-"
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_s >= factor:
            scaled = per_s / factor
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}{unit}"
    return f"{per_s:.0f}" if per_s >= 10 else f"{per_s:.1f}"


def percent(share: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "-" if share is None else f"{share:.0%}"


def headline(view: View) -> str:
    """Return the first line: how the run goes."""
    parts = [f"fast {percent(view.fast_share)}"]
    word = "would move" if view.dry_run else "moved"
    parts.append(f"{word} {view.promoted_pages} up {view.demoted_pages} down")
    if view.failed_pages:
        parts.append(f"{view.failed_pages} failed")
    parts += [f"price {render_ns(price)}" for price in view.prices_ns]
    return " · ".join(parts)


def under_way(view: View) -> str:
    """Return the second line: brake, costs, gain."""
    brake = "off" if view.brake_share >= 1 else f"lets {percent(view.brake_share)}"
    parts = [f"brake {brake}", f"every {view.epoch_s:g} s"]
    if view.cpu_share is not None and view.cpu_budget is not None:
        parts.append(f"cpu {view.cpu_share:.1%} of {view.cpu_budget:.1%}")
    if view.promised_ns is not None and view.realised_ns is not None:
        parts.append(
            f"gain {render_ns(view.realised_ns)} of {render_ns(view.promised_ns)}"
        )
    return " · ".join(parts)


def clock(view: View) -> str:
    """Return the time of the run, and its length where it has one."""
    now = _minutes(view.time_s)
    return now if view.end_s is None else f"{now} of {_minutes(view.end_s)}"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def tier_lines(view: View, width: int) -> list[str]:
    """Return one line for every tier: how full it is, and of what."""
    name = max((len(tier.name) for tier in view.tiers), default=0)
    name = min(name, 16)
    found = []
    for at, tier in enumerate(view.tiers):
        share = tier.used_bytes / tier.capacity_bytes if tier.capacity_bytes else 0.0
        latency = "" if tier.latency_ns is None else f" {render_ns(tier.latency_ns)}"
        end = (
            f" {render_bytes(tier.used_bytes)} of {render_bytes(tier.capacity_bytes)}"
            f", ours {render_bytes(tier.managed_bytes)}{latency}"
        )
        start = f"{at} {tier.name[:name]:<{name}} "
        room = max(4, width - len(start) - len(end) - 2)
        found.append(f"{start}▕{bar(share, room)}▏{end}")
    return found


def move_words(view: View, move: MoveView) -> tuple[str, ...]:
    """Return a move as cells: when, what, from, to, why, and what it promised."""
    owner = "gone" if move.owner is None else view.owners[move.owner].name
    what = "failed" if move.errno else ("up" if _is_up(view, move) else "down")
    return (
        f"{move.time_s:.1f}",
        what,
        render_bytes(move.nr_pages * PAGE_BYTES),
        f"{move.src} → {move.dst}",
        move.reason,
        "-" if move.gain_ns is None else render_ns(move.gain_ns),
        f"{move.start:x}",
        owner,
    )


def _is_up(view: View, move: MoveView) -> bool:
    tier = {node: at for at, tier in enumerate(view.tiers) for node in tier.nodes}
    return tier.get(move.dst, 255) < tier.get(move.src, 255)
