"""A million messages at random touch nothing that is not managed.

``ISOTHERM_FUZZ_MESSAGES`` says how many; each is made again by its seed.
"""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.changes import HostChanges
from isotherm.machine.linux import syscalls
from isotherm.mover import events, files, wire
from isotherm.mover.scope import Rules
from isotherm.mover.server import ADVICE, Server
from isotherm.mover.wire import Message, Op
from tests.mover.conftest import Record, ask
from tests.mover.fuzz import messages

MESSAGES = int(os.environ.get("ISOTHERM_FUZZ_MESSAGES", "1000000"))
#: Of them, over a socket.
OVER_SOCKET = 50_000


def facts_of(pid: int) -> dict[str, Any]:
    """Return what nobody may change about a process."""
    proc = Path(f"/proc/{pid}")
    lines = (proc / "numa_maps").read_text().splitlines()
    tasks = sorted(int(task.name) for task in (proc / "task").iterdir())
    return {
        "affinity": [sorted(os.sched_getaffinity(tid)) for tid in tasks],
        "maps": (proc / "maps").read_text(),
        # Of its own memory: pages of files are everybody's.
        "placement": [
            re.sub(r" active=\d+", "", line)  # the kernel's own ageing
            for line in lines
            if "file=" not in line
        ],
        "files": sorted(os.listdir(proc / "fd")),  # noqa: PTH208  # names
        "referenced": referenced(proc / "smaps"),
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
    }


def referenced(smaps: Path) -> list[str]:
    """Return which of its own memory has accessed bits."""
    found, own = [], False
    for line in smaps.read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            own = words[4] == "0"
        elif own and words[0] in ("Referenced:", "Anonymous:"):
            found.append(line)
    return found


def check(record: Record, pid: int, nodes: set[int]) -> None:
    """Check what has reached the kernel."""
    assert record.pids <= {pid}
    for who, address, node, flags in record.moved:
        assert pid == who
        assert not (address & np.uint64(4095)).any()
        assert (address < np.uint64(files.USER_END)).all()
        assert len(address) <= wire.MOST_PAGES
        if node is not None:
            assert set(node.tolist()) <= nodes
            assert syscalls.MPOL_MF_MOVE == flags
    for begin, size, advice in record.advised:
        assert advice in ADVICE
        assert not ((begin | size) & np.uint64(4095)).any()
        assert (begin + size <= np.uint64(files.USER_END)).all()
    for attr, _, cpu in record.events:
        events.check(attr, cpu, range(os.cpu_count() or 1))
    for path, value in record.wrote:
        if path != "damon-kdamonds":
            files.may_write((*files.DAMON, *files.WEIGHTS), path, value)
    assert all(pid == who for who, _ in (*record.placed, *record.cleared))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("rights")
def test_nothing_else_is_touched(
    managed: Any,
    bystander: Any,
    serve: Callable[..., Server],
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is reached is the managed process, within bounds; both are whole."""
    monkeypatch.setattr("isotherm.mover.files.read_listed", lambda path: b"0")
    record.real = False
    server = serve(
        pids=(managed.pid,), sets_affinity=True, sets_weights=True, swap=True
    )
    child = int(managed.ask("fork"))
    handles = [ask(server, Message(Op.ADMIT, value=managed.pid)).handle]
    for _ in range(2):  # it has touched by then whatever it needs to answer and wait
        assert bystander.is_whole()
    time.sleep(0.2)
    before = facts_of(bystander.pid)
    pages = [managed.start + 4096 * i for i in range(16)] + [bystander.start]
    pids = [managed.pid, bystander.pid, managed.tid, bystander.tid, 1, os.getpid()]
    answered = 0
    done = set[int]()
    for data in messages(MESSAGES, 8, handles, pids, pages, child):
        message, answer = server.handle(data)
        if answer.value >= 0:
            answered += 1
            done.add(message.op)
        if answer.fd >= 0:
            os.close(answer.fd)
        if answer.handle:  # another of the managed process, given back at once
            server.handle(Message(Op.RELEASE, handle=answer.handle).pack())
        if len(record.moved) > 1000:
            check(record, managed.pid, {0})
            for column in (record.moved, record.advised, record.events):
                column.clear()
            for column in (record.wrote, record.placed, record.cleared):
                column.clear()
        if not server.scope.pids():
            handles[0] = ask(server, Message(Op.ADMIT, value=managed.pid)).handle
    os.kill(child, signal.SIGKILL)
    check(record, managed.pid, {0})
    assert server.refused > MESSAGES // 2
    assert answered > MESSAGES // 100
    assert set(Op) == done
    assert record.pids == {managed.pid}
    assert before == facts_of(bystander.pid)
    assert managed.is_whole()
    assert bystander.is_whole()


@pytest.mark.slow
def test_a_channel_answers_everything(
    managed: Any, serve: Callable[..., Server], record: Record
) -> None:
    """Over a socket each message gets one answer, and no descriptor is left."""
    record.real = False
    server = serve(pids=(managed.pid,))
    handle = ask(server, Message(Op.ADMIT, value=managed.pid)).handle
    mine, theirs = wire.pair()
    thread = threading.Thread(target=server.serve, args=(mine,), daemon=True)
    thread.start()
    theirs.settimeout(60)
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers
    total = min(OVER_SOCKET, MESSAGES)
    pids = [managed.pid]
    for data in messages(total, 9, [handle], pids, [managed.start], managed.pid):
        if not data:
            continue  # the end of a channel
        theirs.send(data)
        answer, fds = wire.receive_with(theirs)
        said = wire.unpack(answer)
        asked = Message(0)  # what cannot be read has neither
        with contextlib.suppress(wire.ProtocolError):
            asked = wire.unpack(data) if len(data) <= wire.MOST_BYTES else asked
        assert (asked.op, asked.number) == (said.op, said.number)
        for fd in fds:
            os.close(fd)
    theirs.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    left = server.scope.pids()
    server.close()
    mine.close()
    theirs.close()
    assert len(left) <= 1
    assert len(os.listdir("/proc/self/fd")) <= open_before  # noqa: PTH208  # numbers
    check(record, managed.pid, {0})
    assert managed.is_whole()


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    """Bytes of any shape are answered with an errno, not with an error."""
    server = Server(Rules(), HostChanges(None), os.getppid())
    _, answer = server.handle(data)
    if answer.fd >= 0:
        os.close(answer.fd)
    server.close()
    assert -4096 < answer.value


@given(
    st.integers(0, 24),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.one_of(st.binary(max_size=100), st.text(max_size=50).map(str.encode)),
)
def test_any_request_gets_an_answer(
    op: int, count: int, handle: int, value: int, body: bytes
) -> None:
    """A well-formed request with any values is answered, too."""
    server = Server(Rules(), HostChanges(None), os.getppid())
    message, answer = server.handle(Message(op, 7, count, handle, value, body).pack())
    if answer.fd >= 0:
        os.close(answer.fd)
    server.close()
    assert (op, 7) == (message.op, message.number)


@given(
    st.integers(0, 65535),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=64),
)
def test_a_message_comes_as_it_was_sent(
    op: int, number: int, count: int, handle: int, value: int, body: bytes
) -> None:
    """Packing and taking apart gives the same."""
    message = Message(op, number, count, handle, value, body)
    assert message == wire.unpack(message.pack())
