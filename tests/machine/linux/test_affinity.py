"""Where threads run, and where they are made to run until the end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from isotherm.core.changes import HostChanges
from isotherm.machine.linux.affinity import parse_thread, read_running, run_on
from isotherm.machine.linux.process import Process
from tests.machine.linux.conftest import Child


@pytest.fixture
def child() -> Iterator[Child]:
    """Return a process with two threads."""
    made = Child()
    made.do("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    yield made
    made.end()


@pytest.fixture
def cpus() -> set[int]:
    """Return the CPUs that there are; a test of fewer needs two."""
    found = os.sched_getaffinity(0)
    if len(found) < 2:
        pytest.skip("one CPU: there is nothing to choose between")
    return found


def masks(child: Child) -> list[set[int]]:
    """Return the CPUs of each of its threads."""
    tasks = Path(f"/proc/{child.pid}/task").iterdir()
    return [os.sched_getaffinity(int(task.name)) for task in tasks]


def test_threads_are_read(child: Child) -> None:
    """Each with the CPU that it ran on last, and what it has used."""
    with Process(child.pid) as process:
        running = read_running(process)
    assert 2 == len(running.tid) == len(running.cpu)
    assert child.pid in running.tid.tolist()
    assert set(running.cpu.tolist()) <= set(range(os.cpu_count() or 1))
    assert (running.ticks >= 0).all()


def test_a_name_with_brackets_does_not_confuse() -> None:
    """The fields begin after the last one."""
    fields = ["S", *["0"] * 36]
    fields[11], fields[12], fields[36] = "5", "7", "3"
    assert (3, 12) == parse_thread(f"42 (a) b) {' '.join(fields)}")
    with pytest.raises(ValueError, match="expected at least 39 fields"):
        parse_thread("42 (a) S 1")


def test_what_was_set_is_put_back(child: Child, cpus: set[int]) -> None:
    """Also for a thread that was started meanwhile, which inherited it."""
    one = {min(cpus)}
    changes = HostChanges(None)
    with Process(child.pid) as process:
        assert 2 == run_on(process, one, changes, None)
    assert [one, one] == masks(child)
    child.do("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    assert [one] * 3 == masks(child)
    (said,) = changes.restore()
    assert said.endswith("3 threads")
    assert [cpus] * 3 == masks(child)


def test_heirs_of_a_thread_get_theirs_back(child: Child, cpus: set[int]) -> None:
    """A thread and a child that were started meanwhile; not what was pinned before."""
    low = {min(cpus)}
    changes = HostChanges(None)
    with Process(child.pid) as process:
        other = next(t for t in read_running(process).tid.tolist() if t != child.pid)
        os.sched_setaffinity(other, low)
        assert 1 == run_on(process, low, changes, child.pid)
    child.do("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    heir = child.do("os.posix_spawnp('sleep', ['sleep', '600'], os.environ)")
    assert low == os.sched_getaffinity(heir)
    changes.restore()
    assert cpus == os.sched_getaffinity(heir)
    os.kill(heir, signal.SIGKILL)
    assert sorted([sorted(low), sorted(cpus), sorted(cpus)]) == sorted(
        map(sorted, masks(child))
    )


def test_what_somebody_else_has_set_is_left(child: Child, cpus: set[int]) -> None:
    """A mask that is not ours any more is nobody's to put back."""
    low, high = {min(cpus)}, {max(cpus)}
    changes = HostChanges(None)
    with Process(child.pid) as process:
        run_on(process, low, changes, None)
    os.sched_setaffinity(child.pid, high)
    changes.restore()
    assert high == os.sched_getaffinity(child.pid)


def test_a_crash_is_recovered_from(
    child: Child, cpus: set[int], tmp_path: Path
) -> None:
    """The journal of a dead process undoes a step and the one before it."""
    journal = tmp_path / "run" / "journal"
    changes = HostChanges(journal)
    with Process(child.pid) as process:
        run_on(process, {min(cpus)}, changes, None)
        assert 2 == run_on(process, {max(cpus)}, changes, None, {min(cpus)})
    os.close(changes._file)  # type: ignore[arg-type]  # as a kill does
    said = HostChanges.recover(journal)
    assert 2 == len(said)
    assert [cpus, cpus] == masks(child)


def test_one_thread_alone(child: Child, cpus: set[int]) -> None:
    """Named by its number, only that one is set, and only that one put back."""
    one = {max(cpus)}
    changes = HostChanges(None)
    with Process(child.pid) as process:
        tid = next(t for t in read_running(process).tid.tolist() if t != child.pid)
        assert 1 == run_on(process, one, changes, tid)
    assert one == os.sched_getaffinity(tid)
    assert cpus == os.sched_getaffinity(child.pid)
    changes.restore()
    assert cpus == os.sched_getaffinity(tid)


def test_a_pinned_thread_is_left_alone(child: Child, cpus: set[int]) -> None:
    """Neither one that was pinned before, nor one that somebody pins meanwhile."""
    low, high = {min(cpus)}, {max(cpus)}
    changes = HostChanges(None)
    with Process(child.pid) as process:
        other = next(t for t in read_running(process).tid.tolist() if t != child.pid)
        os.sched_setaffinity(other, high)
        assert 1 == run_on(process, low, changes, None)
        assert high == os.sched_getaffinity(other)
        os.sched_setaffinity(child.pid, high)
        assert 0 == run_on(process, low, changes, None, low)
    assert high == os.sched_getaffinity(child.pid)
    changes.restore()
    assert [high, high] == masks(child)


def test_a_thread_of_another_process_is_left_alone(
    child: Child, cpus: set[int]
) -> None:
    """A number that was a thread of the process may be somebody else's by now."""
    changes = HostChanges(None)
    with Process(child.pid) as process:
        assert 0 == run_on(process, {min(cpus)}, changes, os.getpid())
    assert cpus == os.sched_getaffinity(0)


def test_a_process_that_has_ended_is_no_error(child: Child, cpus: set[int]) -> None:
    """Neither when it is to be set nor when it is to be put back."""
    changes = HostChanges(None)
    with Process(child.pid) as process:
        run_on(process, {min(cpus)}, changes, None)
        child.end()
        assert 0 == run_on(process, {min(cpus)}, changes, None)
    (said,) = changes.restore()
    assert "the process has ended" in said
