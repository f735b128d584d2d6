"""The host arena: ordinary memory that a device may read in place.

An anonymous mapping of exactly the size that is needed, aligned for huge pages and
touched by several threads at once, so that registering it finds every page there.
(Torch's own page-locked allocations round up to powers of two: 1.78 times the memory
for some sizes.) It is never memory that a driver moves by itself.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError
from isotherm.core.units import HUGE_PAGE_BYTES, render_bytes
from isotherm.gpu.backend import Geometry
from isotherm.gpu.elements import numpy_dtype

#: Of the memory that is to be had, so much may be locked: the rest of the host must
#: go on, and some virtual machines begin with less than they are given later.
MOST_LOCKED = 0.8

#: Rows are copied in pieces of so many bytes, a piece a thread.
PIECE_BYTES = 64 << 20
MOST_THREADS = 8


class HostMemoryError(IsothermError):
    """The host has no memory for the tensor."""


def available_bytes(root: Path = Path("/")) -> tuple[int | None, str]:
    """Return the memory that may still be used, and who says so.

    The least of MemAvailable and what the process' cgroups (v2) leave; None where
    nothing says.
    """
    found: list[tuple[int, str]] = []
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            found.append((int(value.split()[0]) << 10, "MemAvailable"))
    for directory in _cgroups(root):
        limit = _number(directory / "memory.max")
        used = _number(directory / "memory.current")
        if limit is not None and used is not None:
            found.append((max(0, limit - used), str(directory / "memory.max")))
    return min(found) if found else (None, "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """Return the number in a file; None: there is none, or it says ``max``."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the directories of the process' cgroup and of those above it."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        if number != "0":
            continue
        at = mount / rest.partition(":")[2].lstrip("/")
        while at != mount and mount in at.parents:
            yield at
            at = at.parent
    yield mount


def refuse_lock(size: int, root: Path = Path("/")) -> str | None:
    """Return why so many bytes must not be locked; None: they may."""
    there, says = available_bytes(root)
    if there is None or size <= MOST_LOCKED * there:
        return None
    return (
        f"{render_bytes(size)} to lock, at most {MOST_LOCKED:.0%} of"
        f" {render_bytes(there)} ({says})"
    )


def allocate(geometry: Geometry, root: Path = Path("/")) -> NDArray[np.uint8]:
    """Return a host arena of zeros, uint8[pages, page_bytes], aligned to 2 MiB.

    Raises:
        HostMemoryError: There is not so much memory.
    """
    size = geometry.pages * geometry.page_bytes
    there, says = available_bytes(root)
    if there is not None and size > there:
        raise HostMemoryError(
            f"host arena: {render_bytes(size)} needed, {render_bytes(there)} there"
            f" ({says})",
            hint="a smaller tensor, or a higher limit",
        )
    try:
        memory = mmap.mmap(
            -1, size + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
    except (OSError, ValueError, OverflowError) as error:
        raise HostMemoryError(
            f"host arena: mmap of {render_bytes(size)}: {error}"
        ) from error
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE_BYTES
    return whole[skip : skip + size].reshape(geometry.pages, geometry.page_bytes)


def elements(geometry: Geometry, arena: NDArray[np.uint8]) -> NDArray[Any]:
    """Return an arena as elements [pages, rows_per_page, row_dim], a view."""
    used = geometry.rows_per_page * geometry.row_dim
    found = arena.view(numpy_dtype(geometry.dtype))[:, :used]
    return found.reshape(
        len(arena), geometry.rows_per_page, geometry.row_dim, copy=False
    )


def fill(geometry: Geometry, arena: NDArray[np.uint8], rows: NDArray[Any]) -> None:
    """Copy rows into an arena, by several threads: this also touches its memory.

    Args:
        geometry: The shape.
        arena: As from ``allocate``.
        rows: [rows, row_dim], of the type that carries the tensor's.
    """
    into = elements(geometry, arena)
    n = geometry.rows_per_page
    whole = geometry.rows // n  # pages that are full
    step = max(1, PIECE_BYTES // geometry.page_bytes)

    def copy(first: int) -> None:
        last = min(first + step, whole)
        into[first:last] = rows[first * n : last * n].reshape(
            last - first, n, geometry.row_dim
        )

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(copy, range(0, whole, step)))
    rest = geometry.rows - whole * n
    if rest:
        into[whole, :rest] = rows[whole * n :]


def touch(geometry: Geometry, arena: NDArray[np.uint8]) -> None:
    """Touch every page of an arena of zeros, by several threads."""
    step = max(1, PIECE_BYTES // geometry.page_bytes)

    def zero(first: int) -> None:
        arena[first : first + step] = 0

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(zero, range(0, geometry.pages, step)))
