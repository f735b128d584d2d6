"""What a session may use up, what it is not believed, and what it is not told."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.machine.linux import kdamonds
from isotherm.machine.linux.process import Process
from isotherm.mover import wire
from isotherm.mover.limits import Looks, Room
from isotherm.mover.placed import Placements
from isotherm.mover.scope import Rules
from isotherm.mover.server import Server
from isotherm.mover.wire import Message, Op
from tests.mover.conftest import RecordedChanges, ask

CPUS = sorted(os.sched_getaffinity(0))

needs_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


def refused(server: Server, message: Message) -> int:
    """Return the errno of an answer; 0 for none."""
    return max(0, -ask(server, message).value)


# -- threads that somebody has pinned -----------------------------------------


@pytest.fixture
def placing(managed: Any) -> Iterator[Callable[..., int]]:
    """Return what has a thread of a managed process run on CPUs, for real."""
    rules = Rules(pids=(managed.pid,), sets_affinity=True)
    server = Server(rules, HostChanges(None), os.getppid())
    handle = ask(server, Message(Op.ADMIT, value=managed.pid)).handle

    def place(tid: int, body: object) -> int:
        data = json.dumps(body).encode()
        return ask(server, Message(Op.RUN_ON, 0, 0, handle, tid, data)).value

    place.server = server  # type: ignore[attr-defined]  # of the tests
    yield place
    server.close()


@needs_cpus
def test_a_pinned_thread_stays_whatever_the_session_says(
    managed: Any, placing: Callable[..., int]
) -> None:
    """That the mover has pinned it itself is known to the mover, not asked."""
    low, high = CPUS[:2]
    os.sched_setaffinity(managed.tid, {low})
    claim = {"cpus": [high], "ours": [low]}
    assert -errno.EINVAL == placing(managed.tid, claim)
    assert 0 == placing(managed.tid, [high])
    assert {low} == os.sched_getaffinity(managed.tid)


@needs_cpus
def test_what_the_mover_has_placed_it_places_anew(
    managed: Any, placing: Callable[..., int]
) -> None:
    """From one CPU to another, and back to all of them at the end."""
    low, high = CPUS[:2]
    assert 1 == placing(managed.tid, [low])
    assert 1 == placing(managed.tid, [high])
    assert {high} == os.sched_getaffinity(managed.tid)
    server = placing.server  # type: ignore[attr-defined]  # of the tests
    ask(server, Message(Op.RESTORE))
    assert set(CPUS) == os.sched_getaffinity(managed.tid)
    os.sched_setaffinity(managed.tid, {high})  # by its owner, as the mover did
    assert 0 == placing(managed.tid, [low])
    assert {high} == os.sched_getaffinity(managed.tid)


@needs_cpus
def test_threads_get_no_cpu_that_they_had_not(managed: Any) -> None:
    """What was narrowed is moved among the CPUs of before alone."""
    asked: list[tuple[int, ...]] = []

    def run_on(process: object, cpus: Any, changes: object, tid: object, ours: Any):
        asked.append(tuple(ours))
        return 1

    low, high = CPUS[:2]
    placed = Placements(HostChanges(None), run_on)
    with Process(managed.pid) as process:
        for cpus in ([low], [high], [high, 5000], [low]):
            placed.place(process, cpus, managed.tid)
    assert [(), (low,), (), ()] == asked


# -- room ----------------------------------------------------------------------


@needs_cpus
@pytest.mark.parametrize("limit", [{"most_pending": 3}, {"most_bytes": 1200}])
def test_the_journal_does_not_grow_without_end(
    managed: Any, tmp_path: Path, limit: dict[str, int]
) -> None:
    """Changes that are made again and again are refused until they are undone."""
    journal = tmp_path / "journal"
    with HostChanges(journal) as changes:
        rules = Rules(pids=(managed.pid,), sets_affinity=True)
        server = Server(rules, changes, os.getppid())
        server.room = Room(changes, **limit)
        handle = ask(server, Message(Op.ADMIT, value=managed.pid)).handle
        asked = [
            Message(Op.RUN_ON, 0, 0, handle, managed.tid, b"[%d]" % cpu)
            for cpu in CPUS[:2]
        ]
        codes = [refused(server, asked[i % 2]) for i in range(50)]
        assert {0, errno.ENOSPC} == set(codes)
        assert sorted(codes) == codes  # from some time on all are refused
        assert journal.stat().st_size == changes.journal_bytes
        assert journal.stat().st_size < 3000
        ask(server, Message(Op.RESTORE))
        assert set(CPUS) == os.sched_getaffinity(managed.tid)
        assert 0 == refused(server, asked[0])
        server.close()


def test_kdamonds_are_written_down_only_where_there_is_room(
    serve: Callable[..., Server], record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be undone is not made: of DAMON's, and of weights."""
    monkeypatch.setattr("isotherm.mover.files.read_listed", lambda path: b"0")
    server = serve(sets_weights=True)
    server.room = Room(HostChanges(None), most_pending=0)
    facts = {"admin": str(kdamonds.ADMIN), "kdamonds": 1, "mark": 1_500_000}
    made = json.dumps({"kind": kdamonds.KIND, "facts": facts}).encode()
    weight = b"/sys/kernel/mm/mempolicy/weighted_interleave/node0\n7"
    assert errno.ENOSPC == refused(server, Message(Op.MADE, body=made))
    assert errno.ENOSPC == refused(server, Message(Op.CHANGE, body=weight))
    assert [] == record.wrote


def test_regions_of_all_targets_are_bounded(
    managed: Any, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is memory of the kernel's, and there may be 4096 targets."""
    monkeypatch.setattr("isotherm.mover.files.read_listed", lambda path: b"0")
    server = serve(pids=(managed.pid,))
    facts = {"admin": str(kdamonds.ADMIN), "kdamonds": 1, "mark": 1_500_000}
    made = json.dumps({"kind": kdamonds.KIND, "facts": facts}).encode()
    assert 0 == refused(server, Message(Op.MADE, body=made))
    targets = f"{kdamonds.ADMIN}/kdamonds/0/contexts/0/targets"

    def write(name: str, value: int) -> int:
        body = f"{targets}/{name}\n{value}".encode()
        return refused(server, Message(Op.WRITE_FILE, body=body))

    assert [0, 0] == [write(f"{i}/regions/nr_regions", 65536) for i in range(2)]
    assert 0 == write("0/regions/nr_regions", 65536)  # the same ones
    assert errno.ENOSPC == write("2/regions/nr_regions", 1)
    assert 0 == write("nr_targets", 3)  # which are new
    assert 0 == write("2/regions/nr_regions", 65536)


# -- looks ---------------------------------------------------------------------


def test_looks_come_back_by_the_second() -> None:
    """As many at once as there are; never more than at the start."""
    now = [0.0]
    looks = Looks(3, 2.0, lambda: now[0])
    looks.take(3)
    with pytest.raises(OSError, match="more than 2 a second"):
        looks.take()
    now[0] = 0.5
    looks.take()
    now[0] = 1000.0
    with pytest.raises(OSError, match="4 processes"):
        looks.take(4)
    looks.take(3)


def test_looks_at_processes_are_bounded(
    managed: Any, bystander: Any, record: Any
) -> None:
    """Strangers, locks by the thousand and parents: EAGAIN before any is looked at."""
    locked: list[int] = []

    class Locks:
        def lock(self, numbers: Any) -> list[dict[str, Any]]:
            locked.extend(numbers)
            return []

        def unlock(self, numbers: Any) -> None:
            pass

        def is_locked(self, pid: int) -> bool:
            return True

    rules = Rules(pids=(managed.pid,))
    server = Server(rules, RecordedChanges(record), os.getppid(), Locks())
    server.looks = Looks(4, 0.0)
    codes = [refused(server, Message(Op.ADMIT, value=bystander.pid)) for _ in range(6)]
    assert [errno.EPERM] * 4 + [errno.EAGAIN] * 2 == codes
    numbers = np.full(wire.MOST_PAGES, managed.pid, np.int64).tobytes()
    lock = Message(Op.LOCK, 0, wire.MOST_PAGES, 0, 0, numbers)
    assert errno.EAGAIN == refused(server, lock)
    shares = Message(Op.SHARES, handle=managed.pid, value=managed.pid)
    assert errno.EAGAIN == refused(server, shares)
    assert [] == locked
    server.close()


# -- what others are -----------------------------------------------------------


def test_nothing_is_said_of_strangers_memory(
    managed: Any, bystander: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Whether two share it is told of a process of this run and its parent alone."""
    (tmp_path / "cgroup.procs").write_text(f"{managed.pid}\n")
    stranger, child = int(bystander.ask("fork")), int(managed.ask("fork"))
    try:
        for rules in ({"pids": (managed.pid,)}, {"cgroups": (tmp_path,)}):
            server = serve(**rules)
            ask(server, Message(Op.ADMIT, value=managed.pid))
            for pid, other in (
                (stranger, bystander.pid),
                (bystander.pid, 1),
                (bystander.pid, bystander.pid),
                (bystander.pid, managed.pid),
                (managed.pid, bystander.pid),
                (child, child),
                (1, bystander.pid),
            ):
                message = Message(Op.SHARES, handle=other, value=pid)
                assert errno.EPERM == refused(server, message), (pid, other)
            message = Message(Op.SHARES, handle=managed.pid, value=child)
            assert 0 == ask(server, message).value
    finally:
        for pid in (stranger, child):
            os.kill(pid, signal.SIGKILL)
