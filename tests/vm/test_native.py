"""Native workloads on a kernel with tiers: what is counted is what is placed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux import syscalls
from isotherm.workloads.native.memory import query_nodes
from isotherm.workloads.native.truth import TruthReader

PAGES = 6000


@pytest.fixture
def workload(tmp_path, await_true):
    """Return a function that starts a workload and reads its truth."""
    started = []

    def begin(*words: str) -> TruthReader:
        path = tmp_path / f"truth{len(started)}"
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "isotherm.workloads.native", *words),
                *("--pages", str(PAGES), "--duration", "0", "--rate", "20"),
                *("--truth", str(path), "--huge", "never", "--json"),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "ISOTHERM_KERNELS": "numpy"},
        )
        started.append(process)
        await_true(path.exists, "the workload makes its truth file")
        reader = TruthReader(path)
        reader.wait_until_running(240)
        return reader

    def end() -> dict:
        process = started.pop()
        process.terminate()
        out, _ = process.communicate(timeout=240)
        assert 0 == process.returncode
        return json.loads(out)

    begin.end = end
    yield begin
    for process in started:
        process.kill()
        process.communicate()


def watch(reader, await_true, accesses):
    """Return two snapshots with so many accesses between them."""
    before = after = reader.snapshot()

    def enough() -> bool:
        nonlocal after
        after = reader.snapshot()
        return int((after.counts - before.counts).sum()) >= accesses

    await_true(enough, f"{accesses} accesses")
    return before, after


def test_share_follows_the_pages(workload, quiet_kernel, await_true):
    """All slow at first; with the hottest pages moved, exactly their share is fast."""
    reader = workload("gups", "--place", "bind:1", "--set", "hot_pages=0.1")
    start, middle = watch(reader, await_true, 20 * PAGES)
    assert {1} == set(start.node.tolist())
    asked = query_nodes(reader.pid, reader.address, PAGES)
    assert asked.tolist() == start.node.tolist()
    window = reader.window(start, middle, PAGES // 10)
    assert (0.0, 0.0) == (window.fast_share, window.fast_share_high)
    assert window.accesses >= 20 * PAGES
    hot = np.argsort(middle.counts)[-PAGES // 10 :].astype(np.uint64)
    address = reader.address + hot * np.uint64(PAGE_BYTES)
    node = np.zeros(len(hot), np.int32)
    await_true(
        lambda: syscalls.move_pages(reader.pid, address, node).result == 0,
        "all hot pages on node 0",
    )
    before, after = watch(reader, await_true, 5 * PAGES)
    window = reader.window(before, after, PAGES // 10)
    made = after.counts - before.counts
    expected = made[hot.astype(np.int64)].sum() / made.sum()
    assert expected == window.fast_share == window.fast_share_low
    assert 0.85 < window.fast_share <= 1.0
    assert PAGES // 10 == window.fast_pages
    result = workload.end()
    assert 0 == result["errors"] == result["damaged_lines"] == result["lost_writes"]


def test_memory_is_born_where_asked_and_free_to_move(workload, quiet_kernel, room):
    """Interleaved pages alternate between nodes; the policy does not stay."""
    reader = workload("uniform", "--place", "interleave:0,1")
    node = reader.snapshot().node
    assert [PAGES // 2] * 2 == np.bincount(node).tolist()
    maps = Path(f"/proc/{reader.pid}/numa_maps").read_text()
    assert "interleave" not in maps
    assert 0 == workload.end()["damaged_lines"]


def test_doctor_knows_this_kernel():
    """Two nodes, two tiers, root: pages can be moved; movers match the files."""
    from isotherm.daemon.doctor.report import examine

    report = examine()
    facts = {fact.name: fact for fact in report.facts}
    assert ((0, 1), 2) == (report.nodes, report.tiers)
    assert facts["move-pages"].present
    assert facts["cap-sys-nice"].present
    assert facts["damon-schemes"].present
    assert facts["frame-numbers"].present
    assert os.uname().release == report.kernel.release
    value = int(Path("/proc/sys/kernel/numa_balancing").read_text())
    active = {fact.name for fact in report.of("mover") if fact.present}
    assert bool(value & 2) == ("numa-balancing-tiering" in active)


def test_the_command_that_doctor_names_enables_it(quiet_kernel):
    """Demotion is off; the command given for it turns it on."""
    from isotherm.daemon.doctor.report import examine

    def fact():
        return {fact.name: fact for fact in examine().facts}["kernel-demotion"]

    assert fact().present is False
    words = fact().command.replace("sudo ", "")
    subprocess.run(["sh", "-c", words], check=True, stdout=subprocess.DEVNULL)
    assert fact().present is True
