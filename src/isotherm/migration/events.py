"""What the state machine is told, and what it answers: frozen, in columns."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.protocol import SpacesChanged, Usage
from isotherm.policy.plan import Moves


@dataclass(frozen=True, slots=True, eq=False)
class PlanArrived:
    """A policy has decided; what an older plan had not started is void.

    Attributes:
        now_ns: The machine's time.
        moves: The wishes, best first within each direction.
        usage: Pages per node, now.
        node: Placement of every flat page, uint8[pages], now.
    """

    now_ns: int
    moves: Moves
    usage: Usage
    node: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class BatchDone:
    """The machine has finished one batch.

    Attributes:
        now_ns: The machine's time.
        batch: The ``id`` of the batch.
        errno: 0 where the page moved, else a positive errno, or ``HELD_BACK`` for
            a page that was not tried and is to be left alone, int16[n].
        cost_ns: Time that the batch took, all of it.
    """

    now_ns: int
    batch: int
    errno: NDArray[np.int16]
    cost_ns: float


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """Time has passed: the quota fills up, back-offs end.

    Attributes:
        now_ns: The machine's time.
        usage: Pages per node; None: as the state knows them.
    """

    now_ns: int
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Renewed:
    """Pages have a new owner or none, or there are more of them.

    Attributes:
        now_ns: The machine's time.
        change: Which pages, and how many there are now.
    """

    now_ns: int
    change: SpacesChanged


@dataclass(frozen=True, slots=True, eq=False)
class Throttled:
    """From now on movement goes at a share of its quota.

    Attributes:
        now_ns: The machine's time.
        share: 0 (nothing starts) to 1.
    """

    now_ns: int
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Limited:
    """From now on the quota is another.

    Attributes:
        now_ns: The machine's time.
        pages_per_s: Tried per second, > 0.
    """

    now_ns: int
    pages_per_s: float


Event = PlanArrived | BatchDone | Tick | Renewed | Throttled | Limited


@dataclass(frozen=True, slots=True, eq=False)
class MoveBatch:
    """Move these pages, all of them along one path.

    Attributes:
        id: Ascending from 0; ``BatchDone`` names it.
        page: Flat page, uint32[n].
        node: Where to, uint8[n], the same for all.
        src: Where from, uint8[n], the same for all.
    """

    id: int
    page: NDArray[np.uint32]
    node: NDArray[np.uint8]
    src: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.page)


def frozen(event: Event) -> Event:
    """Return an event whose columns nobody else writes."""
    if isinstance(event, PlanArrived):
        usage = event.usage
        return replace(
            event,
            node=event.node.copy(),
            usage=replace(
                usage,
                capacity_pages=usage.capacity_pages.copy(),
                used_pages=usage.used_pages.copy(),
            ),
        )
    return event
