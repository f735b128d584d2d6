"""DAMON's regions in their three written forms."""

import pytest

from isotherm.records.damon import (
    Aggregated,
    RawForm,
    Region,
    Snapshot,
    decode_json,
    parse_duration,
)

RAW = b"""base_time_absolute: 1 s
data source: unknown

monitoring_start:                0 ns
monitoring_end:            100.500 ms
monitoring_duration:       100.500 ms
target_id: 7
nr_regions: 2
# start_addr     end_addr        length  nr_accesses   age
000000001000-000000003000 (   8.000 KiB)           3    -1
000000003000-000000004000 (   4.000 KiB)           0    12
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 ns", 0),
        ("539809434100", 539809434100),
        ("1,748,191 ns", 1748191),
        ("8 m 59.809 s", 539_809_000_000),
        ("23 h 20.852 s", 82_820_852_000_000),
        ("672.5 us", 672_500),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """What damo prints as a time is read to the nanosecond it prints."""
    assert expected == parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "1 x", "1 s 2", "-5 ns", "1e3 s", "nan s"])
def test_no_durations(text: str) -> None:
    """What is no time is refused."""
    with pytest.raises(ValueError, match="a time"):
        parse_duration(text)


def test_raw_form() -> None:
    """A snapshot is complete with its last region, its window absolute."""
    decoder = RawForm()
    found = [s for s in map(decoder.decode, RAW.split(b"\n")) if s is not None]
    decoder.finish()
    regions = [Region(0x1000, 0x3000, 3), Region(0x3000, 0x4000, 0)]
    assert [Snapshot(7, 1_000_000_000, 1_100_500_000, regions)] == found


def test_raw_form_cut_short() -> None:
    """A text that ends within a snapshot is told from one that is whole."""
    decoder = RawForm()
    for line in RAW.split(b"\n")[:-2]:
        assert decoder.decode(line) is None
    with pytest.raises(ValueError, match="1 more regions"):
        decoder.finish()


def test_tracepoint() -> None:
    """The first window is 100 ms long, later ones begin where the last ended."""
    head = b" kdamond.0 46568 [027] %s: damon:damon_aggregated: "
    lines = [
        head % b"10.200000" + b"target_id=0 nr_regions=2 4096-8192: 5 864",
        head % b"10.200001" + b"target_id=0 nr_regions=2 8192-12288: 0 3",
        head % b"10.300000" + b"target_id=0 nr_regions=1 4096-12288: 2 1",
        b"# comment",
        b"kd-7 [015] ..... 10.4: damon_aggregated: target_id=1 nr_regions=1 0-4096: 9",
    ]
    decoder = Aggregated()
    found = [s for s in map(decoder.decode, lines) if s is not None]
    assert [
        (0, 10_100_000_000, 10_200_000_000, [5, 0]),
        (0, 10_200_000_000, 10_300_000_000, [2]),
        (1, 10_300_000_000, 10_400_000_000, [9]),
    ] == [
        (s.target, s.start_ns, s.end_ns, [r.nr_accesses for r in s.regions])
        for s in found
    ]


def test_json_in_order_of_time() -> None:
    """Snapshots of all records come by their start; percent becomes samples."""
    document = b"""[
     {"target_id": 1, "intervals": {"sample_us": "5000", "aggr_us": "100,000"},
      "snapshots": [{"start_time": "200", "end_time": "300", "regions": [
       {"start": "4,096", "end": "8,192",
        "nr_accesses": {"samples": null, "percent": 50}}]}]},
     {"target_id": null, "snapshots": [{"start_time": 100, "end_time": 200, "regions": [
       {"start": 0, "end": 4096, "nr_accesses": {"samples": 3}}]}]}
    ]"""
    assert [
        Snapshot(0, 100, 200, [Region(0, 4096, 3)]),
        Snapshot(1, 200, 300, [Region(4096, 8192, 10)]),
    ] == list(decode_json(document))


def test_json_refused() -> None:
    """Another document, or a region that ends before it starts, is refused."""
    for document in (b"{}", b"[", b'[{"snapshots": [{"start_time": 1}]}]'):
        with pytest.raises(ValueError, match="damo records"):
            list(decode_json(document))
    backwards = (
        b'[{"snapshots": [{"start_time": 1, "end_time": 2, "regions":'
        b' [{"start": 8, "end": 4, "nr_accesses": {"samples": 1}}]}]}]'
    )
    with pytest.raises(ValueError, match="START < END"):
        list(decode_json(backwards))
