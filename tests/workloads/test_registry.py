"""Workloads by name, and the epochs contract that every generator keeps."""

import subprocess
import sys

import numpy as np
import pytest

from isotherm.core.errors import UsageError
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
    assert every_access(name, Pace(rate=100.0), pages).max() < pages


@pytest.mark.parametrize("name", WORKLOADS)
def test_without_a_rate_there_is_no_time(name: str) -> None:
    """A generated workload asks for a rate, and says how to give one."""
    with pytest.raises(UsageError) as caught:
        make_workload(name, 10).epochs(Pace(rate=None))
    assert "try --rate 10 (accesses per page per second)" == caught.value.hint


def test_an_unknown_name_gets_the_nearest_one() -> None:
    """A misspelt workload is answered with the one that was meant."""
    with pytest.raises(UsageError) as caught:
        make_workload("zipff")
    assert caught.value.message.endswith("; did you mean 'zipf'?")
