"""A native workload as a whole, in this process and as one of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import ConfigError, UsageError
from isotherm.workloads import spec
from isotherm.workloads.native.layout import State, open_truth
from isotherm.workloads.native.memory import Placing, parse_placing
from isotherm.workloads.native.process import (
    Native,
    Plan,
    complaint,
    phase_at,
    start_ticks,
)
from isotherm.workloads.native.truth import TruthReader


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_counts_are_exact(tmp_path: Path, threads: int) -> None:
    """Published counts sum to the accesses made; the data is intact."""
    path = tmp_path / "truth"
    plan = Plan("gups", 997, rate=0, duration_s=0.2, truth=path, threads=threads)
    result = Native(plan).run()
    truth = open_truth(path)
    assert result.accesses == int(truth.counts.sum())
    assert (truth.counts.sum(axis=1) > 0).all()
    assert State.DONE == truth.get("state")
    truth.close()
    assert complaint(result) is None
    assert 0.4 < result.writes / result.accesses < 0.6


@pytest.mark.slow
def test_rate_is_kept(tmp_path: Path) -> None:
    """A rate that the machine can keep is kept within a tenth."""
    plan = Plan("zipf", 1000, rate=100.0, duration_s=1.0)
    result = Native(plan).run()
    assert 0.9 * 100_000 <= result.accesses_per_s <= 1.1 * 100_000


@pytest.mark.slow
def test_hot_set_moves_when_it_should(tmp_path: Path) -> None:
    """After the shift, pages that were cold get nine accesses in ten."""
    path = tmp_path / "truth"
    options: dict[str, object] = {"shift_s": 0.5, "contiguity": 1}
    plan = Plan("gups-shift", 1600, 0, 5.0, options=options, truth=path)
    stop = threading.Event()
    thread = threading.Thread(target=Native(plan, stop).run)
    thread.start()
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    truth = open_truth(path)
    while truth.get("phase") == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    before = truth.counts[0].astype(np.int64)
    while truth.counts.sum() < 2 * before.sum() and time.monotonic() < deadline:
        time.sleep(0.001)
    after = truth.counts[0].astype(np.int64) - before
    stop.set()
    thread.join()
    hot = [set(np.argsort(counts)[-100:].tolist()) for counts in (before, after)]
    assert hot[0].isdisjoint(hot[1])
    assert after[sorted(hot[1])].sum() > 0.85 * after.sum()
    began, moved = truth.get("began_ns"), truth.get("phase_began_ns")
    assert 0.5e9 <= moved - began <= 1.5e9
    truth.close()


def test_phases_are_those_of_the_generator() -> None:
    """The published phase counts the changes that happen at once."""
    shift = spec.GupsShift(shift_s=2.0)
    assert [0, 0, 1, 1] == [phase_at(shift, tick) for tick in (0, 3, 4, 100)]
    phases = spec.Phases(phase_s=1.0)
    assert [0, 0, 1, 1, 2] == [phase_at(phases, tick) for tick in range(5)]
    assert 0 == phase_at(spec.Drift(), 77)


@pytest.mark.slow
def test_damage_is_an_error(tmp_path: Path) -> None:
    """Memory changed from outside ends in exit code 1 and words."""
    path = tmp_path / "truth"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "isotherm.workloads.native",
            *("gups", "--pages", "300", "--duration", "0", "--truth", str(path)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        reader = TruthReader(path)
        reader.wait_until_running()
        try:
            with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as memory:
                memory.seek(reader.address + 17 * 4096)
                memory.write(bytes(4096))
        except PermissionError:
            pytest.skip("writing another process's memory is not permitted here")
        finally:
            reader.close()
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert 1 == process.returncode
    assert "64 lines" in said


@pytest.mark.slow
def test_a_reader_sees_the_share_served_here(tmp_path: Path) -> None:
    """On the nodes that exist, one of them serves all; its file is waited for."""
    path = tmp_path / "truth"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "isotherm.workloads.native",
            *("zipf", "--pages", "500", "--duration", "0", "--truth", str(path)),
        ],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "ISOTHERM_KERNELS": "numpy"},
    )
    try:
        words = ["--interval", "0.2", "--count", "1", "--fast-nodes", "0,1,2,3"]
        done = subprocess.run(
            [
                sys.executable,
                *("-m", "isotherm", "workload", "truth", str(path), "--json"),
                *(*words, "--wait", "60"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        window = json.loads(done.stdout)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert 0 == process.returncode
    assert (1.0, 1.0) == (window["fast_share_low"], window["best_share"])
    assert window["accesses"] > 0
    assert (500, 0) == (window["fast_pages"], window["absent_pages"])


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (Plan("gups", pages=0), UsageError),
        (Plan("gups", rate=-1), UsageError),
        (Plan("gups", threads=3), UsageError),
        (Plan("gups", huge="maybe"), UsageError),
        (Plan("stream", threads=2), UsageError),
        (Plan("gusp"), ConfigError),
        (Plan("gups", options={"hot": 1}), ConfigError),
    ],
)
def test_wrong_plans_are_refused(plan: Plan, error: type[Exception]) -> None:
    """Nothing is mapped for a plan that cannot be run."""
    with pytest.raises(error):
        Native(plan)


@pytest.mark.parametrize("text", ["bind", "bind:x", "bind:-1", "near:0", "default:0"])
def test_wrong_placings_are_refused(text: str) -> None:
    """A memory policy needs a mode and nodes."""
    with pytest.raises(UsageError):
        parse_placing(text)


@pytest.mark.slow
def test_memory_is_placed_on_the_node_asked_for(tmp_path: Path) -> None:
    """Every page of ``bind:0`` is on node 0, and the policy is gone after."""
    path = tmp_path / "truth"
    stop = threading.Event()
    plan = Plan("gups", 300, 0, None, truth=path, placing=Placing("bind", (0,)))
    thread = threading.Thread(target=Native(plan, stop).run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        reader = TruthReader(path)
        reader.wait_until_running()
        assert {0} == set(reader.snapshot().node.tolist())
        reader.close()
        maps = Path("/proc/self/numa_maps")
        if maps.exists():
            assert "bind:0" not in maps.read_text()
    finally:
        stop.set()
        thread.join()


def test_start_time_of_nobody_is_zero() -> None:
    """A pid that cannot be has not started."""
    assert 0 == start_ticks(1 << 30)
