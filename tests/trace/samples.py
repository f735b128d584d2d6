# ruff: noqa: E501  # a sample a line reads best
"""One small file of each foreign format, and what it must become."""

import struct
import zlib
from typing import NamedTuple

from isotherm.records.perf_fields import Field
from tests.records.perf_files import attr, perf_data
from tests.records.samples import sample

DAMO_RAW = b"""base_time_absolute: 8 m 59.809 s
data source: unknown

monitoring_start:                0 ns
monitoring_end:            100.000 ms
monitoring_duration:       100.000 ms
target_id: 18446623438842320000
nr_regions: 2
# start_addr     end_addr        length  nr_accesses   age
000000010000-000000012000 (   8.000 KiB)           3    -1
000000012000-000000020000 (  56.000 KiB)           0    -1

monitoring_start:          100.000 ms
monitoring_end:            200.000 ms
monitoring_duration:       100.000 ms
target_id: 18446623438842320000
nr_regions: 1
# start_addr     end_addr        length  nr_accesses   age
000000011000-000000012000 (   4.000 KiB)           1     0

"""
DAMO_JSON = b"""[
    {"kdamond_idx": 0, "intervals": null, "target_id": 5, "snapshots": [
        {"start_time": "539809434100", "end_time": "539909434100",
         "regions": [{"start": "65,536", "end": "73,728",
                      "nr_accesses": {"samples": 3, "percent": null},
                      "age": {"usec": null, "aggr_intervals": null}}]}]}
]
"""
DAMO_TRACEPOINT = b"""\
  kdamond.0  4452 [000] 10.100000: damon:damon_aggregated: \
target_id=4 nr_regions=1 65536-73728: 2 0
  kdamond.0  4452 [000] 10.200000: damon:damon_aggregated: \
target_id=4 nr_regions=1 65536-69632: 1 0
"""
PERF = b"""\
# a comment
  app 7/7 [002] 100.000000: 1 cpu/mem-loads,ldlat=30/P: 7f0000001010 5080144 \
|OP LOAD|LVL L3 hit|SNP None 43 401000 main (/bin/app)
  app 7/9 [003] 100.000500: 1 cpu/mem-stores/P: 7f0000002010 5080144 \
|OP STORE|LVL L1 hit|SNP None 43 401000 main (/bin/app)
  app 7/7 [002] 100.000400: 1 cpu/mem-loads,ldlat=30/P: 0 5080144 |OP LOAD|LVL N/A
  b c 8/8 [002] 100.000400: 1 cpu/mem-loads,ldlat=30/P: 7f0000001010 5080144 \
|OP LOAD|LVL L3 hit
"""
PERF_RAW = b"""\
# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL
7 7 0x401000 0x0167f0000001010     0 0x5080142 a:b
7 7 0x401000 0x7f0000002010 0 0x5080144 a:b
"""
ORACLE = b"".join(
    struct.pack("<IQIq", *row)
    for row in ((10, 7, 512, 2), (10, 2**64 - 1, 512, -1), (12, 7, 512, 2**63 - 1))
)


class Sample(NamedTuple):
    """A foreign file and its meaning, raw pages, 4 KiB."""

    form: str
    data: bytes
    pages: list[int]
    write: list[int] | None = None
    time_ns: list[int] | None = None


MS = 1_000_000
_LOADS = Field.IDENTIFIER | Field.TID | Field.TIME | Field.ADDR | Field.DATA_SRC


def _load(time: int, page: int, op: int) -> bytes:
    row = {Field.IDENTIFIER: 1, Field.TID: 7, Field.TIME: time, Field.ADDR: page << 12}
    return sample(_LOADS, row | {Field.DATA_SRC: op | 13 << 33})


SAMPLES = {
    "perf-data": Sample(
        "perf-data",
        perf_data([(attr(_LOADS), [1])], _load(9, 5, 2) + _load(12, 6, 4)),
        [5, 6],
        [0, 1],
        [0, 3],
    ),
    "spec": Sample(
        "spec",
        b"s 0x1fffff50 1\nl 0x1fffff58 12\nl 0x2000 3",
        [0x1FFFF, 0x1FFFF, 2],
        [1, 0, 0],
    ),
    "ramulator": Sample(
        "ramulator",
        b"0 8192\n9 8192 4096\n13 140734746854976\n",
        [2, 2, 1, 140734746854976 >> 12],
        [0, 0, 1, 0],
    ),
    "lirs": Sample("lirs", b"2819\n*\n85\n2819\n", [2819, 85, 2819]),
    "mooncake": Sample(
        "mooncake",
        b'{"timestamp": 5, "input_length": 9, "output_length": 5, "hash_ids": [0, 3]}\n'
        b'{"timestamp": 7.5, "input_length": 9, "output_length": 5, "hash_ids": [3]}\n'
        b'{"timestamp": 8, "hash_ids": []}\n',
        [0, 3, 3],
        None,
        [0, 0, 2_500_000],
    ),
    "oracle-general": Sample(
        "oracle-general", ORACLE, [7, 2**64 - 1, 7], None, [0, 0, 2 * 10**9]
    ),
    "libcachesim-csv": Sample(
        "libcachesim-csv",
        b"10,7,512\n10.5,8,512\n11,7,512\n",
        [7, 8, 7],
        None,
        [0, 500 * MS, 1000 * MS],
    ),
    "libcachesim-header": Sample(
        "libcachesim-csv",
        b"# time, obj_id, obj_size\n1,7,5\n2,8,5\n",
        [7, 8],
        None,
        [0, 10**9],
    ),
    "lackey": Sample(
        "lackey",
        b"==12== Lackey\nI  0401ab70,3\n L 1fff000778,8\n S 1ffefffffe,4\n M 00001000,4\n==12== end\n",
        [0x1FFF000, 0x1FFEFFF, 0x1FFF000, 1, 1],
        [0, 1, 1, 0, 1],
    ),
    "perf": Sample(
        "perf",
        PERF,
        [0x7F0000001, 0x7F0000002, 0x7F0000001 | 1 << 52],
        [0, 1, 0],
        [0, 500_000, 500_000],
    ),
    "perf-raw": Sample("perf", PERF_RAW, [0x7F0000001, 0x7F0000002], [0, 1]),
    "damo-raw": Sample(
        "damo",
        DAMO_RAW,
        [16] * 3 + [17] * 4,
        None,
        [0] * 3 + [50 * MS] * 3 + [100 * MS],
    ),
    "damo-json": Sample(
        "damo", DAMO_JSON, [16] * 3 + [17] * 3, None, [0] * 3 + [50 * MS] * 3
    ),
    "damo-zlib": Sample(
        "damo",
        zlib.compress(DAMO_JSON),
        [16] * 3 + [17] * 3,
        None,
        [0] * 3 + [50 * MS] * 3,
    ),
    "damo-tracepoint": Sample(
        "damo",
        DAMO_TRACEPOINT,
        [16, 16, 17, 17, 16],
        None,
        [0, 0, 50 * MS, 50 * MS, 100 * MS],
    ),
    "csv": Sample(
        "csv",
        b"time_ns,address,write,other\n5,0x2000,true,x\n5,8191,False,y\n9,8192,1,z\n",
        [2, 1, 2],
        [1, 0, 1],
        [0, 0, 4],
    ),
    "csv-count": Sample("csv", b"page,count\n7,2\n8,1\n", [7, 7, 8]),
}
