"""A live run, kept for ``isotherm explain``: the recorder's columns, from estimates.

A host does not count accesses by page. What a simulation records as true accesses
is here the tracker's estimate, and ``explain`` shows both columns alike.

The recording has a fixed length, spaces do not: it is made with room to grow, and
what comes beyond is left out and counted.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGES_PER_HUGE_PAGE
from isotherm.hotness.protocol import HotnessView
from isotherm.loop.epoch import Step
from isotherm.machine.protocol import NOT_PRESENT, Machine, Usage
from isotherm.observability.recorder import Recorder
from isotherm.policy.plan import Moves, Outcome

#: Room for so many times what is there at the start, and at least 4 GiB.
GROWTH: Final = 4
LEAST_PAGES: Final = 1 << 20
#: Pages of a region that are asked for their rate.
ASKED: Final = 8


class LiveRecorder:
    """Keeps what a live run does.

    Args:
        directory: A new directory, or one that holds a recording.
        machine: What runs.
        spec: What was asked for, JSON values.
        epoch_ns: Length of an epoch at the start.
        move_cost_ns: Cost of moving one page, float64[nodes, nodes].

    Raises:
        UsageError: The directory holds other things.
    """

    def __init__(
        self,
        directory: Path,
        machine: Machine,
        spec: Mapping[str, Any],
        epoch_ns: int,
        move_cost_ns: NDArray[np.float64],
    ) -> None:
        self._machine = machine
        self._recorder = Recorder(directory)
        self.pages = max(LEAST_PAGES, GROWTH * machine.pages)
        self._nodes = machine.latency_ns().shape[1]
        self._recorder.start(
            spec=spec,
            topology=machine.topology,
            node=self._padded(machine.placement()),
            epoch_ns=epoch_ns,
            latency_ns=machine.latency_ns(),
            move_cost_ns=move_cost_ns,
        )

    @property
    def left_out_pages(self) -> int:
        """Pages beyond the recording's end."""
        return max(0, self._machine.pages - self.pages)

    def epoch(self, index: int, dt_ns: int, step: Step, wished: Moves) -> None:
        """Keep one epoch.

        Args:
            index: Epochs since the start.
            dt_ns: Its length.
            step: What happened.
            wished: The plan before anything was held back.
        """
        machine, recorder = self._machine, self._recorder
        node = machine.placement()[: self.pages]
        belief = self._belief(step.hotness, node)
        width = np.full(recorder.regions, recorder.region_pages, np.float64)
        heat = belief * width * (dt_ns / NS_PER_S)
        latency = _columns(machine.latency_ns(), self._nodes)
        inside = wished.page < self.pages
        recorder.epoch(
            index=index,
            now_ns=machine.clock.now_ns(),
            dt_ns=dt_ns,
            accesses_per_node=self._accesses(heat, node, latency.shape[1]),
            heat=heat.astype(np.float32),
            plan_moves=wished if inside.all() else wished.take(np.flatnonzero(inside)),
            outcome=_within(step.outcome, self.pages),
            notes=step.plan.notes,
            latency_ns=latency,
            costs={
                "application_ns": sum(b.application_ns for b in step.hints),
                "background_ns": sum(b.background_ns for b in step.hints),
                "migration_ns": step.outcome.cost_ns,
            },
            usage=_known(machine.usage(), self._nodes),
            resized=step.resized,
            fast_share=self._fast_share(node),
            belief=belief,
        )

    def finish(self, result: Mapping[str, Any], policy: str, targets: str) -> None:
        """Make it a recording."""
        self._recorder.finish(
            {
                **result,
                "policy": policy,
                "workload": targets,
                "machine": "this host",
                "fast_ratio": None,
                "left_out_pages": self.left_out_pages,
            }
        )

    def abandon(self) -> None:
        """Remove what was written: the run did not come to its end."""
        self._recorder.__exit__(None, None, None)

    def _padded(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        padded = np.full(self.pages, NOT_PRESENT, np.uint8)
        padded[: len(node)] = node[: self.pages]
        return padded

    def _belief(
        self, view: HotnessView | None, node: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Return the mean rate of every region, from a few of its pages."""
        size, rows = self._recorder.region_pages, self._recorder.regions
        belief = np.zeros(rows)
        if view is None:
            return belief
        step = max(1, size // ASKED)
        page = np.arange(step // 2, min(len(node), view.pages), step, dtype=np.uint32)
        page = page[node[page] != NOT_PRESENT]
        if len(page):
            row = page // size
            total = np.bincount(row, view.rate(page).astype(np.float64), rows)
            # Pages without memory are not accessed: they count as asked.
            asked = np.bincount(
                np.arange(step // 2, self.pages, step) // size, minlength=rows
            )
            belief = total / np.maximum(1, asked)
        return belief

    def _fast_share(self, node: NDArray[np.uint8]) -> NDArray[np.float64]:
        size, rows = self._recorder.region_pages, self._recorder.regions
        fast = np.zeros(256, np.int64)
        fast[list(self._machine.topology.tiers[0].nodes)] = 1
        starts = np.arange(0, len(node), size)
        share = np.zeros(rows)
        share[: len(starts)] = np.add.reduceat(fast[node], starts) / size
        return share

    def _accesses(
        self, heat: NDArray[np.float64], node: NDArray[np.uint8], nodes: int
    ) -> NDArray[np.int64]:
        """Return estimated accesses by node: a region's go where most of it is."""
        size = self._recorder.region_pages
        middle = np.arange(len(heat)) * size + min(size, PAGES_PER_HUGE_PAGE) // 2
        inside = middle < len(node)
        there = node[middle[inside]]
        known = there < nodes
        counts = np.bincount(there[known], heat[inside][known], nodes)
        return counts.astype(np.int64)


def _columns(table: NDArray[Any], nodes: int) -> NDArray[Any]:
    """Return a table by node with so many columns: a swap may come or go as a node."""
    more = nodes - table.shape[-1]
    if more <= 0:
        return table[..., :nodes]
    return np.pad(table, [(0, 0)] * (table.ndim - 1) + [(0, more)])


def _known(usage: Usage, nodes: int) -> Usage:
    columns = {field.name: getattr(usage, field.name) for field in fields(Usage)}
    return replace(
        usage,
        **{name: _columns(c, nodes) for name, c in columns.items() if c is not None},
    )


def _within(outcome: Outcome, pages: int) -> Outcome:
    inside = outcome.page < pages
    if inside.all():
        return outcome
    return outcome.take(inside)
