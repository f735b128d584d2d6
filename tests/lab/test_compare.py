"""Grids: what is run, that processes do not matter, that killed ones are replaced."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.lab.catalogue import FAULTS, WITHOUT_HINTS
from isotherm.lab.compare import compare
from isotherm.lab.grid import (
    ALWAYS_TOLD,
    Grid,
    default_rate,
    spec_key,
    spec_values,
)
from isotherm.lab.report import timeline_wanted
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.machine.sim.spec import load_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.policy import registry
from isotherm.policy.bounds import count_future
from isotherm.policy.plan import Setup

SPEC = SimulationSpec(policy="isotherm", workload="gups", pages=512, accesses=20480)


def test_grid_adds_first_touch_and_bounds() -> None:
    """What was asked for comes with first-touch and the four bounds, once each."""
    specs = Grid(["isotherm", "first-touch"], ["gups"], seeds=(1, 2)).specs()
    assert [spec.policy for spec in specs[:6]] == [
        "isotherm",
        "first-touch",
        "all-fast",
        "all-slow",
        "static-oracle",
        "clairvoyant",
    ]
    assert len(specs) == 12


def test_hint_settings_multiply_what_looks() -> None:
    """Every setting is a run of what uses hints; bounds and first-touch run once."""
    settings = (("sampling",), ("accessed-bit", "sampling"), (), None)
    specs = Grid(["isotherm", "lru"], ["gups"], hint_settings=settings).specs()
    assert list(settings) == [s.hints for s in specs if s.policy == "isotherm"]
    assert len(specs) == len(settings) + 6


def test_bounds_run_once_for_all_periods() -> None:
    """Sampling periods multiply policies, not what needs no samples."""
    specs = Grid(
        ["isotherm", "lru"], ["gups"], sampling_periods=(200, 2000, 20000)
    ).specs()
    assert sum(spec.policy == "isotherm" for spec in specs) == 3
    assert len(specs) == 9


@pytest.mark.parametrize("name", registry.POLICIES)
def test_policies_without_hints_are_those_that_want_none(name: str) -> None:
    """The catalogue's list is what the policies themselves say."""
    make = registry.make_policy
    topology = load_machine("dram-cxl").topology([2, 8])
    setup = Setup(8, topology, np.array([2, 8]), 500_000_000, 1, frozenset())
    future = count_future([np.zeros(1, np.uint32)], 8)
    assert (name in WITHOUT_HINTS) == (not make(name, setup, future).wants)


def test_faults_have_one_list() -> None:
    """What options name is what the machine knows."""
    assert list(FAULTS) == [field.name for field in fields(Faults)]


def test_traces_keep_their_own_times() -> None:
    """Without a rate generators run at 10, traces at their own times."""
    assert default_rate("gups") == 10.0
    assert default_rate("own.toml") == 10.0
    assert default_rate("trace.parquet") is None


def test_key_tells_runs_apart(tmp_path: Path) -> None:
    """Equal specs have equal keys; a changed figure or file changes the key."""
    assert spec_key(SPEC) == spec_key(replace(SPEC))
    assert spec_key(SPEC) != spec_key(replace(SPEC, seed=2))
    trace = tmp_path / "t.parquet"
    trace.write_bytes(b"1")
    before = spec_key(replace(SPEC, workload=str(trace)))
    trace.write_bytes(b"12")
    assert before != spec_key(replace(SPEC, workload=str(trace)))


def test_fields_that_came_later_leave_old_keys_alone() -> None:
    """At its default a new option is not in the name of a run; otherwise it is."""
    assert set(ALWAYS_TOLD) == set(spec_values(SPEC))
    for later in ({"compressibility": "3"}, {"recording": "perf.data"}):
        assert {**spec_values(SPEC), **later} == spec_values(replace(SPEC, **later))
        assert spec_key(SPEC) != spec_key(replace(SPEC, **later))


TWO_TIERS = """
name = "two-tier"
description = "a machine from a file"
[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [100.0]
[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [400.0]
"""


def test_key_of_a_machine_is_what_it_says(tmp_path: Path) -> None:
    """Its figures count, not when its file was touched, nor its length."""
    path = tmp_path / "m.toml"
    path.write_text(TWO_TIERS)
    spec = replace(SPEC, machine=str(path))
    before, stat = spec_key(spec), path.stat()
    os.utime(path, ns=(0, 0))
    assert before == spec_key(spec)
    path.write_text(TWO_TIERS.replace("400", "500"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert before != spec_key(spec)


def test_key_of_a_recorded_machine_has_its_overrides(tmp_path: Path) -> None:
    """What lies beside a tree is part of the machine, and so is each of its files."""
    node = tmp_path / "host/sys/devices/system/node"
    for i in (0, 1):
        (node / f"node{i}").mkdir(parents=True)
        (node / f"node{i}/meminfo").write_text(f"Node {i} MemTotal: 1048576 kB\n")
        (node / f"node{i}/cpulist").write_text("" if i else "0-3\n")
    for name in ("online", "possible", "has_memory"):
        (node / name).write_text("0-1\n")
    beside = tmp_path / "host.overrides.toml"
    rows = "".join(
        f'[[performance]]\ninitiator = "cpu0"\nnode = {i}\nread_latency_ns = {ns}\n'
        f"[[tier]]\nnodes = [{i}]\n"
        for i, ns in enumerate((90, 400))
    )
    beside.write_text(rows)
    spec = replace(SPEC, machine=str(tmp_path / "host"))
    first = spec_key(spec)
    beside.write_text(rows.replace("400", "500"))
    second = spec_key(spec)
    (node / "node1/meminfo").write_text("Node 1 MemTotal: 4194304 kB\n")
    assert 3 == len({first, second, spec_key(spec)})


def test_stored_names_are_those_of_the_run(tmp_path: Path, samples: ModuleType) -> None:
    """A row that needed its folder beside another goes without it alone."""

    def work(spec: SimulationSpec, keep: bool) -> tuple[dict[str, object], None]:
        return samples.result(spec.policy, 1.5, workload="x"), None

    specs = [replace(SPEC, workload=path) for path in ("a/x.parquet", "b/x.parquet")]
    first = replace(SPEC, policy="first-touch", workload="a/x.parquet")
    out = tmp_path / "grid.parquet"
    with ResultStore(out) as store:
        rows = compare(specs, jobs=1, work=work, store=store).results
    assert ["a/x", "b/x"] == [row["workload"] for row in rows]
    with ResultStore(out) as store:
        found = compare([specs[0], first], jobs=1, work=work, store=store)
    assert 1 == found.resumed
    assert ["x", "x"] == [row["workload"] for row in found.results]
    assert 1.0 == found.results[0]["vs_first_touch"]


def test_one_timeline_per_policy_and_workload() -> None:
    """Of many ratios and seeds, one run each keeps a timeline; still bounds none."""
    seeds = tuple(range(1, 10))
    specs = Grid(["isotherm"], ["gups"], fast_ratios=(0.5, 0.2), seeds=seeds).specs()
    wanted = timeline_wanted(specs)
    kept = [(s.policy, s.fast_ratio, s.seed) for s in specs if wanted(s)]
    assert kept == [
        ("isotherm", 0.2, 1),
        ("first-touch", 0.2, 1),
        ("clairvoyant", 0.2, 1),
    ]


def test_unsupported_runs_are_left_out(samples: ModuleType) -> None:
    """A run that a machine cannot do is named, the others are judged."""

    def work(spec: SimulationSpec, keep: bool) -> tuple[dict[str, object], None]:
        if spec.policy == "lru":
            raise UnsupportedError("lru: the machine cannot fill on demand")
        return samples.result(spec.policy, 1.5), None

    specs = [replace(SPEC, policy=name) for name in ("isotherm", "lru", "tpp")]
    found = compare(specs, jobs=1, work=work)
    assert [row["policy"] for row in found.results] == ["isotherm", "tpp"]
    assert [error["spec"]["policy"] for error in found.errors] == ["lru"]
    with pytest.raises(UnsupportedError):
        compare(specs[1:2], jobs=1, work=work)


def test_files_of_one_name_are_told_apart(samples: ModuleType) -> None:
    """Results of a/x.parquet and b/x.parquet are not mixed up."""

    def work(spec: SimulationSpec, keep: bool) -> tuple[dict[str, object], None]:
        return samples.result(spec.policy, 1.5, workload="x"), None

    specs = [replace(SPEC, workload=path) for path in ("a/x.parquet", "b/x.parquet")]
    rows = compare(specs, jobs=1, work=work).results
    assert [row["workload"] for row in rows] == ["a/x", "b/x"]


HELPER = """
import os, signal
from pathlib import Path

def result(spec):
    return {"policy": spec.policy, "workload": spec.workload, "machine": "m",
            "fast_ratio": spec.fast_ratio, "seed": spec.seed, "slowdown": 1.0,
            "promoted_pages": 0, "demoted_pages": 0, "pages": 1}, None

def killed_once(spec, keep):
    mark = Path(os.environ["MARK"])
    if spec.seed == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result(spec)

def broken(spec, keep):
    from isotherm.core.errors import IsothermError
    raise IsothermError("broken")

def endless(spec, keep):
    with Path(os.environ["MARK"]).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    signal.pause()

def killed_always(spec, keep):
    if spec.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(spec)
"""

SCRIPT = """
import json, sys
import helper
from isotherm.core.errors import IsothermError
from isotherm.lab.catalogue import FAULTS, WITHOUT_HINTS
from isotherm.lab.compare import compare
from isotherm.lab.simulate import SimulationSpec

if __name__ == "__main__":
    specs = [SimulationSpec("isotherm", "gups", seed=seed) for seed in range(1, 6)]
    try:
        found = compare(specs, jobs=2, work=getattr(helper, sys.argv[1]))
        print(json.dumps([row["seed"] for row in found.results]))
    except IsothermError as error:
        print(json.dumps(error.message))
"""


def run_script(folder: Path, way: str) -> object:
    """Run the script with a worker that is killed, in a process of its own."""
    (folder / "helper.py").write_text(HELPER)
    (folder / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, folder / "script.py", way],
        env={**os.environ, "PYTHONPATH": str(folder), "MARK": str(folder / "mark")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Traceback" not in run.stderr, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    """A run whose process was killed is made again, and none is lost."""
    assert run_script(tmp_path, "killed_once") == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_run_that_kills_again_and_again_is_named(tmp_path: Path) -> None:
    """After three tries the run is named and the comparison ends."""
    message = run_script(tmp_path, "killed_always")
    assert "its process was killed 3 times" in str(message)


@pytest.mark.slow
def test_error_of_a_worker_is_all_that_is_said(tmp_path: Path) -> None:
    """A run that fails in a worker ends the comparison without a traceback."""
    assert run_script(tmp_path, "broken") == "broken"


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """No worker outlives the command, not even when the kernel kills it."""
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(SCRIPT)
    mark = tmp_path / "mark"
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py", "endless"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MARK": str(mark)},
    ) as run:
        until(lambda: mark.exists() and len(mark.read_text().split()) == 2)
        run.kill()
    workers = [int(word) for word in mark.read_text().split()]
    until(lambda: not any(is_running(worker) for worker in workers))


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Return whether a process is there, and no zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(") ")[2][0] not in "ZX"


@pytest.mark.slow
def test_processes_do_not_change_results(tmp_path: Path) -> None:
    """One process or two: the same numbers, in the same order."""
    words = ["compare", "--policies", "isotherm", "--workloads", "gups", "--json"]
    words += ["--pages", "512", "--accesses", "20480", "--jobs"]
    found = []
    for jobs in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-m", "isotherm", *words, jobs],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        rows = json.loads(run.stdout)["results"]
        for row in rows:
            for key in ("wall_s", "setup_s", "accesses_per_wall_s"):
                del row[key]
        found.append(rows)
    assert found[0] == found[1]


CLUSTER = """
import json, sys
from distributed import LocalCluster
from isotherm.cli.main import main

if __name__ == "__main__":
    workers = {"n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(**workers, dashboard_address=None) as cluster:
        words = "compare --policies isotherm --workloads gups --pages 512".split()
        words += ["--accesses", "20480", "--json"]
        sys.exit(main([*words, "--scheduler", cluster.scheduler_address]))
"""


@pytest.mark.slow
def test_dask_cluster_gives_the_same(tmp_path: Path) -> None:
    """A Dask cluster runs the grid and gives what this process gives."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    run = subprocess.run(
        [sys.executable, tmp_path / "cluster.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)["results"]
    spec = Grid(["isotherm"], ["gups"], common=SPEC).specs()
    here = compare(spec, jobs=1).results
    assert [row["slowdown"] for row in here] == [row["slowdown"] for row in rows]


KILLED_CLUSTER = """
import json
import dask
from distributed import LocalCluster
import helper
from isotherm.core.errors import IsothermError
from isotherm.lab.compare import compare
from isotherm.lab.simulate import SimulationSpec

if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    workers = {"n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(**workers, dashboard_address=None) as cluster:
        specs = [SimulationSpec("isotherm", "gups", seed=2)]
        try:
            compare(
                specs, scheduler=cluster.scheduler_address, work=helper.killed_always
            )
        except IsothermError as error:
            print(json.dumps(error.message))
"""


@pytest.mark.slow
def test_run_that_kills_dask_workers_is_named(tmp_path: Path) -> None:
    """The run is named, as it is where the processes are this host's."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(KILLED_CLUSTER)
    run = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MARK": str(tmp_path / "m")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,  # a cluster that ends while a worker begins anew may say so
        cwd=tmp_path,
    )
    assert run.stdout, run.stderr
    message = json.loads(run.stdout.splitlines()[-1])
    assert message.startswith("isotherm on gups")
    assert message.endswith("its process was killed 2 times")


def test_failing_run_ends_the_comparison() -> None:
    """An error that is not the machine's limits is passed on."""

    def work(spec: SimulationSpec, keep: bool) -> tuple[dict[str, object], None]:
        raise IsothermError("broken")

    with pytest.raises(IsothermError, match="broken"):
        compare([SPEC], jobs=1, work=work)
