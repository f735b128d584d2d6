"""The trace file: what is written is read, and nothing half-written stays."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import IsothermError, TraceFormatError, UsageError
from isotherm.trace.format import Provenance, TraceReader, TraceWriter
from isotherm.trace.info import METADATA_KEY
from isotherm.trace.stream import AccessChunk

ORIGIN = Provenance(
    command="cmd", tool="t", date="2026-01-02", note="n", source="s", llc_bytes=8 << 20,
    page_bytes=65536, details={"a": "b"},
)  # fmt: skip


def write(path: Path, *chunks: dict[str, Any]) -> TraceReader:
    """Return the reader of a trace with these chunks."""
    with TraceWriter(path, ORIGIN) as writer:
        for chunk in chunks:
            columns = dict(chunk)
            writer.append(columns.pop("page"), **columns)
    return TraceReader(path)


def rows(reader: TraceReader, size: int = 1 << 20) -> dict[str, list[int]]:
    """Return all columns of a trace, as lists."""
    found: dict[str, list[int]] = {}
    for chunk in reader.chunks(size):
        assert len(chunk) <= size
        for name in ("page", "write", "initiator", "time_ns"):
            column = getattr(chunk, name)
            if column is not None:
                found.setdefault(name, []).extend(column.tolist())
    return found


ROW = st.tuples(
    st.sampled_from([0, 1, 7, 2**52, 2**64 - 1]),
    st.integers(0, 1),
    st.integers(0, 255),
    st.integers(0, 1 << 40),
    st.integers(1, 5),
)


@pytest.mark.parametrize("level", [None, 1, 19])
def test_codecs(tmp_path: Path, level: int | None) -> None:
    """Quick columns are LZ4's, a level makes all zstd; what is read is the same."""
    path = tmp_path / "t.parquet"
    with TraceWriter(path, ORIGIN, level=level) as writer:
        writer.append([7, 9, 7], write=[0, 1, 0], time_ns=[0, 5, 9], count=[1, 2, 1])
    columns = pq.ParquetFile(path).metadata.row_group(0).to_dict()["columns"]
    codecs = {c["path_in_schema"]: c["compression"] for c in columns}
    quick = "LZ4" if level is None else "ZSTD"
    assert codecs == {
        "page": quick, "write": quick, "count": quick,
        "time_ns": "ZSTD", "raw_page": "ZSTD",
    }  # fmt: skip
    assert rows(TraceReader(path)) == {
        "page": [0, 1, 1, 0], "write": [0, 1, 1, 0], "time_ns": [0, 5, 5, 9],
    }  # fmt: skip


@pytest.mark.slow
@settings(deadline=None)
@given(
    data=st.lists(ROW, min_size=1, max_size=40),
    cut=st.integers(0, 40),
    names=st.sets(st.sampled_from(["write", "initiator", "time_ns", "count"])),
    size=st.integers(1, 50),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    data: list[tuple[int, ...]],
    cut: int,
    names: set[str],
    size: int,
) -> None:
    """Any columns, in any chunks, come back in order with counts expanded."""
    table = dict(
        zip(("page", "write", "initiator", "time_ns", "count"), zip(*data, strict=True),
            strict=True)
    )  # fmt: skip
    columns = {k: np.array(v, np.uint64) for k, v in table.items() if k in names}
    columns["page"] = np.array(table["page"], np.uint64)
    if "time_ns" in columns:
        columns["time_ns"] = np.sort(columns["time_ns"])
    reader = write(
        tmp_path_factory.mktemp("t") / "t.parquet",
        {k: v[:cut] for k, v in columns.items()},
        {k: v[cut:] for k, v in columns.items()},
    )
    count = columns.pop("count", np.ones(len(data), np.uint64)).astype(np.int64)
    found = rows(reader, size)
    mapping = reader.raw_pages()
    assert mapping is not None
    found["page"] = mapping[found["page"]].tolist()
    expected = {k: np.repeat(v, count).tolist() for k, v in columns.items()}
    assert expected == found
    info = reader.info
    assert len(set(table["page"])) == info.pages
    assert int(count.sum()) == info.accesses
    assert len(data) == info.rows
    assert ORIGIN == info.provenance
    assert info.writes == (
        int(count[columns["write"] == 1].sum()) if "write" in columns else None
    )
    assert info.duration_ns == (
        int(columns["time_ns"][-1]) if "time_ns" in columns else None
    )


def test_pages_are_dense_in_first_seen_order(tmp_path: Path) -> None:
    """The first page of the source is 0, the next new one 1, over all chunks."""
    reader = write(tmp_path / "t", {"page": [9, 5, 9]}, {"page": [5, 2**64 - 1, 0]})
    assert [0, 1, 0, 1, 2, 3] == rows(reader)["page"]
    mapping = reader.raw_pages()
    assert mapping is not None
    assert [9, 5, 2**64 - 1, 0] == mapping.tolist()


@pytest.mark.slow
def test_several_row_groups(tmp_path: Path) -> None:
    """A trace longer than a row group streams through, in full."""
    raw = np.arange((1 << 21) + 7, dtype=np.uint64) % np.uint64(4099)
    reader = write(tmp_path / "t", {"page": raw[:5]}, {"page": raw[5:]})
    sizes = [len(chunk) for chunk in reader.chunks(1 << 19)]
    assert len(raw) == sum(sizes)
    assert 1 << 19 >= max(sizes)
    pages = np.concatenate([chunk.page for chunk in reader.chunks()])
    assert (raw == pages).all()
    assert 4099 == reader.info.pages


def test_a_count_larger_than_a_chunk(tmp_path: Path) -> None:
    """One row that stands for many accesses is cut into several chunks."""
    reader = write(tmp_path / "t", {"page": [3, 4], "count": [5, 2]})
    assert [[0, 0, 0], [0, 0, 1], [1]] == [c.page.tolist() for c in reader.chunks(3)]


def test_chunks_are_the_callers(tmp_path: Path) -> None:
    """A chunk's arrays may be written to."""
    reader = write(tmp_path / "t", {"page": [3, 4], "write": [0, 1]})
    chunk = next(reader.chunks())
    assert isinstance(chunk, AccessChunk)
    chunk.page[0] = 1
    assert chunk.write is not None
    chunk.write[0] = 1


def test_an_empty_trace(tmp_path: Path) -> None:
    """No access at all is a trace of no pages."""
    reader = write(tmp_path / "t")
    assert (0, 0, 0) == (reader.info.pages, reader.info.accesses, reader.info.rows)
    assert [] == list(reader.chunks())


def fail_within(path: Path, wrong: type[BaseException]) -> None:
    """Raise an exception while a trace is being written."""
    with TraceWriter(path, ORIGIN) as writer:
        writer.append([1, 2])
        raise wrong


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    """Whatever goes wrong within, neither target nor temporary file stays."""
    for wrong in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(wrong):
            fail_within(tmp_path / "t", wrong)
    assert [] == list(tmp_path.iterdir())


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    """A target that was there before is as it was."""
    (tmp_path / "t").write_text("old")
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t", ORIGIN):
        raise RuntimeError
    assert [tmp_path / "t"] == list(tmp_path.iterdir())
    assert "old" == (tmp_path / "t").read_text()


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([{"page": [1, 2], "write": [0]}], "shape"),
        ([{"page": [1], "write": [0]}, {"page": [1]}], "expected columns"),
        ([{"page": [1, 2], "time_ns": [5, 4]}], "non-decreasing"),
        ([{"page": [1], "time_ns": [5]}, {"page": [1], "time_ns": [4]}], "non-decr"),
        ([{"page": [1], "time_ns": [-1]}], "non-decreasing"),
        ([{"page": [1], "count": [0]}], "count"),
    ],
)
def test_what_append_refuses(
    tmp_path: Path, chunks: list[dict[str, Any]], message: str
) -> None:
    """Columns that do not fit together are the caller's error."""
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "t", *chunks)
    assert [] == list(tmp_path.iterdir())


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    """A folder, or a folder that does not exist, is a usage error."""
    for path in (tmp_path, tmp_path / "none" / "t"):
        with pytest.raises(UsageError), TraceWriter(path, ORIGIN):
            pass


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A pipe stays one; of a link the file behind it is replaced."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a device, pipe or socket"):
        write(tmp_path / "pipe", {"page": [1]})
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("file")
    assert 1 == write(tmp_path / "link", {"page": [1]}).info.pages
    assert (tmp_path / "link").is_symlink()
    assert {"pipe", "link", "file"} == {p.name for p in tmp_path.iterdir()}


def test_other_files_are_no_traces(tmp_path: Path) -> None:
    """Text, plain Parquet and what is missing are told apart, with a hint."""
    text, plain = tmp_path / "a", tmp_path / "b"
    text.write_text("l 0x10 1\n")
    pq.write_table(pa.table({"page": [1]}), plain)
    for path in (text, plain):
        with pytest.raises(TraceFormatError) as caught:
            TraceReader(path)
        assert "trace import" in (caught.value.hint or "")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            TraceReader(path)


def tampered(tmp_path: Path, table: pa.Table, **metadata: Any) -> Path:
    """Return a Parquet file with trace metadata and any columns."""
    document = {"provenance": {}, "version": 1, "pages": 2, "accesses": 2, **metadata}
    coded = pa.array([document]).to_pylist()[0]
    import json

    path = tmp_path / "t"
    pq.write_table(
        table.replace_schema_metadata({METADATA_KEY: json.dumps(coded).encode()}), path
    )
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"page": [0, 2]}, "page 2, expected below 2"),
        ({"page": [0, None]}, "null"),
        ({"page": [0, -1]}, "page"),
        ({"page": ["a", "b"]}, "integer"),
        ({"other": [1, 2]}, "column page"),
        ({"page": [0, 1], "time_ns": [2, 1]}, "goes back"),
        ({"page": [0, 1], "count": [1, 0]}, "count 0"),
    ],
)
def test_damaged_columns(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    """Values that no trace holds are found while reading."""
    path = tampered(tmp_path, pa.table(columns))
    with pytest.raises(TraceFormatError, match=message):
        list(TraceReader(path).chunks())


def test_versions_and_metadata(tmp_path: Path) -> None:
    """A newer version, and metadata of another shape, are refused."""
    table = pa.table({"page": [0, 1]})
    for wrong in ({"version": 2}, {"pages": "x"}, {"pages": -1},
                  {"provenance": {"page_bytes": 3}}):  # fmt: skip
        with pytest.raises(TraceFormatError):
            TraceReader(tampered(tmp_path, table, **wrong))


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_ipc(tmp_path: Path, stream: bool) -> None:
    """An Arrow file or stream with the columns is a trace; counts are made good."""
    document = b'{"provenance": {"command": "c"}, "version": 1}'
    table = pa.table(
        {
            "page": pa.array([0, 1, 0], pa.uint32()),
            "write": pa.array([0, 1, 1], pa.uint8()),
            "count": pa.array([1, 2, 1], pa.uint32()),
            "time_ns": pa.array([0, 4, 9], pa.int64()),
        }
    ).replace_schema_metadata({METADATA_KEY: document})
    path = tmp_path / "t.arrow"
    opener = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opener(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=2)
    reader = TraceReader(path)
    info = reader.info
    assert (2, 4, 3, 3, 9) == (
        info.pages, info.accesses, info.writes, info.rows, info.duration_ns
    )  # fmt: skip
    assert [0, 1, 1, 0] == rows(reader)["page"]
    assert reader.raw_pages() is None


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: bool
) -> None:
    """A changed byte or a cut gives a trace or an IsothermError, nothing else."""
    path = tmp_path_factory.mktemp("t") / "t"
    write(path, {"page": list(range(50)), "write": [1] * 50, "time_ns": range(50)})
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at] = value
    path.write_bytes(data[:at] if cut else data)
    try:
        reader = TraceReader(path)
        list(reader.chunks())
        reader.raw_pages()
    except IsothermError:
        pass
