"""What moves came to over a run, in pages: over several engines and sizes of unit."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from isotherm.migration.ledger import GainLedger
from isotherm.migration.totals import Totals


class Counting(Protocol):
    """An engine that counts."""

    @property
    def totals(self) -> Totals:
        """What became of all wishes."""
        ...

    @property
    def ledger(self) -> GainLedger:
        """What moves promised and earned."""
        ...


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over engines that have ended, and the one that runs.

    Attributes:
        promoted_pages: To a faster tier.
        demoted_pages: To a slower one.
        ping_pong_pages: Moved back soon.
        held_back_pages: Left where they are, for comparison.
        errno: ``{errno: pages}`` that did not move, per try.
        promised_ns: By moves that were followed to their end.
        realised_ns: By the same.
    """

    promoted_pages: int = 0
    demoted_pages: int = 0
    ping_pong_pages: int = 0
    held_back_pages: int = 0
    errno: dict[int, int] = field(default_factory=dict)
    promised_ns: float = 0.0
    realised_ns: float = 0.0

    def plus(self, engine: Counting, unit_pages: int) -> "Tally":
        """Return the sums with an engine's, which counts units of so many pages."""
        totals, both = engine.totals, engine.ledger.both
        errno = dict(self.errno)
        for code, units in totals.errno.items():
            errno[code] = errno.get(code, 0) + units * unit_pages
        return replace(
            self,
            promoted_pages=self.promoted_pages + totals.promoted * unit_pages,
            demoted_pages=self.demoted_pages + totals.demoted * unit_pages,
            ping_pong_pages=self.ping_pong_pages + totals.ping_pong * unit_pages,
            held_back_pages=self.held_back_pages + totals.held_back * unit_pages,
            errno=errno,
            promised_ns=self.promised_ns + both.promised_ns,
            realised_ns=self.realised_ns + both.realised_ns,
        )
