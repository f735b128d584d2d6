"""The whole loop on a compressing expander whose data come to compress worse."""

from pathlib import Path
from typing import Any

import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.backpressure import BackPressure

#: A small hot set, and a job that rewrites everything else, once in a while, with
#: data that compress ever worse.
REWRITE = """
name = "rewrite"
compressibility = "3-1.5/60"
[[part]]
kind = "zipf"
pages = 1
accesses = 3
[[part]]
kind = "stream"
pages = 15
accesses = 1
write_share = 1.0
burst = 16
"""


def rewrite(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Return the result of the job on a host that has pushed its memory out."""
    workload = tmp_path / "rewrite.toml"
    workload.write_text(REWRITE)
    spec = SimulationSpec(
        **{
            "policy": "isotherm",
            "workload": str(workload),
            "machine": "ocp-expander",
            "pages": 4096,
            "rate": 1.0,
            "placement": "slowest",
            **changes,
        }
    )
    return simulate(spec)


@pytest.mark.slow
def test_the_device_never_fails_a_write(tmp_path: Path) -> None:
    """From 3:1 to 1.5:1 pages leave before the media are full."""
    device = rewrite(tmp_path)["expander"]
    assert 0 == device["failed_writes"]
    assert device["peak_fill"] < 0.95
    assert [3.0, 1.5] == device["compressibility"]
    assert device["ratio"] < 1.8


@pytest.mark.slow
def test_without_back_pressure_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run, pages left where their heat alone puts them: writes fail."""
    monkeypatch.setattr(BackPressure, "reserve", lambda self, epoch: epoch)
    monkeypatch.setattr(BackPressure, "press", lambda self, moves, *rest: (moves, {}))
    device = rewrite(tmp_path)["expander"]
    assert device["failed_writes"] > 100
    assert device["peak_fill"] > 0.99


@pytest.mark.slow
def test_a_full_middle_tier_still_exchanges_pages() -> None:
    """Three tiers, all full but the last: the hot pages reach the fastest."""
    spec = SimulationSpec("isotherm", "gups", "ocp-expander", pages=4096)
    assert simulate(spec)["fast_share"] > 0.7


def test_the_command_line_s_word_goes_before_the_workload_s(tmp_path: Path) -> None:
    """--compressibility over the file's; without either 2:1."""
    short = {"accesses": 4096, "placement": "random"}
    said = rewrite(tmp_path, compressibility="4", **short)
    assert [4.0, 4.0] == said["expander"]["compressibility"]
    plain = rewrite(tmp_path, workload="zipf", **short)
    assert [2.0, 2.0] == plain["expander"]["compressibility"]


def test_other_machines_say_nothing_of_it(tmp_path: Path) -> None:
    """No field in their results; a ratio for them is refused, a workload's ignored."""
    short = {"accesses": 4096, "machine": "dram-cxl"}
    assert "expander" not in rewrite(tmp_path, **short)
    with pytest.raises(UsageError, match="machine dram-cxl compresses nothing"):
        rewrite(tmp_path, compressibility="3", **short)


def test_a_ratio_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    """Before anything is simulated."""
    with pytest.raises(UsageError, match="expected a ratio"):
        rewrite(tmp_path, compressibility="lz4")
