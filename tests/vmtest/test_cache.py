"""The cache is filled once, whole or not at all."""

import multiprocessing
import time
from pathlib import Path

import pytest

from vmtest.cache import Cache, cache_folder
from vmtest.errors import FetchError, GuestError
from vmtest.packages import Origin

HERE, THERE = Origin("a"), Origin("b", ("suite",))


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMTEST_CACHE, else XDG_CACHE_HOME, else ~/.cache."""
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("VMTEST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Path("/h/.cache/vmtest") == cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert Path("/x/vmtest") == cache_folder()
    monkeypatch.setenv("VMTEST_CACHE", "/v")
    assert Path("/v") == cache_folder()


def test_a_second_time_nothing_is_fetched(tmp_path: Path) -> None:
    """What is there is used."""
    filled = []

    def fill(origin: Origin, tree: Path) -> None:
        filled.append(origin)
        (tree / "f").touch()

    cache = Cache(tmp_path)
    for _ in range(2):
        assert (cache._tree("kernel-x", (HERE, THERE), fill) / "f").exists()
    assert [HERE] == filled


def test_the_next_origin_is_tried(tmp_path: Path) -> None:
    """A package that one place lacks may be in another."""

    def fill(origin: Origin, tree: Path) -> None:
        if origin is HERE:
            (tree / "half").touch()
            raise FetchError("no a here")

    made = Cache(tmp_path)._tree("kernel-x", (HERE, THERE), fill)
    assert [] == list(made.iterdir())


def test_a_failure_leaves_nothing_and_says_all(tmp_path: Path) -> None:
    """Both refusals are told; the cache stays as it was but for its lock."""

    def fill(origin: Origin, tree: Path) -> None:
        raise FetchError(f"no {origin.package} here", f"get {origin.package}")

    with pytest.raises(FetchError, match="no a here\nno b here") as caught:
        Cache(tmp_path)._tree("kernel-x", (HERE, THERE), fill)
    assert "get b" == caught.value.hint
    assert ["lock"] == [path.name for path in tmp_path.iterdir()]


def fill_slowly(top: Path, log: Path) -> None:
    """Fill a cache; in a process of its own."""

    def fill(origin: Origin, tree: Path) -> None:
        with log.open("a") as file:
            file.write("filled\n")
        time.sleep(0.2)  # long enough for the other to come to the lock

    Cache(top)._tree("kernel-x", (HERE,), fill)


@pytest.mark.slow
def test_two_processes_fetch_once(tmp_path: Path) -> None:
    """The second waits for the lock and finds the work done."""
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [
        context.Process(target=fill_slowly, args=(tmp_path / "cache", log))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [0, 0] == [process.exitcode for process in processes]
    assert "filled\n" == log.read_text()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """It says where, why, and what to set."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(GuestError, match=f"{file}/cache: cannot write") as caught:
        Cache(file / "cache").folder("numba")
    assert "VMTEST_CACHE" in str(caught.value.hint)
