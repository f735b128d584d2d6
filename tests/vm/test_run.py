"""isotherm run on a real kernel with two tiers: moves, refuses, restores."""

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_managed
from tests.vm.runs import LIMIT_S, RUN, Isotherm, finish, pages_on

BALANCING = Path("/proc/sys/kernel/numa_balancing")
RATE_LIMIT = Path("/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps")
DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")
KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")
HOT_PAGES = 1024

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]
Await = Callable[..., None]


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
    stopped = isotherm("stop", "--wait", str(LIMIT_S))
    assert (0, f"stopped {run.process.pid}: pid {target.pid}\n") == stopped.end()
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["promoted_pages"] >= 0.95 * HOT_PAGES
    assert "asked" == result["reason"]
    assert not RUN.exists()


def test_a_dry_run_moves_nothing(
    target: subprocess.Popen[str],
    isotherm: Callable[..., Isotherm],
    await_true: Await,
) -> None:
    """It plans promotions, and every page stays on the slow node."""
    run = isotherm("run", "--pid", str(target.pid), "--dry-run", "--json")

    def planned() -> bool:
        assert run.process.poll() is None, run.said
        with suppress(IsothermError):  # it does not answer yet
            return any(state["promoted_pages"] for state in list_managed(RUN))
        return False

    await_true(planned, "promotions are planned", LIMIT_S)
    run.process.send_signal(signal.SIGTERM)
    code, out = run.end()
    assert 0 == code, run.said
    result = json.loads(out)
    assert result["dry_run"]
    assert result["promoted_pages"] > 0
    assert any("promote" == what["direction"] for what in result["planned"])
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
    """One message, exit code 4; a command is not even started."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    anyones = Path(tempfile.gettempdir())
    trace = anyones / "made-by-a-command"
    for words in (("--pid", str(target.pid)), ("--", "touch", str(trace))):
        run = isotherm("run", *words, prefix=nobody)
        assert 4 == run.end()[0]
        errors = [line for line in run.said.splitlines() if line.startswith("error: ")]
        assert 1 == len(errors)
        assert "user 65534 lacks CAP_SYS_NICE" in errors[0]
    assert 0 == pages_on(target.pid, target.hot, 0)
    places = (RUN, anyones / "isotherm-65534", trace)
    assert [] == [place for place in places if place.exists()]


def test_the_status_of_a_command_is_passed_on(
    isotherm: Callable[..., Isotherm],
) -> None:
    """The command's exit status is the run's own; a signal is 128 and its number."""
    run = isotherm("run", "--", "sh", "-c", "sleep 1; kill -KILL $$")
    assert 137 == run.end()[0], run.said
    run = isotherm("run", "--", "sh", "-c", "exit 7")  # gone before it is looked into
    assert 7 == run.end()[0], run.said


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


@pytest.fixture
def eager_scan() -> Iterator[None]:
    """Have the kernel look at hint faults often: by default once a CPU second.

    The target sleeps most of the time, and its CPU is shared with emulation.
    """
    wanted = {"scan_delay_ms": 10, "scan_period_min_ms": 10, "scan_period_max_ms": 100}
    folder = Path("/sys/kernel/debug/sched/numa_balancing")
    before = {folder / name: (folder / name).read_text() for name in wanted}
    for path in before:
        path.write_text(str(wanted[path.name]))
    yield
    for path, text in before.items():
        path.write_text(text)


def test_the_kernel_moves_and_sigterm_restores(
    eager_scan: None,
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
        file.write('[kernel]\nuse = "damon"\nhost_wide = true\n')
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
