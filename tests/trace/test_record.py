"""Recording a real program."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UnsupportedError, UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.trace.format import TraceReader
from isotherm.trace.record import Folder, record_command

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None or shutil.which("gcc") is None,
    reason="needs valgrind and gcc: apt install valgrind gcc",
)

#: Touches a prime number of pages: three stores and two loads of a byte of each,
#: and prints where they begin. No page is touched by anything else.
PROGRAM = r"""
#include <stdio.h>
#include <sys/mman.h>
#define PAGES 4099
int main(int argc, char **argv)
{
	volatile char *buffer = mmap(0, PAGES * 4096L, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *out = fopen(argv[1], "w");
	fprintf(out, "%lu\n", (unsigned long)buffer);
	fclose(out);
	for (int round = 0; round < 3; round++)
		for (long page = 0; page < PAGES; page++)
			buffer[page * 4096 + round] = 1;
	int sum = 0;
	for (int round = 0; round < 2; round++)
		for (long page = 0; page < PAGES; page++)
			sum += buffer[page * 4096 + 64 * round];
	puts("done");
	return argc > 2 ? 7 : 0;
}
"""
PAGES = 4099


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "touch.c").write_text(PROGRAM)
    subprocess.run(
        ["gcc", "-O1", "-o", folder / "touch", folder / "touch.c"], check=True
    )
    return folder / "touch"


def counts_of(path: Path, first_page: int) -> tuple[NDArray[np.int64], ...]:
    """Return the loads and the stores of each page of the buffer, in order."""
    reader = TraceReader(path)
    raw = reader.raw_pages()
    assert raw is not None
    counts = (np.zeros(PAGES, np.int64), np.zeros(PAGES, np.int64))
    for chunk in reader.chunks():
        assert chunk.write is not None
        at = raw[chunk.page].astype(np.int64) - first_page
        inside = (at >= 0) & (at < PAGES)
        for write in (0, 1):
            mine = at[inside & (chunk.write == write)]
            counts[write][:] += np.bincount(mine, minlength=PAGES)
    return counts


@needs_valgrind
@pytest.mark.slow
@pytest.mark.parametrize("quantum_ns", [0, 100_000])
def test_a_prime_number_of_pages_is_counted_exactly(
    program: Path, tmp_path: Path, quantum_ns: int
) -> None:
    """Without a cache, each of 4099 pages has its 2 loads and 3 stores, no more."""
    where, out = tmp_path / "where", tmp_path / "out.parquet"
    info = record_command(
        [str(program), str(where)], out, 0, quantum_ns=quantum_ns, quiet=True
    )
    address = int(where.read_text())

    loads, stores = counts_of(out, address // PAGE_BYTES)
    assert np.array_equal(np.full(PAGES, 2), loads)
    assert np.array_equal(np.full(PAGES, 3), stores)
    assert info.provenance.llc_bytes is None
    assert info.provenance.details["references"] == str(info.accesses)
    assert info.provenance.details["exit_status"] == "0"


@needs_valgrind
@pytest.mark.slow
def test_the_cache_lets_misses_through(program: Path, tmp_path: Path) -> None:
    """The first lines of 4099 pages do not fit 8 MiB, and LRU keeps none in a cycle.

    They lie 64 lines apart, so they share one set in 64 of 8192: 128 sets of 16
    ways hold 2048 of them.
    """
    where, out = tmp_path / "where", tmp_path / "out.parquet"
    record_command([str(program), str(where)], out, 8 << 20, quiet=True)
    address = int(where.read_text())

    fills, write_backs = counts_of(out, address // PAGE_BYTES)
    # Three rounds of stores and one of loads miss line 0, one of loads line 1.
    assert np.array_equal(np.full(PAGES, 5), fills)
    # The dirty lines of three rounds, but for those still in the cache.
    assert 3 * PAGES - 2048 - 64 <= int(write_backs.sum()) <= 3 * PAGES


@needs_valgrind
@pytest.mark.slow
def test_output_and_status_of_the_program(
    program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it prints goes to stderr, its exit status into the provenance."""
    out = tmp_path / "out.parquet"
    info = record_command([str(program), str(tmp_path / "w"), "fail"], out, 1 << 20)

    printed = capfd.readouterr()
    assert ("", "done\n") == (printed.out, printed.err)
    assert info.provenance.details["exit_status"] == "7"
    assert info.provenance.llc_bytes == 1 << 20


@needs_valgrind
@pytest.mark.slow
def test_limit_and_start_up(program: Path, tmp_path: Path) -> None:
    """Exactly ``limit`` accesses are kept, start-up leaves none, time is scaled."""
    command, seen = [str(program), str(tmp_path / "w")], list[tuple[int, int]]()

    def progress(references: int, kept: int) -> None:
        seen.append((references, kept))

    first = record_command(
        command, tmp_path / "a", 0, 10_007, progress, quantum_ns=0, quiet=True
    )
    later = record_command(
        command,
        tmp_path / "b",
        0,
        10_007,
        quantum_ns=0,
        skip_instructions=1000,
        ns_per_instruction=3,
        quiet=True,
    )

    assert (first.accesses, later.accesses) == (10_007, 10_007)
    assert first.provenance.details["exit_status"] == "ended at the limit"
    assert seen[-1][1] == 10_007
    assert first.duration_ns is not None
    times = np.concatenate([c.time_ns for c in TraceReader(tmp_path / "a").chunks()])
    kept = np.concatenate([c.time_ns for c in TraceReader(tmp_path / "b").chunks()])
    later_times = 3 * (times[times > 1000] - 1000)
    assert np.array_equal(later_times, kept[: len(later_times)])


@needs_valgrind
@pytest.mark.slow
def test_an_interrupt_leaves_nothing(program: Path, tmp_path: Path) -> None:
    """SIGINT in the middle: no file, no temporary file, no process."""
    out = tmp_path / "out.parquet"
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from isotherm.trace.record import record_command\n"
        "record_command(['yes'], Path(sys.argv[1]), 0,\n"
        "    progress=lambda *_: print('block', flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, out],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == b"block\n"
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(30) != 0

    assert list(tmp_path.iterdir()) == []


def test_valgrind_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 3, with the command that installs it."""
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="valgrind is not installed") as caught:
        record_command(["tool"], tmp_path / "out.parquet", 0)

    assert (caught.value.exit_code, caught.value.hint) == (3, "apt install valgrind")
    assert [path.name for path in tmp_path.iterdir()] == ["tool"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": []}, "expected a command"),
        ({"command": ["no-such-program-here"]}, "no such program"),
        ({"command": ["./no-such-program-here"]}, "no such program"),
        ({"llc_bytes": 1000}, "expected a multiple of"),
        ({"limit": 0}, "at least 1 access"),
        ({"quantum_ns": -1}, "quantum: expected >= 0"),
        ({"ns_per_instruction": 0}, "nanoseconds per instruction: expected >= 1"),
        ({"skip_instructions": -1}, "instructions to skip: expected >= 0"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """Each is refused before anything runs, and no file appears."""
    arguments = {"command": ["true"], "out": tmp_path / "out", "llc_bytes": 0} | change
    with pytest.raises(UsageError, match=message):
        record_command(**arguments)  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


def test_valgrind_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No reference was seen: an error with the status, and no file."""
    tools, out = tmp_path / "tools", tmp_path / "out"
    tools.mkdir()
    out.mkdir()
    (tools / "valgrind").write_text("#!/bin/sh\nexit 9\n")
    (tools / "valgrind").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(IsothermError, match=r"no data reference \(exit status 9\)"):
        record_command(["valgrind"], out / "out.parquet", 0)

    assert list(out.iterdir()) == []


accesses = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 9)), max_size=40
)


@settings(deadline=None)
@given(accesses, st.integers(1, 30), st.integers(0, 40))
def test_folding_keeps_every_access(
    steps: list[tuple[int, int, int]], quantum_ns: int, cut: int
) -> None:
    """Counts per quantum, page and kind are those of a dict, wherever it is cut."""
    page = np.array([p for p, _, _ in steps], np.uint64)
    write = np.array([w for _, w, _ in steps], np.uint8)
    time_ns = np.cumsum([d for _, _, d in steps], dtype=np.int64)
    expected: dict[tuple[int, int, int], int] = {}
    for key in zip(
        (time_ns // quantum_ns).tolist(), page.tolist(), write.tolist(), strict=True
    ):
        expected[key] = expected.get(key, 0) + 1

    folder = Folder(quantum_ns)
    parts = [
        folder.push(page[:cut], write[:cut], time_ns[:cut]),
        folder.push(page[cut:], write[cut:], time_ns[cut:]),
        folder.flush(),
    ]
    columns = [np.concatenate(column).tolist() for column in zip(*parts, strict=True)]
    rows = list(zip(*columns, strict=True))

    found = {(t // quantum_ns, p, w): n for p, w, t, n in rows}
    assert len(rows) == len(found)
    assert expected == found
    assert [(t, p, w) for p, w, t, _ in rows] == sorted(
        (t, p, w) for p, w, t, _ in rows
    )
