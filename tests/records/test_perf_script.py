"""Memory samples in the layouts that perf prints."""

import pytest

from isotherm.records.perf_script import PerfScript, Sample

NS = 1_000_000_000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # perf mem record; perf script
        (
            (
                b"chromium-browse   46572 [002] 544966.882384:      10000 \t"
                b"cpu_core/MEM_UOPS.LOAD_LATENCY/: 7ffdf1391b0c     10268100142 "
                b"|OP LOAD|LVL L1 hit|SNP None|TLB L1 or L2 hit|LCK No|BLK    N/A"
                b"    5   7    0   7fad7c47425d [unknown] (/usr/lib64/libglib-2.0.so)"
            ),
            Sample(0x7FFDF1391B0C, False, 544966882384000, None),
        ),
        (
            (
                b" my app 12/34 [000] 1.000000001: 1 cpu/mem-stores/P: ffff80 5080144 "
                b"|OP STORE|LVL L1 hit|SNP N/A"
            ),
            Sample(0xFFFF80, True, NS + 1, 12),
        ),
        # perf record -d; perf script -F +addr
        (
            (
                b"true 15041  2408.477527:  1 page-faults: 558841a3b1e0 __progname+0x0 "
                b"(/usr/bin/true) ffffffff8177539a elf_load+0x28a ([kernel.kallsyms])"
            ),
            Sample(0x558841A3B1E0, None, 2408477527000, None),
        ),
        # perf script -F event,addr,time; -F addr
        (
            b" 2408.477527: page-faults:     558841a3b1e0",
            Sample(0x558841A3B1E0, None, 2408477527000, None),
        ),
        (b"    558841a3b1e0", Sample(0x558841A3B1E0, None, None, None)),
        # the event alone tells the operation
        (
            b"x 1 2.5: 1 cpu/mem-stores/pp: 1000 400 f (d)",
            Sample(0x1000, True, 2_500_000_000, None),
        ),
        (
            b"x 1 2.5: 1 mem_inst_retired.all_loads:P: 1000 400 f (d)",
            Sample(0x1000, False, 2_500_000_000, None),
        ),
    ],
)
def test_layouts(line: bytes, expected: Sample) -> None:
    """Each usual layout gives address, operation, time and process."""
    assert expected == PerfScript().decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b"hello world",
        b"x 1 2.500000: 1 event:",
        b"x 1 2.500000: 1 mem-loads: 10268100142 |OP LOAD|LVL L1 hit",
        b"x 1 2.500000: 1 mem-loads: 11112222333344445 400",
    ],
)
def test_no_address(line: bytes) -> None:
    """A line without a data address is refused, and says how to get one."""
    with pytest.raises(ValueError, match="addr"):
        PerfScript().decode(line)


def test_instruction_addresses_are_no_samples() -> None:
    """A lone address with its symbol is one only where a call chain follows."""
    alone = b"x 1 2.500000: 1 cycles: 7f3417748b70 _start+0x0 (/usr/lib/ld.so)"
    decoder = PerfScript()
    assert decoder.decode(alone) is None
    with pytest.raises(ValueError, match="call chain"):
        decoder.decode(alone)
    decoder = PerfScript()
    assert decoder.decode(alone) is None
    with pytest.raises(ValueError, match="addr"):
        decoder.finish()


def test_call_chains() -> None:
    """Frames below a sample are passed over."""
    head = b"x 1 %d.500000: 1 page-faults: 7f3417748b70 _start+0x0 (/usr/lib/ld.so)"
    frame = b"\tffffffff8177539a elf_load+0x28a ([kernel.kallsyms])"
    decoder = PerfScript()
    lines = [head % 2, frame, frame, b"", head % 3, frame, b""]
    found = [s for s in map(decoder.decode, lines) if s is not None]
    decoder.finish()
    assert [2_500_000_000, 3_500_000_000] == [s.time_ns for s in found]


def test_raw_dump() -> None:
    """Columns are found by the header; perf's slip in the first address is mended."""
    decoder = PerfScript()
    lines = [
        b"# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL",
        b"15041 15042 0xffffffff8177539a 0x016558841a3b1e0     0 0x1e05080022 a:b c",
        b"15041 15042 0xffffffff8177539a 0x7f3417762110 0 0x5080144 a:b",
    ]
    found = [s for s in map(decoder.decode, lines) if s is not None]
    assert [
        Sample(0x558841A3B1E0, False, None, 15041),
        Sample(0x7F3417762110, True, None, 15041),
    ] == found
