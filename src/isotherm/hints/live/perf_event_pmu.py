"""PMUs as sysfs describes them: which there are, and how events are written down.

``/sys/bus/event_source/devices/NAME`` gives the type, where each term of an event
stands (``format/``), named events (``events/``), what the hardware can do
(``caps/``) and the CPUs that it is on. Anything that is wanted of an event is asked
for by the names there, so that no layout is assumed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.records.perf_features import parse_list

DEVICES: Final = Path("sys/bus/event_source/devices")
_WORDS: Final = ("config", "config1", "config2", "config3")


@dataclass(frozen=True, slots=True)
class Pmu:
    """One PMU.

    Attributes:
        name: Its folder.
        type: What perf_event_open takes.
        formats: Terms, each with its word and the bits there, lowest first.
        events: Named events, as terms.
        caps: What the hardware can do, as text.
        cpus: CPUs that it is on; None: all.
    """

    name: str
    type: int
    formats: dict[str, tuple[str, tuple[int, ...]]]
    events: dict[str, str]
    caps: dict[str, str]
    cpus: tuple[int, ...] | None

    def encode(self, **terms: int) -> tuple[int, int, int, int]:
        """Return config, config1, config2 and config3 of an event.

        Raises:
            KeyError: The PMU has no such term.
            ValueError: A value has more bits than the term.

        >>> bits = tuple(range(8))
        >>> formats = {"event": ("config", bits), "ldlat": ("config1", bits)}
        >>> Pmu("cpu", 4, formats, {}, {}, None).encode(event=0xCD, ldlat=3)
        (205, 3, 0, 0)
        """
        words = dict.fromkeys(_WORDS, 0)
        for name, value in terms.items():
            word, bits = self.formats[name]
            if not 0 <= value < 1 << len(bits):
                raise ValueError(f"{self.name}/{name}={value}/: {len(bits)} bits")
            for k, bit in enumerate(bits):
                words[word] |= (value >> k & 1) << bit
        config, config1, config2, config3 = (words[w] for w in _WORDS)
        return config, config1, config2, config3

    def named(self, event: str) -> dict[str, int]:
        """Return the terms of a named event; a term without a value is 1.

        Raises:
            KeyError: There is no such event.
            ValueError: It is not written as terms.
        """
        terms = (part.partition("=") for part in self.events[event].split(","))
        return {name.strip(): int(value or "1", 0) for name, _, value in terms if name}


def read_pmu(name: str, root: Path = Path("/")) -> Pmu | None:
    """Return a PMU; None if it is not there or its files say nothing of use."""
    folder = root / DEVICES / name
    try:
        kind = int((folder / "type").read_text())
    except (OSError, ValueError):
        return None
    formats = {}
    for term, text in _files(folder / "format").items():
        word, _, places = text.partition(":")
        try:
            bits = tuple(bit for bit in parse_list(places) if bit < 64)
        except ValueError:
            continue
        if word in _WORDS and bits:
            formats[term] = (word, bits)
    cpus = None
    for file in ("cpumask", "cpus"):
        try:
            cpus = parse_list((folder / file).read_text())
            break
        except (OSError, ValueError):
            continue
    events, caps = _files(folder / "events"), _files(folder / "caps")
    return Pmu(name, kind, formats, events, caps, cpus)


def pmu_names(root: Path = Path("/")) -> list[str]:
    """Return the PMUs there are, by name."""
    try:
        return sorted(os.listdir(root / DEVICES))  # noqa: PTH208  # names only
    except OSError:
        return []


def _files(folder: Path) -> dict[str, str]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return {}
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError):
            continue
    return found


def cycles_per_ns(root: Path = Path("/")) -> float | None:
    """Return the processor's cycles in a nanosecond, as latencies count them.

    The base frequency where cpufreq gives it, else the highest, else what
    /proc/cpuinfo says now; None where nobody does.
    """
    policy = root / "sys/devices/system/cpu/cpu0/cpufreq"
    for name in ("base_frequency", "cpuinfo_max_freq"):
        try:
            return int((policy / name).read_text()) / 1e6  # kHz
        except (OSError, ValueError):
            continue
    try:
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "cpu MHz":
                return float(value) / 1e3
    except (OSError, ValueError):
        pass
    return None
