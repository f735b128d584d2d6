"""isotherm run on a real kernel with two tiers: moves, refuses, restores."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BALANCING = Path("/proc/sys/kernel/numa_balancing")
RATE_LIMIT = Path("/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps")
DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")
KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")
RUN = Path("/run/isotherm")
HOT_PAGES = 1024
#: The guest imports and starts slowly; a run that is not over by then hangs.
LIMIT_S = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Start = Callable[..., subprocess.Popen[str]]
Await = Callable[..., None]


@pytest.fixture(autouse=True)
def quiet(quiet_kernel: None) -> None:
    """Nobody else moves memory."""


@pytest.fixture
def target(start: Start) -> Iterator[subprocess.Popen[str]]:
    """Start a process whose hot and cold memory is on the slow node."""
    script = str(HERE / "hot_and_cold.py")
    child = start([sys.executable, "-S", "-E", script, "1", "4", "24"])
    assert child.stdout is not None
    words = child.stdout.readline().split()
    assert "ready" == words[0]
    child.hot = int(words[1])
    yield child
    if child.poll() is None:
        assert "intact\n" == finish(child)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return a configuration for a machine that runs code slowly.

    Emulation makes moves cost a hundred times what they cost elsewhere, and not
    moving nothing: the brake would rightly stop them.
    """
    path = tmp_path / "isotherm.toml"
    path.write_text("[budget]\ncpu_percent = 6400.0\n[brake]\nenabled = false\n")
    return path


@pytest.fixture
def isotherm(settings: Path, tmp_path: Path) -> Iterator[Callable[..., "Isotherm"]]:
    """Return a function that starts isotherm; it is killed with the test."""
    begun: list[Isotherm] = []

    def begin(*words: str, prefix: tuple[str, ...] = ()) -> Isotherm:
        log = tmp_path / f"log-{len(begun)}"
        if words[0] == "run" and not prefix:  # another user cannot read it
            words = ("run", "--config", str(settings), *words[1:])
        begun.append(Isotherm(words, prefix, log))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()


class Isotherm:
    """One isotherm command under way."""

    def __init__(self, words: tuple[str, ...], prefix: tuple[str, ...], log: Path):
        self.log = log
        environment = os.environ | {"ISOTHERM_KERNELS": "numpy", "NO_COLOR": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "isotherm", *words],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )

    @property
    def said(self) -> str:
        """What it said on stderr so far."""
        return self.log.read_text()

    def end(self) -> tuple[int, str]:
        """Wait for its end; return exit code and stdout."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out


def finish(child: subprocess.Popen[str]) -> str:
    """Let a hot-and-cold process end; return what it says of its memory."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline()


def pages_on(pid: int, address: int, node: int) -> int:
    """Return pages of the mapping at an address that are on a node."""
    text = Path(f"/proc/{pid}/numa_maps").read_text()
    # The kernel joins neighbours: the mapping that holds the address.
    starts = [(int(line.split()[0], 16), line) for line in text.splitlines()]
    line = max(entry for entry in starts if entry[0] <= address)[1]
    found = re.search(rf"\bN{node}=(\d+)", line)
    return int(found[1]) if found else 0


def test_hot_memory_ends_in_the_fast_node(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """A hot set on the slow node is moved up; data is whole, nothing is left."""
    assert 0 == pages_on(target.pid, target.hot, 0)
    run = isotherm("run", "--pid", str(target.pid), "--json")
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) >= 0.95 * HOT_PAGES
            or run.process.poll() is not None
        ),
        "the hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert (RUN / f"run-{run.process.pid}.json").exists()
    stopped = isotherm("stop")
    assert (0, f"stopped {run.process.pid}: pid {target.pid}\n") == stopped.end()
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["promoted_pages"] >= 0.95 * HOT_PAGES
    assert "asked" == result["reason"]
    assert not RUN.exists()


def test_a_dry_run_moves_nothing(
    target: subprocess.Popen[str], isotherm: Callable[..., Isotherm]
) -> None:
    """It plans promotions, and every page stays on the slow node."""
    run = isotherm(
        "run", "--pid", str(target.pid), "--dry-run", "--duration", "8", "--json"
    )
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["dry_run"]
    assert result["promoted_pages"] > 0
    assert 0 == pages_on(target.pid, target.hot, 0)


def test_another_mover_is_refused_by_name(
    target: subprocess.Popen[str], isotherm: Callable[..., Isotherm]
) -> None:
    """Under numa_balancing=2 a run ends with 3 and says who and how to stop it."""
    BALANCING.write_text("2")
    run = isotherm("run", "--pid", str(target.pid))
    code, _ = run.end()
    assert 3 == code
    assert "numa-balancing-tiering: /proc/sys/kernel/numa_balancing is 2" in run.said
    assert "sysctl kernel.numa_balancing=0, or --with-other-movers" in run.said
    assert "2" == BALANCING.read_text().strip()


def test_an_unprivileged_user_changes_nothing(
    target: subprocess.Popen[str], isotherm: Callable[..., Isotherm]
) -> None:
    """One message, exit code 4."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    run = isotherm("run", "--pid", str(target.pid), prefix=nobody)
    assert 4 == run.end()[0]
    errors = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert 1 == len(errors)
    assert "user 65534 lacks CAP_SYS_NICE" in errors[0]
    assert not RUN.exists()


def test_the_status_of_a_command_is_passed_on(
    isotherm: Callable[..., Isotherm],
) -> None:
    """The command's exit status is the run's own; a signal is 128 and its number."""
    run = isotherm("run", "--", "sh", "-c", "sleep 1; exit 7")
    assert 7 == run.end()[0], run.said
    run = isotherm("run", "--", "sh", "-c", "sleep 1; kill -KILL $$")
    assert 137 == run.end()[0], run.said


def test_a_target_that_ends(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """When the process ends, the run ends with 5."""
    run = isotherm("run", "--pid", str(target.pid))
    await_true(lambda: "hints=" in run.said, "it runs", LIMIT_S)
    assert "intact\n" == finish(target)
    assert 0 == target.wait()
    assert 5 == run.end()[0]
    assert not RUN.exists()


def test_the_kernel_moves_and_sigterm_restores(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """--mover kernel: hint faults promote; afterwards all is as it was."""
    before = [path.read_text() for path in (BALANCING, RATE_LIMIT, DEMOTION)]
    run = isotherm("run", "--mover", "kernel", "--pid", str(target.pid), "--json")
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) >= HOT_PAGES // 2
            or run.process.poll() is not None
        ),
        "half of the hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    assert "2" == BALANCING.read_text().strip()
    assert "200" == RATE_LIMIT.read_text().strip()
    assert "true" == DEMOTION.read_text().strip()
    run.process.send_signal(signal.SIGTERM)
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert "numa-balancing" == result["way"]
    assert result["promoted_pages"] >= HOT_PAGES // 2
    assert 3 == len(result["restored"])
    after = [path.read_text() for path in (BALANCING, RATE_LIMIT, DEMOTION)]
    assert before == after
    assert not RUN.exists()


def test_after_a_kill_the_next_start_restores(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """SIGKILL leaves the journal; stop finds it and puts everything back."""
    before = [path.read_text() for path in (BALANCING, RATE_LIMIT, DEMOTION)]
    run = isotherm("run", "--mover", "kernel", "--pid", str(target.pid))
    await_true(
        lambda: BALANCING.read_text().strip() == "2" or run.process.poll() is not None,
        "the kernel's mover is on",
        LIMIT_S,
    )
    run.process.kill()
    run.process.wait()
    assert (RUN / f"run-{run.process.pid}.journal").exists(), run.said
    again = isotherm("run", "--dry-run", "--duration", "1", "--pid", str(target.pid))
    assert 0 == again.end()[0], again.said
    assert "recovered" in again.said
    assert "'2' -> '0'" in again.said
    after = [path.read_text() for path in (BALANCING, RATE_LIMIT, DEMOTION)]
    assert before == after
    assert not RUN.exists()


@pytest.mark.slow_vm
def test_damon_schemes_move_and_are_removed(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    settings: Path,
    await_true: Await,
) -> None:
    """DAMON's schemes promote; where virtual ones apply nothing, physical ones do."""
    with settings.open("a") as file:
        file.write('[kernel]\nuse = "damon"\n')
    run = isotherm("run", "--mover", "kernel", "--pid", str(target.pid), "--json")
    await_true(
        lambda: (
            pages_on(target.pid, target.hot, 0) >= HOT_PAGES // 2
            or run.process.poll() is not None
        ),
        "half of the hot pages are on node 0",
        LIMIT_S,
    )
    assert run.process.poll() is None, run.said
    run.process.send_signal(signal.SIGINT)
    code, out = run.end()
    assert 130 == code, run.said
    result = json.loads(out)
    assert "damon" == result["way"]
    assert sum(scheme["nr_applied"] for scheme in result["schemes"]) > 0
    assert "0" == KDAMONDS.read_text().strip()
