"""Whose pages of which kind are where: one count of all memory."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.policy.cells import CELLS, Cells
from isotherm.policy.tenants import Labels


def census_twin(
    label: Labels,
    cell: Cells,
    node: NDArray[np.uint8],
    tier: NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None:
    """Numpy twin of `census`."""
    row = label.astype(np.int64) * CELLS + cell
    flat = row * out.shape[2] + tier[node]
    out += np.bincount(flat, minlength=out.size).reshape(out.shape).astype(np.int32)


@kernel(twin=census_twin)
def census(
    label: Labels,
    cell: Cells,
    node: NDArray[np.uint8],
    tier: NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None:
    """Count pages by tenant, cell and tier.

    Args:
        label: Whose every page is, uint8[pages].
        cell: uint16[pages].
        node: Placement, uint8[pages].
        tier: Tier rank of every node, uint8[256].
        out: int32[tenants, CELLS, tiers + 1], added to.
    """
    for p in range(cell.size):
        out[label[p], cell[p], tier[node[p]]] += 1
