"""The adviser of CPU placement on a real kernel with two sockets and a slow node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.runs import HOT_AND_COLD, LIMIT_S, RUN, Isotherm, finish, pages_on

if TYPE_CHECKING:
    from tests.vm.puppet import Puppet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.layout("two-socket"),
    pytest.mark.usefixtures("quiet_kernel"),
]
Await = Callable[..., None]
NODES = Path("/sys/devices/system/node")
HOT_PAGES = 512


def cpus_of(node: int) -> set[int]:
    """Return the CPUs of a node, as sysfs lists them."""
    found: set[int] = set()
    for part in (NODES / f"node{node}/cpulist").read_text().strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.fixture
def away(
    start: Callable[..., subprocess.Popen[str]],
) -> Iterator[subprocess.Popen[str]]:
    """Start a process whose memory is on node 1, and that runs on node 0 by itself."""
    words = ["-S", "-E", str(HOT_AND_COLD), "1", str(HOT_PAGES >> 8), "4"]
    child = start([sys.executable, *words])
    assert child.stdout is not None
    _, hot, _ = child.stdout.readline().split()
    child.hot = int(hot)  # type: ignore[attr-defined]
    yield child
    if child.poll() is None:
        assert "intact\n" == finish(child)


@pytest.fixture
def bound(puppet: "Puppet") -> "Puppet":
    """Return a process that touches memory that is bound to node 1, over and over.

    The memory cannot follow, so that it is for the adviser, whenever the scheduler
    runs the process on node 0.
    """
    page = puppet.do(f"take({HOT_PAGES}, node=1)")
    assert 0 == puppet.do(f"bind({page}, {HOT_PAGES}, 2, 2)")
    touch = f"(read({page}, {HOT_PAGES}), time.sleep(0.02)) for _ in iter(int, 1)"
    puppet.do(f"threading.Thread(target=lambda: all({touch}), daemon=True).start()")
    return puppet


def test_a_process_is_run_where_its_memory_is_and_set_back(
    bound: "Puppet",
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """Applied, its affinity is the other socket; at the end it is as before.

    isotherm itself keeps the memory's socket busy, so that the scheduler has no
    reason to run the process there.
    """
    before = os.sched_getaffinity(bound.pid)
    assert cpus_of(0) | cpus_of(1) <= before
    run = isotherm("run", "--pid", str(bound.pid), "--advise-cpus", "apply", "--json")
    os.sched_setaffinity(run.process.pid, cpus_of(1))
    await_true(
        lambda: (
            os.sched_getaffinity(bound.pid) == cpus_of(1)
            or run.process.poll() is not None
        ),
        "the process may run on node 1 alone",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    run.process.send_signal(signal.SIGTERM)
    code, out = run.end()
    assert 0 == code, run.said
    assert before == os.sched_getaffinity(bound.pid)
    result = json.loads(out)["cpu_advice"]
    assert result["applied"]
    assert "processes" == result["evidence"]
    row = result["advice"][0]["threads"][0]
    assert (bound.pid, 0, 1) == (row["id"], row["from"], row["to"])
    assert row["set"] >= 1


def test_an_affinity_is_set_back_after_a_kill(
    bound: "Puppet",
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """What a killed run has left, isotherm stop undoes from the journal."""
    before = os.sched_getaffinity(bound.pid)
    run = isotherm("run", "--pid", str(bound.pid), "--advise-cpus", "apply")
    os.sched_setaffinity(run.process.pid, cpus_of(1))
    await_true(
        lambda: os.sched_getaffinity(bound.pid) == cpus_of(1), "it is set", LIMIT_S
    )
    run.process.kill()
    run.process.wait()
    assert cpus_of(1) == os.sched_getaffinity(bound.pid)
    code, _ = isotherm("stop").end()
    assert 0 == code
    assert before == os.sched_getaffinity(bound.pid)
    assert not RUN.exists()


def test_advice_alone_changes_nothing_and_memory_follows(
    away: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """Printed, affinities stay; the hot pages come to the socket that accesses them."""
    os.sched_setaffinity(away.pid, cpus_of(0))
    run = isotherm("run", "--pid", str(away.pid), "--advise-cpus", "print", "--json")
    await_true(
        lambda: (
            pages_on(away.pid, away.hot, 0) >= 0.9 * HOT_PAGES
            or run.process.poll() is not None
        ),
        "the hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert cpus_of(0) == os.sched_getaffinity(away.pid)
    run.process.send_signal(signal.SIGTERM)
    code, out = run.end()
    assert 0 == code, run.said
    assert not json.loads(out)["cpu_advice"]["applied"]
