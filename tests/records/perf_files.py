"""perf.data files, built as perf writes them."""

import struct

from isotherm.records.perf_fields import Field, Shape

FINISHED_ROUND = struct.pack("<IHH", 68, 0, 8)


def attr(
    sample_type: Field,
    *,
    config: int = 2,
    kind: int = 1,
    period: int = 1,
    shape: Shape | None = None,
    size: int = 128,
) -> bytes:
    """Return struct perf_event_attr of some size."""
    s = shape or Shape()
    whole = struct.pack(
        "<IIQQQQQ", kind, size, config, period, sample_type, s.read_format, 0
    )
    whole += struct.pack(
        "<IIQQQQIiQII",
        0,
        0,
        0,
        0,
        s.branch_sample_type,
        s.regs_user,
        0,
        0,
        s.regs_intr,
        0,
        0,
    )
    return (whole + bytes(size))[:size]


def perf_data(
    events: list[tuple[bytes, list[int]]],
    data: bytes,
    features: dict[int, bytes] | None = None,
    *,
    data_size: int | None = None,
) -> bytes:
    """Return a file: events as (attributes, ids), records, sections of features."""
    features = features or {}
    each = max(len(a) for a, _ in events) + 16
    ids_at = 104
    blob = b"".join(struct.pack(f"<{len(ids)}Q", *ids) for _, ids in events)
    attrs_at = ids_at + len(blob)
    table = b""
    for one, ids in events:
        table += one.ljust(each - 16, b"\0") + struct.pack("<QQ", ids_at, 8 * len(ids))
        ids_at += 8 * len(ids)
    data_at = attrs_at + len(table)
    mask = sum(1 << bit for bit in features)
    head = struct.pack(
        "<8sQQQQQQQQ32s",
        b"PERFILE2",
        104,
        each,
        attrs_at,
        len(table),
        data_at,
        len(data) if data_size is None else data_size,
        0,
        0,
        mask.to_bytes(32, "little"),
    )
    at = data_at + len(data) + 16 * len(features)
    sections, tail = b"", b""
    for bit in sorted(features):
        sections += struct.pack("<QQ", at + len(tail), len(features[bit]))
        tail += features[bit]
    return head + blob + table + data + sections + tail


def string(text: str) -> bytes:
    """Return a string as features hold it."""
    data = text.encode() + b"\0"
    data += bytes(-len(data) % 64)
    return struct.pack("<I", len(data)) + data


def numa(nodes: dict[int, str]) -> bytes:
    """Return the section NUMA_TOPOLOGY."""
    out = struct.pack("<I", len(nodes))
    for node, cpus in nodes.items():
        out += struct.pack("<IQQ", node, 1 << 30, 1 << 29) + string(cpus)
    return out


def memory(block_bytes: int, nodes: dict[int, int]) -> bytes:
    """Return the section MEM_TOPOLOGY: a mask of blocks for each node."""
    out = struct.pack("<QQQ", 1, block_bytes, len(nodes))
    for node, mask in nodes.items():
        out += struct.pack("<QQQ", node, 64, mask)
    return out


def auxtrace(
    payload: bytes, *, offset: int = 0, stream: int = 0, cpu: int = 0
) -> bytes:
    """Return an AUXTRACE record with its payload behind it."""
    body = struct.pack("<QQQIIII", len(payload), offset, 0, stream, 0xFFFFFFFF, cpu, 0)
    return struct.pack("<IHH", 71, 0, 8 + len(body)) + body + payload


def aux_info(kind: int) -> bytes:
    """Return the record that names the tracer; 4 is Arm SPE."""
    return struct.pack("<IHHIIQ", 70, 0, 24, kind, 0, 0)


def time_conv(shift: int, factor: int, zero: int) -> bytes:
    """Return the record that says how long ticks of the timer are."""
    return struct.pack("<IHHQQQ", 79, 0, 32, shift, factor, zero)


def comm(pid: int, tid: int) -> bytes:
    """Return the record that names a thread of a process."""
    return struct.pack("<IHHIIQ", 3, 0, 24, pid, tid, 0)


def fork(pid: int, tid: int) -> bytes:
    """Return the record of a thread that starts; its first thread was the parent."""
    return struct.pack("<IHHIIIIQ", 7, 0, 32, pid, pid, tid, pid, 0)


def mmap2(pid: int, tid: int) -> bytes:
    """Return the record of a mapping without a name."""
    return struct.pack("<IHHII", 10, 0, 80, pid, tid) + bytes(64)
