"""A swap device on zram for as long as a block runs; the host is as before after it.

Root only. Whatever ends the process (an exception, a signal, a kill -9), a small
guardian process that waits for the end of a pipe takes the swap down again.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_CONTROL = Path("/sys/class/zram-control")
_LOCK = Path("/run/lock/isotherm-zram-swap")
_GUARD = """
trap '' INT TERM HUP
read -r _
device=$1 sys=$2 algorithm=$3 added=$4
grep -q "^$device " /proc/swaps && swapoff "$device"
echo 1 > "$sys/reset"
echo "$algorithm" > "$sys/comp_algorithm"
if [ -n "$added" ]; then echo "$added" > /sys/class/zram-control/hot_remove; fi
"""


@dataclass(frozen=True, slots=True)
class ZramSwap:
    """A zram device that is swapped to.

    Attributes:
        device: ``/dev/zramN``.
        sys: Its directory in sysfs.
    """

    device: Path
    sys: Path

    def stored_bytes(self) -> int:
        """Return the bytes that pages in it had before compression."""
        return int((self.sys / "mm_stat").read_text().split()[0])

    def used_bytes(self) -> int:
        """Return the memory that the device takes, its allocator's waste included."""
        return int((self.sys / "mm_stat").read_text().split()[2])


def missing() -> str | None:
    """Return in words what keeps this host from a zram swap; None if nothing."""
    if os.geteuid() != 0:
        return "a zram swap needs root"
    if not _CONTROL.is_dir():
        return f"{_CONTROL}: no such directory: the kernel has no zram"
    for tool in ("mkswap", "swapon", "swapoff"):
        if not any(Path(d, tool).exists() for d in ("/sbin", "/usr/sbin")):
            return f"{tool} is not installed"
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    if swaps:
        return f"swap is in use already: {swaps[0].split()[0]}"
    return None


def _choose() -> tuple[str, str]:
    """Return a zram device that nobody uses, and its number if it was added."""
    for sys in sorted(Path("/sys/block").glob("zram*")):
        if (sys / "disksize").read_text().strip() == "0":
            return sys.name, ""
    number = (_CONTROL / "hot_add").read_text().strip()
    return f"zram{number}", number


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


@contextlib.contextmanager
def zram_swap(size_bytes: int, algorithm: str = "lz4") -> Iterator[ZramSwap]:
    """Set up a zram swap, and take it down at the end whatever happens.

    Args:
        size_bytes: Of the device, before compression.
        algorithm: Compression; the device's own default where it lacks this one.

    Raises:
        RuntimeError: Something is missing, or swap is in use.
    """
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        why = missing()
        if why:
            raise RuntimeError(why)
        name, added = _choose()
        sys, device = Path("/sys/block", name), Path("/dev", name)
        choices = (sys / "comp_algorithm").read_text()
        before = choices.partition("[")[2].partition("]")[0]
        pipe, ours = os.pipe()
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", device, sys, before, added],
            stdin=pipe,
            start_new_session=True,
        )
        os.close(pipe)
        main = signal.getsignal(signal.SIGTERM)
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, _stop)
        try:
            if algorithm in choices:
                (sys / "comp_algorithm").write_text(algorithm)
            (sys / "disksize").write_text(str(size_bytes))
            subprocess.run(["mkswap", device], check=True, capture_output=True)
            subprocess.run(["swapon", "-p", "100", device], check=True)
            yield ZramSwap(device, sys)
        finally:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGTERM, main)
            os.close(ours)
            failed = guard.wait()
            if failed:
                raise RuntimeError(f"{device}: could not be taken down: exit {failed}")
