"""Text of sysfs and procfs files in, values out; anything odd is a ValueError.

The message of the error says what was expected; the caller adds the file.
"""

import re

#: The kernel's own ceilings: NODES_SHIFT is at most 10, NR_CPUS at most 8192.
MAX_NODES = 1 << 10
MAX_CPUS = 1 << 16

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_MASK = re.compile(r"[0-9a-fA-F]{1,8}(,[0-9a-fA-F]{8})*", re.ASCII)
_MEM_TOTAL = re.compile(
    r"^Node +([0-9]{1,9}) +MemTotal: +([0-9]{1,15}) kB *$", re.MULTILINE | re.ASCII
)
_MACHINE_TOTAL = re.compile(r"^MemTotal: +([0-9]{1,15}) kB *$", re.MULTILINE | re.ASCII)


def parse_number(text: str) -> int:
    """Return a decimal number >= 0.

    Raises:
        ValueError: The text is something else.

    >>> parse_number("102400")
    102400
    """
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("a number >= 0")
    return int(text)


def parse_signed(text: str) -> int:
    """Return a decimal number; the kernel writes -1 for "no node".

    Raises:
        ValueError: The text is something else.
    """
    if _SIGNED.fullmatch(text) is None:
        raise ValueError("a number")
    return int(text)


def parse_list(text: str, limit: int) -> tuple[int, ...]:
    """Return the numbers of a kernel list, ascending; an empty text is no number.

    Args:
        text: Such as ``0-3,8``.
        limit: Numbers must be below it.

    Raises:
        ValueError: The text is not a list, or names a number out of range.

    >>> parse_list("0-2,4,6,8-9", 1024)
    (0, 1, 2, 4, 6, 8, 9)
    """
    if not text:
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError("a list such as 0-3,8")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if not first <= last < limit:
            raise ValueError(f"a list of rising numbers below {limit}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def parse_mask(text: str) -> tuple[int, ...]:
    """Return the CPUs of a ``cpumap``: 32-bit hexadecimal words, highest first.

    Raises:
        ValueError: The text is not a mask.

    >>> parse_mask("00000001,0000000c")
    (2, 3, 32)
    """
    if len(text) > MAX_CPUS // 3 or _MASK.fullmatch(text) is None:
        raise ValueError("a mask such as 00000000,0000000f")
    bits = int(text.replace(",", ""), 16)
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def parse_mem_total(text: str, node: int) -> int:
    """Return the managed bytes of a node from its ``meminfo``.

    Raises:
        ValueError: No ``MemTotal`` line, or one for another node.

    >>> parse_mem_total("Node 4 MemTotal:         524288 kB", 4)
    536870912
    """
    match = _MEM_TOTAL.search(text)
    if match is None:
        raise ValueError(f"a line 'Node {node} MemTotal: ... kB'")
    if int(match[1]) != node:
        raise ValueError(f"node {node}, not node {int(match[1])}")
    total = int(match[2]) << 10
    if total >= 1 << 56:  # 64 PiB: the five-level page tables end at 2^57
        raise ValueError("a capacity below 64 PiB")
    return total


def parse_machine_total(text: str) -> int:
    """Return the managed bytes of the whole machine from ``/proc/meminfo``.

    Raises:
        ValueError: No ``MemTotal`` line.

    >>> parse_machine_total("MemTotal:       24683656 kB")
    25276063744
    """
    match = _MACHINE_TOTAL.search(text)
    if match is None:
        raise ValueError("a line 'MemTotal: ... kB'")
    return int(match[1]) << 10


def parse_distances(text: str, nodes: int) -> tuple[int, ...]:
    """Return a SLIT row: one distance per online node, 10 is local.

    Raises:
        ValueError: Another count, or a value outside 10..255 (ACPI 5.2.17).

    >>> parse_distances("10 21", 2)
    (10, 21)
    """
    row = tuple(parse_number(word) for word in text.split())
    if len(row) != nodes:
        raise ValueError(f"{nodes} distances, one per online node")
    if not all(10 <= distance <= 255 for distance in row):
        raise ValueError("distances from 10 to 255")
    return row


def render_list(numbers: tuple[int, ...]) -> str:
    """Return numbers as the kernel writes a list.

    >>> render_list((0, 1, 2, 4, 8, 9))
    '0-2,4,8-9'
    """
    parts: list[str] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            first, last = numbers[start], numbers[i - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ",".join(parts)
