"""A daemon at full speed over processes that start, fork, unmap, exec and die."""

import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_managed
from tests.vm.runs import LIMIT_S, RUN, Isotherm

HERE: Final = Path(__file__).parent
SEED: Final = 1
WORKERS: Final = 30
STRANGERS: Final = 4
#: As in churn.c.
COUNTERS: Final = (
    *("stop", "alive", "started", "forked", "execed", "exited", "killed"),
    *("mapped", "unmapped", "grown", "threads", "checked", "broken", "strayed"),
)
#: However slow the guest is, so much must have happened.
LEAST: Final = {"forked": 30, "execed": 30, "exited": 60, "killed": 10, "unmapped": 100}
PID_MAX: Final = Path("/proc/sys/kernel/pid_max")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("quiet_kernel"),
]


class Churn:
    """A churn program under way, and what it has counted."""

    def __init__(self, process: subprocess.Popen[str], file: Path) -> None:
        self.process = process
        self.file = file

    @property
    def counts(self) -> dict[str, int]:
        """What it has counted so far."""
        data = self.file.read_bytes() if self.file.exists() else b""
        numbers = struct.unpack(f"{len(COUNTERS)}Q", data or bytes(8 * len(COUNTERS)))
        return dict(zip(COUNTERS, numbers, strict=True))

    def stop(self) -> None:
        """Ask it to look at all it has once more, and to end."""
        with self.file.open("r+b") as file:
            file.write(struct.pack("Q", 1))


@pytest.fixture
def churn(
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
    await_true: Callable[..., None],
) -> Callable[..., Churn]:
    """Return a function that starts the churn program, in a cgroup if one is given."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for churn.c: apt install gcc")
    program = tmp_path / "churn"
    source = str(HERE / "churn.c")
    words = [compiler, "-O1", "-pthread", "-o", str(program), source]
    subprocess.run(words, check=True)

    def begin(how: str, seed: int, workers: int, cgroup: Path | None = None) -> Churn:
        file = tmp_path / f"{how}-{seed}"
        words = [str(program), how, str(seed), str(workers), str(file)]
        if cgroup is not None:
            enter = 'echo $$ > "$0"/cgroup.procs && exec "$@"'
            words = ["sh", "-c", enter, str(cgroup), *words]
        made = Churn(start(words), file)
        await_true(lambda: made.counts["started"] >= workers, "all workers")
        return made

    return begin


@pytest.fixture
def few_pids() -> Iterator[None]:
    """Have the numbers of processes come round again soon."""
    before = PID_MAX.read_text()
    PID_MAX.write_text("1000")
    yield
    PID_MAX.write_text(before)


def descriptors(pid: int) -> Counter[str]:
    """Return what a process has open, without the numbers that differ."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[re.sub(r"\d+", "N", str(path.readlink()))] += 1
    return found


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.slow_vm)])
def test_churn(
    seconds: int,
    churn: Callable[..., Churn],
    isotherm: Callable[..., Isotherm],
    settings: Path,
    cgroup: Path,
    few_pids: None,
    await_true: Callable[..., None],
) -> None:
    """Nothing crashes or leaks, data is whole, and no stranger's page has moved.

    Strangers come and go, too, with numbers that members had a moment ago.
    """
    with settings.open("a") as file:
        file.write("[loop]\nepoch_s = 0.2\n[migration]\nlimit_mib_s = 2000\n")
    run = isotherm("run", "--cgroup", str(cgroup), "--json")
    await_true(
        lambda: "hints=" in run.said or run.process.poll() is not None,
        "it runs",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    pid = run.process.pid
    first = descriptors(pid)
    first[str(RUN / "targets.lock")] = 1  # opened with the first member
    strangers = churn("still", SEED + 1, STRANGERS)
    members = churn("live", SEED, WORKERS, cgroup)
    most = promoted = 0
    began = time.monotonic()
    end = began + seconds + LIMIT_S

    def enough() -> bool:
        counts = members.counts
        return all(counts[name] >= least for name, least in LEAST.items())

    while time.monotonic() < began + seconds or not (enough() and promoted):
        for process in (run.process, strangers.process, members.process):
            assert process.poll() is None, (process.args, run.said[-4000:])
        assert time.monotonic() < end, (members.counts, promoted)
        most = max(most, descriptors(pid).total())
        with suppress(IsothermError):  # it is busy
            promoted = list_managed(RUN)[0]["promoted_pages"]
        time.sleep(1)
    lasted = time.monotonic() - began
    for one in (members, strangers):
        one.stop()
        status = one.process.wait(LIMIT_S)
        counts = one.counts
        assert (0, 0, 0) == (status, counts["broken"], counts["strayed"]), counts
        assert 0 == counts["alive"]
    assert enough()
    left: Counter[str] = Counter()

    def settled() -> bool:
        nonlocal left
        left = descriptors(pid) - first
        return not left

    with suppress(pytest.fail.Exception):
        await_true(settled, "all descriptors are given back")
    assert Counter() == left
    assert run.process.poll() is None, run.said
    stopped = isotherm("stop", "--wait", str(LIMIT_S))
    assert 0 == stopped.end()[0], stopped.said
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["promoted_pages"] >= promoted > 0
    assert [] == result["pids"]
    assert "Traceback" not in run.said, run.said[run.said.find("Traceback") :][:4000]
    assert not RUN.exists()
    told = {
        "seconds": round(lasted),
        "members": members.counts,
        "strangers": strangers.counts,
        "descriptors": (first.total(), most),
        "promoted": result["promoted_pages"],
        "demoted": result["demoted_pages"],
        "epochs": result.get("epochs"),
    }
    if "VMTEST_OUT" in os.environ:
        path = Path(os.environ["VMTEST_OUT"]) / f"soak-{seconds}.json"
        path.write_text(json.dumps(told))
