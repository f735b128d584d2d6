"""Huge pages of a live run: who decides, who carries it out, what is reported."""

from dataclasses import replace
from typing import Any, Protocol

import structlog

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.daemon.config import Config
from isotherm.machine.linux.huge import HugeHost, TlbFacts
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.protocol import HugePages, Machine
from isotherm.migration.books import Books
from isotherm.migration.holdback import HoldBack
from isotherm.migration.sizes import Sizer
from isotherm.policy.plan import Policy, Setup
from isotherm.policy.registry import make_policy
from isotherm.policy.tenants import NONE

log = structlog.get_logger()


class LiveSizer(Sizer):
    """A `Sizer` whose engine holds huge pages back whole.

    Args:
        host: Huge pages of the host.
        hold_back: What holds moves back; None: nothing does.
    """

    def __init__(self, host: HugeHost, hold_back: HoldBack | None) -> None:
        super().__init__(host)
        self._hold_back = hold_back

    def look(self) -> HugePages:
        """Return which memory is huge, with costs as they were measured."""
        found = super().look()
        if self._hold_back is not None:
            self._hold_back.huge = found.huge
        return found


class Keeper(Protocol):
    """An engine that keeps books."""

    @property
    def books(self) -> Books:
        """Costs, and moves held back."""
        ...


def open_sizer(
    whole: Config, machine: Machine, engine: Keeper, *, dry_run: bool
) -> LiveSizer | None:
    """Return who changes page sizes in this run; None: they are left alone.

    Memory in units of several pages has no page sizes to speak of: said once.

    Raises:
        UnsupportedError: The kernel cannot say where huge pages are.
        UsageError: The policy is none that moves huge pages whole.
    """
    config, policy = whole.huge_pages, whole.loop.policy
    if not config.use:
        return None
    if policy != "isotherm":
        raise UsageError(
            f"huge pages: policy isotherm alone moves them whole, got {policy}"
        )
    if not isinstance(machine, LinuxMachine):
        log.warning("huge-pages-off", why="memory is in units of several pages")
        return None
    tlb = TlbFacts(config.tlb_entries, config.walk_ns, config.huge_walk_ns)
    sizer = LiveSizer(HugeHost(machine, tlb), engine.books.hold_back)
    if dry_run:
        sizer.share = 0.0
    return sizer


def brake_sizer(sizer: object, share: float) -> None:
    """Have page sizes left alone while movement is braked."""
    if isinstance(sizer, LiveSizer):
        sizer.share = share


def make_live_policy(config: Config, setup: Setup) -> Policy:
    """Return who decides: isotherm with huge pages where they are asked for.

    Isotherm alone keeps room for what is born; ``loop.headroom`` false: not even it.

    Raises:
        UnsupportedError: There are tenants on terms of their own.
    """
    name = config.loop.policy
    if name == "isotherm" and not config.loop.headroom:
        setup = replace(setup, options={**setup.options, "birth": 0.0})
    if not config.huge_pages.use or name != "isotherm":
        return make_policy(name, setup)
    if setup.tenancy is not None and setup.tenancy.sharing != NONE:
        raise UnsupportedError(
            "huge pages: the markets of tenants trade small pages",
            hint="run without tenants, or without --huge-pages",
        )
    from isotherm.policy.huge_isotherm import HugeIsotherm  # noqa: PLC0415  # numba

    return HugeIsotherm(setup)


def report(sizer: object) -> dict[str, Any]:
    """Return what a run's result says of page sizes; nothing without huge pages."""
    if not isinstance(sizer, LiveSizer):
        return {}
    totals = sizer.totals
    return {
        "huge_pages": {
            "huge_ranges": int(sizer.look().huge.sum()),
            "collapses": totals.collapses,
            "splits": totals.splits,
            "failed": {str(k): v for k, v in (totals.failed or {}).items()},
            "gathered_pages": totals.gathered_pages,
            "collapse_ns": totals.collapse_ns,
            "split_ns": totals.split_ns,
        }
    }
