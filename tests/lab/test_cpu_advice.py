"""The adviser of CPU placement in simulations."""

from pathlib import Path
from typing import Any

import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.simulate import SimulationSpec, simulate

PROGRAMS = """
name = "programs"
stray = 0.02
[[part]]
kind = "zipf"
name = "a"
threads = [0, 1]
[[part]]
kind = "zipf"
name = "b"
threads = [0, 1]
"""


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """Return the file of two programs of two threads each, scattered."""
    path = tmp_path / "programs.toml"
    path.write_text(PROGRAMS)
    return str(path)


def played(workload: str, mode: str, seconds: int = 30, **more: Any) -> dict[str, Any]:
    """Return a short run's result."""
    pages = 1024
    spec = SimulationSpec(
        "isotherm",
        workload,
        more.pop("machine", "two-socket-cxl"),
        0.5,
        pages=pages,
        accesses=pages * 20 * seconds,
        rate=20.0,
        sampling_period=200,
        advise_cpus=mode,
        **more,
    )
    return simulate(spec)


def test_advice_alone_changes_nothing(programs: str) -> None:
    """Printed, every figure of the run is that of a run without it."""
    off, said = played(programs, "off", 12), played(programs, "print", 12)
    found = said.pop("cpu_advice")
    assert found["advice"]
    assert 0 == found["thread_moves"]
    times = {"wall_s", "setup_s", "accesses_per_wall_s"}
    assert {k: off[k] for k in off.keys() - times} == {
        k: said[k] for k in said.keys() - times
    }


@pytest.mark.slow
def test_applied_far_accesses_fall_and_nobody_goes_back(programs: str) -> None:
    """Programs come together, memory follows, and it stays so."""
    result = played(programs, "apply", 90)
    found = result["cpu_advice"]
    assert found["thread_moves"] >= 2
    assert 0 == found["reversals"]
    shares = found["remote_shares"]
    assert shares[0] == pytest.approx(0.5, abs=0.05)
    assert shares[-1] < 0.25
    assert result["lateral_pages"] > 0
    # One acts in a window: threads moved only where no page had crossed.
    assert found["busy_windows"] + len(found["advice"]) <= found["windows"]


def test_who_has_no_threads_gets_no_advice(programs: str) -> None:
    """A workload that names none, and a machine of one socket, are refused."""
    with pytest.raises(UsageError, match="expected threads, and two sockets"):
        played("zipf", "print")
    with pytest.raises(UsageError, match="advise_cpus: expected off, print, apply"):
        played(programs, "always")
    with pytest.raises(UsageError, match="has initiators 0 to 0, got 1"):
        played(programs, "print", machine="dram-cxl")
