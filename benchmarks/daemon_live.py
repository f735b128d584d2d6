"""What the daemon costs a process of some GiB, live on this host.

Root, a kernel with zram and no swap in use: a host with one node of memory has a
second tier in compressed swap, which is set up for the run and taken down after it.
The daemon is ``isotherm run --pid`` with its defaults: it looks with the sources that
are here. It runs a minute before anything is counted; then it works in slices of 5 s
and is stopped (SIGSTOP) for as long in between. A second process of the same kind
beside it, which nobody manages, meets the same weather. What is due by the clock is
done in the slices: the loss is that of a daemon that does it twice as often.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bench_zram import Slices, Workload, kernel_share, workload
from zram_swap import zram_swap

BESIDE_MIB = 2048
SETTLE_S = 60.0
START_LIMIT_S = 120.0


@dataclass
class Live:
    """What was measured.

    Attributes:
        gib: Of the process.
        loss: Of throughput in slices of work, median.
        loss_error: Its standard error.
        slices: Of work.
        kernel: CPU time of the process in the kernel while the daemon was there,
            beyond that before, share of its CPU time.
        cpu: CPU time of the daemon in its minute alone, share of a core.
        cpu_sliced: The same over all slices of work.
        resident_bytes: Of the daemon at the end.
        result: What the daemon said of itself.
    """

    gib: float
    loss: float
    loss_error: float
    slices: int
    kernel: float
    cpu: float
    cpu_sliced: float
    resident_bytes: int
    result: dict[str, Any]


def measure(gib: float, seconds: float, hints: str = "") -> Live:
    """Run the daemon on a process and return what it cost.

    Args:
        gib: Of the process.
        seconds: Of work of the daemon in all.
        hints: Sources to look with; empty: the daemon's choice.

    Raises:
        RuntimeError: Something is missing here, or the daemon ended early.
    """
    pages = round(gib * (1 << 18))
    with (
        zram_swap(1 << 30),
        workload(pages, None, 1) as load,
        workload(BESIDE_MIB << 8, None, 2) as beside,
    ):
        before = load.times()
        time.sleep(10.0)
        idle = kernel_share(before, load.times())
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
                return _measure(gib, daemon, load, beside, seconds, idle, log)
            finally:
                if daemon.poll() is None:
                    daemon.send_signal(signal.SIGCONT)
                    daemon.terminate()
                    daemon.communicate(timeout=START_LIMIT_S)


def _measure(
    gib: float,
    daemon: "subprocess.Popen[str]",
    load: Workload,
    beside: Workload,
    seconds: float,
    idle: float,
    log: Any,
) -> Live:
    deadline = time.monotonic() + START_LIMIT_S
    while "hints=" not in said(log):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the daemon did not start: {said(log)}")
        time.sleep(0.1)
    times, spent, began = load.times(), cpu_s(daemon.pid), time.monotonic()
    time.sleep(SETTLE_S)
    alone = (cpu_s(daemon.pid) - spent) / (time.monotonic() - began)
    slices = Slices(load, beside, seconds)
    spent, worked, latest = cpu_s(daemon.pid), 0.0, time.monotonic()
    runs = True
    while not slices.over:
        now = time.monotonic()
        worked += (now - latest) * runs
        latest = now
        if slices.working() != runs:
            runs = not runs
            daemon.send_signal(signal.SIGCONT if runs else signal.SIGSTOP)
        time.sleep(0.05)
    sliced = (cpu_s(daemon.pid) - spent) / worked
    kernel = kernel_share(times, load.times()) - idle
    statm = Path(f"/proc/{daemon.pid}/statm").read_text().split()
    daemon.send_signal(signal.SIGCONT)
    daemon.terminate()
    out, _ = daemon.communicate(timeout=START_LIMIT_S)
    if daemon.returncode:
        raise RuntimeError(f"the daemon ended with {daemon.returncode}: {said(log)}")
    loss, error = slices.loss()
    return Live(
        gib,
        loss,
        error,
        len(np.array(slices.ratio)[1:-1:2]),
        kernel,
        alone,
        sliced,
        int(statm[1]) * os.sysconf("SC_PAGE_SIZE"),
        json.loads(out),
    )


def said(log: Any) -> str:
    """Return what is in the log so far."""
    return os.pread(log.fileno(), 1 << 20, 0).decode()


def cpu_s(pid: int) -> float:
    """Return CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
