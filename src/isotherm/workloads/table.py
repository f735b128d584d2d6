"""The table that draws read: an alias table over bins, in integers throughout.

Walker's alias method ("An efficient method for generating discrete random
variables with general distributions", ACM TOMS 3(3), 1977) with Vose's linear
construction. Weights are first rounded to multiples of 2^-32 that sum to one,
so that 32 random bits pick a bin exactly as the table says.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.workloads.density import Density

#: Columns of ``DrawTable.rows``.
ROW_LOW, ROW_LENGTH, ROW_END, ROW_SPAN = range(4)
NO_END = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a mixture.

    Attributes:
        share: Share of the accesses, > 0, any scale.
        density: Over the component's own indices; None for a sweep, which
            visits them in order, ``DrawTable.burst`` accesses at each.
        base: Where its indices begin in the page map.
        span: How many indices a sweep has; taken from a density otherwise.
    """

    share: float
    density: Density | None
    base: int = 0
    span: int = 0


@dataclass(slots=True)
class DrawTable:
    """What the kernel reads; ``rows`` change when a component turns.

    Attributes:
        slots: uint32[m, 2]: threshold of a slot's own bin, bin beyond it.
        shift: 32 - log2(m).
        rows: uint32[bins, 4]: low, length, end, span of each bin, in indices
            of the page map; span 0 marks the sweep.
        parts: First row of each part, and the number of rows at the end.
        starts: int64[bins]: bin starts within their own part.
        bases: Where each part's indices begin in the page map.
        spans: Indices of each part.
        sweep_pages: Indices of the sweep, or 0.
        burst: Accesses at each index of the sweep.
    """

    slots: NDArray[np.uint32]
    shift: int
    rows: NDArray[np.uint32]
    parts: list[int]
    starts: NDArray[np.int64]
    bases: list[int]
    spans: list[int]
    sweep_pages: int
    burst: int

    def copy(self) -> "DrawTable":
        """Return a table whose rows can be changed apart from this one's."""
        return DrawTable(
            self.slots,
            self.shift,
            self.rows.copy(),
            self.parts,
            self.starts,
            list(self.bases),
            self.spans,
            self.sweep_pages,
            self.burst,
        )

    def turn(self, part: int, offset: int) -> None:
        """Shift a part's indices by ``offset``, modulo its span."""
        first, last = self.parts[part], self.parts[part + 1]
        low = (self.starts[first:last] + offset) % self.spans[part]
        self.rows[first:last, ROW_LOW] = low + self.bases[part]

    def move(self, part: int, base: int) -> None:
        """Point a part at another place of the page map."""
        first, last = self.parts[part], self.parts[part + 1]
        self.bases[part] = base
        self.rows[first:last, ROW_LOW] = self.starts[first:last] + base
        self.rows[first:last, ROW_END] = base + self.spans[part]


def apportion(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return integers in proportion to the weights that sum to 2^32 exactly.

    Largest remainders get the units that rounding down leaves over.
    """
    exact = weight / weight.sum() * float(1 << 32)
    units: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = (1 << 32) - int(units.sum())
    order = np.argsort(-(exact - units), kind="stable")
    if missing > 0:
        units[order[:missing]] += 1
    elif missing < 0:  # the quotient rounded up; take it where most is
        units[int(units.argmax())] += missing
    return units


def alias_slots(weight: NDArray[np.float64]) -> tuple[NDArray[np.uint32], int]:
    """Return the alias table of weights: uint32[m, 2] and 32 - log2(m).

    Args:
        weight: float64[n], >= 0, not all zero.
    """
    m = 1 << max(1, (len(weight) - 1).bit_length())
    shift = 33 - m.bit_length()
    full = 1 << shift
    mass = apportion(weight).tolist() + [0] * (m - len(weight))
    threshold = [0] * m
    alias = list(range(m))
    small = [i for i, units in enumerate(mass) if units < full]
    large = [i for i, units in enumerate(mass) if units >= full]
    while small and large:
        under, over = small.pop(), large[-1]
        threshold[under], alias[under] = mass[under], over
        mass[over] -= full - mass[under]
        if mass[over] < full:
            small.append(large.pop())
    for i in small + large:
        threshold[i] = full  # integers: what is left is exactly full
    slots = np.array([threshold, alias], dtype=np.uint32).T
    return np.ascontiguousarray(slots), shift


def build_table(parts: list[Part], burst: int = 64) -> DrawTable:
    """Return the table of a mixture of components.

    Args:
        parts: At least one; at most one of them a sweep.
        burst: Accesses at each index of the sweep, >= 1.
    """
    weights, rows, starts, bounds = [], [], [], [0]
    spans, sweep_pages = [], 0
    scale = sum(part.share for part in parts)
    for part in parts:
        if part.density is None:
            sweep_pages = part.span
            weights.append(np.array([part.share / scale]))
            rows.append(np.array([[part.base, 1, NO_END, 0]], np.uint32))
            starts.append(np.zeros(1, np.int64))
            spans.append(part.span)
        else:
            own = part.density
            block = np.empty((len(own.start), 4), np.uint32)
            block[:, ROW_LOW] = own.start + part.base
            block[:, ROW_LENGTH] = own.length
            block[:, ROW_END] = part.base + own.span
            block[:, ROW_SPAN] = own.span
            weights.append(own.weight * (part.share / scale))
            rows.append(block)
            starts.append(own.start)
            spans.append(own.span)
        bounds.append(bounds[-1] + len(rows[-1]))
    slots, shift = alias_slots(np.concatenate(weights))
    return DrawTable(
        slots,
        shift,
        np.concatenate(rows),
        bounds,
        np.concatenate(starts),
        [part.base for part in parts],
        spans,
        sweep_pages,
        burst,
    )
