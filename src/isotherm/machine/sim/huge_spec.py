"""Huge pages of a simulated machine, as data: the table [huge_pages] of its TOML."""

import math

import msgspec

from isotherm.core.errors import ConfigError
from isotherm.core.units import PAGES_PER_HUGE_PAGE

#: What 2 MiB cost to move as one huge page, of what they cost as 512 small ones:
#: move_pages() of 1 GiB ran at 3.73 GB/s in 4 KiB folios and at 10.67 GB/s in 2 MiB
#: ones (batched migrate_pages patches, RFC v3, Zen 3, one thread).
HUGE_MOVE_SHARE = 3.73 / 10.67


class HugeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What huge pages save and cost on a machine.

    The TLB is one second-level TLB that both sizes share, set-associative, least
    recently used out; the defaults are Skylake-SP's (1536 entries, 12 ways). A walk
    is the read of the last level's entry, the rest of it hits the walker's caches.
    Entries of 4 KiB pages are 8 bytes: those of 72 GB, 144 MiB, exceed the 48 MiB of
    a last-level cache by two thirds, which are read from memory of 80 ns
    (docs/results/fidelity.md, Colloid); those of 2 MiB pages, 288 KiB, are in a
    second-level cache: 14 cycles at 3 GHz. Splitting and collapsing were measured
    (docs/reference/huge-pages.md#costs).

    Attributes:
        entries: Translations that the TLB of a machine of reference size holds; a
            model of it has as much of them as it has of its memory, a set at least.
        ways: Of each of its sets.
        walk_ns: What a miss costs whose page is small.
        huge_walk_ns: What one costs whose page is huge.
        move_ns: Moving a huge page as one; None: ``HUGE_MOVE_SHARE`` of what 512
            small ones cost here.
        split_ns: Splitting one.
        collapse_ns: Collapsing 512 small pages into one.
        khugepaged_pages_per_s: Pages that the kernel's own thread scans, and makes
            huge where there is room; 0: it is off. (Linux: 4096 every 10 s.)
    """

    entries: int = 1536
    ways: int = 12
    walk_ns: float = 53.0
    huge_walk_ns: float = 5.0
    move_ns: float | None = None
    split_ns: float = 90e3
    collapse_ns: float = 500e3
    khugepaged_pages_per_s: float = 0.0

    def check(self, path: str) -> None:
        """Raise ConfigError where the figures make no sense."""
        if not 1 <= self.ways <= self.entries or self.entries % self.ways:
            raise ConfigError(
                f"{path}: huge_pages.entries: expected a multiple of ways ({self.ways})"
                f", got {self.entries}"
            )
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(
                    f"{path}: huge_pages.{field}: expected >= 0, got {value}"
                )

    def entries_of(self, scale: float) -> int:
        """Return the translations that a model of some scale holds: whole sets."""
        sets = round(self.entries * scale / self.ways)
        return self.ways * min(max(1, sets), self.entries // self.ways)

    def move_of(self, page_ns: float) -> float:
        """Return what a huge page costs to move where a small one costs so much."""
        if self.move_ns is not None:
            return self.move_ns
        return HUGE_MOVE_SHARE * PAGES_PER_HUGE_PAGE * page_ns
