"""Messages at random: some none, some nearly right, some right but for a value.

Made in bulk and from a seed, so that a million are a matter of seconds and any one can
be made again.
"""

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.live.perf_event import EventSpec
from isotherm.mover.wire import HEADER, MAGIC, VERSION, Message, Op
from isotherm.records.perf_ring import Field

#: Messages that are made at a time.
BLOCK = 4096
#: Numbers at which programs go wrong.
EDGES = np.array(
    [
        0, 1, 2, 3, 4, 7, 8, 12, 16, 255, 4095, 4096, 4097, 8192, 8193, 65536, 65537,
        (1 << 22), (1 << 22) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 47,
        (1 << 47) - 4096, 1 << 56, (1 << 56) - 4096, (1 << 63) - 1, 1 << 63,
        (1 << 64) - 4096, (1 << 64) - 1, 0xFFFF_8880_0000_0000,
    ],
    np.uint64,
)  # fmt: skip
FACTS = {"admin": "/sys/kernel/mm/damon/admin", "kdamonds": 1, "mark": 1_500_000}
EVENT = EventSpec(1, 5, Field.TID | Field.TIME, exclude_kernel=True).attr()
TEXTS = [
    EVENT,
    b"stat", b"maps", b"pagemap", b"status", b"task", b"smaps", b"mem", b"clear_refs",
    b"task/1/stat", b"../../1/mem", b"/etc/shadow", b"READY=1", b"MAINPID=1",
    b"/proc/sys/kernel/numa_balancing\n2", b"damon-kdamonds", b"affinity", b"", b"\0",
    b"/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds\n1",
    b"/sys/kernel/mm/damon/admin/kdamonds/0/state\non",
    b"/sys/kernel/mm/damon/admin/kdamonds/0/contexts/0/operations\npaddr",
    b"/sys/kernel/mm/damon/admin/kdamonds/0/contexts/0/targets/0/pid_target\n1",
    b"/sys/kernel/mm/mempolicy/weighted_interleave/node0\n7",
    b"/sys/kernel/mm/mempolicy/weighted_interleave/node0\n0",
    b"[0]", b"[0, 1e9]", b"[]", b'{"cpus": [0], "ours": [0]}', b"[[[[", b"\xff\xfe",
    json.dumps({"kind": "damon-kdamonds", "facts": FACTS}).encode(),
    b'{"kind": "affinity", "facts": {"pid": 1, "before": {"1": [0]}}}',
]  # fmt: skip


def messages(
    count: int,
    seed: int,
    handles: list[int],
    pids: list[int],
    pages: list[int],
    child: int,
) -> Iterator[bytes]:
    """Yield messages.

    Args:
        count: How many.
        seed: The same gives the same.
        handles: That are somebody's.
        pids: Of processes and threads that are there.
        pages: Addresses that are mapped.
        child: Of the first process.
    """
    random = np.random.default_rng(seed)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        good = right(handles[0], pids[0], pages[0], child)
        yield from _block(random, size, handles, [*pids, *handles], pages, good)


def right(handle: int, pid: int, page: int, child: int) -> list[bytes]:
    """Return a request of every kind as a session makes it."""
    one = np.array([page], np.uint64).tobytes()
    pair = np.array([page, 4096], np.uint64).tobytes()
    number = np.array([pid], np.int64).tobytes()
    node = np.zeros(1, np.int32).tobytes()
    made = json.dumps({"kind": "damon-kdamonds", "facts": FACTS}).encode()
    kdamonds = b"/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds"
    weight = b"/sys/kernel/mm/mempolicy/weighted_interleave/node0"
    requests = [
        Message(Op.HELLO), Message(Op.ADMIT, value=pid), Message(Op.OWN_PAGEMAP),
        Message(Op.RELEASE, handle=1 << 40),
        Message(Op.READ, handle=handle, body=b"stat"),
        Message(Op.OPEN, handle=handle, body=b"pagemap"),
        Message(Op.MOVE, count=1, handle=handle, value=2, body=one + node),
        Message(Op.WHERE, count=1, handle=handle, body=one),
        Message(Op.MADVISE, count=1, handle=handle, value=20, body=pair),
        Message(Op.TOUCH, count=1, handle=handle, body=one),
        Message(Op.SHARES, handle=pid, value=child),
        Message(Op.RUN_ON, handle=handle, body=b"[0]"),
        Message(Op.EVENT, value=pid, body=EVENT), Message(Op.MADE, body=made),
        Message(Op.READ_FILE, body=kdamonds), Message(Op.RESTORE),
        Message(Op.WRITE_FILE, body=kdamonds + b"\n1"),
        Message(Op.CHANGE, body=weight + b"\n7"),
        Message(Op.LOCK, count=1, body=number),
        Message(Op.UNLOCK, count=1, body=number),
        Message(Op.NOTIFY, body=b"WATCHDOG=1"),
        Message(Op.CLEAR, handle=handle, value=1),
    ]  # fmt: skip
    return [request.pack() for request in requests]


def _block(
    random: np.random.Generator,
    count: int,
    handles: list[int],
    numbers: list[int],
    pages: list[int],
    good: list[bytes],
) -> Iterator[bytes]:
    kind = random.integers(0, 10, count)
    op = random.choice([int(one) for one in Op] + [0, 23, 255, 65535], count)
    head = {
        "count": _numbers(random, count, [0, 1, 2, 16, 512]),
        "handle": _numbers(random, count, [*handles * 9, *numbers], 0.8),
        "value": _numbers(random, count, [2, 3, 4, 20, 21, 25, *numbers], 0.8),
    }
    rows = random.choice([0, 1, 2, 16, 64], count)
    text = random.integers(0, len(TEXTS), count)
    noise = random.integers(0, 256, 2 * BLOCK, np.uint8).tobytes()
    where = random.integers(0, len(noise) - 256, count)
    size = random.integers(0, 200, count)
    flip = random.integers(0, 1 << 20, count)
    column = _numbers(random, 4 * BLOCK, pages, 0.9)
    at = random.integers(0, len(column) - 256, count)
    columns = zip(
        kind.tolist(), op.tolist(), rows.tolist(), text.tolist(), where.tolist(),
        size.tolist(), flip.tolist(), at.tolist(), *(h.tolist() for h in head.values()),
        strict=True,
    )  # fmt: skip
    for i, (k, o, n, t, w, s, f, a, c, h, v) in enumerate(columns):
        if k == 0:
            yield noise[w : w + s]
            continue
        body = b""
        if k in (1, 2):
            body, c = TEXTS[t], 0 if k == 1 else c  # noqa: PLW2901  # of this message
        elif k in (3, 4, 5):
            width = 12 if o == Op.MOVE else 16 if o == Op.MADVISE else 8
            body = column[a : a + n].tobytes()
            body = (body + bytes(16 * n))[: width * n] if width != 8 else body
            c = n  # noqa: PLW2901  # of this message
        elif k == 6:
            body = noise[w : w + s]
        value = v - (1 << 64) if v >= 1 << 63 else v
        data = HEADER.pack(MAGIC, VERSION, o, i, c & 0xFFFFFFFF, h, value) + body
        if k >= 7:  # a right one; with a bit turned; cut off
            data = good[f % len(good)]
        if k == 7:
            broken = bytearray(data)
            broken[(f >> 5) % len(broken)] ^= 1 << (f >> 17)
            data = bytes(broken)
        elif k == 8:
            data = data[: (f >> 5) % (len(data) + 1)]
        yield data


def _numbers(
    random: np.random.Generator, count: int, known: list[int], share: float = 0.6
) -> NDArray[np.uint64]:
    """Return numbers that are known, at edges, or any."""
    any_one = random.integers(0, (1 << 64) - 1, count, np.uint64)
    edge = random.choice(EDGES, count)
    ours = random.choice(np.array(known or [0], np.uint64), count)
    pick = random.random(count)
    found: NDArray[np.uint64] = np.where(
        pick < share, ours, np.where(pick < share + (1 - share) * 0.8, edge, any_one)
    )
    return found
