"""What always holds between the parts of the migration state machine."""

import numpy as np

from isotherm.migration.flights import Flights
from isotherm.migration.queue import PathQueues
from isotherm.migration.quota import Quota
from isotherm.migration.retry import RetryTable
from isotherm.migration.room import NodeRoom
from isotherm.migration.totals import Totals


def broken_rules(
    queue: PathQueues,
    flights: Flights,
    retry: RetryTable,
    room: NodeRoom,
    quota: Quota,
    totals: Totals,
) -> list[str]:
    """Return the invariants that do not hold, by name; none in a state that is whole.

    Args:
        queue: Wishes that have not started.
        flights: Batches on the way.
        retry: Pages that wait or rest.
        room: Pages per node.
        quota: Tokens.
        totals: What became of all wishes.
    """
    flying = flights.page
    queued, node, src = queue.columns()
    waits = int(np.count_nonzero(retry.waiting))
    on_way = np.concatenate([flying, queued])
    held = retry.page[retry.out]
    checks = room.holds(len(flying)) | quota.holds(totals.tried + len(flying))
    checks |= {
        "queue length": len(queued) == len(queue),
        "in flight": len(flying) == flights.pages,
        "no page twice": len(np.unique(on_way)) == len(on_way),
        "retry rows sorted": bool((np.diff(retry.page.astype(np.int64)) > 0).all()),
        "retries that are out are on their way": bool(np.isin(held, on_way).all()),
        "no other retry is": not np.isin(retry.page[~retry.out], on_way).any(),
        "wishes are conserved": totals.planned
        == totals.ended + len(queued) + len(flying) + waits,
        "applied is the sum of directions": totals.applied
        == totals.promoted + totals.demoted + totals.lateral,
        "tried is the sum of ends": totals.tried
        == totals.applied
        + totals.overtaken
        + totals.held_back
        + sum(totals.errno.values()),
        "moves change the node": bool((node != src).all()),
    }
    return [name for name, holds in checks.items() if not holds]
