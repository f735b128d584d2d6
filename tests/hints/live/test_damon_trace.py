"""DAMON's reports: records of a ring, told apart by aggregation."""

import struct
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.live.damon_trace import Regions, decode, find_event, parse_format


def test_a_ring_of_reports_is_decoded() -> None:
    """Records of the tracepoint become columns; what was dropped is counted."""
    place = parse_format(
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:unsigned long target_id;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned int nr_regions;\toffset:16;\tsize:4;\tsigned:0;\n"
        "\tfield:unsigned long start;\toffset:24;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned long end;\toffset:32;\tsize:8;\tsigned:0;\n"
        "\tfield:unsigned int nr_accesses;\toffset:40;\tsize:4;\tsigned:0;\n"
        "\tfield:unsigned int age;\toffset:44;\tsize:4;\tsigned:0;\n"
    )
    data = b""
    for i in range(3):
        raw = struct.pack(
            "<HBBiQIxxxxQQII", 7, 0, 0, 1, i, 3, i << 12, 9 << 12, i, 10 + i
        )
        data += struct.pack("<IHHQI", 9, 0, 72, 1000 + i, len(raw) + 4) + raw + bytes(4)
    data += struct.pack("<IHHQQ", 2, 0, 24, 1, 5)
    seen = decode(np.frombuffer(data, np.uint64), place)
    assert [1000, 1001, 1002] == seen.time_ns.tolist()
    assert [0, 1, 2] == seen.target.tolist()
    assert [0, 4096, 8192] == seen.start.tolist()
    assert [9 << 12] * 3 == seen.end.tolist()
    assert [0, 1, 2] == seen.nr_accesses.tolist()
    assert [10, 11, 12] == seen.age.tolist()
    assert 5 == seen.lost


def test_reports_are_told_apart_by_aggregation() -> None:
    """A target or address that does not ascend begins the next one."""
    target = np.array([0, 0, 1, 0, 0, 1, 1])
    start = np.array([1, 5, 1, 1, 5, 1, 7])
    column = np.zeros(7, np.int64)
    parts = Regions(column, target, start, start + 1, column, column).snapshots()
    assert [3, 4] == [len(part) for part in parts]
    assert [] == Regions(*(column[:0],) * 6).snapshots()


def test_without_tracefs_the_command_is_given(tmp_path: Path) -> None:
    """The error says how to mount it."""
    with pytest.raises(UnsupportedError) as caught:
        find_event((tmp_path,))
    assert "mount -t tracefs none /sys/kernel/tracing" == caught.value.hint
