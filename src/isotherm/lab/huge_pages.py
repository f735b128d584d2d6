"""Huge pages in a simulation: who decides about them, and what to report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.machine.sim.huge_machine import HugeSimMachine
from isotherm.machine.sim.machine import SimMachine
from isotherm.migration.sizes import Sizer
from isotherm.policy.huge_pages import MODES, check_mode
from isotherm.policy.plan import Policy, Setup

__all__ = ["MODES", "HugeRun", "check_huge_pages", "machine_class"]

#: How a simulation begins, after ``MODE:``.
STARTS = {"huge": 1.0, "small": 0.0, "mixed": 0.5}


def parse_huge_pages(text: str) -> tuple[str, float]:
    """Return who decides about page sizes, and the share of ranges huge at first.

    Args:
        text: ``MODE`` or ``MODE:START``.

    Raises:
        UsageError: No such mode or start.

    >>> parse_huge_pages("priced"), parse_huge_pages("priced:small")
    (('priced', 1.0), ('priced', 0.0))
    """
    mode, _, start = text.partition(":")
    check_mode(mode)
    if start and start not in STARTS:
        raise UsageError(
            f"huge pages: {text}: expected {', '.join(STARTS)} after the colon,"
            f" got {start!r}"
        )
    return mode, STARTS[start or "huge"]


def check_huge_pages(text: str | None, policy: str) -> None:
    """Raise UsageError for what cannot be simulated.

    Args:
        text: ``MODE`` or ``MODE:START``; None: small pages alone.
        policy: Who moves.
    """
    if text is None:
        return
    parse_huge_pages(text)
    if policy != "isotherm":
        raise UsageError(
            f"huge pages: policy isotherm alone moves them whole, got {policy}",
            hint="its modes stand for others: never-split, always-split, always-huge",
        )


def machine_class(text: str | None) -> type[SimMachine]:
    """Return the kind of machine for a simulation with huge pages, or without."""
    return SimMachine if text is None else HugeSimMachine


def whole_ranges(order: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return an order of pages in which ranges of 512 stay whole.

    Args:
        order: All pages, in the order in which they would be placed one by one; a
            range is where its first page was.
    """
    block = order // PAGES_PER_HUGE_PAGE
    _, first = np.unique(block, return_index=True)
    turn = block[np.sort(first)].astype(np.int64)
    size = np.minimum(PAGES_PER_HUGE_PAGE, len(order) - turn * PAGES_PER_HUGE_PAGE)
    begin = np.cumsum(size) - size
    number = np.arange(len(order)) - np.repeat(begin, size)
    page: NDArray[np.uint32] = np.repeat(turn * PAGES_PER_HUGE_PAGE, size) + number
    return page.astype(np.uint32)


@dataclass(slots=True)
class HugeRun:
    """Huge pages of one simulation under way.

    Attributes:
        mode: Who decides about page sizes.
        machine: With huge pages.
        sizer: Carries out what is decided.
    """

    mode: str
    machine: HugeSimMachine
    sizer: Sizer

    @staticmethod
    def begin(text: str | None, machine: SimMachine) -> "HugeRun | None":
        """Return huge pages as they are at first; None: none are simulated."""
        if text is None or not isinstance(machine, HugeSimMachine):
            return None
        mode, share = parse_huge_pages(text)
        machine.begin_huge(share)
        return HugeRun(mode, machine, Sizer(machine))

    def report(self) -> Mapping[str, Any]:
        """Return the figures for a result."""
        totals = self.sizer.totals
        return {
            "mode": self.mode,
            **self.machine.huge_memory.report(),
            "collapses": totals.collapses,
            "splits": totals.splits,
            "failed": {str(k): v for k, v in (totals.failed or {}).items()},
            "gathered_pages": totals.gathered_pages,
            "collapse_ns": totals.collapse_ns,
            "split_ns": totals.split_ns,
        }


def make_huge_policy(text: str, setup: Setup) -> Policy:
    """Return isotherm with page sizes in some mode."""
    from isotherm.policy.huge_isotherm import HugeIsotherm  # noqa: PLC0415  # numba

    return HugeIsotherm(setup, parse_huge_pages(text)[0])
