"""The short of the quality benchmark, as a paragraph for the README."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from quality_grid import REGIMES

if TYPE_CHECKING:
    from quality_report import Bar

MEAN: Final = "mean regret"
WORST: Final = "highest regret of a cell"
FLAT_MOVES: Final = "moves over pages on uniform and stream"
#: The regimes besides main, in the paragraph's words.
SHORT: Final = {
    "rate-100": "a hundred accesses a page and second",
    "rate-1": "one access a page and second",
    "bits-only": "accessed bits alone",
    "ragged": "contiguity aligned to nothing",
    "first-access": "placed by first access",
    "traces": "recorded programs",
}


def render_short(bars: Sequence["Bar"]) -> str:
    """Return the bars of the first regime, and of the others the regret, as prose."""
    at = {(bar.regime, bar.name): bar.value for bar in bars}

    def regret(regime: str) -> str:
        mean, worst = (at.get((regime, name)) for name in (MEAN, WORST))
        return "" if mean is None else f"{mean:.2f}, worst {worst or 0.0:.2f}"

    def share(name: str) -> str:
        return f"{at.get(('main', name)) or 0.0:.1%}".replace("%", " %")

    parts = []
    if regret("main"):
        parts.append(
            "At ten accesses a page and second isotherm's mean regret is"
            f" {at['main', MEAN]:.2f} (0 would be the best bound, 1 never moving a"
            f" page), in the worst of {at['main', 'cells']:.0f} cells"
            f" {at['main', WORST]:.2f}; it is within 2 % of the best peer in"
            f" {share('within 2 % of the best peer')} of cells, the fastest in"
            f" {share('faster than every peer')}, and never more than"
            f" {share('slower than first-touch, worst cell')} slower than never"
            " moving a page. Where nothing is to be gained it moves at most"
            f" {at.get(('main', FLAT_MOVES)) or 0.0:.2f} pages a page in two minutes."
        )
    others = [
        f"{words} {regret(name)}" for name, words in SHORT.items() if regret(name)
    ]
    if others:
        parts.append(f"Mean regret elsewhere: {'; '.join(others)}.")
    slower = {n: at.get((n, "slower than first-touch, worst cell")) for n in REGIMES}
    worst, by = max(slower.items(), key=lambda item: item[1] or 0.0)
    if by is not None and by > 0:
        parts.append(
            f"The worst cell against never moving a page is {by:.0%} slower"
            f" ({REGIMES[worst].title}).".replace("%", " %", 1)
        )
    return " ".join(parts)
