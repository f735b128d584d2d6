"""A model of a CXL Hotness Monitoring Unit: registers outside, counters inside.

One block with one instance. It is told of accesses in device memory, and of time;
a driver sees its registers only. Modelled: enable, disable and reset with their
handshakes; unit size, threshold, kinds of requests, range bitmap, down-sampling;
finite counters of finite width; global epochs and always-on; the hot list with
head, tail, overflow and, where the device has it, postponed insertion.

Left out: epochs of single counters, interrupts (the list is polled), trusted
execution (every request is a plain one), and what a device gets wrong.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.sim.chmu_counters import Counters, EnoughCounters
from isotherm.machine.sim.llc import mix_array
from isotherm.records import cxl_hmu_registers as reg
from isotherm.records.cxl_hmu_registers import (
    Bits,
    Operation,
    Reporting,
    Tracked,
    epoch_fields,
    epoch_ns,
)

OPERATION_NS: Final = 20_000  # enable, disable, reset; assumed
READABLE: Final = {8, 16, 32, 64}

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a device is.

    Attributes:
        memory: Bytes.
        counters: Counters; 0: one a unit, and then it runs out of none.
        counter_width: Bits of a counter, 1 to 32.
        hot_list: Slots of the list, 2 to 65535.
        unit_shifts: Units of ``2^shift`` bytes, 8 to 39.
        down_sampling: Exponents that it knows.
        min_epoch_ns: Shortest epoch.
        max_epoch_ns: Longest epoch.
        epoch_based: Has that mode.
        always_on: Has that mode.
        postponed: Keeps what found the list full until there is room.
    """

    memory: int
    counters: int = 0
    counter_width: int = 16
    hot_list: int = 1024
    unit_shifts: tuple[int, ...] = (12, 13)
    down_sampling: tuple[int, ...] = ()
    min_epoch_ns: int = 100_000_000
    max_epoch_ns: int = 100_000_000_000
    epoch_based: bool = True
    always_on: bool = True
    postponed: bool = False


class HotnessUnit:
    """The device.

    Args:
        spec: What it is.
        operation_ns: What enabling, disabling and resetting take.
    """

    def __init__(self, spec: DeviceSpec, operation_ns: int = OPERATION_NS) -> None:
        self.spec = spec
        self._operation_ns = operation_ns
        words = -(-spec.memory // (64 * reg.BITMAP_BYTES))
        self._bitmap_at = reg.FIXED_BYTES
        self._list_at = self._bitmap_at + 8 * words
        self._end = self._list_at + 8 * spec.hot_list
        self._common = np.zeros(2, np.uint64)
        self._words = np.zeros(self._end // 8, np.uint64)  # of the instance
        self._now_ns = 0
        self._busy_until_ns = 0
        self._operation = Operation.NONE
        self._on = False
        self._epoch_began_ns = 0
        self._head = self._tail = 0
        self._overflow = self._fill = False
        self._backlog = np.empty(0, np.uint64)  # entries that wait for room
        self._counters = self._make_counters()
        self._taken = self._turn = 0
        self._seen = 0  # accesses that down-sampling has passed by
        self.dropped = 0  #: entries that found no room
        self._describe()

    # -- what it says of itself -------------------------------------------

    def _describe(self) -> None:
        spec = self.spec
        put = self._put
        if self._end >= 1 << 16:
            raise ValueError(
                f"hotness unit: an instance of {self._end} bytes, expected below 64 KiB"
            )
        first = reg.VERSION.put(reg.NUM_INSTANCES.put(0, 1), 1)
        self._common[:] = first, reg.INSTANCE_LENGTH.put(0, self._end)
        for field, value in (
            (reg.CAP_TRACKED, 0b111111),
            (reg.CAP_HOT_LIST_SIZE, spec.hot_list),
            (reg.CAP_UNIT_SIZES, sum(1 << (s - 8) for s in spec.unit_shifts)),
            (reg.CAP_DOWN_SAMPLING, sum(1 << n for n in spec.down_sampling)),
            (reg.CAP_EPOCH_BASED, int(spec.epoch_based)),
            (reg.CAP_ALWAYS_ON, int(spec.always_on)),
            (reg.CAP_RANDOM_DOWN_SAMPLING, int(bool(spec.down_sampling))),
            (reg.CAP_POSTPONED, int(spec.postponed)),
            (reg.CAP_BITMAP_OFFSET, self._bitmap_at),
            (reg.CAP_HOT_LIST_OFFSET, self._list_at),
        ):
            put(field, value)
        for scale, multiple, length_ns in (
            (reg.CAP_MIN_EPOCH_SCALE, reg.CAP_MIN_EPOCH_MULTIPLE, spec.min_epoch_ns),
            (reg.CAP_MAX_EPOCH_SCALE, reg.CAP_MAX_EPOCH_MULTIPLE, spec.max_epoch_ns),
        ):
            for field, value in zip(
                (scale, multiple), epoch_fields(length_ns), strict=True
            ):
                put(field, value)

    def _get(self, field: Bits) -> int:
        return field.of(int(self._words[field.offset // 8]))

    def _put(self, field: Bits, value: int) -> None:
        at = field.offset // 8
        self._words[at] = field.put(int(self._words[at]), value)

    # -- registers ---------------------------------------------------------

    def now_ns(self) -> int:
        """Return the device's time."""
        return self._now_ns

    def wait_ns(self, delay_ns: int) -> None:
        """Let time pass in which nothing is accessed."""
        self._pass(delay_ns)

    def read(self, offset: int, bits: int) -> int:
        """Return a register; what lies beyond the block reads as all ones."""
        if bits not in READABLE or offset % (bits // 8):
            raise ValueError(f"read of {bits} bits at {offset:#x}")
        word = self._word(offset - offset % 8)
        return (word >> 8 * (offset % 8)) & ((1 << bits) - 1)

    def _word(self, offset: int) -> int:
        self._settle()
        if offset < reg.COMMON_BYTES:
            return int(self._common[offset // 8])
        at = offset - reg.COMMON_BYTES
        if at >= self._end:
            return (1 << 64) - 1
        if at == reg.STATUS:
            return self._status()
        if at == reg.HEAD - reg.HEAD % 8:
            return self._head | self._tail << 16
        return int(self._words[at // 8])

    def _status(self) -> int:
        value = reg.ENABLED.put(0, int(self._on))
        value = reg.OPERATION.put(value, int(self._operation))
        known = self._get(reg.UNIT_SIZE) in self.spec.unit_shifts
        width = self.spec.counter_width if known else 0
        value = reg.COUNTER_WIDTH.put(value, width)
        value = reg.OVERFLOW.put(value, int(self._overflow))
        return reg.FILL.put(value, int(self._fill))

    def read_words(self, offset: int, words: int) -> Words:
        """Return registers in a row, uint64[words]."""
        at = offset - reg.COMMON_BYTES
        if at < self._list_at or at + 8 * words > self._end:
            return np.array(
                [self._word(offset + 8 * i) for i in range(words)], np.uint64
            )
        return self._words[at // 8 : at // 8 + words].copy()

    def write(self, offset: int, bits: int, value: int) -> None:
        """Write a register; what is read-only stays as it is."""
        if bits not in READABLE or offset % (bits // 8):
            raise ValueError(f"write of {bits} bits at {offset:#x}")
        self._settle()
        at = offset - reg.COMMON_BYTES
        low = 8 * (offset % 8)
        mask = ((1 << bits) - 1) << low
        whole = value << low & mask
        word = at - at % 8
        if word == reg.STATUS:
            self._overflow &= not reg.OVERFLOW.of(whole)
            self._fill &= not reg.FILL.of(whole)
        elif word == reg.HEAD - reg.HEAD % 8:
            head = whole & 0xFFFF
            if mask & 0xFFFF and head < self.spec.hot_list:
                self._head = head
                self._refill()
        elif word in (reg.CFG0, reg.CFG1, reg.CFG2) or (
            self._bitmap_at <= word < self._list_at
        ):
            before = int(self._words[word // 8])
            after = before & ~mask | whole
            if word == reg.CFG0:
                self._control(before, after)
            elif not self._on:  # the rest is set up while it stands still
                self._words[word // 8] = after

    def _control(self, before: int, after: int) -> None:
        if self._operation is not Operation.NONE:
            return  # one at a time
        self._words[reg.CFG0 // 8] = after
        wants = bool(reg.ENABLE.of(after))
        if reg.RESET.of(after) and not reg.RESET.of(before):
            self._begin(Operation.RESET)
        elif wants != self._on:
            self._begin(Operation.ENABLE if wants else Operation.DISABLE)

    def _begin(self, operation: Operation) -> None:
        self._operation = operation
        self._busy_until_ns = self._now_ns + self._operation_ns
        self._settle()

    def _settle(self) -> None:
        """Finish an operation whose time has come."""
        if self._operation is Operation.NONE or self._now_ns < self._busy_until_ns:
            return
        if self._operation is Operation.RESET:
            self._clear()
        else:
            self._on = self._operation is Operation.ENABLE
            if self._on:
                self._start()
        self._operation = Operation.NONE

    def _clear(self) -> None:
        self._head = self._tail = 0
        self._overflow = self._fill = False
        self._backlog = self._backlog[:0]
        self._counters.clear()

    def _start(self) -> None:
        self._epoch_began_ns = self._now_ns
        self._taken += self._counters.taken
        self._counters = self._make_counters()

    def _make_counters(self) -> Counters | EnoughCounters:
        spec = self.spec
        if spec.counters:
            return Counters(spec.counters, spec.counter_width)
        shift = max(self._get(reg.UNIT_SIZE), reg.UNIT_SHIFT_LEAST)  # 0: not set yet
        return EnoughCounters(-(-spec.memory >> shift), spec.counter_width)

    # -- time and accesses -------------------------------------------------

    @property
    def taken(self) -> int:
        """Accesses that were lost because counters ran out."""
        return self._taken + self._counters.taken

    def play(
        self, address: Words, offset_ns: Words, write: NDArray[np.uint8], dt_ns: int
    ) -> None:
        """Let a stretch of time pass, with its accesses.

        Args:
            address: In device memory, uint64[n].
            offset_ns: Since the stretch began, ascending, below ``dt_ns``, uint64[n].
            write: 1 for a write, uint8[n].
            dt_ns: Length of the stretch.
        """
        self._settle()
        done, passed = 0, 0
        while passed < dt_ns:
            step = dt_ns - passed
            length_ns = self._epoch_length_ns()
            if self._on and length_ns:
                left = self._epoch_began_ns + length_ns - self._now_ns
                step = min(step, max(1, left))
            passed += step
            upto = int(np.searchsorted(offset_ns, passed))
            if self._on:
                self._count(address[done:upto], write[done:upto])
            done = upto
            self._pass(step)

    def _epoch_length_ns(self) -> int:
        if self._get(reg.REPORTING) != Reporting.EPOCH:
            return 0
        return epoch_ns(self._get(reg.EPOCH_SCALE), self._get(reg.EPOCH_MULTIPLE))

    def _pass(self, step_ns: int) -> None:
        self._now_ns += step_ns
        length_ns = self._epoch_length_ns()
        if not self._on or not length_ns:
            return
        if self._now_ns - self._epoch_began_ns >= length_ns:
            unit, count = self._counters.above(max(1, self._get(reg.THRESHOLD)))
            # The sweep over the counters goes on where the list was full last time.
            turn = self._turn % max(1, len(unit))
            self._turn += self._insert(np.roll(unit, -turn), np.roll(count, -turn))
            self._counters.clear()
            gone = self._now_ns - self._epoch_began_ns
            self._epoch_began_ns += gone // length_ns * length_ns

    def _count(self, address: Words, write: NDArray[np.uint8]) -> None:
        unit = self._wanted(address, write) >> np.uint64(self._get(reg.UNIT_SIZE))
        if self._get(reg.REPORTING) == Reporting.EPOCH:
            self._counters.count(unit)
            return
        threshold = max(1, self._get(reg.THRESHOLD))
        hot = self._counters.count(unit, threshold)
        self._insert(hot, np.full(len(hot), threshold, np.uint64))

    def _wanted(self, address: Words, write: NDArray[np.uint8]) -> Words:
        """Return the accesses that are to be counted."""
        kind = self._get(reg.TRACK)
        bits = (address // np.uint64(reg.BITMAP_BYTES)).astype(np.int64)
        words = self._words[self._bitmap_at // 8 : self._list_at // 8]
        keep = bits < 64 * len(words)
        on = words[np.minimum(bits // 64, len(words) - 1)]
        keep &= (on >> (bits % 64).astype(np.uint64)) & np.uint64(1) > 0
        if kind in (Tracked.READS, Tracked.NON_TEE_READS):
            keep &= write == 0
        elif kind in (Tracked.WRITES, Tracked.NON_TEE_WRITES):
            keep &= write != 0
        elif kind not in (Tracked.ALL, Tracked.NON_TEE):
            keep[:] = False
        address = address[keep]
        factor = self._get(reg.DOWN_SAMPLING)
        if factor == 0:
            return address
        number = self._seen + np.arange(len(address), dtype=np.uint64)
        self._seen += len(address)
        if self._get(reg.RANDOM_DOWN_SAMPLING):
            number = mix_array(number)
        counted: Words = address[number & np.uint64((1 << factor) - 1) == 0]
        return counted

    # -- the list ----------------------------------------------------------

    def _insert(self, unit: Words, count: Words) -> int:
        """Put entries into the list; return how many of them found room at once."""
        entry = unit << np.uint64(self.spec.counter_width) | count
        size = self.spec.hot_list
        room = 0
        if not len(self._backlog):
            room = (self._head - self._tail - 1) % size
            self._append(entry[:room])
        late = entry[room:]
        if len(late):
            self._overflow = True
            if self.spec.postponed:
                self._backlog = np.concatenate([self._backlog, late])
            else:
                self.dropped += len(late)
        return len(entry) - len(late)

    def _append(self, entry: Words) -> None:
        size = self.spec.hot_list
        at = self._list_at // 8 + (self._tail + np.arange(len(entry))) % size
        self._words[at] = entry
        self._tail = (self._tail + len(entry)) % size
        limit = self._get(reg.NOTIFY_AT)
        held = (self._tail - self._head) % size
        self._fill |= limit > 0 and held >= limit

    def _refill(self) -> None:
        room = (self._head - self._tail - 1) % self.spec.hot_list
        late, self._backlog = self._backlog[:room], self._backlog[room:]
        self._append(late)
