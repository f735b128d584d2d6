"""Every foreign format, plain and compressed, right and wrong."""

import bz2
import gzip
import importlib.util
import lzma
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.core.errors import IsothermError, TraceFormatError, UsageError
from isotherm.trace.format import TraceReader
from isotherm.trace.importing import FORMATS, import_trace
from isotherm.trace.info import TraceInfo


def _load() -> ModuleType:
    place = Path(__file__).with_name("samples.py")
    spec = importlib.util.spec_from_file_location("trace_samples", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLES = _load().SAMPLES

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "bz2": bz2.compress,
}


def convert(path: Path, data: bytes, **options: Any) -> TraceInfo:
    """Return what importing these bytes gives; ``path`` is their folder."""
    source = path / "in.trace"
    source.write_bytes(data)
    return import_trace(source, path / "out.parquet", **options)


def columns(info: TraceInfo) -> tuple[list[int], list[int] | None, list[int] | None]:
    """Return raw pages, writes and times of a trace."""
    reader = TraceReader(Path(info.path))
    chunks = list(reader.chunks())
    mapping = reader.raw_pages()
    assert mapping is not None
    page = mapping[np.concatenate([chunk.page for chunk in chunks])].tolist()
    write = [chunk.write for chunk in chunks if chunk.write is not None]
    time_ns = [chunk.time_ns for chunk in chunks if chunk.time_ns is not None]
    return (
        page,
        np.concatenate(write).tolist() if write else None,
        np.concatenate(time_ns).tolist() if time_ns else None,
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_each_format(tmp_path: Path, name: str) -> None:
    """Auto finds the format; pages, writes and times are the file's."""
    sample = SAMPLES[name]
    info = convert(tmp_path, sample.data)
    assert (sample.pages, sample.write, sample.time_ns) == columns(info)
    assert sample.form == info.provenance.source
    assert "in.trace" == info.provenance.source_file
    assert len(sample.pages) == info.accesses
    assert len(set(sample.pages)) == info.pages


@pytest.mark.parametrize("name", SAMPLES)
def test_named_format(tmp_path: Path, name: str) -> None:
    """Naming the format gives what auto gives."""
    sample = SAMPLES[name]
    found = columns(convert(tmp_path, sample.data, form=sample.form))
    assert (sample.pages, sample.write, sample.time_ns) == found


def test_every_format_has_a_sample() -> None:
    """No format goes untested."""
    others = {"parquet", "mooncake-serving"}  # with tests of their own
    assert set(FORMATS) == {s.form for s in SAMPLES.values()} | others


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("name", ["spec", "oracle-general", "csv"])
def test_compressed(tmp_path: Path, name: str, ending: str) -> None:
    """gz, xz, zst and bz2 are told by their bytes, in one member or two."""
    sample, pack = SAMPLES[name], COMPRESSORS[ending]
    whole = columns(convert(tmp_path, pack(sample.data)))
    assert (sample.pages, sample.write, sample.time_ns) == whole
    halves = pack(sample.data[:20]) + pack(sample.data[20:])
    assert whole == columns(convert(tmp_path, halves))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_and_cut(tmp_path: Path, ending: str) -> None:
    """Compressed data that end early are an error, and leave nothing."""
    rng = np.random.default_rng(1)
    text = "".join(f"{number}\n" for number in rng.integers(0, 1 << 40, 5000))
    data = COMPRESSORS[ending](text.encode())
    with pytest.raises(TraceFormatError, match="expected"):
        convert(tmp_path, data[: len(data) - 9])
    with pytest.raises(TraceFormatError):
        convert(tmp_path, data[: len(data) // 2])
    assert ["in.trace"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("form", "data", "place"),
    [
        ("spec", b"l 0x10 1\n\nx 0x10 1\n", "line 3"),
        ("spec", b"l 0x10 1\nl 0x10\n", "line 2"),
        ("ramulator", b"1 2\n1 2 3 4\n", "line 2"),
        ("lirs", b"1\n2\nthree\n", "line 3"),
        ("lackey", b" L 10,4\n X 10,4\n", "line 2"),
        ("lackey", b" L 10,0\n", "line 1"),
        ("lackey", b" L ffffffffffffffff,8\n", "line 1"),
        ("mooncake", b'{"timestamp": 1, "hash_ids": [1]}\n{"hash_ids": []}', "line 2"),
        ("mooncake", b'{"timestamp": 1, "hash_ids": [-1]}\n', "line 1"),
        ("mooncake", b'{"timestamp": -1, "hash_ids": [1]}\n', "line 1"),
        ("mooncake", b'{"timestamp": 2, "hash_ids": [1]}\n' * 2
         + b'{"timestamp": 1, "hash_ids": [1]}\n', "line 3"),
        ("mooncake",
         b'\n{"timestamp":2,"hash_ids":[]}\n\n{"timestamp":1,"hash_ids":[]}', "line 4"),
        ("oracle-general", b"x" * 25, "byte 25"),
        ("libcachesim-csv", b"5,1,2\n4,1,2\n", "line 2"),
        ("libcachesim-csv", b"time,obj_id\n5,1\n6,abc\n", "line 3: obj_id"),
        ("libcachesim-csv", b"5,1,2\n\n4,1,2\n", "line 3"),
        ("libcachesim-csv", b"a,b\n5,1\n", "line 1"),
        ("perf", b"x 1 2.000000: e: 1000 2 |OP LOAD\nx 1 2.000000: e:\n", "line 2"),
        ("perf", b"x 1 2.000000: e: 1000 2 |OP LOAD\n1000 2 |OP LOAD\n", "line 2"),
        ("damo", b"base_time_absolute: 1 s\nmonitoring_start: 0 ns\nx\n", "line 3"),
        ("damo", b"monitoring_start: 0\nmonitoring_end: 1\nnr_regions: 1\n", "line 3"),
        ("damo", b"[1]", "JSON"),
        ("csv", b"page,write\n1,0\n1,7\n", "line 3: write"),
        ("csv", b"page,count\n1,0\n", "line 2: count"),
        ("csv", b"page\n1\nx\n", "line 3: page"),
        ("csv", b"page\n-1\n", "line 2: page"),
        ("csv", b"page\n\n1\n\r\n\nx\n", "line 6: page"),
        ("csv", b"page,time_ns\n1,5\n\n1,4\n", "line 4: got time 4 ns after 5"),
        ("csv", b"page,time_ns\n1,-5\n", "time -5 ns, expected a time >= 0"),
        ("csv", b"page,time_ns\n1,5\n1,4\n", "line 3"),
        ("csv", b"page,address\n1,5\n", "columns"),
        ("csv", b"page,page\n1,5\n", "columns"),
        ("csv", b"time_ns\n1\n", "columns"),
        ("csv", b"page,write\n1,0\n1\n", "line 3"),
        ("parquet", b"page\n1\n", "starts with"),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, form: str, data: bytes, place: str) -> None:
    """The error names the file and the place, and nothing is left."""
    with pytest.raises(TraceFormatError) as caught:
        convert(tmp_path, data, form=form)
    assert str(tmp_path / "in.trace") in caught.value.message
    assert place in caught.value.message
    assert "expected" in caught.value.message.lower()
    assert ["in.trace"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"hello\n",
        b"\x00" * 100,
        b"PAR1",
        b"#\n",
        gzip.compress(b"", mtime=0),  # its time would be part of the test's name
    ],
)
def test_no_trace(tmp_path: Path, data: bytes) -> None:
    """What is no trace at all is a format error, too."""
    with pytest.raises(TraceFormatError):
        convert(tmp_path, data)


def test_no_accesses(tmp_path: Path) -> None:
    """A file of the right form that holds no access is an error."""
    with pytest.raises(TraceFormatError, match="no accesses"):
        convert(tmp_path, b"I  0401ab70,3\n", form="lackey")


def test_usage(tmp_path: Path) -> None:
    """A missing file, a format nobody has, an odd page size, the file itself."""
    with pytest.raises(UsageError):
        import_trace(tmp_path / "none", tmp_path / "out")
    for options in ({"form": "x"}, {"page_bytes": 3000}, {"page_bytes": 0}):
        with pytest.raises(UsageError):
            convert(tmp_path, b"1\n2\n", **options)
    with pytest.raises(UsageError, match="another name"):
        import_trace(tmp_path / "in.trace", tmp_path / "in.trace")
    assert b"1\n2\n" == (tmp_path / "in.trace").read_bytes()


def test_page_bytes(tmp_path: Path) -> None:
    """Addresses are divided by the page size, which is kept."""
    info = convert(tmp_path, b"l 0x1fffff 1\ns 0x200000 1\n", page_bytes=2 << 20)
    assert [0, 1] == columns(info)[0]
    assert 2 << 20 == info.page_bytes


def test_parquet_with_named_columns(tmp_path: Path) -> None:
    """Parquet and Arrow files of any integer types are read by column name."""
    table = pa.table(
        {
            "address": pa.array([4096, 8192], pa.int64()),
            "write": pa.array([True, False]),
            "initiator": pa.array([1, 0], pa.int32()),
            "time_ns": pa.array([7, 8], pa.uint64()),
            "other": ["a", "b"],
        }
    )
    source = tmp_path / "a.parquet"
    pq.write_table(table, source)
    info = import_trace(source, tmp_path / "out.parquet")
    assert ([1, 2], [1, 0], [0, 1]) == columns(info)
    chunk = next(TraceReader(Path(info.path)).chunks())
    assert chunk.initiator is not None
    assert [1, 0] == chunk.initiator.tolist()


def test_parquet_out_of_range(tmp_path: Path) -> None:
    """A null or a number that a column cannot hold is named by its row."""
    source = tmp_path / "a.parquet"
    for column, place in (
        (pa.array([1, None]), "row 2: page"),
        (pa.array([1, 2, -3]), "row 3: page"),
    ):
        pq.write_table(pa.table({"page": column}), source)
        with pytest.raises(TraceFormatError, match=place):
            import_trace(source, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("column", "unit_ns"),
    [
        (pa.array([3, 5], pa.timestamp("us")), 1000),
        (pa.array([3, 5], pa.timestamp("s", tz="UTC")), 1_000_000_000),
        (pa.array([3, 5], pa.duration("ms")), 1_000_000),
        (pa.array([3, 5], pa.timestamp("ns")), 1),
        (pa.array([3.0, 5.0]), 1),
        (pa.array(["3", "5"]), 1),
        (pa.array(["3", "5"]).dictionary_encode(), 1),
    ],
)
def test_times_of_any_unit(tmp_path: Path, column: pa.Array, unit_ns: int) -> None:
    """A type that has a unit is converted; bare numbers are nanoseconds."""
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"page": [1, 2], "time_ns": column}), source)
    info = import_trace(source, tmp_path / "out.parquet")
    assert 2 * unit_ns == info.duration_ns


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("page", pa.array([True, False])),
        ("page", pa.array([Decimal("1.5"), Decimal("2.5")])),
        ("page", pa.array([1, 2], pa.timestamp("ns"))),
        ("page", pa.array([b"1", b"2"])),
        ("count", pa.array([True, True])),
        ("time_ns", pa.array([1, 2], pa.date32())),
        ("page", pa.array([1.5, 2.0])),
    ],
)
def test_types_that_are_no_whole_numbers(
    tmp_path: Path, name: str, column: pa.Array
) -> None:
    """They are refused by the column's name, not taken for what they are not."""
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"page": [1, 2]} | {name: column}), source)
    with pytest.raises(TraceFormatError, match=rf"{name}: got .*, expected"):
        import_trace(source, tmp_path / "out.parquet")


def test_a_trace_is_not_imported_again(tmp_path: Path) -> None:
    """Importing our own trace says that there is nothing to do."""
    info = convert(tmp_path, b"1\n2\n")
    with pytest.raises(TraceFormatError, match="is an isotherm trace"):
        import_trace(Path(info.path), tmp_path / "again")


def test_progress(tmp_path: Path) -> None:
    """Progress is told in bytes of the file, to its end."""
    seen: list[tuple[int, int | None]] = []
    data = gzip.compress(b"1\n2\n" * 1000)
    convert(tmp_path, data, progress=lambda done, total: seen.append((done, total)))
    assert (len(data), len(data)) == seen[-1]
    assert seen == sorted(seen)


def test_lines_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines cut by a block's end are whole, and errors count lines over all blocks."""
    from isotherm.trace import source

    monkeypatch.setattr(source.ByteSource.blocks, "__defaults__", (7,))
    text = "".join(f"{number}\n" for number in range(500))
    assert list(range(500)) == columns(convert(tmp_path, text.encode()))[0]
    with pytest.raises(TraceFormatError, match="line 501"):
        convert(tmp_path, text.encode() + b"x\n", form="lirs")


def test_targets_side_by_side(tmp_path: Path) -> None:
    """Targets that damo prints one after the other are laid beside each other."""
    record = (
        b"base_time_absolute: 1 s\n"
        b"monitoring_start: 0 ns\nmonitoring_end: 100 ns\n"
        b"target_id: %d\nnr_regions: 1\n000001000-000002000 ( 4.000 KiB) 1 0\n"
        b"monitoring_start: 100 ns\nmonitoring_end: 200 ns\n"
        b"target_id: %d\nnr_regions: 1\n000001000-000002000 ( 4.000 KiB) 2 0\n"
    )
    info = convert(tmp_path, record % (8, 8) + record % (9, 9))
    space = 1 << 52
    expected = [1, space | 1, 1, 1, space | 1, space | 1]
    assert (expected, None, [0, 50, 100, 100, 150, 150]) == columns(info)
    assert "8,9" == info.provenance.details["targets"]


def test_a_region_too_large(tmp_path: Path) -> None:
    """A region of very many pages asks for larger ones."""
    line = (
        b"k 1 [0] 1.000000: damon:damon_aggregated: "
        b"target_id=0 nr_regions=1 0-137438953472: 1 0\n"
    )
    with pytest.raises(TraceFormatError) as caught:
        convert(tmp_path, line)
    assert "--page-bytes" in (caught.value.hint or "")
    assert 65536 == convert(tmp_path, line, page_bytes=2 << 20).pages


@pytest.mark.slow
@settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    edits=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 255), st.integers(0, 2)),
        min_size=1,
        max_size=4,
    ),
    named=st.booleans(),
    ending=st.sampled_from([None, None, None, *COMPRESSORS]),
)
def test_mutated_input(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    edits: list[tuple[int, int, int]],
    named: bool,
    ending: str | None,
) -> None:
    """Mutated input gives a trace that reads in full, or an IsothermError."""
    sample = SAMPLES[name]
    data = bytearray(COMPRESSORS[ending](sample.data) if ending else sample.data)
    for at, value, kind in edits:
        place = at % (len(data) + 1)
        if kind == 0:
            data[place : place + 1] = bytes([value])
        elif kind == 1:
            data[place:place] = bytes([value])
        else:
            del data[place:]
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        info = convert(folder, bytes(data), form=sample.form if named else "auto")
    except IsothermError:
        assert ["in.trace"] == [path.name for path in folder.iterdir()]
    else:
        page, _, _ = columns(info)
        assert info.accesses == len(page)
        assert info.pages == len(set(page))
