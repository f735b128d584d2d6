"""Sweeps that are killed, run as a process of their own by test_sweep.py.

    python -c "import sweep_helper; sweep_helper.main()" WAY FOLDER

Every run that is finished is a line ``KEY PID`` in FOLDER/runs. The run of seed
``VICTIM`` stands still when it is first made, and writes its process to
FOLDER/victim: whoever waits for that file kills in the middle of a run.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from isotherm.lab.batches import work
from isotherm.lab.compare import compare
from isotherm.lab.grid import spec_key
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore

FOLDER = "SWEEP_FOLDER"
CELLS = 160
MANY = 1000
VICTIM = 20
TIMED = ("wall_s", "setup_s", "accesses_per_wall_s")


def specs(cells: int = CELLS) -> list[SimulationSpec]:
    """Return small runs, one a seed, of a policy that moves pages."""
    return [
        SimulationSpec("tpp", "gups", pages=64, accesses=1280, seed=seed)
        for seed in range(1, cells + 1)
    ]


def noted(spec: SimulationSpec, keep: bool) -> Any:
    """Make a run and note it."""
    answer = work(spec, keep)
    line = f"{spec_key(spec)} {os.getpid()}\n".encode()
    file = os.open(Path(os.environ[FOLDER]) / "runs", os.O_WRONLY | os.O_APPEND)
    os.write(file, line)
    os.close(file)
    return answer


def stopping(spec: SimulationSpec, keep: bool) -> Any:
    """As ``noted``; the victim stands still when it is first made."""
    victim = Path(os.environ[FOLDER]) / "victim"
    if spec.seed == VICTIM and not victim.exists():
        partial = victim.with_suffix(".partial")
        partial.write_text(str(os.getpid()))
        partial.rename(victim)
        threading.Event().wait()
    return noted(spec, keep)


def until_there(path: Path) -> str:
    """Return the text of a file that is going to appear, within a minute."""
    end = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > end:
            raise SystemExit(f"{path}: expected within a minute")
        time.sleep(0.02)
    return path.read_text()


def kill_victim(folder: Path) -> None:
    """Kill the process of the run that stands still."""
    os.kill(int(until_there(folder / "victim")), signal.SIGKILL)


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results without what is timed."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def main() -> None:
    """Run a sweep; print how many runs were resumed, and the results."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    os.environ[FOLDER] = str(folder)
    (folder / "runs").touch()
    with ResultStore(folder / "sweep.parquet") as store:
        if way == "many":
            found = compare(specs(MANY), jobs=2, store=store, work=noted)
        else:
            threading.Thread(target=kill_victim, args=(folder,), daemon=True).start()
            found = RUN[way](store)
    sys.stdout.write(json.dumps([found.resumed, plain(found.results)]) + "\n")


def _pool(store: ResultStore) -> Any:
    return compare(specs(), jobs=2, store=store, work=stopping)


def _cluster(store: ResultStore) -> Any:
    from distributed import LocalCluster

    workers = {"n_workers": 2, "threads_per_worker": 1}
    with LocalCluster(**workers, dashboard_address=None) as cluster:  # type: ignore[no-untyped-call]  # theirs
        address = cluster.scheduler_address
        return compare(specs(), scheduler=address, store=store, work=stopping)


RUN = {"pool": _pool, "cluster": _cluster}
