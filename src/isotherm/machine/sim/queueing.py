"""Latency that rises with load."""

import numpy as np
from numpy.typing import NDArray

#: ``k`` of `latency_factor`: latency is 1.125 times the unloaded one at half load,
#: 3 times at 90 % and 5.5 times at 95 %: Colloid measured up to 5 times on a loaded
#: DRAM tier (SOSP'24, section 2).
QUEUE_SHARE = 0.25
#: The open loop may ask for more than there is: load is capped here, where the
#: latency is 12 times the unloaded one.
LOAD_CAP = 0.9785


def latency_factor(
    read_bytes: NDArray[np.float64],
    write_bytes: NDArray[np.float64],
    read_room_bytes: NDArray[np.float64],
    write_room_bytes: NDArray[np.float64],
    queue_share: float = QUEUE_SHARE,
) -> NDArray[np.float64]:
    """Return loaded over unloaded latency per node, >= 1.

    ``1 + k rho^2 / (1 - rho)``: the waiting time of an M/G/1 queue has a
    ``rho / (1 - rho)``; the square keeps it flat at low load, as measured
    latency-bandwidth curves are.

    Args:
        read_bytes: Read in the epoch, by demand and migration, per node.
        write_bytes: Written in the epoch.
        read_room_bytes: What the node could read in the epoch; inf: no limit.
        write_room_bytes: What the node could write in the epoch.
        queue_share: ``k``.
    """
    load = read_bytes / read_room_bytes + write_bytes / write_room_bytes
    load = np.minimum(load, LOAD_CAP)
    return 1.0 + queue_share * load * load / (1.0 - load)
