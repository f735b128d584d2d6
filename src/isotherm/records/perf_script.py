"""Decode memory samples as ``perf script`` and ``perf mem report -D`` print them.

``perf script`` prints the fields of a sample in a fixed order, whatever the
order in which ``-F`` names them: comm, pid/tid, [cpu], time:, period, event:,
addr, data_src, weight, ip and symbol, phys_addr (tools/perf/builtin-script.c).
Up to the colon after the event or the time is the head; the first number
behind it is the address. Of the rest only the operation in data_src is read.

``perf mem report -D`` prints one sample a line below a line that names the
columns: ``# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL``.
"""

import re
from typing import NamedTuple

_TIME = re.compile(rb"(?:^|[ \t])(\d{1,10})\.(\d{1,9}):(?=[ \t]|$)")
_PROCESS = re.compile(rb"(?:^|[ \t])(\d+)/(\d+)(?=[ \t]|$)")
_NUMBER = re.compile(rb"(?:0x)?([0-9a-f]{1,16})")
#: After the address's own symbol and file another number follows: the ip.
_SECOND_NUMBER = re.compile(rb"\)[ \t]+(?:0x)?[0-9a-f]{1,16}(?:[ \t]|$)")
_OPERATION = re.compile(rb"\|OP ([A-Z]+)")
_EVENT_STORE = re.compile(rb"(?:^|[ \t/_.-])(?:all_)?stores?(?:[-_,:/ ]|$)")
_EVENT_LOAD = re.compile(rb"(?:^|[ \t/_.-])(?:all_)?loads?(?:[-_,:/ ]|$)")
_SPLIT = re.compile(rb"[ \t,]+")
#: Operation bits of perf_mem_data_src (include/uapi/linux/perf_event.h).
_MEM_OP_LOAD, _MEM_OP_STORE = 0x02, 0x04


class Sample(NamedTuple):
    """One memory sample; None where the line does not say.

    Attributes:
        address: Virtual data address, 0 where the hardware gave none.
        write: Whether it stored.
        time_ns: Time of the sample.
        process: Process id.
    """

    address: int
    write: bool | None
    time_ns: int | None
    process: int | None


_EXPECTED = "a data address after 'event:' (perf script -F +addr)"


class PerfScript:
    """Decodes lines in order; the header of a raw dump and call chains span lines.

    A line with one address, its symbol and its file is a sample where a call chain
    follows; alone it is an instruction's address, and no memory sample.
    """

    def __init__(self) -> None:
        self._columns: list[bytes] | None = None
        self._in_chain = False
        self._pending: Sample | None = None

    def decode(self, line: bytes) -> Sample | None:
        """Return the sample that a line gives or confirms.

        Args:
            line: Without its newline.

        Returns:
            None for a comment, a blank, a call chain, and a line that only the
            next one can tell.

        Raises:
            ValueError: The line is none of these; the message says what it lacks.
        """
        line = line.rstrip()
        if self._pending is not None:
            if not _is_chain(line):
                raise ValueError(f"a call chain, or before it {_EXPECTED}")
            sample, self._pending = self._pending, None
            self._in_chain = True
            return sample
        if not line:
            self._in_chain = False
            return None
        if line.startswith(b"#"):
            self._take_header(line)
            return None
        if self._columns is not None:
            return self._decode_raw(line)
        if self._in_chain and _is_chain(line):
            return None
        sample, uncertain = _decode_script(line)
        if uncertain:
            self._pending = sample
            return None
        # A chain may follow any sample.
        self._in_chain = b":" in line
        return sample

    def finish(self) -> None:
        """See that no line waits for the next.

        Raises:
            ValueError: One does.
        """
        if self._pending is not None:
            raise ValueError(_EXPECTED)

    def _take_header(self, line: bytes) -> None:
        names = [name.strip() for name in line[1:].split(b",")]
        if b"ADDR" in names and b"PID" in names:
            self._columns = names

    def _decode_raw(self, line: bytes) -> Sample:
        names = self._columns or []
        parts = _SPLIT.split(line.strip(), maxsplit=len(names) - 1)
        row = dict(zip(names, parts, strict=False))
        if b"ADDR" not in row or b"PID" not in row:
            raise ValueError(b", ".join(names).decode("latin-1"))
        source = int(row.get(b"DSRC", b"0"), 16)
        write = None
        if source & (_MEM_OP_LOAD | _MEM_OP_STORE):
            write = bool(source & _MEM_OP_STORE)
        return Sample(_raw_address(row[b"ADDR"]), write, None, int(row[b"PID"]))


def _is_chain(line: bytes) -> bool:
    """Return whether a line is a frame of a call chain: ``  ADDRESS symbol (dso)``."""
    if not line[:1].isspace() or _TIME.search(line) is not None or b"|" in line:
        return False
    parts = line.split(None, 1)
    if _NUMBER.fullmatch(parts[0]) is None:
        return False
    return len(parts) == 1 or _NUMBER.fullmatch(parts[1].split()[0]) is None


def _decode_script(line: bytes) -> tuple[Sample, bool]:
    """Return the sample, and whether its address may be an instruction's instead."""
    bar = line.find(b"|")
    plain = line + b" " if bar < 0 else line[:bar]
    # Symbols hold "::" but no colon before a blank.
    head_end = max(plain.rfind(b": "), plain.rfind(b":\t")) + 1
    head, rest = plain[:head_end], plain[head_end:].split(None, 1)
    found = _NUMBER.fullmatch(rest[0]) if rest else None
    # The last number before data_src's bars is data_src itself.
    if found is None or (bar >= 0 and len(rest) < 2):
        raise ValueError(_EXPECTED)
    certain = (
        bar >= 0
        or len(rest) < 2
        or _NUMBER.fullmatch(rest[1].split(None, 1)[0]) is not None
        or _SECOND_NUMBER.search(rest[1]) is not None
    )
    time = _TIME.search(head)
    process = _PROCESS.search(head)
    operation = _OPERATION.search(line)
    write: bool | None = None
    if operation is not None:
        write = {b"STORE": True, b"LOAD": False}.get(operation[1])
    elif _EVENT_STORE.search(head):
        write = True
    elif _EVENT_LOAD.search(head):
        write = False
    time_ns = (
        None
        if time is None
        else int(time[1]) * 1_000_000_000 + int(time[2].ljust(9, b"0"))
    )
    pid = None if process is None else int(process[1])
    return Sample(int(found[1], 16), write, time_ns, pid), not certain


def _raw_address(text: bytes) -> int:
    # perf prints the first address of a dump with "0x016" before it: its format
    # lacks the % of %016lx. No other number of a dump begins with a zero.
    address = int(text.removeprefix(b"0x016"), 16)
    if not 0 <= address < 1 << 64:
        raise ValueError("an address below 2^64")
    return address
