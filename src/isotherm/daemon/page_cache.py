"""Page cache that no process maps: what it holds, since nothing here moves it.

Pages are moved through a process that maps them (move_pages(2)). What is only read and
written through descriptors is no process's: the kernel demotes it at reclaim where
demotion is on, and nobody promotes it.
"""

import re
from pathlib import Path

_MEMINFO = re.compile(r"^(Cached|Mapped):\s+(\d+) kB$", re.MULTILINE)
_STAT = re.compile(r"^(file|file_mapped) (\d+)$", re.MULTILINE)


def read_unmapped_bytes(
    root: Path = Path("/"), cgroup: Path | None = None
) -> int | None:
    """Return bytes of page cache, shared memory among it, that nobody maps.

    Args:
        root: Where /proc is.
        cgroup: Of this group alone, by its memory.stat (cgroup v2); None: the host's.

    Returns:
        None where nobody says.
    """
    file = root / "proc/meminfo" if cgroup is None else cgroup / "memory.stat"
    try:
        text = file.read_text()
    except OSError:
        return None
    if cgroup is None:
        found = {name: int(kib) << 10 for name, kib in _MEMINFO.findall(text)}
        names = ("Cached", "Mapped")
    else:
        found = {name: int(size) for name, size in _STAT.findall(text)}
        names = ("file", "file_mapped")
    if any(name not in found for name in names):
        return None
    return max(0, found[names[0]] - found[names[1]])
