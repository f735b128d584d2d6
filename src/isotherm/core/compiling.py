"""How long kernels have been compiled, known without importing numba.

The first start on a machine compiles kernels for seconds; later ones find them on
disk. ``isotherm.core.kernels`` reports here when numba begins and ends.
"""

import time
from typing import Final

#: What a person is told of it.
FIRST_START: Final = "the first start compiles"


class Stopwatch:
    """Adds up the seconds of compilations; one may bring others, which count once."""

    def __init__(self) -> None:
        self._depth = 0
        self._began_s = 0.0
        self._total_s = 0.0

    @property
    def total_s(self) -> float:
        """Seconds spent compiling so far, in this process."""
        return self._total_s

    def begin(self) -> None:
        """Note that a compilation begins."""
        if self._depth == 0:
            self._began_s = time.perf_counter()
        self._depth += 1

    def end(self) -> None:
        """Note that a compilation ends."""
        self._depth -= 1
        if self._depth == 0:
            self._total_s += time.perf_counter() - self._began_s


#: Of this process; numba compiles one kernel at a time.
COMPILING: Final = Stopwatch()
