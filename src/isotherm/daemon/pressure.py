"""Pressure on memory, as the kernel counts it: stalls and refaults."""

from dataclasses import dataclass
from pathlib import Path

from isotherm.core.units import NS_PER_S

#: Counters of pages that came back after reclaim.
# Linux 5.9 split workingset_refault by kind; reading by prefix takes both.
REFAULT_PREFIX = "workingset_refault"


@dataclass(frozen=True, slots=True)
class Pressure:
    """What happened between two readings; None: the kernel does not say.

    Attributes:
        some: Share of the time in which some task waited for memory, in [0, 1].
        refaults_per_s: Pages that came back after reclaim.
    """

    some: float | None
    refaults_per_s: float | None


class PressureReader:
    """Reads stalls and refaults of the host, or of one cgroup.

    Args:
        root: Where /proc is.
        cgroup: A cgroup v2 directory: its own figures, where it has them.
    """

    def __init__(self, root: Path = Path("/"), cgroup: Path | None = None) -> None:
        self._stalls = [root / "proc/pressure/memory"]
        self._counters = [root / "proc/vmstat"]
        if cgroup is not None:
            self._stalls.insert(0, cgroup / "memory.pressure")
            self._counters.insert(0, cgroup / "memory.stat")
        self._last: tuple[int, int | None, int | None] | None = None

    def read(self, now_ns: int) -> Pressure:
        """Return what happened since the last call; the first knows nothing."""
        stalled_us = read_stalled_us(self._stalls)
        refaults = read_refaults(self._counters)
        last, self._last = self._last, (now_ns, stalled_us, refaults)
        if last is None or now_ns <= last[0]:
            return Pressure(None, None)
        seconds = (now_ns - last[0]) / NS_PER_S
        some = rate = None
        if stalled_us is not None and last[1] is not None:
            some = min(1.0, max(0, stalled_us - last[1]) / 1e6 / seconds)
        if refaults is not None and last[2] is not None:
            rate = max(0, refaults - last[2]) / seconds
        return Pressure(some, rate)


def read_stalled_us(paths: list[Path]) -> int | None:
    """Return ``some ... total=`` of the first file there is, in microseconds."""
    for line in _first(paths):
        words = line.split()
        if words[:1] == ["some"]:
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name == "total" and value.isdigit():
                    return int(value)
    return None


def read_refaults(paths: list[Path]) -> int | None:
    """Return the sum of all refault counters of the first file there is."""
    found = [
        int(words[1])
        for words in (line.split() for line in _first(paths))
        if len(words) == 2
        and words[0].startswith(REFAULT_PREFIX)
        and words[1].isdigit()
    ]
    return sum(found) if found else None


def _first(paths: list[Path]) -> list[str]:
    for path in paths:
        try:
            return path.read_text().splitlines()
        except OSError:  # absent, or CONFIG_PSI without psi=1: try the next
            continue
    return []
