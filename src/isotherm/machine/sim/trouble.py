"""Trouble that a simulated machine makes when it is told to."""

from dataclasses import dataclass

from isotherm.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Faults:
    """Injected trouble: shares of moves, drawn with the machine's seed.

    Attributes:
        busy: Share of moves that fail with EBUSY this time.
        no_memory: Share that fail with ENOMEM although there is room.
        vanished: Share of pages whose owner unmapped them: ENOENT for good.
        pinned: Share of pages that can never move: EBUSY for good.

    Raises:
        UsageError: A share is outside [0, 1], or two that exclude each other
            (busy and no_memory, vanished and pinned) are more than 1 together.
    """

    busy: float = 0.0
    no_memory: float = 0.0
    vanished: float = 0.0
    pinned: float = 0.0

    def __post_init__(self) -> None:
        for name in ("busy", "no_memory", "vanished", "pinned"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UsageError(f"faults.{name}: expected 0 to 1, got {share}")
        for one, other in (("busy", "no_memory"), ("vanished", "pinned")):
            total = getattr(self, one) + getattr(self, other)
            if total > 1:
                raise UsageError(
                    f"faults: {one} and {other}: expected at most 1 together, "
                    f"got {total:g}"
                )
