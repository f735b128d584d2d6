"""What a dry run would move: the largest ranges of its last plan."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isotherm.core.units import PAGE_BYTES
from isotherm.loop.epoch import Step

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

#: Ranges that are told, largest first.
MOST_RANGES: Final = 10


class Planned:
    """Keeps the ranges of the last plan that had any move; an observer."""

    def __init__(self) -> None:
        self.ranges: list[dict[str, Any]] = []

    def __call__(self, service: "Service", step: Step) -> None:
        """Take up what was decided in this epoch."""
        moves = service.gate.wished
        if not len(moves):
            return
        machine, unit = service.machine, service.unit_pages
        spaces = [space for space in machine.spaces if space.pages]
        base = np.array([space.base for space in spaces], np.int64)
        order = np.argsort(moves.page, kind="stable")
        page = moves.page[order].astype(np.int64)
        target = moves.node[order]
        source = machine.placement()[page]
        owner = np.searchsorted(base, page, side="right") - 1
        # A range is of neighbours in one space that go the same way.
        cut = np.flatnonzero(
            (np.diff(page) != 1)
            | (np.diff(owner) != 0)
            | (np.diff(target.astype(np.int16)) != 0)
            | (np.diff(source.astype(np.int16)) != 0)
        )
        first = np.concatenate(([0], cut + 1))
        end = np.append(first[1:], len(page))
        largest = np.argsort(first - end, kind="stable")[:MOST_RANGES]
        gain = np.nan_to_num(moves.gain_ns[order].astype(np.float64))
        rank = service.rank
        self.ranges = []
        for at in largest.tolist():
            row, stop = int(first[at]), int(end[at])
            space = spaces[int(owner[row])]
            vpage = space.start_page + int(page[row]) - space.base
            found: dict[str, Any] = {
                "direction": "demote"
                if rank[target[row]] > rank[source[row]]
                else "promote",
                "owner": space.owner,
                "start": vpage * unit * PAGE_BYTES,
                "bytes": (stop - row) * unit * PAGE_BYTES,
                "from_node": int(source[row]),
                "to_node": int(target[row]),
                "rate": None,
                "gain_ns": float(gain[row:stop].sum()),
            }
            if step.hotness is not None:
                rate = step.hotness.rate(page[row:stop].astype(np.uint32))
                found["rate"] = float(rate.mean())
            self.ranges.append(found)
