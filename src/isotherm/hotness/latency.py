"""What a sample's latency and stall say of its access."""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Samples

#: Where a source tells latency alone: what took longer missed the caches. The last
#: level answers within 20 to 40 ns, no memory within 60.
CACHE_NS = 50.0

Floats = NDArray[np.float64]


def sample_weights(seen: Samples) -> Floats | None:
    """Return the stall weight of every sample, NaN unknown, [0, 1]; None: untold."""
    if seen.stall_ns is not None:
        latency = seen.latency_ns
        if latency is None:
            return None
        weight = np.full(len(seen.page), np.nan)
        told = (latency > 0) & ~np.isnan(seen.stall_ns)
        weight[told] = seen.stall_ns[told].astype(np.float64) / latency[told]
        clipped: Floats = np.clip(weight, 0.0, 1.0)
        return clipped
    if seen.latency_ns is None:
        return None
    missed: Floats = (seen.latency_ns > CACHE_NS).astype(np.float64)
    missed[seen.latency_ns <= 0] = np.nan
    return missed
