"""The kernel: its release, and the options it was built with that matter here."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.daemon.doctor.files import read

#: Options without which something below is missing, and what that is.
OPTIONS: Final = {
    "MIGRATION": "moving pages at all",
    "NUMA": "more than one node",
    "NUMA_BALANCING": "hint faults and the kernel's own promotion",
    "PROC_PAGE_MONITOR": "pagemap, clear_refs, kpageflags",
    "DAMON_SYSFS": "DAMON's control files",
    "DAMON_VADDR": "DAMON on a process",
    "DAMON_PADDR": "DAMON on physical memory",
    "IDLE_PAGE_TRACKING": "the idle-page bitmap",
    "USERFAULTFD": "write tracking",
    "PERF_EVENTS": "page faults as addresses, hardware samples",
    "TRANSPARENT_HUGEPAGE": "huge pages, and collapsing them",
    "SWAP": "page-out",
    "ZRAM": "compressed memory as a swap device",
    "ZSWAP": "compressed memory before a swap device",
    "PSI": "the brake's pressure signal",
    "MEMCG": "cgroup targets and their pressure",
    "MEMORY_HOTPLUG": "nodes that come and go, and frames by node",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """The running kernel.

    Attributes:
        release: As uname says.
        config_source: Where the options were read; None: nowhere.
        options: ``y``, ``m``, ``n`` or None (unknown) by option name.
    """

    release: str
    config_source: str | None
    options: dict[str, str | None]

    def lacks(self, option: str) -> bool:
        """Return whether the kernel is known to be built without an option."""
        return self.options.get(option) == "n"


def read_kernel(root: Path = Path("/"), release: str | None = None) -> Kernel:
    """Return the kernel's release and options.

    Args:
        root: Where /proc and /boot are.
        release: As uname says; None: ask.
    """
    named = os.uname().release if release is None else release
    text, source = _config(root, named)
    if text is None:
        return Kernel(named, None, dict.fromkeys(OPTIONS))
    found = dict(
        line.removeprefix("CONFIG_").split("=", 1)
        for line in text.splitlines()
        if line.startswith("CONFIG_") and "=" in line
    )
    return Kernel(named, source, {name: found.get(name, "n") for name in OPTIONS})


def _config(root: Path, release: str) -> tuple[str | None, str | None]:
    path = "proc/config.gz"
    try:
        return gzip.decompress((root / path).read_bytes()).decode(), f"/{path}"
    except (OSError, EOFError, UnicodeDecodeError):
        pass  # not built in: distributions keep it beside the kernel
    for path in (f"boot/config-{release}", f"lib/modules/{release}/config"):
        reading = read(root, path)
        if reading.text is not None:
            return reading.text, reading.path
    return None, None


def module_known(root: Path, release: str, name: str) -> bool:
    """Return whether a module is loaded, built in, or can be loaded."""
    if (root / "sys/module" / name).is_dir():
        return True
    folder = root / "lib/modules" / release
    for index in ("modules.dep", "modules.builtin"):
        text = read(folder, index).text
        if text and f"/{name}.ko" in text:
            return True
    return False
