"""Hotness units of a node, as part of a machine's description."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from isotherm.core.errors import ConfigError

WAYS = (1, 2, 3, 4, 6, 8, 12, 16)


class HotnessUnitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The devices that a node's memory is dealt out to; each has a hotness unit.

    Attributes:
        node: Whose memory they watch.
        ways: Devices.
        granularity: Bytes in a row from one device.
        llc_mib: Last-level cache in front of them, at the machine's
            ``reference_gib``; scaled as bandwidth is. 0: every access is seen.
        llc_ways: Lines in a set of it.
        unit_bytes: Sizes of units that can be counted.
        counters: Of each device; 0: one a unit.
        counter_width: Bits of a counter.
        hot_list: Slots of each device's list.
        modes: How hot units are reported; the first is used.
        down_sampling: Exponents: one access in 2^n is counted; the first is used,
            none: all are counted.
        min_epoch_s: Shortest epoch.
        max_epoch_s: Longest epoch.
        postponed: What finds the list full is put in once there is room.
        entry_ns: What reading an entry takes: an uncached read of a register across
            the link, twice its latency as programs see memory there; assumed.
    """

    node: int
    ways: int = 1
    granularity: int = 4096
    llc_mib: float = 60.0
    llc_ways: int = 16
    unit_bytes: tuple[int, ...] = (4096, 8192)
    counters: int = 0
    counter_width: int = 16
    hot_list: int = 1024
    modes: tuple[Literal["epoch", "always-on"], ...] = ("epoch", "always-on")
    down_sampling: tuple[int, ...] = ()
    min_epoch_s: float = 0.1
    max_epoch_s: float = 100.0
    postponed: bool = False
    entry_ns: float = 500.0

    def check(self, path: str, tiers: Sequence[int]) -> None:
        """Raise ConfigError where the figures do not make a device.

        Args:
            path: File, for the message.
            tiers: Tier of every node.
        """

        def want(field: str, good: bool, expected: str) -> None:
            if not good:
                raise ConfigError(
                    f"{path}: hotness_unit.{field}: expected {expected}, "
                    f"got {getattr(self, field)}"
                )

        last = len(tiers) - 1
        want("node", 0 <= self.node <= last, f"0 to {last}")
        want("node", tiers[min(max(self.node, 0), last)] > 0, "a node that is not fast")
        want("ways", self.ways in WAYS, f"one of {WAYS}")
        grains = tuple(256 << n for n in range(7))
        want("granularity", self.granularity in grains, f"one of {grains}")
        want("llc_mib", 0 <= self.llc_mib < math.inf, ">= 0")
        want("llc_ways", 1 <= self.llc_ways <= 64, "1 to 64")
        sizes = {256 << n for n in range(21)}
        good = bool(self.unit_bytes) and set(self.unit_bytes) <= sizes
        want("unit_bytes", good, "powers of two from 256 to 256 MiB")
        want("counters", 0 <= self.counters <= 1 << 32, "0 to 2^32")
        want("counter_width", 4 <= self.counter_width <= 32, "4 to 32")
        want("hot_list", 2 <= self.hot_list <= 8000, "2 to 8000")
        want("modes", bool(self.modes), "epoch, always-on or both")
        steps = all(1 <= n <= 15 for n in self.down_sampling)
        want("down_sampling", steps, "1 to 15 each")
        want("min_epoch_s", 1e-4 <= self.min_epoch_s <= 4095, "0.0001 to 4095")
        most = self.min_epoch_s <= self.max_epoch_s <= 4095
        want("max_epoch_s", most, "min_epoch_s to 4095")
        want("entry_ns", 0 <= self.entry_ns < math.inf, ">= 0")
