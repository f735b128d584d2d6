"""What bounds know: the accesses of a whole workload, or what they stall."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from isotherm.lab.run_cost import PlacementCost
from isotherm.machine.protocol import Space
from isotherm.machine.sim.load import Load
from isotherm.policy.bounds import (
    Future,
    KnownFuture,
    count_future,
    count_stall_future,
)
from isotherm.policy.registry import NEEDS_FUTURE
from isotherm.trace.stream import AccessStream, Pace, Workload

Floats = NDArray[np.float64]


def future_for(
    policy: str,
    future: Future | None,
    workload: Workload,
    pace: Pace,
    load: Load,
    pinned: NDArray[np.bool_] | None = None,
) -> Future | None:
    """Return the future that a policy is to have on a machine; None of most.

    ``all-fast`` gets one where its tier has several nodes: which of them is nearest
    to a page is a matter of who accesses it.

    Args:
        policy: Its name.
        future: What was counted already, if anything was.
        workload: The workload.
        pace: How its accesses become time.
        load: Of the machine.
        pinned: Pages that cannot move, bool[pages]; None: there are none.
    """
    if policy == "all-fast":
        if (load.tier_rank == 0).sum() < 2:
            return None
    elif policy not in NEEDS_FUTURE:
        return None
    if future is None or not serves(future, load):
        future = workload_future(workload, pace, load)
    if not isinstance(future, KnownFuture):
        return future
    if pinned is not None:
        future = replace(future, pinned=pinned)
    if policy == "static-oracle":
        return with_load(future, workload, pace, load)
    return future


def with_load(
    future: KnownFuture, workload: Workload, pace: Pace, load: Load
) -> KnownFuture:
    """Return a future that knows what placements cost where nodes queue."""
    if not load.queues or len(future.counts) == 0:
        return future
    cost = PlacementCost(load, future.counts, workload, pace)
    return replace(future, run=cost) if cost.holds else future


def workload_future(
    workload: Workload, pace: Pace, load: Load | None = None
) -> KnownFuture:
    """Return the accesses per page and epoch of a whole workload, for bounds.

    Args:
        workload: The workload.
        pace: How its accesses become time.
        load: Of a machine. Where accesses do not all save alike on it, what is
            counted is what they stall.
    """
    if load is None or saves_alike(load):
        return count_future((c.page for c in workload.epochs(pace)), workload.pages)
    cost_ns = np.zeros((workload.pages, load.nodes))
    rows = _rows(workload, pace, load, cost_ns)
    counted = count_stall_future(rows, workload.pages, _weights(load).ravel())
    return replace(counted, cost_ns=cost_ns)


def serves(future: Future | None, load: Load) -> bool:
    """Return whether a future that somebody counted says what a machine's is."""
    if future is None:
        return False
    return saves_alike(load) or getattr(future, "unit", None) is not None


def saves_alike(load: Load) -> bool:
    """Return whether every access saves the same, whoever makes it, read or write."""
    one_fast_node = (load.tier_rank == 0).sum() == 1
    weights = _weights(load)
    return bool(load.alike and one_fast_node and (weights == weights[0, 0]).all())


def _weights(load: Load) -> Floats:
    """Return what an access stalls over a read's latency, float64[rows, 2].

    The second column is of writes. A latency stands for what the fastest tier saves
    of the slowest one's, in the mean over the nodes of each: the clairvoyant bound
    prices accesses by that of a read, in the mean over the initiators that stand for
    unnamed accesses.
    """
    slow = load.tier_rank == load.tier_rank.max()
    fast = load.tier_rank == 0
    saved = np.stack(
        [
            latency_ns[:, slow].mean(1) - latency_ns[:, fast].mean(1)
            for latency_ns in (load.read_ns, load.write_ns)
        ],
        axis=1,
    )
    of_read = float(saved[load.unnamed, 0].mean())
    if of_read <= 0:  # both tiers are as fast: nothing is to be saved
        saved, of_read = np.ones_like(saved), 1.0
    weights = load.weight[:, None] * np.maximum(saved[load.initiator] / of_read, 0)
    return np.where(weights.max() > 0, weights, 1.0)


def _rows(
    workload: Workload, pace: Pace, load: Load, cost_ns: Floats
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.integer]]]:
    """Yield pages and twice the load's row of each access, plus 1 for a write.

    Args:
        workload: The workload.
        pace: How its accesses become time.
        load: Of the machine.
        cost_ns: Added to: stall of each page's accesses on each node, unloaded,
            float64[pages, nodes].
    """
    latency_ns = np.stack([load.read_ns, load.write_ns], axis=1)[load.initiator]
    stall_ns = (latency_ns * load.weight[:, None, None]).reshape(-1, load.nodes)
    for chunk in workload.epochs(pace):
        told = chunk.stream if load.streams else chunk.initiator
        row = np.zeros(len(chunk), np.int64)
        if told is not None:
            row[:] = np.where(told < load.rows, told, 0)
        row *= 2
        if chunk.write is not None:
            row += chunk.write > 0
        for node in range(load.nodes):
            cost_ns[:, node] += np.bincount(
                chunk.page, stall_ns[row, node], len(cost_ns)
            )
        yield chunk.page, row.astype(np.uint16)


def stream_spaces(workload: Workload) -> tuple[Space, ...]:
    """Return the pages of each stream: the objects that a policy may be told of.

    None where a workload does not say which pages are whose.
    """
    starts: tuple[int, ...] = getattr(workload, "stream_starts", ())
    streams: tuple[AccessStream, ...] = getattr(workload, "streams", ())
    ends = (*starts[1:], workload.pages)
    threads: tuple[int, ...] = getattr(workload, "threads", ())
    if threads:  # a program's are one object
        first = (0, *accumulate(threads))
        streams = tuple(
            replace(streams[i], name=streams[i].workload or "")
            for i in first[: len(starts)]
        )
    return tuple(
        Space(start, end - start, stream.name)
        for start, end, stream in zip(starts, ends, streams, strict=False)
    )
