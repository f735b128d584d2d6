"""A session that speaks the protocol maliciously gets nothing that is not its own."""

import array
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.hints.live.damon_trace import TRACEFS
from isotherm.hints.live.page_fault import SPEC
from isotherm.machine.linux import kdamonds, syscalls
from isotherm.mover import wire
from isotherm.mover.limits import MOST_EVENTS
from isotherm.mover.scope import Rules
from isotherm.mover.server import Server
from isotherm.mover.wire import Message, Op
from tests.mover.conftest import Record, RecordedChanges, ask

ADMIN = "/sys/kernel/mm/damon/admin/kdamonds"
WEIGHTS = "/sys/kernel/mm/mempolicy/weighted_interleave"


def admitted(server: Server, pid: int) -> int:
    """Return the handle of a process that is admitted."""
    answer = ask(server, Message(Op.ADMIT, value=pid))
    assert answer.value > 0
    return answer.handle


def columns(address: list[int], node: list[int] | None = None) -> bytes:
    """Return the body of a move."""
    body = np.array(address, np.uint64).tobytes()
    return body + (b"" if node is None else np.array(node, np.int32).tobytes())


def refused(server: Server, message: Message) -> int:
    """Return the errno of an answer; 0 for none."""
    return max(0, -ask(server, message).value)


def two(path: str, value: str) -> bytes:
    """Return the body of a write."""
    return f"{path}\n{value}".encode()


@pytest.mark.usefixtures("rights")
def test_what_is_asked_for_is_done(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Pages of a managed process are found, moved and advised on; its files read."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    pages = [managed.start + 4096 * i for i in range(16)]
    where = ask(server, Message(Op.WHERE, 1, 16, handle, 0, columns(pages)))
    assert [0] * 16 == np.frombuffer(where.body, np.int32).tolist()
    move = Message(
        Op.MOVE, 2, 16, handle, syscalls.MPOL_MF_MOVE, columns(pages, [0] * 16)
    )
    moved = ask(server, move)
    assert (0, [0] * 16) == (moved.value, np.frombuffer(moved.body, np.int32).tolist())
    ranges = columns([managed.start, 16 << 12])
    advice = Message(Op.MADVISE, 3, 1, handle, syscalls.MADV_COLD, ranges)
    assert 16 << 12 == ask(server, advice).value
    stat = ask(server, Message(Op.READ, 4, handle=handle, body=b"stat"))
    assert stat.body.startswith(b"%d (" % managed.pid)
    for name in ("maps", "smaps", "numa_maps", "pagemap", "status", "task/1/children"):
        message = Message(Op.OPEN, 5, handle=handle, body=name.encode())
        _, answer = server.handle(message.pack())
        if answer.fd >= 0:
            os.close(answer.fd)
        gone = name == "task/1/children"  # thread 1 is not one of its own
        assert (answer.value == -errno.ENOENT) == gone, name
    assert {managed.pid} == record.pids
    assert managed.is_whole()


def test_strangers(
    managed: Any, bystander: Any, serve: Callable[..., Server], record: Record
) -> None:
    """No handle, no event and no lock is had of a process that is not managed."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    for pid in (bystander.pid, 1, os.getpid(), os.getppid(), 2):
        assert errno.EPERM == refused(server, Message(Op.ADMIT, value=pid))
        assert refused(server, Message(Op.EVENT, value=pid, body=fault_attr()))
    assert errno.EPERM == refused(
        server, Message(Op.EVENT, value=bystander.tid, body=fault_attr())
    )
    for stolen in (0, handle + 1, handle - 1, 1 << 63, bystander.pid):
        message = Message(
            Op.MOVE, 0, 1, stolen, syscalls.MPOL_MF_MOVE, columns([0x1000], [0])
        )
        assert errno.EBADF == refused(server, message)
    assert ([], [], set()) == (record.moved, record.events, record.pids)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (0xFFFF_8880_0000_0000, errno.EINVAL),  # the kernel's map of all memory
        (0xFFFF_FFFF_8100_0000, errno.EINVAL),  # its text
        (1 << 56, errno.EINVAL),
        ((1 << 64) - 4096, errno.EINVAL),
        (0x1001, errno.EINVAL),
        (0xFFF, errno.EINVAL),
    ],
)
def test_addresses_that_are_no_pages_of_user_space(
    managed: Any,
    serve: Callable[..., Server],
    record: Record,
    address: int,
    code: int,
) -> None:
    """Kernel addresses and those within a page reach no system call."""
    server = serve(pids=(managed.pid,), swap=True)
    handle = admitted(server, managed.pid)
    good = managed.start
    for op, count, value, body in (
        (Op.MOVE, 2, syscalls.MPOL_MF_MOVE, columns([good, address], [0, 0])),
        (Op.WHERE, 2, 0, columns([good, address])),
        (Op.TOUCH, 2, 0, columns([good, address])),
        (Op.MADVISE, 1, syscalls.MADV_COLD, columns([address, 4096])),
        (Op.MADVISE, 1, syscalls.MADV_COLD, columns([good, address])),
    ):
        assert code == refused(server, Message(op, 0, count, handle, value, body))
    assert ([], [], set()) == (record.moved, record.advised, record.pids)


def test_nodes_flags_and_advice_that_nobody_announced(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Only announced nodes, only asked-for flags, only advice that loses nothing."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    for node in (1, -1, 1023, 1 << 30, -(1 << 31)):
        body = columns([managed.start], [node])
        message = Message(Op.MOVE, 0, 1, handle, syscalls.MPOL_MF_MOVE, body)
        assert errno.ENODEV == refused(server, message)
    body = columns([managed.start], [0])
    for flags in (0, 1, syscalls.MPOL_MF_MOVE_ALL, 6, 1 << 3, -1, 1 << 40):
        assert errno.EINVAL == refused(
            server, Message(Op.MOVE, 0, 1, handle, flags, body)
        )
    ranges = columns([managed.start, 4096])
    for advice in (4, 8, 9, 12, 13, 14, 100, -1):  # DONTNEED, FREE, REMOVE, ...
        assert errno.EINVAL == refused(
            server, Message(Op.MADVISE, 0, 1, handle, advice, ranges)
        )
    endless = columns([managed.start, 1 << 55])  # a call for every GiB of it
    assert errno.EINVAL == refused(
        server, Message(Op.MADVISE, 0, 1, handle, syscalls.MADV_COLD, endless)
    )
    beyond = columns([(1 << 56) - 4096, 8192])
    assert errno.EINVAL == refused(
        server, Message(Op.MADVISE, 0, 1, handle, syscalls.MADV_COLD, beyond)
    )
    assert ([], []) == (record.moved, record.advised)
    assert managed.is_whole()


@pytest.mark.parametrize("op", [Op.MOVE, Op.WHERE, Op.MADVISE, Op.TOUCH, Op.LOCK])
@pytest.mark.parametrize("count", [1, 2, wire.MOST_PAGES + 1, 1 << 31, (1 << 32) - 1])
def test_absurd_counts(
    managed: Any, serve: Callable[..., Server], record: Record, op: Op, count: int
) -> None:
    """A count that the body does not bear out reaches no system call."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    for body in (b"", b"\0" * 7, b"\0" * 24 * 2):
        code = refused(server, Message(op, 0, count, handle, 2, body))
        assert code in (errno.EPROTO, errno.EMSGSIZE)
    assert set() == record.pids


@pytest.mark.parametrize(
    "name",
    [
        "mem", "environ", "auxv", "fd", "fd/0", "fdinfo/0", "root", "cwd", "exe",
        "root/etc/shadow", "../1/maps", "maps/../mem", "task/../mem", "./maps", "maps/",
        "task/1/mem", "task/1/maps", "task/01/stat", "task/1/../../mem", "/etc/shadow",
        "stat\n", "syscall", "stack", "oom_score_adj", "timerslack_ns", "clear_refs",
        "attr/current", "ns/mnt", "map_files", "", " ", "maps\0", "\uff4daps", "task",
    ],
)  # fmt: skip
def test_files_of_a_process_that_are_on_no_list(
    managed: Any, serve: Callable[..., Server], name: str
) -> None:
    """Memory, descriptors, links and paths out of the directory are refused."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    body = name.encode()
    for op in (Op.OPEN, Op.READ):
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_PATH, os.O_CREAT):
            code = refused(server, Message(op, 0, 0, handle, flags, body))
            assert code in (errno.EACCES, errno.EPROTO), (op, flags)
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_TRUNC, os.O_PATH):
        good = Message(Op.OPEN, 0, 0, handle, flags, b"maps")
        assert errno.EACCES == refused(server, good)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow", "/proc/1/mem", "/dev/mem", "/proc/kcore", "relative", "",
        f"{ADMIN}/../kdamonds/nr_kdamonds", f"{ADMIN}/0/../../../../../../etc/shadow",
        f"{ADMIN}/nr_kdamonds/", f"{ADMIN}/nr_kdamonds\n", f"/{ADMIN}/nr_kdamonds",
        f"{ADMIN}/10/state", f"{ADMIN}/0/contexts/1/operations", "/proc/self/mem",
        f"{ADMIN}/0/contexts/0/targets/0/pid_target", f"{WEIGHTS}/node99999",
        "/sys/kernel/tracing/events/sched/sched_switch/id",
        "/proc/sys/kernel/core_pattern",
        f"{WEIGHTS}/node0/../../../../../../etc/shadow", "/sys/kernel/mm/damon/admin",
    ],
)  # fmt: skip
def test_files_of_the_kernel_that_are_on_no_list(
    serve: Callable[..., Server], record: Record, path: str
) -> None:
    """Nothing but DAMON's own files and the weights is read or written."""
    server = serve(sets_weights=True)
    assert refused(server, Message(Op.READ_FILE, body=path.encode())) in (
        errno.EACCES,
        errno.EPROTO,
    )
    for op in (Op.WRITE_FILE, Op.CHANGE):
        assert refused(server, Message(op, body=two(path, "1")))
    assert [] == record.wrote


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{WEIGHTS}/node0", "0"), (f"{WEIGHTS}/node0", "256"),
        (f"{WEIGHTS}/node0", "-1"), (f"{WEIGHTS}/node0", "1 2"),
        (f"{WEIGHTS}/node0", "9" * 3000), (f"{WEIGHTS}/node0", "٣"),
        (f"{WEIGHTS}/auto", "maybe"), ("/proc/sys/kernel/numa_balancing", "2"),
        ("/sys/kernel/mm/numa/demotion_enabled", "1"),
    ],
)  # fmt: skip
def test_values_out_of_bounds(
    serve: Callable[..., Server], record: Record, path: str, value: str
) -> None:
    """A path that is on the list takes no value that is not."""
    server = serve(sets_weights=True)
    assert refused(server, Message(Op.CHANGE, body=two(path, value)))
    assert [] == record.wrote
    assert 1 == ask(server, Message(Op.CHANGE, body=two(f"{WEIGHTS}/node0", "7"))).value
    assert [(f"{WEIGHTS}/node0", "7")] == record.wrote


def test_weights_are_set_by_who_has_them_alone(record: Record) -> None:
    """Without the lock another run may have them: nothing is written."""

    class Locks:
        def __init__(self) -> None:
            self.mine: set[int] = set()

        def lock(self, numbers: Collection[int]) -> list[dict[str, Any]]:
            self.mine.update(numbers)
            return []

        def unlock(self, numbers: Collection[int]) -> None:
            self.mine.difference_update(numbers)

        def is_locked(self, pid: int) -> bool:
            return pid in self.mine

    rules = Rules(sets_weights=True, other_locks=frozenset({1 << 40}))
    server = Server(rules, RecordedChanges(record), os.getppid(), Locks())
    change = Message(Op.CHANGE, body=two(f"{WEIGHTS}/node0", "7"))
    number = np.array([1 << 40], np.int64).tobytes()
    assert errno.EPERM == refused(server, change)
    assert 0 == refused(server, Message(Op.LOCK, 0, 1, 0, 0, number))
    assert 0 == refused(server, change)
    assert 0 == refused(server, Message(Op.UNLOCK, 0, 1, 0, 0, number))
    assert errno.EPERM == refused(server, change)
    assert [(f"{WEIGHTS}/node0", "7")] == record.wrote
    server.close()


def test_what_nobody_asked_for(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Weights, affinity and swap need to be asked for; a dry run changes nothing."""
    plain, dry = serve(pids=(managed.pid,)), serve(pids=(managed.pid,), dry_run=True)
    weights = Message(Op.CHANGE, body=two(f"{WEIGHTS}/node0", "7"))
    assert errno.EPERM == refused(plain, weights)
    handle = admitted(plain, managed.pid)
    cpus = Message(Op.RUN_ON, handle=handle, body=b"[0]")
    assert errno.EPERM == refused(plain, cpus)
    page, ranges = columns([managed.start]), columns([managed.start, 4096])
    assert errno.EPERM == refused(plain, Message(Op.TOUCH, 0, 1, handle, 0, page))
    for advice in (syscalls.MADV_PAGEOUT, syscalls.MADV_WILLNEED):
        message = Message(Op.MADVISE, 0, 1, handle, advice, ranges)
        assert errno.EPERM == refused(plain, message)
    handle = admitted(dry, managed.pid)
    body = columns([managed.start], [0])
    for message in (
        Message(Op.MOVE, 0, 1, handle, syscalls.MPOL_MF_MOVE, body),
        Message(Op.MADVISE, 0, 1, handle, syscalls.MADV_COLD, columns([0x1000, 4096])),
        Message(Op.TOUCH, 0, 1, handle, 0, columns([managed.start])),
        weights,
    ):
        assert errno.EPERM == refused(dry, message)
    assert ([], [], set(), []) == (
        record.moved,
        record.advised,
        record.pids,
        record.wrote,
    )


def test_memory_grows_by_huge_pages_only_where_they_are_asked_for(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """A huge page takes 512 small ones, where there may have been one."""
    body = columns([managed.start, 4096])
    for asked in (False, True):
        server = serve(pids=(managed.pid,), makes_huge=asked)
        handle = admitted(server, managed.pid)
        message = Message(Op.MADVISE, 0, 1, handle, syscalls.MADV_COLLAPSE, body)
        code = refused(server, message)  # of the kernel, where it is asked
        assert asked or code == errno.EPERM
        assert asked == bool(record.advised)


def test_nothing_is_changed_once_the_end_is_asked_for(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """A session that goes on all the same moves, puts out, places and sets nothing."""
    server = serve(
        pids=(managed.pid,), sets_weights=True, sets_affinity=True, swap=True
    )
    handle = admitted(server, managed.pid)
    server.halted = True
    flags, body = syscalls.MPOL_MF_MOVE, columns([managed.start], [0])
    ranges = columns([managed.start, 4096])
    for message in (
        Message(Op.MOVE, 0, 1, handle, flags, body),
        Message(Op.MADVISE, 0, 1, handle, syscalls.MADV_PAGEOUT, ranges),
        Message(Op.CHANGE, body=two(f"{WEIGHTS}/node0", "7")),
        Message(Op.RUN_ON, handle=handle, body=b"[0]"),
        Message(Op.CLEAR, handle=handle, value=1),
    ):
        assert errno.EPERM == refused(server, message)
    assert ([], [], [], [], []) == (
        record.cleared,
        record.moved,
        record.advised,
        record.wrote,
        record.placed,
    )
    where = Message(Op.WHERE, 0, 1, handle, 0, columns([managed.start]))
    assert 0 == ask(server, where).value


def test_threads_of_others_are_not_placed(
    managed: Any, bystander: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Where affinity is asked for, a thread that is not of the process is refused."""
    server = serve(pids=(managed.pid,), sets_affinity=True)
    handle = admitted(server, managed.pid)

    def place(tid: int, cpus: object) -> int:
        body = json.dumps(cpus).encode()
        return refused(server, Message(Op.RUN_ON, 0, 0, handle, tid, body))

    before = os.sched_getaffinity(bystander.pid)
    assert errno.ESRCH == place(bystander.tid, [0])
    assert errno.ESRCH == place(1, [0])
    for cpus in ([], ["0"], [True], [-1], [1 << 20], {"0": 1}, None, [0.5]):
        assert errno.EINVAL == place(managed.tid, cpus)
    assert [] == record.placed
    assert 0 == place(managed.tid, [0])
    assert [(managed.pid, [0])] == record.placed
    assert before == os.sched_getaffinity(bystander.pid)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "affinity", "facts": {"pid": 1, "before": {}, "cpus": [0]}},
        {"kind": "damos-kdamond", "facts": {"top": "/etc"}},
        {"kind": "damon-kdamonds", "facts": {"admin": "/etc", "kdamonds": 1,
         "mark": 1_500_000}},
        {"kind": "damon-kdamonds", "facts": {}},
        {"kind": "damon-kdamonds", "facts": []},
        {"kind": "damon-kdamonds", "facts": {"admin": str(kdamonds.ADMIN),
         "kdamonds": 9, "mark": 1_500_000}},
        {"kind": "damon-kdamonds", "facts": {"admin": str(kdamonds.ADMIN),
         "kdamonds": True, "mark": 1_500_000}},
        {"kind": ["x"], "facts": {}}, {"kind": "x"}, [], 7, "x", None,
    ],
)  # fmt: skip
def test_journal_entries_that_would_undo_something_else(
    serve: Callable[..., Server], record: Record, document: object
) -> None:
    """Kinds and facts that are none of DAMON's are not written down."""
    server = serve(sets_affinity=True)
    assert refused(server, Message(Op.MADE, body=json.dumps(document).encode()))
    assert refused(server, Message(Op.RESTORE, body=b"damos-kdamond"))
    assert [] == record.wrote


@pytest.fixture
def damon(
    managed: Any, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> Server:
    """Return a server whose session has kdamonds, on paper."""
    monkeypatch.setattr("isotherm.mover.files.read_listed", lambda path: b"0")
    server = serve(pids=(managed.pid,))
    facts = {"admin": str(kdamonds.ADMIN), "kdamonds": 1, "mark": 1_500_000}
    body = json.dumps({"kind": kdamonds.KIND, "facts": facts}).encode()
    assert 0 == ask(server, Message(Op.MADE, body=body)).value
    return server


def test_damon_watches_nobody_else(
    damon: Server, managed: Any, bystander: Any, record: Record
) -> None:
    """A target is a managed process, before DAMON takes it over and after."""
    target = f"{ADMIN}/0/contexts/0/targets/0/pid_target"
    state = f"{ADMIN}/0/state"
    admitted(damon, managed.pid)
    record.wrote.clear()
    for pid in (bystander.pid, 1, 0, -1, managed.tid, "self", ""):
        assert refused(damon, Message(Op.WRITE_FILE, body=two(target, str(pid))))
    assert [] == record.wrote
    body = two(target, str(managed.pid))
    assert 0 == ask(damon, Message(Op.WRITE_FILE, body=body)).value
    assert 0 == ask(damon, Message(Op.WRITE_FILE, body=two(state, "on"))).value
    assert [(target, str(managed.pid)), (state, "on")] == record.wrote
    managed.end()
    assert refused(damon, Message(Op.WRITE_FILE, body=two(state, "commit")))
    assert (state, "commit") not in record.wrote


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contexts/0/operations", "paddr"), ("contexts/0/schemes/0/action", "pageout"),
        ("contexts/0/schemes/nr_schemes", "2"), ("state", "update_tuned_intervals"),
        ("contexts/0/monitoring_attrs/intervals/sample_us", "1"),
        ("contexts/0/monitoring_attrs/nr_regions/max", "99999999999"),
        ("contexts/0/targets/nr_targets", "5000"), ("pid", "1"),
        ("contexts/0/targets/0/regions/0/start", str(1 << 63)),
        ("contexts/0/schemes/0/filters/nr_filters", "1"),
    ],
)  # fmt: skip
def test_damon_does_nothing_but_look(
    damon: Server, record: Record, name: str, value: str
) -> None:
    """No other memory, no scheme that acts, no interval that takes a CPU."""
    record.wrote.clear()
    body = two(f"{ADMIN}/0/{name}", value)
    assert refused(damon, Message(Op.WRITE_FILE, body=body))
    assert [] == record.wrote


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nr_kdamonds", "2"), ("1/state", "on"), ("1/contexts/nr_contexts", "1"),
        ("0/contexts/0/monitoring_attrs/intervals/update_us", "1500001"),
        ("1/contexts/0/targets/0/pid_target", "1"),
    ],
)  # fmt: skip
def test_kdamonds_are_those_of_the_journal(
    damon: Server, record: Record, name: str, value: str
) -> None:
    """As many as it says, with its mark: others nobody would know again."""
    record.wrote.clear()
    assert refused(damon, Message(Op.WRITE_FILE, body=two(f"{ADMIN}/{name}", value)))
    assert [] == record.wrote


def test_kdamonds_carry_the_mark_as_soon_as_they_can(
    damon: Server, record: Record
) -> None:
    """The mover marks a context that is made, whatever the session does next."""
    record.wrote.clear()
    contexts = f"{ADMIN}/0/contexts"
    body = two(f"{contexts}/nr_contexts", "1")
    assert 0 == ask(damon, Message(Op.WRITE_FILE, body=body)).value
    mark = (f"{contexts}/0/monitoring_attrs/intervals/update_us", "1500000")
    assert [(f"{contexts}/nr_contexts", "1"), mark] == record.wrote


def test_kdamonds_of_others_are_left_alone(
    serve: Callable[..., Server], record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody has made kdamonds, none are made and no file is written."""
    monkeypatch.setattr("isotherm.mover.files.read_listed", lambda path: b"1")
    server = serve()
    facts = {"admin": str(kdamonds.ADMIN), "kdamonds": 1, "mark": 1_500_000}
    body = json.dumps({"kind": kdamonds.KIND, "facts": facts}).encode()
    assert errno.EBUSY == refused(server, Message(Op.MADE, body=body))
    for name in ("nr_kdamonds", "0/state"):
        message = Message(Op.WRITE_FILE, body=two(f"{ADMIN}/{name}", "0"))
        assert errno.EPERM == refused(server, message)
    assert [] == record.wrote


def fault_attr(**changes: Any) -> bytes:
    """Return the attribute of an event of page faults."""
    from dataclasses import replace

    plain = replace(SPEC, exclude_kernel=True, exclude_hv=True)
    return replace(plain, **changes).attr()


@pytest.mark.parametrize(
    "changes",
    [
        {"exclude_kernel": False}, {"exclude_hv": False}, {"type": 0, "config": 0},
        {"type": 4, "config": 0x1CD}, {"type": 5}, {"config": 1}, {"precise_ip": 2},
        {"config1": 1}, {"config3": 1}, {"period": 0}, {"fields": 1},
        {"fields": 1 << 19}, {"fields": (1 << 1) | (1 << 13)}, {"aux_watermark": 9},
        {"type": 2, "config": 1},
    ],
)  # fmt: skip
def test_events_that_see_more(
    managed: Any, serve: Callable[..., Server], record: Record, changes: dict[str, Any]
) -> None:
    """The kernel, the hardware, addresses of instructions and registers: refused."""
    server = serve(pids=(managed.pid,))
    admitted(server, managed.pid)
    attr = fault_attr(**changes)
    for tid in (managed.pid, 0, -1):
        assert refused(server, Message(Op.EVENT, 0, 0, 0, tid, attr))
    for body in (b"", attr[:64], attr + b"\0" * 8, bytes(len(attr))):
        assert errno.EACCES == refused(server, Message(Op.EVENT, 0, 0, 0, 0, body))
    assert refused(server, Message(Op.EVENT, 0, 0, 1 << 20, managed.pid, fault_attr()))
    assert [] == record.events


def test_a_thread_is_not_buried_in_events(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Each event makes its page faults slower; closed ones count, too."""
    record.real = False
    server = serve(pids=(managed.pid,))
    admitted(server, managed.pid)
    codes = []
    for _ in range(MOST_EVENTS + 3):
        data = Message(Op.EVENT, 0, 0, 0, managed.tid, fault_attr()).pack()
        _, answer = server.handle(data)
        codes.append(max(0, -answer.value))
        if answer.fd >= 0:
            os.close(answer.fd)
    assert [0] * MOST_EVENTS + [errno.EMFILE] * 3 == codes
    assert MOST_EVENTS == len(record.events)


@pytest.mark.parametrize("value", [0, 2, 3, 4, 5, -1])
def test_soft_dirty_bits_are_not_a_sessions(
    managed: Any, serve: Callable[..., Server], record: Record, value: int
) -> None:
    """Whoever checkpoints the process would miss what it wrote."""
    server = serve(pids=(managed.pid,))
    handle = admitted(server, managed.pid)
    clear = Message(Op.CLEAR, handle=handle, value=value)
    assert errno.EINVAL == refused(server, clear)
    assert [] == record.cleared


def test_every_process_of_a_cpu_is_not_watched(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Thread -1, all that run on a CPU, is refused with any attribute."""
    server = serve(pids=(managed.pid,))
    admitted(server, managed.pid)
    assert refused(server, Message(Op.EVENT, 0, 0, 1, -1, fault_attr()))
    assert [] == record.events
    _, answer = server.handle(
        Message(Op.EVENT, 0, 0, 0, managed.tid, fault_attr()).pack()
    )
    assert [managed.tid] == [tid for _, tid, _ in record.events]
    if answer.fd >= 0:
        os.close(answer.fd)


def test_children_inherit_no_event(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Threads may: a child that leaves the cgroup would be watched all its life."""
    server = serve(pids=(managed.pid,))
    admitted(server, managed.pid)
    attr = bytearray(fault_attr())
    attr[40 + 35 // 8] &= ~(1 << 35 % 8)  # inherit_thread of the flags
    message = Message(Op.EVENT, 0, 0, 0, managed.tid, bytes(attr))
    assert errno.EACCES == refused(server, message)
    assert [] == record.events


def test_the_service_manager_is_told_no_lies() -> None:
    """What would change who is watched, or pass descriptors on, is not told."""
    told: list[str] = []
    from isotherm.core.changes import HostChanges

    server = Server(Rules(), HostChanges(None), os.getppid(), notify=told.append)
    for text in (
        "MAINPID=1", "READY=1\nMAINPID=1", "FDSTORE=1", "BARRIER=1",
        "EXTEND_TIMEOUT_USEC=9", "STATUS=a\tb", "", "WATCHDOG=trigger",
    ):  # fmt: skip
        assert refused(server, Message(Op.NOTIFY, body=text.encode()))
    assert [] == told
    ask(server, Message(Op.NOTIFY, body=b"READY=1\nSTATUS=managing pid 7"))
    assert ["READY=1\nSTATUS=managing pid 7"] == told
    server.close()


# -- what is no message at all ------------------------------------------------


@pytest.fixture
def channel(
    managed: Any, serve: Callable[..., Server]
) -> Iterator[tuple[socket.socket, Server]]:
    """Give the session's end of a channel that is served."""
    server = serve(pids=(managed.pid,))
    mine, theirs = wire.pair()
    thread = threading.Thread(target=server.serve, args=(mine,), daemon=True)
    thread.start()
    theirs.settimeout(20)
    yield theirs, server
    theirs.close()
    thread.join(20)
    assert not thread.is_alive()
    mine.close()


def hello(end: socket.socket) -> Message:
    """Return what is answered to a greeting."""
    wire.send(end, Message(Op.HELLO, 9))
    return wire.unpack(end.recv(wire.MOST_BYTES))


def test_half_messages(channel: tuple[socket.socket, Server]) -> None:
    """Each is answered with an errno, and the channel goes on."""
    end, _ = channel
    whole = Message(Op.HELLO, 9).pack()
    other = struct.pack("<4sHH", b"ISOM", 2, 1) + bytes(24)
    halves = [whole[:n] for n in (1, 4, 8, 31)]
    for data in (*halves, other, b"x" * 32, b"\xff" * 4000):
        end.send(data)
        assert wire.unpack(end.recv(wire.MOST_BYTES)).value == -errno.EPROTO
    end.send(whole + b"x" * wire.MOST_BYTES)
    assert wire.unpack(end.recv(wire.MOST_BYTES)).value == -errno.EMSGSIZE
    assert wire.VERSION == hello(end).value


def test_descriptors_that_are_sent_are_not_taken(
    channel: tuple[socket.socket, Server],
) -> None:
    """They are dropped unseen, however many; the mover's table stays as it was."""
    end, _ = channel
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers
    many = array.array("i", [end.fileno()] * 200)
    for _ in range(20):
        end.sendmsg(
            [Message(Op.HELLO).pack()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)]
        )
        answer = wire.unpack(end.recv(wire.MOST_BYTES))
        assert -errno.EMSGSIZE == answer.value
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers
    assert wire.VERSION == hello(end).value


def test_a_flood_that_nobody_reads(channel: tuple[socket.socket, Server]) -> None:
    """Requests without readers wait in the kernel; the mover stays within bounds."""
    end, _ = channel
    end.setblocking(False)
    sent = 0
    data = Message(Op.OWN_PAGEMAP).pack()
    with suppress(BlockingIOError):
        for _ in range(200_000):
            end.send(data)
            sent += 1
    assert sent < 200_000  # it was held back
    end.setblocking(True)
    end.settimeout(20)
    for _ in range(sent):
        _, fds = wire.receive_with(end)
        for fd in fds:
            os.close(fd)
    assert wire.VERSION == hello(end).value


def test_tracing_folders_are_the_sources() -> None:
    """The mover looks for DAMON's tracepoint where the source does."""
    from isotherm.mover.damon import _TRACEFS

    assert tuple(map(str, TRACEFS)) == _TRACEFS
    assert Path(WEIGHTS).name == "weighted_interleave"
