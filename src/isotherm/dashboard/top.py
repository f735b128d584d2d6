"""``isotherm top``: a run in the terminal."""

from typing import Any, ClassVar, Final, Literal

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static, TabbedContent, TabPane

from isotherm.core.errors import IsothermError
from isotherm.core.units import render_bytes, render_ns
from isotherm.dashboard import words
from isotherm.dashboard.feed import Feed, PlayedFeed
from isotherm.observability.view import (
    RANGES,
    OwnerView,
    RangeView,
    TenantView,
    View,
)

#: Seconds between two looks.
INTERVAL_S: Final = 1.0
#: Seconds of a recording that an arrow key winds.
WIND_S: Final = 10.0

HELP: Final = """\
[b]isotherm top[/b]

Each tier: how full it is, what of it is managed, how long a read takes.
[b]fast[/b] is the share of accesses that the fastest tier serves, estimated.
The [b]price[/b] is what a page must save in an epoch to be worth a place in the
faster tier; a move is made only when it pays for itself.

[b]Heat[/b]       memory that is about as hot from end to end, hottest first
[b]Processes[/b]  where the memory of each is
[b]Moves[/b]      the latest, with why and what they promised
[b]Hints[/b]      what has been seen, by source
[b]Tenants[/b]    who holds how much of the fast tier, what it meets, who pays

1 to 5   choose a table          tab ↑ ↓  move about
o        order ranges            space    hold, go on
← →      wind a recording        + -      play it faster, slower
?        this                    q        end

Any key closes this.
"""

_ORDERS: Final = ("heat", "size", "address")
_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "heat": ("rate/page/s", "", "size", "fast", "from", "to", "whose"),
    "processes": ("whose", "fast", "memory", "accesses/s", "by tier"),
    "moves": ("at s", "", "size", "node", "why", "promised", "from", "whose"),
    "hints": ("source", "observations"),
    "tenants": ("tenant", "fast", "of", "least", "hits", "slow", "pays", "price"),
}
#: Letters of a tenant's name, so that the table fits 80 columns.
_NAME: Final = 16


class Help(ModalScreen[None]):
    """What is shown, and which keys there are."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help > VerticalScroll {
        width: 76; height: auto; max-height: 22; border: round $accent; padding: 0 1;
        background: $surface;
    }
    """

    def compose(self) -> ComposeResult:
        """Build the screen."""
        with VerticalScroll():
            yield Static(HELP)

    def on_key(self) -> None:
        """Close at any key."""
        self.dismiss()


class Top(App[int]):
    """Shows views of a feed until it is told to end; returns an exit code.

    Args:
        feed: Where views come from.
        interval_s: Seconds between two.
    """

    TITLE = "isotherm"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #line, #tiers { height: auto; padding: 0 1; }
    #head { text-style: bold; }
    #said { height: auto; padding: 0 1; color: $error; text-style: bold; }
    TabbedContent, DataTable { height: 1fr; }
    TabPane { padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "end", "End"),
        Binding("question_mark", "help", "Help"),
        Binding("o", "order", "Order"),
        Binding("space", "hold", "Hold", priority=True),
        Binding("left", "wind(-1)", "Back", priority=True, show=False),
        Binding("right", "wind(1)", "On", priority=True, show=False),
        Binding("plus", "faster(2.0)", "Faster", show=False),
        Binding("minus", "faster(0.5)", "Slower", show=False),
        *(
            Binding(str(at + 1), f"table('{name}')", name.title(), show=False)
            for at, name in enumerate(_COLUMNS)
        ),
    ]

    def __init__(self, feed: Feed, interval_s: float = INTERVAL_S) -> None:
        super().__init__()
        self.feed, self._interval_s = feed, interval_s
        self.shown: View | None = None
        self._order: Literal["heat", "size", "address"] = "heat"
        self._held = False

    def compose(self) -> ComposeResult:
        """Build the screen: a few lines, tables behind tabs, the keys."""
        with Vertical():
            yield Static(id="head", markup=False)
            yield Static(id="line", markup=False)
            yield Static(id="tiers", markup=False)
            yield Static(id="said", markup=False)
            with TabbedContent(id="tabs"):
                for name, columns in _COLUMNS.items():
                    with TabPane(name.title(), id=name):
                        table: DataTable[str] = DataTable(
                            id=f"{name}-table", cursor_type="row", zebra_stripes=True
                        )
                        for column in columns:
                            table.add_column(column)
                        yield table
        yield Footer()

    def on_mount(self) -> None:
        """Look for the first time, and from then on."""
        self._main = self.screen  # under the help, too
        self.look()
        self.set_interval(self._interval_s, self.look)

    # -- keys ----------------------------------------------------------------

    def action_end(self) -> None:
        """End."""
        self.exit(0)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_table(self, name: str) -> None:
        """Show a table."""
        self._main.query_one("#tabs", TabbedContent).active = name
        self._main.query_one(f"#{name}-table", DataTable).focus()

    def action_order(self) -> None:
        """Order ranges by something else."""
        at = (_ORDERS.index(self._order) + 1) % len(_ORDERS)
        self._order = _ORDERS[at]
        self.draw()

    def action_hold(self) -> None:
        """Hold the screen, or a recording, or let it go on."""
        if isinstance(self.feed, PlayedFeed):
            self.feed.pause()
        else:
            self._held = not self._held
        self.look()
        self.draw()

    def action_wind(self, steps: int) -> None:
        """Wind a recording."""
        if isinstance(self.feed, PlayedFeed):
            self.feed.wind(self.feed.time_s + steps * WIND_S)
            self.look()

    def action_faster(self, factor: float) -> None:
        """Play a recording faster or slower."""
        if isinstance(self.feed, PlayedFeed):
            self.feed.wind(self.feed.time_s)
            self.feed.speed = min(max(self.feed.speed * factor, 0.125), 1024.0)
            self.draw()

    # -- drawing -------------------------------------------------------------

    def look(self) -> None:
        """Take a view, draw it if it is new; a run that has ended stays as it was."""
        if not self._main.query("#said"):  # the last tick of a clock, at the end
            return
        said, before = "", self.shown
        if not self._held:
            try:
                self.shown = self.feed.view(RANGES)
            except IsothermError as error:
                said = f"{error.message}; this is the last that was seen"
        self._main.query_one("#said", Static).update(said)
        self._main.query_one("#said", Static).display = bool(said)
        if self.shown != before:  # between two decisions a daemon tells the same
            self.draw()

    def draw(self) -> None:
        """Draw what was seen last."""
        view = self.shown
        if view is None:
            return
        width = max(40, self.size.width - 2)
        state = " · held" if self._held else ""
        if isinstance(self.feed, PlayedFeed):
            state = " · held" if self.feed.paused else f" · {self.feed.speed:g}x"
        dry = " · dry run" if view.dry_run else ""
        head = f"{view.title} · {view.policy}{dry} · {words.clock(view)}{state}"
        self._main.query_one("#head", Static).update(head)
        shares = [moment.fast_share for moment in view.moments]
        drawn = words.line(shares, max(8, min(40, width - 60)))
        line = f"{words.headline(view)} {drawn}\n{words.under_way(view)}"
        self._main.query_one("#line", Static).update(line)
        tiers = "\n".join(words.tier_lines(view, width))
        self._main.query_one("#tiers", Static).update(tiers)
        self._fill("heat", [_range_cells(view, r) for r in self._ordered(view)])
        owners = sorted(view.owners, key=lambda owner: -sum(owner.tier_bytes))
        self._fill("processes", [_owner_cells(owner) for owner in owners])
        moves = [words.move_words(view, move) for move in reversed(view.moves)]
        self._fill("moves", moves)
        hints = sorted(view.hints.items(), key=lambda item: -item[1])
        self._fill("hints", [(source, f"{nr:,}") for source, nr in hints])
        self._fill("tenants", [_tenant_cells(tenant) for tenant in view.tenants])

    def _ordered(self, view: View) -> list[RangeView]:
        if self._order == "size":
            return sorted(view.ranges, key=lambda r: -r.nr_pages)
        if self._order == "address":
            return sorted(view.ranges, key=lambda r: (r.owner, r.start))
        return list(view.ranges)

    def _fill(self, name: str, rows: list[tuple[str, ...]]) -> None:
        """Show rows where others were; cursor and scrolling stay."""
        table: DataTable[Any] = self._main.query_one(f"#{name}-table", DataTable)
        cursor, scroll = table.cursor_row, table.scroll_y
        table.clear()
        for row in rows:
            table.add_row(*row)
        if rows:
            table.move_cursor(row=min(cursor, len(rows) - 1), animate=False)
        table.scroll_to(y=scroll, animate=False)


def _range_cells(view: View, shown: RangeView) -> tuple[str, ...]:
    hottest = max((r.rate for r in view.ranges), default=0.0) or 1.0
    return (
        words.rate(shown.rate),
        words.bar(shown.rate / hottest, 8),
        render_bytes(shown.end - shown.start),
        words.percent(shown.fast_share),
        f"{shown.start:x}",
        f"{shown.end:x}",
        view.owners[shown.owner].name,
    )


def _owner_cells(owner: OwnerView) -> tuple[str, ...]:
    whole = sum(owner.tier_bytes)
    return (
        owner.name,
        words.percent(owner.tier_bytes[0] / whole if whole else None),
        render_bytes(whole),
        words.rate(owner.rate),
        "  ".join(render_bytes(nr) for nr in owner.tier_bytes),
    )


def _tenant_cells(tenant: TenantView) -> tuple[str, ...]:
    name, slow = tenant.name, tenant.slowdown
    if len(name) > _NAME:
        name = f"…{name[1 - _NAME :]}"
    return (
        name,
        render_bytes(tenant.fast_bytes),
        render_bytes(tenant.bytes),
        render_bytes(tenant.guarantee_bytes) if tenant.guarantee_bytes else "-",
        words.percent(tenant.fast_share),
        "-" if slow is None else f"{slow:.2f}",
        render_bytes(tenant.charged_bytes),
        "-" if tenant.price_ns is None else render_ns(tenant.price_ns),
    )
