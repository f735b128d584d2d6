"""A peer's parameters: by name, with its published defaults, scaled with memory.

Peers carry numbers that were right for one size of machine: scan 256 MB at a
time, cool after 2,000,000 samples, keep 1 GiB free. A simulated footprint is a
scale model, and such a number means something only as a share of memory. So each
stays an option in its original unit with its original default, and is multiplied
by ``scale``: the footprint over ``reference_gib``, the size that it stands for.

The default of 64 GiB is the size of the footprints on which such systems are
evaluated: MEMTIS' benchmark scripts use 39 to 80 GB for five of eight programs.
``reference_gib = 0`` takes every number as it stands.
"""

from collections.abc import Mapping

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import PAGE_BYTES
from isotherm.policy.plan import Setup

REFERENCE_GIB = 64.0
PAGES_PER_MIB = (1 << 20) // PAGE_BYTES


def read_options(
    policy: str, setup: Setup, defaults: Mapping[str, float]
) -> dict[str, float]:
    """Return the policy's parameters: the defaults, and what the setup changes.

    Raises:
        UsageError: The setup names an option that the policy lacks, or gives a
            negative or non-finite number.
    """
    options = dict(defaults)
    for name, value in setup.options.items():
        if name not in defaults:
            raise UsageError(
                f"policy {policy!r}: no option {name!r}{did_you_mean(name, defaults)}",
                hint=f"known: {', '.join(sorted(defaults)) or 'none'}",
            )
        if not 0 <= value < float("inf"):
            raise UsageError(
                f"policy {policy!r}: option {name}: expected a number >= 0, got {value}"
            )
        options[name] = float(value)
    return options


def scale_of(pages: int, reference_gib: float) -> float:
    """Return the footprint over the memory that it stands for; 1 for 0 GiB.

    >>> scale_of(32768, 64.0) == 1 / 512
    True
    >>> scale_of(32768, 0.0)
    1.0
    """
    if reference_gib == 0:
        return 1.0
    return pages * PAGE_BYTES / (reference_gib * (1 << 30))
