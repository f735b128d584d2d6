"""The register-level driver of a CXL Hotness Monitoring Unit.

It needs of the device no more than reads and writes at an offset of its register
block, and a clock to wait on: a mapped PCI resource gives both, so does the model
in ``machine/sim``. Registers: `isotherm.records.cxl_hmu_registers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.hints.chmu_settings import Capabilities, Settings, check_settings
from isotherm.records import cxl_hmu_registers as reg
from isotherm.records.cxl_hmu import HotUnits, split_entries
from isotherm.records.cxl_hmu_registers import (
    Bits,
    Operation,
    Tracked,
    epoch_fields,
    epoch_ns,
)

#: How long the device may take to enable, disable or reset. The specification sets
#: no limit; the driver posted for Linux waits as long.
TIMEOUT_NS: Final = 100_000_000
POLL_NS: Final = 10_000
#: Times that one drain goes round while the device refills the list.
MOST_ROUNDS: Final = 256
#: A bitmap for 1 PiB; what promises more is damage, and would be written for hours.
MOST_BITMAP_WORDS: Final = 1 << 16
_GONE: Final = (1 << 64) - 1


class RegisterAccess(Protocol):
    """Registers of one block, and the time that the device lives in."""

    def read(self, offset: int, bits: int) -> int:
        """Return a register of 8, 16, 32 or 64 bits."""
        ...

    def write(self, offset: int, bits: int, value: int) -> None:
        """Write a register of 8, 16, 32 or 64 bits."""
        ...

    def read_words(self, offset: int, words: int) -> NDArray[np.uint64]:
        """Return so many registers of 64 bits in a row, uint64[words]."""
        ...

    def now_ns(self) -> int:
        """Return the time."""
        ...

    def wait_ns(self, delay_ns: int) -> None:
        """Let so much time pass."""
        ...


class DeviceError(IsothermError):
    """The device does not behave as its registers promise."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What a hot list held.

    Attributes:
        units: The entries.
        overflowed: The list was full when more was to be put in: if the device does
            not postpone, something is missing.
    """

    units: HotUnits
    overflowed: bool

    def then(self, later: "Drained") -> "Drained":
        """Return this and what the same list held later."""
        return Drained(
            self.units.then(later.units), self.overflowed or later.overflowed
        )


def _flags(bits: int) -> tuple[int, ...]:
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def open_block(access: RegisterAccess) -> tuple["Instance", ...]:
    """Return the instances of a register block.

    Raises:
        DeviceError: The block is not there, or its registers contradict themselves.
    """
    first = access.read(reg.VERSION.offset, 64)
    second = access.read(reg.INSTANCE_LENGTH.offset, 64)
    if first == _GONE:
        raise DeviceError("chmu: registers read all ones: the device is gone")
    if reg.VERSION.of(first) == 0:
        raise DeviceError("chmu: version: expected 1 or more, got 0")
    count, length = reg.NUM_INSTANCES.of(first), reg.INSTANCE_LENGTH.of(second)
    if count and (length < reg.FIXED_BYTES or length % 8):
        raise DeviceError(
            f"chmu: instance length: expected a multiple of 8, {reg.FIXED_BYTES} or "
            f"more, got {length}"
        )
    return tuple(
        Instance(access, i, reg.COMMON_BYTES + i * length) for i in range(count)
    )


class Instance:
    """One instance: a set of counters with a hot list.

    Args:
        access: The block's registers.
        number: Of the instance.
        base: Its first register, from the block.

    Raises:
        DeviceError: Its capabilities contradict themselves.
    """

    def __init__(self, access: RegisterAccess, number: int, base: int) -> None:
        self.number = number
        self._access = access
        self._base = base
        self.name = f"chmu instance {number}"
        self.capabilities = self._read_capabilities()
        self.settings: Settings | None = None
        self.counter_width = 0
        self.enabled_ns = 0

    # -- registers ---------------------------------------------------------

    def _get(self, field: Bits) -> int:
        return field.of(self._access.read(self._base + field.offset, 64))

    def _set(self, offset: int, *fields: tuple[Bits, int]) -> None:
        """Write fields of one register; its others stay."""
        value = self._access.read(self._base + offset, 64)
        for field, wanted in fields:
            value = field.put(value, wanted)
        self._access.write(self._base + offset, 64, value)

    def _read_capabilities(self) -> Capabilities:
        cap0 = self._access.read(self._base + reg.CAP0, 64)
        cap1 = self._access.read(self._base + reg.CAP1, 64)
        if cap0 == _GONE:
            raise DeviceError(f"{self.name}: reads all ones: the device is gone")
        found = Capabilities(
            tracked=frozenset(
                Tracked(bit + 1) for bit in _flags(reg.CAP_TRACKED.of(cap0))
            ),
            min_epoch_ns=epoch_ns(
                reg.CAP_MIN_EPOCH_SCALE.of(cap0), reg.CAP_MIN_EPOCH_MULTIPLE.of(cap0)
            ),
            max_epoch_ns=epoch_ns(
                reg.CAP_MAX_EPOCH_SCALE.of(cap0), reg.CAP_MAX_EPOCH_MULTIPLE.of(cap0)
            ),
            hot_list_size=reg.CAP_HOT_LIST_SIZE.of(cap0),
            unit_shifts=tuple(
                bit + reg.UNIT_SHIFT_LEAST
                for bit in _flags(reg.CAP_UNIT_SIZES.of(cap1))
            ),
            down_sampling=_flags(reg.CAP_DOWN_SAMPLING.of(cap1)),
            epoch_based=bool(reg.CAP_EPOCH_BASED.of(cap1)),
            always_on=bool(reg.CAP_ALWAYS_ON.of(cap1)),
            random_down_sampling=bool(reg.CAP_RANDOM_DOWN_SAMPLING.of(cap1)),
            overlapping=bool(reg.CAP_OVERLAPPING.of(cap1)),
            postponed=bool(reg.CAP_POSTPONED.of(cap1)),
            overflow_interrupt=bool(reg.CAP_OVERFLOW_INTERRUPT.of(cap0)),
            fill_interrupt=bool(reg.CAP_FILL_INTERRUPT.of(cap0)),
            per_counter_epochs=reg.CAP_EPOCH_TYPE.of(cap0) == 1,
            interrupt=reg.CAP_MSI.of(cap0),
            bitmap_offset=self._get(reg.CAP_BITMAP_OFFSET),
            hot_list_offset=self._get(reg.CAP_HOT_LIST_OFFSET),
        )
        if found.hot_list_size < 2:
            raise DeviceError(
                f"{self.name}: hot list: expected two slots or more, "
                f"got {found.hot_list_size}"
            )
        if not found.unit_shifts:
            raise DeviceError(f"{self.name}: units: expected a size, got none")
        for what, offset in (
            ("range bitmap", found.bitmap_offset),
            ("hot list", found.hot_list_offset),
        ):
            if offset < reg.FIXED_BYTES or offset % 8 or offset >= 1 << 32:
                raise DeviceError(
                    f"{self.name}: {what}: expected a multiple of 8 beyond "
                    f"{reg.FIXED_BYTES:#x}, got {offset:#x}"
                )
        bitmap = (found.hot_list_offset - found.bitmap_offset) // 8
        if bitmap > MOST_BITMAP_WORDS:
            raise DeviceError(
                f"{self.name}: range bitmap: expected at most {MOST_BITMAP_WORDS} "
                f"words before the hot list, got {bitmap}"
            )
        return found

    # -- handshakes --------------------------------------------------------

    def _await(self, what: str, done: Callable[[int], bool]) -> None:
        """Wait until no operation is in progress and a state is reached.

        Raises:
            DeviceError: It does not come in time.
        """
        access = self._access
        deadline = access.now_ns() + TIMEOUT_NS
        while True:
            status = access.read(self._base + reg.STATUS, 64)
            if status == _GONE:
                raise DeviceError(f"{self.name}: reads all ones: the device is gone")
            if reg.OPERATION.of(status) == Operation.NONE and done(status):
                return
            if access.now_ns() >= deadline:
                raise DeviceError(
                    f"{self.name}: {what} not done in {TIMEOUT_NS // 1_000_000} ms: "
                    f"status {status:#x}"
                )
            access.wait_ns(POLL_NS)

    @property
    def enabled(self) -> bool:
        """Whether it counts now."""
        return bool(self._get(reg.ENABLED))

    def disable(self) -> None:
        """Stop counting; what is in the list stays.

        Raises:
            DeviceError: It does not stop in time.
        """
        self._set(reg.CFG0, (reg.ENABLE, 0), (reg.RESET, 0))
        self._await("disable", lambda status: reg.ENABLED.of(status) == 0)

    def enable(self) -> None:
        """Start counting.

        Raises:
            DeviceError: It does not start in time.
        """
        self._set(reg.CFG0, (reg.ENABLE, 1), (reg.RESET, 0))
        self._await("enable", lambda status: reg.ENABLED.of(status) == 1)
        self.enabled_ns = self._access.now_ns()

    def reset(self) -> None:
        """Set counters and list to nothing.

        Raises:
            DeviceError: It does not come back in time.
        """
        self._set(reg.CFG0, (reg.RESET, 1))
        self._await("reset", lambda _: True)
        self._set(reg.CFG0, (reg.RESET, 0))

    # -- settings ----------------------------------------------------------

    def check(self, settings: Settings) -> None:
        """Refuse what the instance cannot do.

        Raises:
            UnsupportedError: With the setting, what was asked for and what there is.
        """
        check_settings(self.name, self.capabilities, settings)

    def configure(self, settings: Settings) -> None:
        """Stop, set up, and start counting from nothing.

        Raises:
            UnsupportedError: The instance cannot do it; it is stopped then.
            DeviceError: It does not answer.
        """
        self.check(settings)
        s = settings
        scale, multiple = epoch_fields(s.epoch_ns)
        self.disable()
        self._set(
            reg.CFG1,
            (reg.UNIT_SIZE, s.unit_shift),
            (reg.DOWN_SAMPLING, s.down_sampling),
            (reg.REPORTING, int(s.reporting)),
            (reg.EPOCH_SCALE, scale),
            (reg.EPOCH_MULTIPLE, multiple),
        )
        width = self._get(reg.COUNTER_WIDTH)
        if not 1 <= width <= 63:
            raise DeviceError(
                f"{self.name}: counter width: expected 1 to 63, got {width}"
            )
        most = min((1 << width) - 1, reg.THRESHOLD.most)
        if s.threshold > most:
            raise UnsupportedError(
                f"{self.name}: threshold: expected 1 to {most} "
                f"({width} bits count), got {s.threshold}"
            )
        self._set(reg.CFG2, (reg.NOTIFY_AT, s.notify_at))
        self._set(
            reg.CFG0,
            (reg.TRACK, int(s.tracked)),
            (reg.RANDOM_DOWN_SAMPLING, int(s.random)),
            (reg.INTERRUPT_ON_FILL, int(s.notify_at > 0)),
            (reg.INTERRUPT_ON_OVERFLOW, 0),
            (reg.THRESHOLD, s.threshold),
        )
        self._write_bitmap(s.ranges)
        self.reset()
        self.counter_width, self.settings = width, s
        self.enable()

    def _write_bitmap(self, ranges: tuple[tuple[int, int], ...] | None) -> None:
        can = self.capabilities
        words = max(0, can.hot_list_offset - can.bitmap_offset) // 8
        bitmap = [0] * words
        if ranges is None:
            bitmap = [_GONE] * words
        else:
            for start, end in ranges:
                last = -(-end // reg.BITMAP_BYTES)
                for bit in range(start // reg.BITMAP_BYTES, min(last, 64 * words)):
                    bitmap[bit // 64] |= 1 << bit % 64
        base = self._base + can.bitmap_offset
        for i, word in enumerate(bitmap):
            self._access.write(base + 8 * i, 64, word)

    # -- the list ----------------------------------------------------------

    def drain(self) -> Drained:
        """Return the list's entries, oldest first, and make room.

        A device that postpones what found no room puts it in then: the list is read
        again until it stays empty.

        Raises:
            DeviceError: Head or tail lie beyond the list.
        """
        access, can = self._access, self.capabilities
        status = access.read(self._base + reg.STATUS, 64)
        if status == _GONE:
            raise DeviceError(f"{self.name}: reads all ones: the device is gone")
        if self.counter_width == 0:
            return Drained(HotUnits.none(), overflowed=False)
        parts: list[NDArray[np.uint64]] = []
        for _ in range(MOST_ROUNDS if can.postponed else 1):
            words = self._read_list()
            if not len(words):
                break
            parts.append(words)
        overflowed = bool(reg.OVERFLOW.of(status))
        if overflowed or reg.FILL.of(status):
            # Written as ones to be cleared; the others are read-only.
            clear = reg.OVERFLOW.put(0, int(overflowed))
            clear = reg.FILL.put(clear, reg.FILL.of(status))
            access.write(self._base + reg.STATUS, 64, clear)
        words = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        unit, count = split_entries(words, self.counter_width)
        units = HotUnits(unit, count, self.counter_width, len(parts), 0)
        return Drained(units, overflowed)

    def _read_list(self) -> NDArray[np.uint64]:
        access, can = self._access, self.capabilities
        size = can.hot_list_size
        head = access.read(self._base + reg.HEAD, 16)
        tail = access.read(self._base + reg.TAIL, 16)
        if head >= size or tail >= size:
            raise DeviceError(
                f"{self.name}: hot list: expected head and tail below {size}, "
                f"got {head} and {tail}"
            )
        if head == tail:
            return np.empty(0, np.uint64)
        base = self._base + can.hot_list_offset
        if tail > head:
            words = access.read_words(base + 8 * head, tail - head)
        else:
            words = np.concatenate(
                [
                    access.read_words(base + 8 * head, size - head),
                    access.read_words(base, tail),
                ]
            )
        access.write(self._base + reg.HEAD, 16, tail)
        return words
