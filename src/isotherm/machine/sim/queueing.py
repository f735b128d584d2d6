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


#: Halvings of the load's bracket, less than 1 wide.
HALVINGS = 40


def factor_of_waiting(load: float, most: float, queue_share: float) -> float:
    """Return a node's factor with traffic that waits for it.

    The traffic loads the node with ``most`` over the factor, and the factor follows
    from the load; the more load, the more of it is asked for, so that there is one.

    Args:
        load: Of all else, >= 0.
        most: Of the traffic that waits, were the node unloaded.
        queue_share: ``k``.

    >>> round(factor_of_waiting(0.0, 1.0, 0.25), 3)
    1.42
    """
    low, high = min(load, LOAD_CAP), LOAD_CAP
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        factor = 1.0 + queue_share * middle * middle / (1.0 - middle)
        if (middle - load) * factor < most:
            low = middle
        else:
            high = middle
    return 1.0 + queue_share * high * high / (1.0 - high)
