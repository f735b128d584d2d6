"""The accelerator tier's benchmark runs to its end, and its own figures are right."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_report
import gpu_tier
import gpu_torn
from gpu_ceilings import Ceilings
from gpu_contenders import Ours, SetCache, Static
from gpu_data import TINY, Rig, Table, Zipf, hit_rate, mixed, rows_geometry
from gpu_workloads import Seen, Stream

SCRIPT = Path(gpu_report.__file__).parent / "gpu_tier.py"

#: Torch's own belong to `make gpu`, whose environment has it.
TORCH = importlib.util.find_spec("torch") is not None
BACKENDS = ["numpy", "torch", "triton"] if TORCH else ["numpy"]


@pytest.fixture
def rig() -> Any:
    """Return numpy's device."""
    return Rig("numpy", TINY)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute where nobody else is
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_benchmark_runs(backend: str, tmp_path: Path) -> None:
    """``--tiny`` ends with 0, says that no GPU was used, and no word is wrong."""
    out = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--backend", backend]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout[-2000:]
    assert "No GPU was used" in done.stdout
    document = json.loads(out.read_text())
    assert (False, True) == (document["is_device"], document["tiny"])
    rows = document["rows"]
    sections = {row["section"] for row in rows}
    assert {"ceiling", "mechanism", "torn", "policy", "uniform", "blocks"} <= sections
    assert [] == [row for row in rows if row.get("wrong_words")]
    assert [] == [why for why in document["skipped"] if "Error" in why]
    controls = {
        r["rules"]: r["torn"] + r["lost"] for r in rows if r["section"] == "torn"
    }
    assert 0 == controls.pop("safe")
    assert all(controls.values()), controls
    if backend == "triton":
        assert {"beside", "bags"} <= sections
        assert any(row.get("contender") == "lru-32, in-house" for row in rows)


def test_words_of_the_table_are_all_different(rig: Rig) -> None:
    """The hash gives int32 that neighbours do not share, and checks see one bit."""
    words = mixed(np.arange(1 << 16))
    assert 1 << 16 == len(np.unique(words))
    assert (words.min() >= -(2**31), words.max() < 2**31) == (True, True)
    table = Table.create(rig, TINY.narrow_bytes)
    for row_bytes in (64, 512):
        geometry = rows_geometry(row_bytes, TINY.narrow_bytes // row_bytes, 4)
        index = np.array([3, 0, 3, geometry.rows - 1])
        device = rig.make(table, geometry)
        out = device.empty((4, geometry.row_dim))
        contender = Static("s", rig, table, geometry, np.array([0, 1], np.uint32))
        contender.read(index, out)
        assert 0 == table.wrong_words(geometry, index, out)
        out[2, 5] ^= 1
        assert 1 == table.wrong_words(geometry, index, out)
        once = np.zeros(geometry.rows, np.int64)
        once[3] = 1
        assert 2 * geometry.row_dim == table.wrong_words(
            geometry, index[:1].repeat(2), np.stack([out[0], out[0]]), once
        )


def test_ranks_and_hottest_pages(rig: Rig) -> None:
    """The hottest pages get the share of accesses that Zipf's law gives them."""
    zipf = Zipf(rig, 1000, 1.0, seed=3)
    geometry = rows_geometry(512, 1000, 100)
    batches = zipf.batches(20, 1000)
    weights = 1 / np.arange(1, 1001)
    expected = weights[:100].sum() / weights.sum()
    rate = hit_rate(rig, geometry, zipf.hottest(geometry), batches)
    assert expected == pytest.approx(rate, abs=0.02)
    # Two rows a page: fewer pages for the same rows.
    pairs = rows_geometry(64, 1000, 50)
    assert 50 == len(np.unique(zipf.hottest(pairs)))
    assert rate > hit_rate(rig, pairs, zipf.hottest(pairs), batches) > rate / 2


@pytest.mark.parametrize(
    ("change", "most_kept", "least_kept"),
    [("none", 1.0, 1.0), ("full", 0.2, 0.0), ("quarter", 0.9, 0.7)],
)
def test_a_change_of_the_hot_set(
    rig: Rig, change: str, most_kept: float, least_kept: float
) -> None:
    """A full change leaves few hot rows hot, a quarter three quarters of them."""
    zipf = Zipf(rig, 1000, 1.0, seed=3)
    stream = Stream(zipf, change, 64, 100, 4)
    geometry = rows_geometry(512, 1000, 100)
    before = zipf.hottest(geometry)
    assert 6 == len(list(stream.after(6)))
    kept = np.isin(before, zipf.hottest(geometry)).mean()
    assert least_kept <= kept <= most_kept


def test_when_a_policy_is_back() -> None:
    """The first batch from which the mean of five stays below the bar; none: never."""
    seen = Seen()
    seen.device_s = [9.0] * 10 + [1.0] * 20
    assert 10 == seen.back_after(1.0)
    assert 6 == seen.back_after(7.5)
    assert 0 == seen.back_after(9.0)
    assert seen.back_after(0.5) is None


def test_the_ideal_gather(rig: Rig) -> None:
    """All on the host costs the bus, all in HBM the device, both at once the longer."""
    table = Table.create(rig, TINY.narrow_bytes)
    ceilings = Ceilings(rig, table, lambda *a, **k: None)
    ceilings.host_row_s = {(512, 1 << 20): 10e-9, (512, 1 << 30): 20e-9}
    ceilings.hbm_row_s = {512: 1e-9}
    whole = 2 * 512 + 36
    assert (1e-9, 1e-9) == pytest.approx(ceilings.ideal(512, 1 << 20, 1.0))
    at_none = (10e-9, 10e-9 + 1e-9 * (512 + 36) / whole)
    assert at_none == pytest.approx(ceilings.ideal(512, 1 << 20, 0.0))
    assert 10e-9 == pytest.approx(ceilings.ideal(512, 1 << 29, 0.5)[0])


def test_ours_counts_what_it_reads(rig: Rig) -> None:
    """Hits and misses of a window are those of its batches."""
    table = Table.create(rig, TINY.narrow_bytes)
    geometry = rows_geometry(512, TINY.narrow_bytes // 512, 25)
    ours = Ours(rig, table, geometry, every=2, hit_shift=0)
    zipf = Zipf(rig, geometry.rows, 1.1, seed=3)
    for batch in range(12):
        out = ours.device.empty((64, geometry.row_dim))
        index = zipf.batch(64)
        ours.read(index, out)
        assert 0 == table.wrong_words(geometry, index, out)
        ours.between(batch)
        if batch == 5:
            assert 6 * 64 == sum(ours.counted())
    hits, misses = ours.counted()
    assert 6 * 64 == hits + misses
    assert hits > 0
    ours.close()


@pytest.mark.skipif(not TORCH, reason="torch is not installed; make gpu has it")
@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_the_stand_in_caches(policy: str) -> None:
    """32 ways hold what was read; a row in too full a set misses, and all is right."""
    rig = Rig("torch", TINY)
    table = Table.create(rig, TINY.narrow_bytes)
    geometry = rows_geometry(512, TINY.narrow_bytes // 512, 32)
    cache = SetCache(rig, table, geometry, policy)
    out = cache.device.empty((20, geometry.row_dim))
    some = rig.array(np.arange(20, dtype=np.int32))
    for expected in ((0, 20), (20, 0)):
        cache.read(some, out)
        assert 0 == table.wrong_words(geometry, some, out)
        assert expected == cache.counted()
    others = rig.array(np.arange(100, 120, dtype=np.int32))
    cache.read(others, out)  # 12 ways are free
    assert 0 == table.wrong_words(geometry, others, out)
    cache.counted()
    cache.read(some, out)
    # LRU threw eight of the first out; LFU keeps what was read twice.
    assert (12 if policy == "lru" else 20) == cache.counted()[0]
    cache.close()


def test_what_there_is_no_time_for_is_told(tmp_path: Path, capsys: Any) -> None:
    """A section beyond the deadline is not run, and both outputs say so."""
    path = tmp_path / "rows.json"
    report = gpu_report.Report(path, {"is_device": False}, time.monotonic() + 60, set())
    report.section("short", lambda: report.add("short", gb_s=1.5), 1)
    report.section("long", lambda: report.add("long", gb_s=1.5), 600)
    document = json.loads(path.read_text())
    assert ["short"] == [row["section"] for row in document["rows"]]
    assert ["long: no time left"] == document["skipped"]
    assert 0 == gpu_report.verdict(report, on_device=False)
    assert "skipped   long: no time left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rules", "torn", "exit_code"),
    [("safe", 0, 0), ("safe", 1, 1), ("no-grace", 3, 0), ("no-grace", 0, 1)],
)
def test_a_control_that_sees_nothing_fails(
    rules: str, torn: int, exit_code: int, tmp_path: Path
) -> None:
    """Torn reads fail with the rules on; without one of them it fails to see none."""
    report = gpu_report.Report(tmp_path / "r.json", {}, time.monotonic() + 60, set())
    report.add("torn", rules=rules, torn=torn, lost=0, reads=9, writes=1)
    assert exit_code == gpu_report.verdict(report, on_device=False)


@pytest.mark.parametrize("rules", ["safe", "no-grace"])
def test_a_stress_that_told_nothing_fails(rules: str, tmp_path: Path) -> None:
    """A process that crashed or hung has read nothing: no proof of anything."""
    report = gpu_report.Report(tmp_path / "r.json", {}, time.monotonic() + 60, set())
    report.add("torn", **gpu_tier.unread(rules, "exit 1: CUDA error"))
    assert 1 == gpu_report.verdict(report, on_device=False)


def test_a_missed_bar_fails_on_a_device_alone(tmp_path: Path) -> None:
    """Bars are for devices: a CPU's figures are judged by nobody."""
    report = gpu_report.Report(tmp_path / "r.json", {}, time.monotonic() + 60, set())
    like = {"row_bytes": 512, "zipf": 1.05}
    report.add("mechanism", contender="ours", f_mech=0.5, p50_us=9.0, **like)
    assert 0 == gpu_report.verdict(report, on_device=False)
    assert 1 == gpu_report.verdict(report, on_device=True)


def test_bars_are_held_at_the_worst_row() -> None:
    """Each bar by the row that is furthest from it; one never back is beyond all."""
    where = {"section": "policy", "zipf": 1.05, "share": 0.1}
    rows = [
        {"section": "mechanism", "contender": "ours", "row_bytes": 64}
        | {"zipf": 1.05, "f_mech": 0.85, "p50_us": 10.2},
        {"section": "mechanism", "contender": "ours, not counting", "row_bytes": 64}
        | {"zipf": 1.05, "f_mech": 0.9, "p50_us": 10.0},
        {"contender": "ours", "workload": "stationary", "of_oracle": 0.97} | where,
        {"contender": "ours", "workload": "stationary", "of_oracle": 0.93} | where,
        {"contender": "ours", "workload": "full", "batches_to_95": 12} | where,
        {"contender": "ours", "workload": "full", "batches_to_95": None} | where,
        {"contender": "lru-32, in-house", "workload": "full"} | where,
        {"section": "uniform", "slower": 0.01},
        {"section": "beside", "contender": "ours, fused", "matmul_slowdown": 0.5},
        {"section": "beside", "contender": "ours, split", "matmul_slowdown": 0.08},
    ]
    for row, gb_s in zip(rows[2:7], (200, 200, 90, 110, 100), strict=True):
        row["gb_s"] = gb_s
    every = gpu_report.bars(rows)
    reached = {bar.name: bar.reached for bar in every if bar.reached == bar.reached}
    assert all(bar.is_missed for bar in every if bar.name not in reached)
    assert "mechanism, rows of 512 B" in {bar.name for bar in every} - reached.keys()
    missed = {bar.name for bar in every if bar.is_missed and bar.name in reached}
    assert {
        "mechanism, rows of 64 B": 0.85,
        "cost of counting, 64 B": pytest.approx(0.02),
        "ours: throughput over the oracle's": 0.93,
        "ours: batches to 95 % after a full change": float("inf"),
        "ours: GB/s over the best cache's": 0.9,
        "uniform, slower than zero-copy": 0.01,
        "a product beside a split gather, slower": 0.08,
    } == reached
    assert {
        "ours: throughput over the oracle's",
        "ours: batches to 95 % after a full change",
        "ours: GB/s over the best cache's",
    } == missed


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["safe", "no-grace", "publish-first"])
def test_torn_reads_in_small_steps(rules: str) -> None:
    """With all rules none; without one of them some. The same seed, the same reads."""
    stress = gpu_torn.Stress(
        Rig("numpy", TINY), gpu_torn.RULES[rules], seed=1, deposits=False
    )
    stress.run_steps(1.0 if rules == "safe" else 2.0)
    assert stress.reads > 1000
    assert (stress.torn + stress.lost == 0) == (rules == "safe")
