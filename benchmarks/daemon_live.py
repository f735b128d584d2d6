"""What the daemon costs a process of some GiB, live on this host.

Root, a kernel with zram and no swap in use: a host with one node of memory has a
second tier in compressed swap, which is set up for the run and taken down after it.
The daemon is ``isotherm run --pid`` with its defaults: it looks with the sources that
are here. It comes and goes; between, the process is alone. A second process of its
kind beside it, which nobody manages, meets the same weather.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bench_zram import Workload, workload
from zram_swap import zram_swap

BESIDE_MIB = 1024
SETTLE_S = 20.0
START_LIMIT_S = 60.0


@dataclass
class Live:
    """What was measured.

    Attributes:
        gib: Of the process.
        ratio: Accesses per CPU second relative to the process beside, per window;
            every second one, from the second on, under the daemon.
        cpu: CPU time of the daemon in each of its windows, share of a core.
        resident_bytes: Of the daemon at the end of each.
        results: What the daemon said of itself.
    """

    gib: float
    ratio: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def losses(self) -> Any:
        """Return the loss of every window under the daemon, against those around."""
        ratio = np.array(self.ratio)
        return 1 - ratio[1:-1:2] / ((ratio[:-2:2] + ratio[2::2]) / 2)


def measure(gib: float, pairs: int, window_s: float, hints: str = "") -> Live:
    """Run windows without and with the daemon in turn, one more without.

    Args:
        gib: Of the process.
        pairs: Windows under the daemon.
        window_s: Length of each.
        hints: Sources to look with; empty: the daemon's choice.

    Raises:
        RuntimeError: Something is missing here, or the daemon ended early.
    """
    found = Live(gib)
    pages = round(gib * (1 << 18))
    with (
        zram_swap(1 << 30),
        workload(pages, None, 1) as load,
        workload(BESIDE_MIB << 8, None, 2) as beside,
    ):
        time.sleep(5.0)
        found.ratio.append(window(load, beside, window_s))
        for _ in range(pairs):
            under_daemon(found, load, beside, window_s, hints)
            load.bring_back()
            time.sleep(1.0)
            found.ratio.append(window(load, beside, window_s))
    return found


def window(load: Workload, beside: Workload, seconds: float) -> float:
    """Return accesses per CPU second relative to the process beside."""
    before = (*load.reading(), *beside.reading())
    time.sleep(seconds)
    after = (*load.reading(), *beside.reading())
    done, cpu_s, _, other, other_cpu_s, _ = (
        b - a for a, b in zip(before, after, strict=True)
    )
    return (done / cpu_s) / (other / other_cpu_s)


def under_daemon(
    found: Live, load: Workload, beside: Workload, seconds: float, hints: str
) -> None:
    """Run a window under the daemon; wait until it has settled before."""
    # Others that move memory on this machine run on, with the daemon and without.
    words = ["run", "--pid", str(load.pid), "--json", "--with-other-movers"]
    words += ["--hints", hints] if hints else []
    with tempfile.TemporaryFile("w+") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "isotherm", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while "hints=" not in said(log):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon did not start: {said(log)}")
                time.sleep(0.1)
            time.sleep(SETTLE_S)
            began, before = time.monotonic(), cpu_s(daemon.pid)
            found.ratio.append(window(load, beside, seconds))
            spent = cpu_s(daemon.pid) - before
            found.cpu.append(spent / (time.monotonic() - began))
            statm = Path(f"/proc/{daemon.pid}/statm").read_text().split()
            found.resident_bytes.append(int(statm[1]) * 4096)
        finally:
            daemon.send_signal(signal.SIGTERM)
            out, _ = daemon.communicate(timeout=START_LIMIT_S)
        if daemon.returncode:
            raise RuntimeError(
                f"the daemon ended with {daemon.returncode}: {said(log)}"
            )
        found.results.append(json.loads(out))


def said(log: Any) -> str:
    """Return what is in the log so far."""
    return os.pread(log.fileno(), 1 << 20, 0).decode()


def cpu_s(pid: int) -> float:
    """Return CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
