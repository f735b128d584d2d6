"""What an instance of a hotness unit can do, and what it is asked to do."""

from dataclasses import dataclass

from isotherm.core.errors import UnsupportedError
from isotherm.records.cxl_hmu_registers import Reporting, Tracked


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an instance can do.

    Attributes:
        tracked: Kinds of requests that it can count.
        min_epoch_ns: Shortest epoch.
        max_epoch_ns: Longest epoch.
        hot_list_size: Slots of the list; one stays free.
        unit_shifts: Units of ``2^shift`` bytes, ascending.
        down_sampling: Exponents: one access in ``2^n`` is counted.
        epoch_based: Reports what was above the threshold at the end of an epoch.
        always_on: Reports a unit when it reaches the threshold.
        random_down_sampling: Can draw which accesses are counted.
        overlapping: Instances may watch the same memory.
        postponed: What finds the list full is kept until there is room.
        overflow_interrupt: Can interrupt when the list overflows.
        fill_interrupt: Can interrupt when so many entries are in the list.
        per_counter_epochs: Every counter has an epoch of its own.
        interrupt: Number of its interrupt message.
        bitmap_offset: Of the range bitmap, from the instance.
        hot_list_offset: Of the list, from the instance.
    """

    tracked: frozenset[Tracked]
    min_epoch_ns: int
    max_epoch_ns: int
    hot_list_size: int
    unit_shifts: tuple[int, ...]
    down_sampling: tuple[int, ...]
    epoch_based: bool
    always_on: bool
    random_down_sampling: bool
    overlapping: bool
    postponed: bool
    overflow_interrupt: bool
    fill_interrupt: bool
    per_counter_epochs: bool
    interrupt: int
    bitmap_offset: int
    hot_list_offset: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How an instance is to count.

    Attributes:
        unit_shift: Units of ``2^unit_shift`` bytes.
        threshold: Accesses that make a unit hot, >= 1.
        epoch_ns: Length of an epoch; the nearest that the registers can say is taken.
        reporting: When hot units are reported.
        tracked: Requests to count.
        down_sampling: Exponent; 0: count all, nothing is asked of the device.
        random: Draw which accesses are counted.
        ranges: Device memory to watch, [start, end) in bytes; None: all of it.
        notify_at: Entries that raise the fill interrupt; 0: none is wanted.
    """

    unit_shift: int
    threshold: int
    epoch_ns: int
    reporting: Reporting = Reporting.EPOCH
    tracked: Tracked = Tracked.ALL
    down_sampling: int = 0
    random: bool = False
    ranges: tuple[tuple[int, int], ...] | None = None
    notify_at: int = 0


def check_settings(name: str, can: Capabilities, settings: Settings) -> None:
    """Refuse what an instance cannot do.

    Raises:
        UnsupportedError: With the setting, what was asked for and what there is.
    """

    def want(what: str, good: bool, got: object, expected: object) -> None:
        if not good:
            raise UnsupportedError(f"{name}: {what}: expected {expected}, got {got}")

    s = settings
    shifts = can.unit_shifts
    want("unit shift", s.unit_shift in shifts, s.unit_shift, f"one of {shifts}")
    known = can.min_epoch_ns > 0 and can.max_epoch_ns > 0
    want(
        "epoch",
        not known or can.min_epoch_ns <= s.epoch_ns <= can.max_epoch_ns,
        f"{s.epoch_ns} ns",
        f"{can.min_epoch_ns} to {can.max_epoch_ns} ns",
    )
    modes = {Reporting.EPOCH: can.epoch_based, Reporting.ALWAYS_ON: can.always_on}
    there = [mode.name for mode, has in modes.items() if has]
    want("reporting", modes[s.reporting], s.reporting.name, f"one of {there}")
    kinds = sorted(kind.name for kind in can.tracked)
    want("requests", s.tracked in can.tracked, s.tracked.name, f"one of {kinds}")
    if s.down_sampling:
        steps = can.down_sampling
        good = s.down_sampling in steps
        want("down-sampling", good, s.down_sampling, f"0 or one of {steps}")
    want(
        "random down-sampling",
        not s.random or can.random_down_sampling,
        "on",
        "off: the device cannot",
    )
    want("threshold", s.threshold >= 1, s.threshold, "1 or more")
    most = can.hot_list_size - 1
    want("fill interrupt", s.notify_at <= most, s.notify_at, f"{most} or less")
    want(
        "fill interrupt",
        not s.notify_at or can.fill_interrupt,
        s.notify_at,
        "none: the device cannot",
    )
