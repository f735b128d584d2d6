"""Workloads by name, and the epochs contract that every generator keeps."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError, UsageError
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import WORKLOADS, make_workload


def every_access(name: str, pace: Pace, pages: int = 1000, seed: int = 1) -> np.ndarray:
    """Return the page column of a whole run."""
    chunks = make_workload(name, pages, seed).epochs(pace)
    return np.concatenate([chunk.page.copy() for chunk in chunks])


def test_importing_the_registry_does_not_import_numba() -> None:
    """Naming the workloads costs no compiler."""
    code = (
        "import sys, isotherm.workloads.registry as r; "
        "assert r.WORKLOADS and 'numba' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_same_arguments_same_accesses(name: str) -> None:
    """A run is the same bit for bit, from one object and from two."""
    pace = Pace(rate=10.0, accesses=20_000)
    workload = make_workload(name, 1000, 3)
    first = [
        (c.page.copy(), None if c.write is None else c.write.copy())
        for c in workload.epochs(pace)
    ]
    again = make_workload(name, 1000, 3)
    for other in (workload, again):
        for (page, write), chunk in zip(first, other.epochs(pace), strict=True):
            assert page.tobytes() == chunk.page.tobytes()
            if write is not None:
                assert chunk.write is not None
                assert write.tobytes() == chunk.write.tobytes()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_epochs_only_cut_the_stream(name: str) -> None:
    """Epochs of 0.5 s and of 0.7 s hold the same accesses in the same order."""
    half = every_access(name, Pace(epoch_ns=500_000_000, accesses=30_000))
    other = every_access(name, Pace(epoch_ns=700_000_000, accesses=30_000))
    assert half.tolist() == other.tolist()


@pytest.mark.parametrize("name", WORKLOADS)
def test_epochs_hold_what_the_pace_says(name: str) -> None:
    """Epoch e holds floor(n (e+1)) - floor(n e) accesses, the last one the rest."""
    pace = Pace(epoch_ns=500_000_000, rate=0.3, accesses=1000)
    sizes = [len(chunk) for chunk in make_workload(name, 777).epochs(pace)]
    n = 0.3 * 777 * 0.5
    expected = [int(n * (e + 1)) - int(n * e) for e in range(8)]
    assert [*expected, 1000 - sum(expected)] == sizes


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_default_length_is_two_minutes(name: str) -> None:
    """Without a number of accesses a run lasts 120 s."""
    chunks = make_workload(name, 100).epochs(Pace(rate=1.0))
    assert (240, 12_000) == tuple(
        np.sum([(1, len(chunk)) for chunk in chunks], axis=0).tolist()
    )


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("pages", [1, 2, 3, 17, 65, 1000])
def test_pages_stay_within_the_footprint(name: str, pages: int) -> None:
    """Every page is below the footprint, whatever its size."""
    assert (
        every_access(name, Pace(rate=10.0, accesses=600 * pages), pages).max() < pages
    )


@pytest.mark.parametrize("name", WORKLOADS)
def test_without_a_rate_there_is_no_time(name: str) -> None:
    """A generated workload asks for a rate, and says how to give one."""
    with pytest.raises(UsageError) as caught:
        make_workload(name, 10).epochs(Pace(rate=None))
    assert "try --rate 10 (accesses per page per second)" == caught.value.hint


@pytest.mark.parametrize("name", WORKLOADS)
@settings(max_examples=10, deadline=None)
@given(
    pages=st.integers(1, 3000),
    rate=st.floats(0.01, 50),
    epoch_ns=st.integers(10_000_000, 10_000_000_000),
    accesses=st.integers(0, 5000),
    seed=st.integers(0, 2**40),
)
def test_any_pace_keeps_the_contract(
    name: str, pages: int, rate: float, epoch_ns: int, accesses: int, seed: int
) -> None:
    """Any footprint, rate and epoch: the right number of accesses, all inside."""
    accesses = min(accesses, int(rate * pages * 1000))
    pace = Pace(epoch_ns, rate, accesses)
    n = rate * pages * (epoch_ns / 1e9)
    done = 0
    for epoch, chunk in enumerate(make_workload(name, pages, seed).epochs(pace)):
        expected = min(int(n * (epoch + 1)), accesses) - min(int(n * epoch), accesses)
        assert len(chunk) == expected
        assert chunk.page.dtype == np.uint32
        assert not len(chunk) or chunk.page.max() < pages
        assert chunk.write is None or len(chunk.write) == len(chunk)
        done += len(chunk)
    assert done == accesses


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "stream"])
def test_another_seed_gives_other_accesses(name: str, seed: int) -> None:
    """Seeds tell runs apart; only a plain sweep has nothing to draw."""
    pace = Pace(rate=10.0, accesses=5000)
    assert every_access(name, pace, seed=1).tolist() != (
        every_access(name, pace, seed=seed).tolist()
    )


RAGGED = [
    "gups", "gups-shift", "scan-zipf", "drift", "latest", "graph", "kv-cache",
]  # fmt: skip


@pytest.mark.parametrize("name", RAGGED)
def test_contiguity_can_be_ragged(name: str) -> None:
    """Ragged chunks and odd sizes change where things lie, and nothing escapes."""
    pace = Pace(rate=10.0, accesses=20_000)
    for contiguity in ("ragged", "24", 24, 1):
        workload = make_workload(name, 1000, 1, {"contiguity": contiguity})
        assert max(int(chunk.page.max()) for chunk in workload.epochs(pace)) < 1000


def test_text_options_equal_numbers() -> None:
    """Options typed on a command line mean what they say."""
    pace = Pace(rate=10.0, accesses=5000)
    typed = make_workload("gups", 1000, 1, {"hot_share": "0.5", "contiguity": "32"})
    meant = make_workload("gups", 1000, 1, {"hot_share": 0.5, "contiguity": 32})
    first, second = next(typed.epochs(pace)), next(meant.epochs(pace))
    assert first.page.tobytes() == second.page.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hot_shar": 1}, "gups: hot_shar: gups has no such parameter; did you mean"),
        ({"hot_share": 2}, "gups: hot_share: expected `float` <= 1"),
        ({"contiguity": 0}, "gups: contiguity: expected `int` >= 1"),
        ({"contiguity": "rugged"}, "gups: contiguity: got 'rugged', expected pages"),
        ({"kind": "zipf"}, "gups: kind: "),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    """The message names the workload, the field and what was expected."""
    with pytest.raises(ConfigError) as caught:
        make_workload("gups", 100, 1, options)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(("pages", "seed"), [(0, 1), (1 << 32, 1), (10, -1)])
def test_sizes_and_seeds_are_checked(pages: int, seed: int) -> None:
    """A footprint of nothing, or beyond 32 bits, and a negative seed are refused."""
    with pytest.raises(UsageError):
        make_workload("zipf", pages, seed)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(rate: float) -> None:
    """A rate that lets no time pass, or none end, is refused."""
    with pytest.raises(UsageError):
        make_workload("zipf", 10).epochs(Pace(rate=rate, accesses=10))


def test_an_unknown_name_gets_the_nearest_one() -> None:
    """A misspelt workload is answered with the one that was meant."""
    with pytest.raises(UsageError) as caught:
        make_workload("zipff")
    assert caught.value.message.endswith("; did you mean 'zipf'?")
