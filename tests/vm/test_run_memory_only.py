"""A fast node without CPUs receives promotions, wherever the owner's threads run.

So it is with memory of a coherent GPU on line as a node: no task can run beside it.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.runs import HOT_AND_COLD, LIMIT_S, Isotherm, finish, pages_on

HOT_PAGES = 1024

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
    pytest.mark.layout("memory-only"),
]


@pytest.mark.parametrize("cpu", [0, 1])
def test_hot_memory_goes_to_the_node_without_cpus(
    cpu: int,
    start: Callable[..., subprocess.Popen[str]],
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
) -> None:
    """Hot pages born beside the CPUs end on node 1, from either CPU; data is whole."""
    assert "" == Path("/sys/devices/system/node/node1/cpulist").read_text().strip()
    child = start([sys.executable, "-S", "-E", str(HOT_AND_COLD), "0", "4", "24"])
    assert child.stdout is not None
    ready, hot, _ = child.stdout.readline().split()
    assert "ready" == ready
    os.sched_setaffinity(child.pid, {cpu})
    assert 0 == pages_on(child.pid, int(hot), 1)
    run = isotherm("run", "--pid", str(child.pid), "--json")
    await_true(
        lambda: (
            pages_on(child.pid, int(hot), 1) >= 0.95 * HOT_PAGES
            or run.process.poll() is not None
        ),
        "the hot pages are on node 1",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert 0 == isotherm("stop", "--wait", str(LIMIT_S)).end()[0]
    assert 0 == run.end()[0], run.said
    assert "intact\n" == finish(child)
