"""Finished runs on disk."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from isotherm.core.errors import IsothermError, UsageError
from isotherm.lab.store import ResultStore, append_row

pytest.importorskip("pyarrow")


def test_results_survive(tmp_path: Path, samples: ModuleType) -> None:
    """What was saved is read back, number for number."""
    path = tmp_path / "grid.parquet"
    row = samples.result("isotherm")
    with ResultStore(path) as store:
        store.add("a", row)
        store.save([row], ["a"])
    with ResultStore(path) as store:
        assert store.done == {"a": row}
    assert not path.with_name("grid.parquet.partial").exists()


def test_interrupted_grid_keeps_its_journal(
    tmp_path: Path, samples: ModuleType
) -> None:
    """Runs added before a crash are there at the next start; half a line is not."""
    path = tmp_path / "grid.parquet"
    with ResultStore(path) as store:
        store.add("a", samples.result("isotherm"))
    journal = tmp_path / "grid.parquet.journal"
    with journal.open("ab") as file:
        file.write(b'{"key":"b","resu')
    with ResultStore(path) as store:
        assert list(store.done) == ["a"]
        store.add("c", samples.result("tpp"))
    with ResultStore(path) as store:
        assert list(store.done) == ["a", "c"]


def test_unused_store_leaves_nothing(tmp_path: Path) -> None:
    """A grid that stops before its first run leaves no file."""
    with ResultStore(tmp_path / "grid.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_earlier_runs_are_kept(tmp_path: Path, samples: ModuleType) -> None:
    """Saving a second grid keeps the runs of the first."""
    path = tmp_path / "grid.parquet"
    for key, policy in (("a", "isotherm"), ("b", "tpp")):
        with ResultStore(path) as store:
            row = samples.result(policy)
            store.add(key, row)
            store.save([row], [key])
    with ResultStore(path) as store:
        assert set(store.done) == {"a", "b"}


def test_numbers_are_columns(tmp_path: Path, samples: ModuleType) -> None:
    """Every number can be queried without reading JSON."""
    import pyarrow.parquet as pq

    path = tmp_path / "grid.parquet"
    with ResultStore(path) as store:
        store.save([samples.result("isotherm", 1.25)], ["a"])
    table = pq.read_table(path)
    assert table["slowdown"].to_pylist() == [1.25]
    assert table["policy"].to_pylist() == ["isotherm"]


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    """A Parquet file with other columns, or no Parquet at all, is refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    foreign = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    with pytest.raises(UsageError, match="expected results of isotherm compare"):
        ResultStore(foreign)
    foreign.write_text("no parquet")
    with pytest.raises(UsageError, match="expected results of isotherm compare"):
        ResultStore(foreign)


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    """A file in a directory that does not exist is a usage error."""
    with pytest.raises(UsageError, match="no such directory"):
        ResultStore(tmp_path / "no" / "grid.parquet")


def test_one_comparison_at_a_time(tmp_path: Path, samples: ModuleType) -> None:
    """A second one on the same file is refused, and may have it afterwards."""
    path = tmp_path / "grid.parquet"
    with ResultStore(path) as store:
        store.add("a", samples.result("isotherm"))
        with pytest.raises(UsageError, match="another comparison is writing"):
            ResultStore(path)
    with ResultStore(path) as store:
        assert list(store.done) == ["a"]


def test_what_workers_write_is_kept(tmp_path: Path, samples: ModuleType) -> None:
    """A row that a worker has written is found, now and after the next start."""
    path = tmp_path / "grid.parquet"
    row = samples.result("isotherm")
    with ResultStore(path) as store:
        journal = store.worker_journal()
        assert journal is not None
        append_row(journal, "w", row)
        assert store.written_since() == {"w": row}
        store.add("a", row)
    with ResultStore(path) as store:
        assert {"w": row, "a": row} == store.done


def test_journal_without_a_directory_is_named(
    tmp_path: Path, samples: ModuleType
) -> None:
    """A worker whose journal is gone says so, and does not make a new one."""
    with pytest.raises(IsothermError, match="cannot write"):
        append_row(tmp_path / "gone", "a", samples.result("isotherm"))
    assert [] == list(tmp_path.iterdir())


def test_what_is_no_file_is_left_alone(tmp_path: Path, samples: ModuleType) -> None:
    """A pipe is refused; of a link the file behind it is written."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a device, pipe or socket"):
        ResultStore(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    with ResultStore(tmp_path / "link") as store:
        store.save([samples.result("isotherm")], ["a"])
    assert {"pipe", "link", "file"} == {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "link").is_symlink()


def test_full_disk_names_the_file(tmp_path: Path, samples: ModuleType) -> None:
    """The Parquet file is named, the journal keeps the runs, nothing else is left."""
    path = tmp_path / "grid.parquet"
    rows = [samples.result("isotherm") for _ in range(8)]
    with ResultStore(path) as store:
        store.add("a", rows[0])
        with limited(256), pytest.raises(IsothermError, match=str(path)):
            store.save(rows, list("abcdefgh"))
    assert ["grid.parquet.journal"] == [p.name for p in tmp_path.iterdir()]
    with ResultStore(path) as store:
        assert ["a"] == list(store.done)


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let files grow to so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
