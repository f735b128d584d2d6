"""Huge pages on a real kernel with two tiers: collapse, split, moves, the run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.linux.huge import HugeHost
from isotherm.machine.linux.machine import LinuxMachine
from tests.vm.puppet import FAST, SLOW, Puppet, flat, move, on_node
from tests.vm.runs import HOT_AND_COLD, LIMIT_S, Isotherm

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]


def anon_huge_kb(pid: int) -> int:
    """Return the memory of a process in huge pages, as smaps says."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if x.startswith("AnonHugePages:"))


def resize(host: HugeHost, page: np.ndarray, *, huge: bool) -> list[int]:
    """Change the size of ranges; return errnos."""
    result = host.resize(page, np.full(len(page), huge))
    return [int(code) for code in result.errno]


def test_a_split_huge_page_moves_page_by_page_and_is_collapsed_again(
    room: None, puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """Its hot part moves alone once it is split; a collapse brings all together."""
    THP.write_text("madvise")
    page = puppet.do("take(2048, node=1, huge=True)")
    machine = follow(puppet.pid)
    host = HugeHost(machine)
    ours = flat(machine, puppet.pid, page, 2048)
    block = int(ours[0]) // 512
    assert host.huge_pages().huge[block : block + 4].all()
    assert 8192 == anon_huge_kb(puppet.pid)
    assert [0, 0] == resize(host, ours[[0, 512]], huge=False)
    assert 4096 == anon_huge_kb(puppet.pid)
    expected = [False, False, True, True]
    assert expected == host.huge_pages().huge[block : block + 4].tolist()
    assert {0} == set(move(machine, ours[:101], FAST))
    assert 101 == int((machine.placement()[ours] == FAST).sum())
    assert [0] == resize(host, ours[:1], huge=True)
    assert 6144 == anon_huge_kb(puppet.pid)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    assert 2048 == on_node(puppet.pid, page, SLOW)
    assert 2048 == puppet.do(f"read({page}, 2048)")


def test_a_run_collapses_what_is_hot_all_over(
    room: None,
    start: Callable[..., subprocess.Popen[str]],
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
    settings: Path,
) -> None:
    """Hot small pages become huge where TLB misses are dear; the data are whole."""
    words = [str(HOT_AND_COLD), "1", "16", "4", "may-be-huge"]
    target = start([sys.executable, "-S", "-E", *words])
    assert target.stdout is not None
    assert target.stdout.readline().startswith("ready")
    assert 0 == anon_huge_kb(target.pid)
    with settings.open("a") as file:
        file.write("[huge_pages]\ntlb_entries = 16\nwalk_ns = 50000\n")
    run = isotherm("run", "--pid", str(target.pid), "--huge-pages", "--json")
    await_true(
        lambda: anon_huge_kb(target.pid) >= 4096 or run.process.poll() is not None,
        "two ranges are huge",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    stopped = isotherm("stop", "--wait", str(LIMIT_S))
    assert 0 == stopped.end()[0]
    code, out = run.end()
    assert 0 == code, run.said
    found = json.loads(out)["huge_pages"]
    assert found["collapses"] >= 2
    assert found["collapse_ns"] > 0
    assert target.stdin is not None
    target.stdin.write("\n")
    target.stdin.flush()
    assert "intact\n" == target.stdout.readline()
