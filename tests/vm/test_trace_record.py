"""A process recorded on a real kernel is as hot as it counts itself."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.units import PAGE_BYTES
from isotherm.workloads.native.truth import TruthReader

PAGES, HOT = 8192, 819
#: Two rounds of glances, and one interval more.
INTERVALS = 9


@pytest.fixture
def workload(tmp_path, start, await_true, quiet_kernel):
    """Return a native workload on the slow node: 27 accesses a second, and 0.3.

    So few that it leaves the guest's processors to who looks at it.
    """
    path = tmp_path / "truth"
    start(
        [
            sys.executable,
            *("-m", "isotherm.workloads.native", "gups", "--pages", str(PAGES)),
            *("--rate", "3", "--duration", "0", "--place", "bind:1"),
            *("--set", "hot_pages=0.1", "--huge", "never", "--truth", str(path)),
            "--json",
        ]
    )
    await_true(path.exists, "the workload makes its truth file")
    reader = TruthReader(path)
    reader.wait_until_running(240)
    return reader


@pytest.mark.slow
def test_a_recorded_process_is_as_hot_as_it_counts(workload, tmp_path, monkeypatch):
    """The hottest pages of the trace are those that the workload touched most."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from isotherm.daemon.trace_record import Wanted, record_processes

    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    shown = []

    def interrupt(seconds: float, accesses: int) -> None:
        """End it as a user would, after so many intervals, however long they were."""
        shown.append((seconds, accesses))
        if len(shown) == INTERVALS:
            os.kill(os.getpid(), signal.SIGINT)

    before = workload.snapshot().counts
    out = tmp_path / "live.parquet"
    wanted = Wanted((workload.pid,), out, duration_s=None, cpu_percent=100.0)
    info = record_processes(wanted, interrupt)
    counts = workload.snapshot().counts - before
    details = info.provenance.details
    assert ("interrupted", str(INTERVALS)) == (details["ended"], details["intervals"])
    assert f"pid {workload.pid}" in details["processes"]
    assert info.accesses == shown[-1][1] > 0
    table = pq.read_table(out, columns=["page", "count", "raw_page"]).to_pydict()
    raw = {
        page: number
        for page, number in zip(table["page"], table["raw_page"], strict=True)
        if number is not None
    }
    first = workload.address // PAGE_BYTES
    seen = np.zeros(PAGES)
    for page, count in zip(table["page"], table["count"], strict=True):
        at = raw[page] - first
        if 0 <= at < PAGES:
            seen[at] += count
    true = np.argsort(counts)[-HOT:]
    found = np.argsort(seen)[-HOT:]
    cold = np.setdiff1d(np.arange(PAGES), true)
    said = (np.intersect1d(true, found).size, seen[true].mean(), seen[cold].mean())
    assert said[0] > 0.9 * HOT, said
    assert said[1] > 4 * said[2], said
    assert not Path(tmp_path / "run").exists()
