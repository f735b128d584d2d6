"""Policies and spaces that come and go."""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError
from isotherm.machine.protocol import SpacesChanged


def refuse_renewal(policy: str) -> NoReturn:
    """Say that a policy is for a footprint that stays as it is.

    Raises:
        UnsupportedError: Always.
    """
    raise UnsupportedError(
        f"policy {policy!r}: spaces have changed, and it follows one footprint that"
        " stays as it is",
        hint="take isotherm or first-touch where processes come and go",
    )


def reborn(policy: str, change: SpacesChanged, pages: int) -> NDArray[np.int64]:
    """Return the pages that are new memory within a footprint that stays, int64[n].

    Raises:
        UnsupportedError: The footprint has grown, or nodes have changed.
    """
    if change.pages != pages or change.topology is not None:
        refuse_renewal(policy)
    parts = [np.arange(start, end) for start, end in change.renewed.tolist()]
    return np.concatenate([np.empty(0, np.int64), *parts])
