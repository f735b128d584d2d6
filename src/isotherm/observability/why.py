"""Why pages are where they are, in words: of a recorded run or of one that runs.

Both bring the same facts (where pages were and are, what was tried, how hot they
are, the figures of the last decision) and get the same words.
"""

import errno as errno_names
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, render_ns
from isotherm.policy.plan import Reason

#: Reasons in words; 255 is a move without a plan of its own.
REASONS: Final = {
    int(Reason.PAYS): "pays: its advantage exceeds the cost of the move",
    int(Reason.MAKES_ROOM): "makes room for a page that is worth more",
    int(Reason.HOT): "hot: over the policy's threshold",
    int(Reason.COLD): "cold: under the policy's threshold or at its list's end",
    int(Reason.WATERMARK): "watermark: free memory of its node ran low",
    int(Reason.FUTURE): "future: a bound knows what comes",
    int(Reason.PROMISED): "promised: its tenant is to have no page below",
}

#: What became of pages.
STAYED_FAST: Final = "stayed fast"
STAYED_SLOW: Final = "stayed slow"
COULD_NOT_MOVE: Final = "could not move"
PROMOTED: Final = "promoted"
DEMOTED: Final = "demoted"
CAME_BACK: Final = "moved and came back"


@dataclass(frozen=True, slots=True)
class Tried:
    """Moves that were tried, as columns in order of time.

    Attributes:
        page: int64[n].
        errno: 0 where the page moved, int16[n].
    """

    page: NDArray[np.int64]
    errno: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the last decision stood on.

    Attributes:
        fast_latency_ns: Of the fastest tier; None: nobody says.
        slow_latency_ns: Of the next one; None: nobody says, or there is none.
        epoch_ns: Length of an epoch.
        notes: The policy's own figures: price, cost, threshold.
    """

    fast_latency_ns: float | None
    slow_latency_ns: float | None
    epoch_ns: float
    notes: Mapping[str, float]


def reason_name(code: int) -> str:
    """Return the name of a reason, ``unplanned`` for none."""
    return Reason(code).name.lower() if code in REASONS else "unplanned"


def page_ranges(page: NDArray[np.int64]) -> list[list[int]]:
    """Return ascending pages as [first, last] ranges.

    >>> page_ranges(np.array([3, 4, 5, 9]))
    [[3, 5], [9, 9]]
    """
    breaks = np.flatnonzero(np.diff(page) != 1) + 1
    return [[int(run[0]), int(run[-1])] for run in np.split(page, breaks) if len(run)]


def pages_per_node(node: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many pages are on each node, by its id as text."""
    ids, counts = np.unique(node, return_counts=True)
    return {str(one): int(count) for one, count in zip(ids, counts, strict=True)}


def derive_groups(
    page: NDArray[np.int64],
    before: NDArray[np.integer],
    after: NDArray[np.integer],
    tried: Tried,
) -> list[tuple[str, NDArray[np.int64]]]:
    """Return pages by what became of them.

    Args:
        page: Ascending, int64[n].
        before: Tier of each at the beginning, 0 the fastest.
        after: Tier of each at the end.
        tried: Moves of these pages and perhaps of others.
    """
    at = np.minimum(np.searchsorted(page, tried.page), max(len(page) - 1, 0))
    ours = page[at] == tried.page if len(page) else np.zeros(0, np.bool_)
    at, errno = at[ours], tried.errno[ours]
    nr = np.bincount(at[errno == 0], minlength=len(page))
    touched = np.bincount(at, minlength=len(page)) > 0
    kinds = {
        STAYED_FAST: (nr == 0) & (after == 0) & ~touched,
        STAYED_SLOW: (nr == 0) & (after > 0) & ~touched,
        COULD_NOT_MOVE: (nr == 0) & touched,
        PROMOTED: (nr > 0) & (after < before),
        DEMOTED: (nr > 0) & (after > before),
        CAME_BACK: (nr > 0) & (after == before),
    }
    return [(name, page[mask]) for name, mask in kinds.items() if mask.any()]


def explain_group(
    what: str,
    page: NDArray[np.int64],
    tried: Tried,
    figures: Figures,
    *,
    rate: float,
    belief: float | None,
    fast_share: float,
) -> dict[str, Any]:
    """Return why a group of pages is where it is.

    Args:
        what: A name from :func:`derive_groups`.
        page: Its pages, ascending.
        tried: Moves of these pages and perhaps of others.
        figures: What the last decision stood on.
        rate: Accesses per page and second of late.
        belief: What the tracker believed, where ``rate`` is the truth.
        fast_share: Share of the pages in the fastest tier now.
    """
    heat = f"{rate:.3g} accesses a page and second of late"
    if belief is not None:
        heat += f" (believed: {belief:.3g})"
        rate = belief
    mine = np.isin(tried.page, page)
    if what == COULD_NOT_MOVE:
        words = f"{heat}; every try failed: {_errors(tried.errno[mine])}"
    else:
        fast = what in (STAYED_FAST, PROMOTED)
        if what == CAME_BACK:
            moved = int(mine.sum())
            heat += f"; {moved} moves in all, back in the tier where they began"
            fast = fast_share > 0.5
        words = f"{heat}; {price_words(rate, figures, fast=fast)}"
    return {
        "what": what,
        "nr_pages": len(page),
        "pages": page_ranges(page),
        "words": words,
    }


def _errors(codes: NDArray[np.int16]) -> str:
    return ", ".join(
        errno_names.errorcode.get(int(code), str(code)) for code in np.unique(codes)
    )


def price_words(rate: float, figures: Figures, *, fast: bool) -> str:
    """Compare what a fast slot saves a page with its price and cost.

    The rule is that of the isotherm policy: per epoch a slot saves
    ``(slow - fast latency) x rate x epoch``, costs its price, and a swap must
    bring more than its two moves cost.
    """
    quick, slow, notes = figures.fast_latency_ns, figures.slow_latency_ns, figures.notes
    if quick is None or slow is None:
        return "the machine says no latencies, so no gain can be told"
    saves = (slow - quick) * rate * figures.epoch_ns / NS_PER_S
    said = f"a fast slot saves each {render_ns(saves)} an epoch"
    price, cost = notes.get("price_ns_0"), notes.get("cost_ns_0")
    if price is None or cost is None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in notes.items())
        rule = f"the policy's last figures: {shown}" if shown else "no figures kept"
        return f"{said}; {rule}"
    net = saves - price
    said += f", the price of one is {render_ns(price)}"
    if fast:
        if net >= 0:
            return f"{said}: worth its slot by {render_ns(net)} an epoch"
        if net > -cost:
            return (
                f"{said}: {render_ns(-net)} too little, but making room for another"
                f" page costs two moves, {render_ns(2 * cost)}"
            )
        return f"{said}: it is on its way out, or has cooled only now"
    if net <= 0:
        return f"{said}: not worth a slot"
    if net < cost:
        return (
            f"{said}: advantage {render_ns(net + cost)} at most, below the cost of"
            f" two moves {render_ns(2 * cost)}"
        )
    return (
        f"{said}: it would pay by now; single pages differ from their region, or"
        " the policy has not seen it yet"
    )
