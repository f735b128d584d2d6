"""Programs whose accesses several threads make."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import ConfigError
from isotherm.lab.future import stream_spaces
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload
from isotherm.workloads.stream import Generated

PACE = Pace(rate=10.0, accesses=40_000)


def made(directory: Path, text: str) -> Generated:
    """Return the workload of a TOML text."""
    path = directory / "w.toml"
    path.write_text(text)
    workload = make_workload(str(path), 1000, 1)
    assert isinstance(workload, Generated)
    return workload


TWO = """
[[part]]
kind = "uniform"
name = "a"
threads = [0, 1, 1]
[[part]]
kind = "uniform"
name = "b"
threads = [1]
"""


def columns(workload: Generated) -> tuple[np.ndarray, np.ndarray]:
    """Return pages and threads of a run."""
    page, thread = [], []
    for chunk in workload.epochs(PACE):
        assert chunk.stream is not None
        page.append(chunk.page.copy())
        thread.append(chunk.stream.copy())
    return np.concatenate(page), np.concatenate(thread)


def test_threads_share_their_programs_pages(tmp_path: Path) -> None:
    """Each of three makes a third of the accesses to the program's half."""
    workload = made(tmp_path, TWO)
    assert ["a.0", "a.1", "a.2", "b.0"] == [s.name for s in workload.streams]
    assert [0, 1, 1, 1] == [s.initiator for s in workload.streams]
    assert all(s.thread for s in workload.streams)
    page, thread = columns(workload)
    assert {3} == set(thread[page >= 500].tolist())
    share = np.bincount(thread[page < 500], minlength=4) / np.count_nonzero(page < 500)
    assert share == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.02)
    again = columns(workload)
    assert (again[1] == thread).all()


def test_strays_are_of_any_thread(tmp_path: Path) -> None:
    """A tenth of all accesses is made by threads drawn from all four."""
    page, thread = columns(made(tmp_path, "stray = 0.1\n" + TWO))
    foreign = float(np.mean(thread[page < 500] == 3))
    assert foreign == pytest.approx(0.1 / 4, abs=0.01)


def test_a_programs_pages_are_one_object(tmp_path: Path) -> None:
    """Policies that place objects see programs, not their threads."""
    spaces = stream_spaces(made(tmp_path, TWO))
    assert [("a", 0, 500), ("b", 500, 500)] == [
        (s.owner, s.base, s.pages) for s in spaces
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('threads = "two"', "threads: expected initiators"),
        ("threads = []", "threads: expected initiators"),
        ("threads = [0]\ninitiator = 1", "threads: expected no initiator"),
        ("initiator = 1", "expected threads in every part or in none"),
    ],
)
def test_what_threads_may_not_be(tmp_path: Path, text: str, message: str) -> None:
    """The message names the part and what was expected."""
    parts = f'[[part]]\nkind = "zipf"\nthreads = [0]\n[[part]]\nkind = "zipf"\n{text}\n'
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, parts)
    with pytest.raises(ConfigError, match="stray: expected a share"):
        made(tmp_path, "stray = 1\n" + TWO)
