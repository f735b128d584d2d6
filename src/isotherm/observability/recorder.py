"""The recorder: what a run did, kept for ``explain`` and for the report.

Used by whoever runs the loop::

    with Recorder(directory) as recorder:        # or Recorder(): memory only
        recorder.start(spec=..., topology=..., node=..., epoch_ns=...)
        for ...:
            recorder.epoch(...)
        recorder.finish(result)

In memory it keeps a ``Timeline`` (a few hundred kilobytes). With a directory it
appends columns to Parquet files as well, see ``isotherm.observability.recording``.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.protocol import Usage
from isotherm.observability.recording import RecordingWriter
from isotherm.observability.sizes import SizeLog
from isotherm.observability.timeline import (
    Timeline,
    TimelineBuilder,
    region_pages_for,
)
from isotherm.policy.plan import Moves, Outcome
from isotherm.policy.sizes import SizeChanges
from isotherm.topology.model import Topology

#: Rows of the heat matrix on disk: finer than a report's, so that ``explain``
#: can look at few pages.
DISK_ROWS = 2048


class Recorder:
    """Keeps what a run did.

    Args:
        directory: Where to keep columns; None: only the small series in memory.
        rows: Rows of the heat matrix on disk, at most.
    """

    def __init__(self, directory: Path | None = None, rows: int = DISK_ROWS) -> None:
        self._directory = directory
        self._rows = rows
        self._writer: RecordingWriter | None = None
        self._builder: TimelineBuilder | None = None
        self._region_pages = 1
        self._coarse = 1
        self._pages = 0
        self._node = np.empty(0, np.uint8)
        self._rank = np.empty(0, np.int64)
        self._reason = np.empty(0, np.uint8)
        self._gain = np.empty(0, np.float32)
        self._sizes = SizeLog()

    @property
    def region_pages(self) -> int:
        """Pages of a region: page ``p`` belongs to region ``p // region_pages``."""
        return self._region_pages

    @property
    def regions(self) -> int:
        """Regions; the length of ``heat`` and ``fast_share`` in ``epoch``."""
        return -(-self._pages // self._region_pages)

    def start(
        self,
        *,
        spec: Mapping[str, Any],
        topology: Topology,
        node: NDArray[np.uint8],
        epoch_ns: int,
        latency_ns: NDArray[np.float64] | None = None,
        move_cost_ns: NDArray[np.float64] | None = None,
    ) -> None:
        """Begin; called once, before the first epoch, when pages are placed.

        Args:
            spec: What was asked for, as plain JSON values.
            topology: Nodes and tiers.
            node: Where pages are at the start, uint8[pages]; copied.
            epoch_ns: Length of an epoch.
            latency_ns: Unloaded latency, float64[initiators, nodes].
            move_cost_ns: Cost of moving one page, float64[nodes, nodes].

        Raises:
            UsageError: The directory holds something else than a recording.
        """
        self._pages = len(node)
        coarse = region_pages_for(self._pages)
        self._region_pages = coarse
        self._coarse = 1
        if self._directory is not None:
            self._region_pages = region_pages_for(self._pages, self._rows)
            self._coarse = -(-coarse // self._region_pages)
        self._node = node.copy()
        rank = np.full(256, len(topology.tiers), np.int64)
        for tier_rank, tier in enumerate(topology.tiers):
            rank[list(tier.nodes)] = tier_rank
        self._rank = rank
        self._builder = TimelineBuilder(self._pages, self._region_pages * self._coarse)
        if self._directory is not None:
            self._reason = np.full(self._pages, 255, np.uint8)
            self._gain = np.full(self._pages, np.nan, np.float32)
            self._writer = RecordingWriter(self._directory)
            self._writer.start(
                spec=dict(spec),
                topology=topology,
                node=node,
                region_pages=self._region_pages,
                epoch_ns=epoch_ns,
                latency_ns=latency_ns,
                move_cost_ns=move_cost_ns,
            )

    def epoch(
        self,
        *,
        index: int,
        now_ns: int,
        dt_ns: int,
        accesses_per_node: NDArray[np.int64],
        heat: NDArray[np.floating],
        plan_moves: Moves,
        outcome: Outcome,
        costs: Mapping[str, float],
        latency_ns: NDArray[np.float64],
        notes: Mapping[str, float] | None = None,
        fast_share: NDArray[np.floating] | None = None,
        belief: NDArray[np.floating] | None = None,
        usage: Usage | None = None,
        promoted_pages: int | None = None,
        demoted_pages: int | None = None,
        resized: SizeChanges | None = None,
    ) -> None:
        """Keep one epoch.

        Args:
            index: Epochs since the start.
            now_ns: Machine time at the end of the epoch.
            dt_ns: Length of the epoch.
            accesses_per_node: Accesses served by every node, int64[nodes].
            heat: True accesses of every region in this epoch, [regions].
            plan_moves: What the policy wished for at the end of this epoch.
            outcome: What was tried since the last call, with errno per page;
                its pages are in this ``plan_moves`` or in an earlier one.
            costs: ``application_ns``, ``background_ns``, ``migration_ns``;
                ``access_ns``: time that the epoch's accesses took, all together
                (left out: derived from ``accesses_per_node`` and
                ``latency_ns[0]``); ``all_fast_ns``: the same in fast memory.
            latency_ns: Loaded latency, float64[initiators, nodes].
            notes: Figures behind the decision (``Plan.notes``).
            fast_share: Share of every region's pages in the fastest tier,
                [regions]; None: derived from start and outcomes. Needed where
                the machine moves pages itself (demand filling).
            belief: The tracker's mean rate per page of every region, accesses
                per second, [regions]; None where there is no tracker.
            usage: Pages per node, after the moves.
            promoted_pages: Pages promoted, where the machine moves pages itself
                and ``outcome`` does not hold them.
            demoted_pages: Likewise.
            resized: Changes of page size that were made; None: none.
        """
        if self._builder is None:
            raise RuntimeError("recorder: epoch() before start()")
        if resized is not None:
            self._sizes.keep(index, now_ns, resized)
        moved = outcome.errno == 0
        source = self._node[outcome.page]
        source_rank = self._rank[source]
        target_rank = self._rank[outcome.node]
        promoted = int(np.count_nonzero(moved & (target_rank < source_rank)))
        demoted = int(np.count_nonzero(moved & (target_rank > source_rank)))
        self._node[outcome.page[moved]] = outcome.node[moved]
        if fast_share is None:
            fast_share = self._fast_share()
        access_time_ns = costs.get("access_ns")
        if access_time_ns is None:
            nodes = len(accesses_per_node)
            access_time_ns = float(accesses_per_node @ latency_ns[0, :nodes])
        fast_nodes = np.flatnonzero(self._rank[: len(accesses_per_node)] == 0)
        sums = {
            "dt_ns": float(dt_ns),
            "accesses": float(accesses_per_node.sum()),
            "fast_accesses": float(accesses_per_node[fast_nodes].sum()),
            "latency_ns": access_time_ns,
            "all_fast_ns": costs.get("all_fast_ns", np.nan),
            "application_ns": costs.get("application_ns", 0.0),
            "background_ns": costs.get("background_ns", 0.0),
            "migration_ns": costs.get("migration_ns", 0.0),
            "promoted_pages": float(
                promoted if promoted_pages is None else promoted_pages
            ),
            "demoted_pages": float(demoted if demoted_pages is None else demoted_pages),
            "failed_pages": float(len(outcome.errno) - np.count_nonzero(moved)),
            "planned_pages": float(len(plan_moves)),
        }
        notes = dict(notes or {})
        self._builder.add(
            sums, self._by_row(heat), self._mean_by_row(fast_share), notes
        )
        if self._writer is not None:
            # Of this plan first: an outcome may belong to it or to an older one.
            self._reason[plan_moves.page] = plan_moves.reason
            self._gain[plan_moves.page] = plan_moves.gain_ns
            self._writer.epoch(
                index=index,
                now_ns=now_ns,
                sums=sums,
                accesses_per_node=accesses_per_node,
                latency_ns=latency_ns,
                used_pages=None if usage is None else usage.used_pages,
                notes=notes,
                heat=heat,
                fast_share=fast_share,
                belief=belief,
            )
            self._writer.moves(
                index=index,
                page=outcome.page,
                source=source,
                target=outcome.node,
                errno=outcome.errno,
                reason=self._reason[outcome.page],
                gain_ns=self._gain[outcome.page],
            )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep the result of the run and close the files."""
        if self._writer is not None:
            sizes = {"sizes": self._sizes.columns()} if len(self._sizes) else {}
            self._writer.finish(dict(result), sizes)
            self._writer = None

    def timeline(self) -> Timeline:
        """Return the run so far, folded."""
        if self._builder is None:
            raise RuntimeError("recorder: timeline() before start()")
        return self._builder.build()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing half-written when the run did not finish."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _fast_share(self) -> NDArray[np.float64]:
        starts = np.arange(0, self._pages, self._region_pages)
        fast = (self._rank[self._node] == 0).astype(np.int64)
        size = np.diff(np.append(starts, self._pages))
        share: NDArray[np.float64] = np.add.reduceat(fast, starts) / size
        return share

    def _by_row(self, region: NDArray[np.floating]) -> NDArray[np.floating]:
        """Sum regions into the rows of the matrix in memory."""
        if self._coarse == 1:
            return region
        starts = np.arange(0, len(region), self._coarse)
        total: NDArray[np.floating] = np.add.reduceat(region.astype(np.float64), starts)
        return total

    def _mean_by_row(self, share: NDArray[np.floating]) -> NDArray[np.floating]:
        """Average regions, by their pages, into rows of the matrix in memory."""
        if self._coarse == 1:
            return share
        size = np.full(self.regions, self._region_pages, np.float64)
        size[-1] = self._pages - self._region_pages * (self.regions - 1)
        return self._by_row(share * size) / self._by_row(size)
