"""How well a workload's data compress: stated, and drifting with time.

Where nothing is stated: data of a fleet shrink to a third where they shrink at
all, and to about a half once pages are counted that do not (the authors of the OCP
hyperscale memory expander's specification). So at 2:1 a quarter of the pages are
incompressible and take half of what is stored; other ratios keep that half.
"""

import math
from dataclasses import dataclass

from isotherm.core.errors import UsageError

#: Ratio of a workload that states none.
DEFAULT_RATIO = 2.0
#: Best ratio of LZ4's block format: a length byte stands for 255 bytes.
MAX_RATIO = 255.0
#: Of the stored bytes, those of pages that do not compress.
INCOMPRESSIBLE_BYTES = 0.5


@dataclass(frozen=True, slots=True)
class Mix:
    """How well pages compress that are written now.

    Attributes:
        incompressible: Share of the pages that take their full size, [0, 1].
        size: Mean stored share of the other pages' size, (0, 1].
    """

    incompressible: float
    size: float

    @property
    def ratio(self) -> float:
        """Size of all pages over what they take stored."""
        return 1 / (self.incompressible + (1 - self.incompressible) * self.size)


@dataclass(frozen=True, slots=True)
class Compressibility:
    """The ratio of data written at a time: constant, or drifting to another.

    Attributes:
        ratio: Bytes over stored bytes, all pages counted, in [1, 255].
        end_ratio: Ratio at ``over_s`` and after; None: it stays.
        over_s: Seconds that the drift takes, > 0; the stored size, not the ratio,
            goes evenly.

    Raises:
        UsageError: A figure is outside its range.

    >>> Compressibility(3.0, 1.5, 100.0).ratio_at(50.0)
    2.0
    >>> Compressibility(2.0).at(0.0)
    Mix(incompressible=0.25, size=0.3333333333333333)
    """

    ratio: float = DEFAULT_RATIO
    end_ratio: float | None = None
    over_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("ratio", "end_ratio"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_RATIO:
                raise UsageError(
                    f"compressibility: {name}: expected 1 to {MAX_RATIO:g}, got {value}"
                )
        if not 0 < self.over_s < math.inf:
            raise UsageError(
                f"compressibility: over_s: expected > 0, got {self.over_s}"
            )

    def ratio_at(self, time_s: float) -> float:
        """Return the ratio of data written ``time_s`` after the start."""
        if self.end_ratio is None:
            return self.ratio
        done = min(1.0, max(0.0, time_s / self.over_s))
        return 1 / ((1 - done) / self.ratio + done / self.end_ratio)

    def at(self, time_s: float) -> Mix:
        """Return how pages compress that are written ``time_s`` after the start."""
        stored = 1 / self.ratio_at(time_s)
        share = INCOMPRESSIBLE_BYTES * stored
        return Mix(share, (stored - share) / (1 - share))


def parse_compressibility(text: str) -> Compressibility:
    """Return what ``RATIO``, ``RATIO-RATIO`` or ``RATIO-RATIO/SECONDS`` says.

    Raises:
        UsageError: It is none of them, or a figure is out of range.

    >>> parse_compressibility("3-1.5/60")
    Compressibility(ratio=3.0, end_ratio=1.5, over_s=60.0)
    """
    ratios, slash, seconds = text.partition("/")
    first, dash, last = ratios.partition("-")
    try:
        figures = Compressibility(
            float(first),
            float(last) if dash else None,
            float(seconds) if slash else 120.0,
        )
    except ValueError:
        raise UsageError(
            f"compressibility: expected a ratio, or two with a dash, got {text!r}",
            hint="2, 3-1.5 (drifts over 120 s) or 3-1.5/60 (over 60 s)",
        ) from None
    if slash and not dash:
        raise UsageError(f"compressibility: {text!r}: seconds need two ratios")
    return figures
