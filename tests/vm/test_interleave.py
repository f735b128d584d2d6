"""Weights of weighted interleaving on a real kernel: set by bandwidth, put back."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.runs import LIMIT_S, Isotherm

if TYPE_CHECKING:
    from tests.vm.puppet import Puppet

FOLDER = Path("/sys/kernel/mm/mempolicy/weighted_interleave")
SET_MEMPOLICY = 238
WEIGHTED = 6  # MPOL_WEIGHTED_INTERLEAVE, include/uapi/linux/mempolicy.h
PAGES = 3100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.layout("two-tier"),
    pytest.mark.kernel("6.12", "newer"),
    pytest.mark.usefixtures("quiet_kernel"),
]


def table() -> dict[str, str]:
    """Return all that the kernel's folder says."""
    return {file.name: file.read_text().strip() for file in FOLDER.iterdir()}


@pytest.fixture
def odd() -> Iterator[dict[str, str]]:
    """Have the kernel's table say what no bandwidth would; return what it says."""
    if not FOLDER.exists():
        pytest.skip("no weighted interleaving: the kernel is older than 6.9")
    before = table()
    for node, weight in (("node0", "3"), ("node1", "2")):
        (FOLDER / node).write_text(weight)
    yield table()
    for name, value in sorted(before.items(), reverse=True):
        (FOLDER / name).write_text(value)


@pytest.mark.kernel("newer")
def test_weights_are_those_that_the_kernel_works_out(
    isotherm: Callable[..., Isotherm],
) -> None:
    """Since 6.16 it has its own, from the same tables of the firmware."""
    assert "true" == table()["auto"]
    code, out = isotherm("topology", "weights", "--json").end()
    assert 0 == code
    rows = json.loads(out)["weights"]
    assert [(0, 25, 25), (1, 6, 6)] == [
        (row["node"], row["weight"], row["now"]) for row in rows
    ]


def dealt(puppet: "Puppet") -> list[int]:
    """Return the pages of new memory on nodes 0 and 1, under weighted interleaving."""
    puppet.do("mask = ctypes.c_ulong(3)")
    where = f"call({SET_MEMPOLICY}, {WEIGHTED}, ctypes.addressof(mask), 64)"
    assert 0 == puppet.do(where)
    page = puppet.do(f"take({PAGES})")
    assert 0 == puppet.do(f"call({SET_MEMPOLICY}, 0, 0, 0)")
    from tests.vm.puppet import on_node

    return [on_node(puppet.pid, page, node) for node in (0, 1)]


def test_new_memory_is_dealt_by_bandwidth_while_a_run_lasts(
    odd: dict[str, str],
    room: None,
    puppet: "Puppet",
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
) -> None:
    """25.6 against 6.4 GB/s are 25 and 6 pages a round; afterwards all is as before."""
    run = isotherm("run", "--pid", str(target.pid), "--interleave-weights", "--json")
    await_true(
        lambda: table().get("node0") == "25" or run.process.poll() is not None,
        "weights are set",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    await_true(lambda: table()["node1"] == "6", "all of them", LIMIT_S)
    here, there = dealt(puppet)
    assert PAGES == pytest.approx(here + there, rel=0.02)
    assert here / (here + there) == pytest.approx(25 / 31, abs=0.02)
    run.process.send_signal(signal.SIGTERM)
    code, out = run.end()
    assert 0 == code, run.said
    assert {"0": 25, "1": 6} == json.loads(out)["interleave_weights"]["weights"]
    assert odd == table()


def test_a_killed_run_is_undone(
    odd: dict[str, str],
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
) -> None:
    """The verb stop puts the weights back from the journal.

    While it runs another is refused: each would put back what the other had set.
    """
    run = isotherm("run", "--pid", str(target.pid), "--interleave-weights")
    await_true(lambda: table().get("node1") == "6", "weights are set", LIMIT_S)
    words = ("--interleave-weights", "--with-other-movers", "--duration", "1")
    other = isotherm("run", "--pid", str(os.getpid()), *words)
    assert 3 == other.end()[0]
    assert f"pid {run.process.pid}, manages the interleave weights" in other.said
    assert {"25", "6"} == {table()[node] for node in ("node0", "node1")}
    run.process.kill()
    run.process.wait()
    assert odd != table()
    assert 0 == isotherm("stop").end()[0]
    assert odd == table()
