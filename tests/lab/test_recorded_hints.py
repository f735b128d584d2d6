"""A recording made elsewhere drives tracker and policy of a simulation."""

import json
from pathlib import Path

import numpy as np
import pytest

from isotherm.cli.main import main
from isotherm.core.clock import VirtualClock
from isotherm.core.errors import TraceFormatError, UsageError
from isotherm.hints.batch import Mechanism
from isotherm.hints.recorded_samples import RecordedProcesses, RecordedSamples
from isotherm.hotness.tracker import GammaTracker
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.records.perf_data import PerfData
from isotherm.trace.format import TraceReader
from isotherm.workloads.registry import make_workload
from tests.records.perf_files_many import many_samples, recording

SECOND = 1_000_000_000
PAGES, HOT = 1009, 97
FIRST = 0x55500
SECONDS = 120
#: Accesses a page and second.
RATE = 60_000 / SECONDS / PAGES


def accesses(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times, pages and the hot pages of a process: half of all accesses."""
    rng = np.random.default_rng(seed)
    hot = rng.permutation(PAGES)[:HOT]
    n = 60_000
    page = rng.integers(0, PAGES, n)
    often = rng.random(n) < 0.8
    page[often] = hot[rng.integers(0, HOT, int(often.sum()))]
    page[:PAGES] = np.arange(PAGES)  # every page is there
    time = np.sort(rng.integers(0, SECONDS * SECOND, n)) + 77 * SECOND
    return time, page, hot


def run_on(path, recorded, policy="isotherm"):
    """Return the result of a policy on a trace, with the samples of a recording."""
    return simulate(
        SimulationSpec(
            policy,
            str(path),
            fast_ratio=0.1,
            rate=None,
            hints=("sampling",),
            recording=str(recorded),
        )
    )


def called_hot(path, recorded, *, own: bool) -> set[int]:
    """Return the pages that the tracker calls hottest, as many as are hot."""
    workload = make_workload(str(path))
    raw = TraceReader(Path(workload.info.path)).raw_pages()
    clock = VirtualClock()
    with recorded.open("rb") as file:
        data = PerfData(file, "perf.data")
        source = RecordedSamples(
            data, RecordedProcesses(raw), clock.now_ns, each_is_access=own
        )
        hints = frozenset({Mechanism.SAMPLING})
        tracker = GammaTracker(workload.pages, SECOND // 2, hints)
        for _ in range(2 * SECONDS):
            clock.advance(SECOND // 2)
            view = tracker.update(source.drain(), clock.now_ns(), RATE)
    return set((raw[view.hottest(HOT)].astype(np.int64) - FIRST).tolist())


@pytest.mark.slow
def test_a_recording_places_its_own_trace(tmp_path) -> None:
    """perf.data is workload and hints: the pages known to be hot end in fast memory."""
    time, page, hot = accesses()
    path = tmp_path / "perf.data"
    path.write_bytes(recording(many_samples(time, page + FIRST, period=5003)))
    result = run_on(path, path)
    assert 60_000 == result["recording"]["samples"]
    assert 0 == result["recording"]["of_no_page"] == result["recording"]["lost"]
    assert PAGES == result["pages"]
    best = run_on(path, path, "static-oracle")["fast_share"]
    assert best >= 0.8  # what the hot pages get
    assert result["fast_share"] >= 0.85 * best
    assert len(called_hot(path, path, own=True) & set(hot.tolist())) >= 0.95 * HOT


@pytest.mark.slow
def test_a_recording_places_a_full_trace(tmp_path) -> None:
    """The trace has every access, perf sampled one in ten: they find the same pages."""
    time, page, hot = accesses()
    trace = tmp_path / "trace.csv"
    rows = zip((time - 77 * SECOND).tolist(), (page + FIRST).tolist(), strict=True)
    trace.write_text("time_ns,page\n" + "".join(f"{t},{p}\n" for t, p in rows))
    path = tmp_path / "perf.data"
    path.write_bytes(
        recording(many_samples(time[::10], page[::10] + FIRST, period=10), period=10)
    )
    result = run_on(trace, path)
    assert 6_000 == result["recording"]["samples"]
    assert result["fast_share"] >= 0.6
    assert len(called_hot(trace, path, own=False) & set(hot.tolist())) >= 0.9 * HOT
    # Where nothing was recorded nobody knows: as good as at random.
    blank = tmp_path / "other.data"
    blank.write_bytes(recording(many_samples(time[:1], page[:1] + FIRST)))
    result = run_on(trace, blank)
    assert 1 == result["recording"]["samples"]
    assert result["fast_share"] < 0.3


def test_what_cannot_be_is_said(tmp_path) -> None:
    """A workload without page numbers, a rate, a file that is none: one sentence."""
    time, page, _ = accesses()
    path = tmp_path / "perf.data"
    path.write_bytes(recording(many_samples(time[:2000], page[:2000] + FIRST)))
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"page\n1\n")
    common = {"hints": ("sampling",), "accesses": 1000}

    def refused(workload, rate, recorded):
        spec = SimulationSpec(
            "isotherm", workload, rate=rate, recording=str(recorded), **common
        )
        return lambda: simulate(spec)

    with pytest.raises(UsageError, match="no page numbers of its own"):
        refused("zipf", None, path)()
    with pytest.raises(UsageError, match="own times, got a rate of 10"):
        refused(str(path), 10.0, path)()
    with pytest.raises(TraceFormatError, match=r"expected a perf\.data file"):
        refused(str(path), None, wrong)()
    with pytest.raises(UsageError, match="none: "):
        refused(str(path), None, tmp_path / "none")()


@pytest.mark.slow
def test_on_the_command_line(tmp_path, capsys) -> None:
    """``--hints perf.data:FILE`` takes the place of sampling; people see a line."""
    time, page, _ = accesses()
    path = tmp_path / "perf.data"
    path.write_bytes(recording(many_samples(time, page + FIRST)))
    words = ["simulate", "--workload", str(path), "--hints", f"perf.data:{path}"]
    assert 0 == main([*words, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert ["sampling"] == result["hints"]
    assert 60_000 == result["recording"]["samples"]
    assert 0 == main(words)
    assert "60000 samples" in capsys.readouterr().out
    assert 2 == main([*words[:-1], "perf.data:"])
    assert "expected perf.data:FILE once" in capsys.readouterr().err
