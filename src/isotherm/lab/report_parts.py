"""The parts of a report, as HTML: tables, cards, the key to the lines."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

from isotherm.core.units import PAGE_BYTES, render_bytes
from isotherm.lab.catalogue import BOUNDS
from isotherm.lab.charts import (
    best_bound,
    describe_slowdown,
    off_the_chart,
    slowdown_chart,
    style_of,
    table_of,
)
from isotherm.lab.palette import dark_of
from isotherm.lab.summary import IN_HARDWARE, ORDER, Standing, name_of

Result = Mapping[str, Any]


def standings_html(ranking: Sequence[Standing]) -> str:
    """Return the table of who did how well."""
    head = (
        "policy",
        "slowdown",
        "against first-touch",
        "regret",
        "fastest in",
        "moves per page",
    )
    lines = ["<table><thead><tr>", *(f"<th>{name}</th>" for name in head)]
    lines.append("</tr></thead><tbody>")
    for one in ranking:
        own = ' class="own"' if one.policy == "isotherm" else ""
        name = one.policy
        if name in IN_HARDWARE:
            own, name = ' class="bound"', f"{name} (in hardware)"
        against = "" if one.vs_first_touch is None else f"{one.vs_first_touch - 1:+.1%}"
        regret = "-" if one.regret is None else f"{one.regret:.2f}"
        lines.append(
            f"<tr{own}><td>{escape(name)}</td><td>{one.slowdown:.3f}</td>"
            f"<td>{against}</td><td>{regret}</td><td>{one.wins} of {one.cells}</td>"
            f"<td>{one.moves_per_page:.2f}</td></tr>"
        )
    lines.append("</tbody></table>")
    return "".join(lines)


_MARKS: Final = {
    "circle": '<circle cx="18" cy="7" r="4"/>',
    "square": '<rect x="14.5" y="3.5" width="7" height="7"/>',
    "cross": '<path d="M16.5 2.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"/>',
    "diamond": '<path d="M18 2l4 5-4 5-4-5z"/>',
    "triangle-up": '<path d="M18 2l5 9H13z"/>',
    "triangle-down": '<path d="M18 12l5-9H13z"/>',
    "triangle-right": '<path d="M23 7l-9 5V2z"/>',
    "triangle-left": '<path d="M13 7l9 5V2z"/>',
    "stroke": '<rect x="13" y="6" width="10" height="2.5"/>',
}


def key_html(policies: Sequence[str], *, shading: bool) -> str:
    """Return the items of the key: line, marker and name of each policy."""
    items = []
    for policy in policies:
        color, dash, mark = style_of(policy)
        own = ' class="own"' if policy == "isotherm" else ""
        width = 3.5 if policy == "isotherm" else 1.8
        dashes = f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""
        items.append(
            f'<li{own}><svg width="36" height="14" aria-hidden="true"'
            f' class="ink" style="--c:{color};--d:{dark_of(color)}">'
            '<line x1="0" y1="7" x2="36" y2="7" stroke="currentColor"'
            f' stroke-width="{width}"{dashes}/>{_MARKS[mark]}</svg>'
            f"{escape(policy)}</li>"
        )
    if shading:
        items.append(
            '<li><svg width="36" height="14" aria-hidden="true"><rect width="36"'
            ' height="14" class="beyond"/></svg>beyond the bounds</li>'
        )
    return "".join(items)


def card_html(
    chart: str,
    setting: tuple[Any, ...],
    rows: Sequence[Result],
    settings: Sequence[tuple[tuple[Any, ...], Sequence[Result]]],
) -> tuple[str, Mapping[str, Any]]:
    """Return the card of one setting, and its chart."""
    name = _setting_name(setting, [other for other, _ in settings])
    words = escape(describe_slowdown(rows), quote=True)
    beyond = off_the_chart(rows)
    note = ""
    if beyond:
        points: dict[str, list[str]] = {}
        for policy, ratio, value in beyond:
            points.setdefault(policy, []).append(f"{value:.2f} at {100 * ratio:.3g}%")
        said = "; ".join(
            f"{policy} {', '.join(values)}" for policy, values in points.items()
        )
        note = f'<p class="quiet">At the upper edge, beyond it: {escape(said)}.</p>'
    html = (
        f'<article class="card"><h3>{escape(name)}</h3>'
        f'<p class="quiet">{escape(_verdict(rows))}</p>'
        f'<div class="chart" id="{chart}" role="img" aria-label="{words}"></div>{note}'
        f'<details><summary>As a table</summary><div class="scroll">'
        f"{_ratiotable_html(rows)}</div></details></article>"
    )
    # The description becomes the label of the chart for a screen reader.
    return html, {**slowdown_chart(rows), "description": describe_slowdown(rows)}


def _setting_name(setting: tuple[Any, ...], others: Sequence[tuple[Any, ...]]) -> str:
    """Return the workload, and what else tells a setting from the others."""
    machine, workload, rate, placement, period = setting
    words = [name_of(workload)]
    for place, text in (
        (0, f"on {name_of(machine)}"),
        (2, "own times" if rate is None else f"{rate:g} a page and second"),
        (3, placement),
        (4, f"a sample per {period}"),
    ):
        if len({other[place] for other in others}) > 1:
            words.append(text)
    return ", ".join(words)


def _verdict(rows: Sequence[Result]) -> str:
    """Return one sentence on a setting: who is fastest at the smallest ratio."""
    table = table_of(rows)
    ratio = min(row["fast_ratio"] for row in rows)
    line = sorted(
        (values[ratio], name)
        for name, values in table.items()
        if name not in BOUNDS and ratio in values
    )
    if not line:
        return ""
    value, name = min(line, key=lambda found: (found[1] in IN_HARDWARE, found))
    others = [
        f" ({other}, in hardware, {faster:.2f})"
        for faster, other in line
        if other in IN_HARDWARE and faster < value
    ]
    return (
        f"With {ratio:.0%} fast memory {name} is fastest: {value:.2f}"
        f"{''.join(others)}; best bound {best_bound(table, ratio):.2f}."
    )


def _ratiotable_html(rows: Sequence[Result]) -> str:
    table = table_of(rows)
    ratios = sorted({row["fast_ratio"] for row in rows})
    head = "".join(f"<th>{ratio:.3g}</th>" for ratio in ratios)
    lines = [f"<table><thead><tr><th>policy</th>{head}</tr></thead><tbody>"]
    for policy in _by_slowdown(table):
        cells = "".join(
            f"<td>{table[policy][ratio]:.3f}</td>"
            if ratio in table[policy]
            else "<td></td>"
            for ratio in ratios
        )
        lines.append(f"<tr{_row_class(policy)}><td>{escape(policy)}</td>{cells}</tr>")
    lines.append("</tbody></table>")
    return "".join(lines)


def _by_slowdown(table: Mapping[str, Mapping[float, float]]) -> list[str]:
    def order(policy: str) -> tuple[int, float]:
        place = ORDER.index(policy) if policy in ORDER else len(ORDER)
        return place + (policy == "all-slow"), min(table[policy].values())

    return sorted(table, key=order)


def _row_class(policy: str) -> str:
    if policy == "isotherm":
        return ' class="own"'
    return ' class="bound"' if policy in BOUNDS else ""


#: Heading, key of a result, how to write it; None: text.
_COLUMNS: Final[Sequence[tuple[str, str, Callable[[Any], str] | None]]] = (
    ("policy", "policy", None),
    ("workload", "workload", None),
    ("machine", "machine", None),
    ("fast", "fast_ratio", lambda v: f"{v:.3g}"),
    ("seed", "seed", str),
    ("rate", "rate", lambda v: f"{v:g}"),
    ("placement", "placement", None),
    ("period", "sampling_period", str),
    ("slowdown", "slowdown", lambda v: f"{v:.3f}"),
    ("regret", "regret", lambda v: f"{v:.3f}"),
    ("against first-touch", "vs_first_touch", lambda v: f"{v - 1:+.1%}"),
    ("served fast", "fast_share", lambda v: f"{v:.1%}"),
    ("latency ns", "mean_latency_ns", lambda v: f"{v:.1f}"),
    ("moved", "migrated_bytes", render_bytes),
    ("moves/page", "moves_per_page", lambda v: f"{v:.2f}"),
    ("up", "promoted_pages", str),
    ("down", "demoted_pages", str),
    ("back and forth", "ping_pong_pages", str),
    ("moving ms", "migration_time_ns", lambda v: f"{v / 1e6:.1f}"),
    ("looking ms", "hint_overhead_ns", lambda v: f"{v / 1e6:.1f}"),
    ("memory", "pages", lambda v: render_bytes(v * PAGE_BYTES)),
    ("accesses", "accesses", lambda v: f"{v / 1e6:.3g} M"),
    ("simulated s", "simulated_s", lambda v: f"{v:.4g}"),
    ("hints", "hints", None),
)


def _place(row: Result) -> str:
    """Return the attributes of a button that leads to a run."""
    found = {
        "go": row["policy"],
        "workload": row["workload"],
        "machine": row["machine"],
        "fast-ratio": f"{row['fast_ratio']:.12g}",
        "seed": row["seed"],
        "placement": row["placement"],
    }
    return " ".join(
        f'data-{name}="{escape(str(value), quote=True)}"'
        for name, value in found.items()
    )


def table_html(results: Sequence[Result]) -> str:
    """Return every run; columns that never differ and say little are left in."""
    lines = ['<table id="numbers"><thead><tr>']
    for heading, _, write in _COLUMNS:
        side = "" if write else ' class="text"'
        lines.append(
            f'<th scope="col"{side}><button type="button">{heading}</button></th>'
        )
    lines.append("</tr></thead><tbody>")
    for row in results:
        lines.append(f"<tr{_row_class(row['policy'])}>")
        for _, key, write in _COLUMNS:
            value = row.get(key)
            if key == "regret" and row["policy"] in BOUNDS:
                value = None  # bounds are the yardstick
            if write is None:
                text = ", ".join(value) if isinstance(value, (list, tuple)) else value
                text = (
                    name_of(str(text))
                    if key in ("workload", "machine")
                    else str(text or "")
                )
                said = escape(text)
                if key == "policy":
                    said = f"<button type=button {_place(row)}>{said}</button>"
                lines.append(f'<td class="text">{said}</td>')
            else:
                number = "" if value is None else f"{value:.12g}"
                nothing = "-" if key == "regret" else ""
                text = nothing if value is None else write(value)
                lines.append(f'<td data-v="{number}">{escape(text)}</td>')
        lines.append("</tr>")
    lines.append("</tbody></table>")
    return "".join(lines)
