"""Why memory of a managed process is where it is, from a daemon's history."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.history import REGION_PAGES, History, Kept
from isotherm.machine.protocol import NOT_PRESENT, Space
from isotherm.observability.why import (
    Figures,
    Tried,
    derive_groups,
    explain_group,
    pages_per_node,
    reason_name,
)

#: Moves in an answer, the latest; ranges in it, the hottest.
MOST_MOVES: Final = 4096
MOST_RANGES: Final = 64
#: Regions whose heat differs by less than this factor are told as one range.
ALIKE: Final = 2.0


class Part:
    """Flat pages of one process within a range of addresses.

    Attributes:
        page: Flat pages, int64[n], ascending by address.
        vpage: Their virtual page numbers, int64[n].

    Args:
        spaces: Those of the machine.
        pid: The process.
        start: First address; None: from the first.
        end: One past the last; None: to the last.
        page_bytes: Of what the machine calls a page.

    Raises:
        TargetGoneError: The process is not managed.
        UsageError: None of its managed memory is in the range.
    """

    def __init__(
        self,
        spaces: tuple[Space, ...],
        pid: int,
        start: int | None = None,
        end: int | None = None,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        own = sorted(
            (space for space in spaces if pid_of(space) == pid),
            key=lambda space: space.start_page,
        )
        if not own:
            raise TargetGoneError(
                f"pid {pid}: not managed by this daemon",
                hint="isotherm explain without --pid lists what is",
            )
        first = 0 if start is None else start // page_bytes
        last = 1 << 52 if end is None else -(-end // page_bytes)
        flat, virtual = [], []
        for space in own:
            a = max(first, space.start_page)
            b = min(last, space.start_page + space.pages)
            if a < b:
                virtual.append(np.arange(a, b, dtype=np.int64))
                flat.append(virtual[-1] - space.start_page + space.base)
        if not flat:
            low = own[0].start_page * page_bytes
            high = (own[-1].start_page + own[-1].pages) * page_bytes
            raise UsageError(
                f"range {first * page_bytes:x}-{last * page_bytes:x}: no managed memory"
                f" of pid {pid} there, expected within {low:x}-{high:x}"
            )
        self.page: NDArray[np.int64] = np.concatenate(flat)
        self.vpage: NDArray[np.int64] = np.concatenate(virtual)


def pid_of(space: Space) -> int | None:
    """Return the process that a space belongs to, from its owner's name.

    >>> pid_of(Space(0, 1, "pid 4242"))
    4242
    """
    words = space.owner.split()
    if len(words) >= 2 and words[0] == "pid" and words[1].isdigit():
        return int(words[1])
    return None


def explain_live(
    history: History,
    pid: int,
    start: int | None = None,
    end: int | None = None,
    state: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return why memory of a process is where it is, as JSON values.

    Where the daemon works in units of several pages, a page of the answer is a
    unit: ``page_bytes`` says how much memory that is, and addresses are whole units.

    Args:
        history: Of the daemon.
        pid: The process.
        start: First address; None: all of its memory.
        end: One past the last address.
        state: What else the daemon says of itself.

    Raises:
        TargetGoneError: The process is not managed.
        UsageError: None of its managed memory is in the range.
    """
    with history.lock:
        page_bytes = history.unit_pages * PAGE_BYTES
        part = Part(history.spaces, pid, start, end, page_bytes)
        known = part.page < len(history.node)
        part.page, part.vpage = part.page[known], part.vpage[known]
        answer = _Answer(history, part)
        return {
            "live": True,
            "pid": pid,
            "range": [
                int(part.vpage[0]) * page_bytes,
                (int(part.vpage[-1]) + 1) * page_bytes,
            ],
            "nr_pages": len(part.page),
            "page_bytes": page_bytes,
            "region_pages": REGION_PAGES,
            "nodes": answer.node_names(),
            "end_pages_per_node": pages_per_node(answer.node),
            "ranges": answer.ranges(),
            "heat": answer.heat(),
            "moves": answer.moves(),
            "moves_forgotten": history.dropped_moves,
            "sizes": answer.sizes(),
            "decision": dict(history.notes),
            "why": answer.why(),
            "state": dict(state or {}),
        }


class _Answer:
    """The parts of one answer; the history does not change meanwhile."""

    def __init__(self, history: History, part: Part) -> None:
        self.history, self.part = history, part
        self.page_bytes = history.unit_pages * PAGE_BYTES
        self.node = history.node[part.page]
        self.region = part.page // REGION_PAGES
        self.regions, self.row = np.unique(self.region, return_inverse=True)
        self.weight = np.bincount(self.row, self.node != NOT_PRESENT, len(self.regions))
        kept = history.moves
        order = np.argsort(part.page)
        at = np.searchsorted(part.page[order], kept.page)
        at = order[np.minimum(at, len(order) - 1)]
        rows = np.flatnonzero(part.page[at] == kept.page)
        self.kept: Kept = kept.take(rows)
        self.kept_vpage = part.vpage[at[rows]]
        self.rate = self._column("rate")
        self.share = self._column("fast_share")
        self.latency = history.machine.latency_ns()[0]

    def _column(self, name: str) -> NDArray[np.float64]:
        """Return a column of all stretches, float64[stretches, regions of ours]."""
        table = np.full((len(self.history.stretches), len(self.regions)), np.nan)
        for row, stretch in enumerate(self.history.stretches):
            column = getattr(stretch, name)
            inside = self.regions < len(column)
            table[row, inside] = column[self.regions[inside]]
        return table

    def node_names(self) -> dict[str, str]:
        """Return names of nodes for people, by id."""
        topology = self.history.machine.topology
        rank = {
            node: rank
            for rank, tier in enumerate(topology.tiers)
            for node in tier.nodes
        }
        return {
            str(node.id): f"{node.label or node.kind}, tier {rank[node.id]}"
            for node in topology.nodes
            if node.id in rank
        }

    def _mean(self, values: NDArray[np.float64]) -> float | None:
        """Return the mean over regions, weighted by pages with memory."""
        known = ~np.isnan(values) & (self.weight > 0)
        if not known.any():
            return None
        return float(np.average(values[known], weights=self.weight[known]))

    def heat(self) -> list[dict[str, Any]]:
        """Return rate and placement of the range, stretch by stretch."""
        rows = []
        for row, stretch in enumerate(self.history.stretches):
            rate = self._mean(self.rate[row])
            if rate is None:
                continue
            rows.append(
                {
                    "from_s": self._seconds(stretch.from_ns),
                    "to_s": self._seconds(stretch.to_ns),
                    "rate": rate,
                    "belief": None,
                    "fast_share": self._mean(self.share[row]) or 0.0,
                }
            )
        return rows

    def ranges(self) -> list[dict[str, Any]]:
        """Return runs of regions that are about as hot, hottest first."""
        if not len(self.rate):
            return []
        rate, share = self.rate[-1], self.share[-1]
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        vpage = self.part.vpage[first]
        last = np.append(first[1:], len(self.part.vpage)) - 1
        found: list[dict[str, Any]] = []
        pages: list[float] = []
        for at, region in enumerate(self.row[first]):
            weight, heat = float(self.weight[region]), float(rate[region])
            if not weight or np.isnan(heat):
                continue
            fast = float(share[region])
            end = int(self.part.vpage[last[at]] + 1) * self.page_bytes
            start = int(vpage[at]) * self.page_bytes
            before = found[-1] if found else None
            if (
                before is not None
                and before["end"] == start
                and heat < ALIKE * before["rate"] + 1e-3
                and before["rate"] < ALIKE * heat + 1e-3
                and abs(fast - before["fast_share"]) < 0.25
            ):
                share_of = weight / (weight + pages[-1])
                before["end"] = end
                before["rate"] += share_of * (heat - before["rate"])
                before["fast_share"] += share_of * (fast - before["fast_share"])
                pages[-1] += weight
                continue
            found.append({"start": start, "end": end, "rate": heat, "fast_share": fast})
            pages.append(weight)
        for run, nr in zip(found, pages, strict=True):
            run["nr_pages"] = int(nr)
        found.sort(key=lambda run: -run["rate"])
        return found[:MOST_RANGES]

    def moves(self) -> list[dict[str, Any]]:
        """Return what was tried, with what each move earned until the next one."""
        kept = self.kept
        earned = self._earned()
        rows = []
        for at in range(max(0, len(kept.page) - MOST_MOVES), len(kept.page)):
            gain, won = float(kept.gain_ns[at]), float(earned[at])
            rows.append(
                {
                    "time_s": self._seconds(int(kept.time_ns[at])),
                    "page": int(self.kept_vpage[at]),
                    "src": int(kept.src[at]),
                    "dst": int(kept.dst[at]),
                    "reason": reason_name(int(kept.reason[at])),
                    "gain_ns": None if np.isnan(gain) else gain,
                    "earned_ns": None if np.isnan(won) else won,
                    "errno": int(kept.errno[at]),
                }
            )
        return rows

    def sizes(self) -> list[dict[str, Any]]:
        """Return the changes of page size, their pages as virtual ones."""
        rows = self.history.sizes.about(self.part.page)
        for row in rows:
            first, last = row["pages"]
            inside = (self.part.page >= first) & (self.part.page <= last)
            at = int(np.flatnonzero(inside)[0])
            shift = int(self.part.vpage[at] - self.part.page[at])
            row["pages"] = [first + shift, last + shift]
        return rows

    def _earned(self) -> NDArray[np.float64]:
        """Return what moves earned: estimated accesses times latency saved, net."""
        kept, history = self.kept, self.history
        earned = np.full(len(kept.page), np.nan)
        costs = history.move_cost_ns
        nodes = len(self.latency)
        good = (kept.errno == 0) & (kept.src < nodes) & (kept.dst < nodes)
        rows = np.flatnonzero(good)
        if costs is None or not len(rows) or not history.stretches:
            return earned
        ends = np.array([s.to_ns for s in history.stretches], np.float64)
        begins = np.array([s.from_ns for s in history.stretches], np.float64)
        length_s = (ends - begins) / NS_PER_S
        total = np.cumsum(np.nan_to_num(self.rate) * length_s[:, None], axis=0)
        times = np.concatenate([begins[:1], ends])
        total = np.vstack([np.zeros(total.shape[1]), total])
        # Until the page's next move, or until now.
        order = rows[np.lexsort((kept.time_ns[rows], kept.page[rows]))]
        until = np.full(len(kept.page), times[-1])
        same = kept.page[order][1:] == kept.page[order][:-1]
        until[order[:-1][same]] = kept.time_ns[order[1:][same]]
        column = np.searchsorted(self.regions, kept.page[rows] // REGION_PAGES)
        for region in np.unique(column):
            mine = rows[column == region]
            seen = np.interp(until[mine], times, total[:, region])
            seen -= np.interp(kept.time_ns[mine], times, total[:, region])
            saved = self.latency[kept.src[mine]] - self.latency[kept.dst[mine]]
            saved = saved / history.machine.parallelism
            earned[mine] = seen * saved - costs[kept.src[mine], kept.dst[mine]]
        return earned

    def why(self) -> list[dict[str, Any]]:
        """Return words for every group of pages that have memory."""
        history, kept = self.history, self.kept
        there = np.flatnonzero(self.node != NOT_PRESENT)
        order = there[np.argsort(self.part.vpage[there])]
        page, node = self.part.vpage[order], self.node[order]
        after = history.rank[node]
        before = after.copy()
        done = np.flatnonzero(kept.errno == 0)[::-1]  # the first move rules
        at = np.minimum(np.searchsorted(page, self.kept_vpage[done]), len(page) - 1)
        if len(page):
            ours = page[at] == self.kept_vpage[done]
            before[at[ours]] = history.rank[kept.src[done[ours]]]
        tried = Tried(self.kept_vpage, kept.errno)
        tiers = history.machine.topology.tiers
        two = len(tiers) > 1
        figures = Figures(
            float(self.latency[tiers[0].nodes[0]]) if two else None,
            float(self.latency[tiers[1].nodes[0]]) if two else None,
            history.epoch_ns,
            history.notes,
        )
        said = []
        for what, group in derive_groups(page, before, after, tried):
            mine = order[np.searchsorted(page, group)]
            nr = np.bincount(self.row[mine], minlength=len(self.regions))
            heat = self.rate[-1] if len(self.rate) else np.full(len(nr), np.nan)
            known = (nr > 0) & ~np.isnan(heat)
            rate = (
                float(np.average(heat[known], weights=nr[known]))
                if known.any()
                else 0.0
            )
            fast = float(np.mean(history.rank[self.node[mine]] == 0))
            said.append(
                explain_group(
                    what,
                    group,
                    tried,
                    figures,
                    rate=rate,
                    belief=None,
                    fast_share=fast,
                )
            )
        return said

    def _seconds(self, time_ns: int) -> float:
        return (time_ns - self.history.began_ns) / NS_PER_S
