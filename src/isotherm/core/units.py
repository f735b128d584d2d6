"""Bytes, pages and times: parsing what people write, rendering what they read."""

import re

from isotherm.core.errors import UsageError

PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 << 20
PAGES_PER_HUGE_PAGE = HUGE_PAGE_BYTES // PAGE_BYTES
CACHE_LINE_BYTES = 64
NS_PER_S = 1_000_000_000

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(i?B?)\s*$", re.IGNORECASE)
_SCALE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


def parse_size(text: str) -> int:
    """Return the bytes that a person wrote; K, M, G, T, P are powers of 1024.

    GB is GiB, as the kernel and most tools for memory have it.

    Raises:
        UsageError: The text is not a size.

    >>> parse_size("8MiB"), parse_size("1.5G"), parse_size("4096")
    (8388608, 1610612736, 4096)
    """
    found = _SIZE.match(text)
    if found is None:
        raise UsageError(
            f"size: expected a number and a unit, got {text!r}", hint="try 8MiB"
        )
    return int(float(found[1]) * _SCALE[found[2].upper()])


def render_bytes(count: float) -> str:
    """Return a byte count with a binary unit and three significant digits.

    >>> render_bytes(0), render_bytes(4096), render_bytes(40263680)
    ('0 B', '4.00 KiB', '38.4 MiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    digits = 2 if count < 10 else 1 if count < 100 else 0
    return f"{count:.{digits}f} {unit}"


def render_ns(duration_ns: float) -> str:
    """Return a duration with a fitting unit and three significant digits.

    >>> render_ns(80), render_ns(2500), render_ns(24575000)
    ('80.0 ns', '2.50 µs', '24.6 ms')
    """
    for unit in ("ns", "µs", "ms", "s"):
        if abs(duration_ns) < 1000 or unit == "s":
            break
        duration_ns /= 1000
    size = abs(duration_ns)
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{duration_ns:.{digits}f} {unit}"
