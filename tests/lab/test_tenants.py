"""Tenants in the simulator: their accesses alone, guarantees, bills that add up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.lab.tenants import TenantPart, open_tenants
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload

PAGES = 2048
MIX = """
name = "two"
[[part]]
name = "hot"
kind = "gups"
pages = 1
accesses = 1
[[part]]
name = "noise"
kind = "uniform"
pages = 1
accesses = 3
"""
TENANTS = """
[[tenant]]
name = "hot"
workload = "hot"
guarantee = "50%"
"""


@pytest.fixture
def mix(tmp_path: Path) -> str:
    """Return a mixture of two parts."""
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    return str(path)


def tenants(folder: Path, text: str = TENANTS) -> str:
    """Write a file of tenants; return its path."""
    path = folder / "tenants.toml"
    path.write_text(text)
    return str(path)


def spec_of(mix: str, path: str | None, policy: str = "isotherm") -> SimulationSpec:
    """Return a short run."""
    return SimulationSpec(
        policy, mix, pages=PAGES, accesses=400_000, rate=10.0, tenants=path
    )


def test_a_part_alone_makes_the_accesses_that_it_made(mix: str) -> None:
    """Its pages from 0, each epoch's accesses in their order, none of the others'."""
    workload = make_workload(mix, PAGES, 1)
    pace = Pace(500_000_000, 10.0, 50_000)
    part = TenantPart(workload, ((1024, 2048),), (1,), pace)
    assert (1024, (0,)) == (part.pages, part.stream_starts)
    assert ["noise"] == [stream.name for stream in part.streams]
    whole = (c.page.astype(np.int64) for c in workload.epochs(pace))
    mine = [page[page >= 1024] - 1024 for page in whole]
    alone = [chunk.page.copy() for chunk in part.epochs(Pace(500_000_000, 99.0))]
    assert len(mine) == len(alone)
    assert all(np.array_equal(a, b) for a, b in zip(mine, alone, strict=True))


@pytest.mark.slow
def test_a_guarantee_is_kept_and_bills_add_up(mix: str, tmp_path: Path) -> None:
    """The tenant holds what it needs; costs and accesses are the whole run's."""
    result = simulate(spec_of(mix, tenants(tmp_path)))
    hot, rest = result["tenants"]
    assert ("hot", "(rest)") == (hot["name"], rest["name"])
    assert 204 == hot["guarantee_pages"]
    assert hot["kept"] == pytest.approx(hot["solo_slowdown"] / hot["slowdown"])
    assert hot["kept"] > 0.9
    assert rest["kept"] is None
    assert result["accesses"] == hot["accesses"] + rest["accesses"]
    moves = result["migration_time_ns"]
    assert moves == pytest.approx(hot["migration_ns"] + rest["migration_ns"])
    looks = result["hint_overhead_ns"]
    assert looks == pytest.approx(hot["looking_ns"] + rest["looking_ns"])
    cost = sum(row["slowdown"] * row["all_fast_ns"] for row in (hot, rest))
    fast = sum(row["all_fast_ns"] for row in (hot, rest))
    assert result["slowdown"] == pytest.approx(cost / fast)


BEARING = """
name = "two"
[[part]]
name = "hot"
kind = "gups"
pages = 1
accesses = 1
[[part]]
name = "new"
kind = "latest"
births = true
advance = 1.0
pages = 1
accesses = 1
"""


def test_what_is_born_of_a_part_is_born_of_it_alone(tmp_path: Path) -> None:
    """Births of a mixture are its parts', and a part alone has its own."""
    path = tmp_path / "mix.toml"
    path.write_text(BEARING)
    workload = make_workload(str(path), PAGES, 1)
    pace = Pace(500_000_000, 10.0, 200_000)
    part = TenantPart(workload, ((PAGES // 2, PAGES),), (1,), pace)
    both = zip(workload.epochs(pace), part.epochs(pace), strict=True)
    found = [(c.born.tolist(), own.born.tolist()) for c, own in both]
    assert sum(len(whole) for whole, _ in found) > 10
    assert all(whole == [p + PAGES // 2 for p in own] for whole, own in found)


@pytest.mark.slow
def test_births_get_room_beside_a_guarantee(tmp_path: Path) -> None:
    """What is born is born fast, who bears it pays, and the guarantee is kept."""
    mix = tmp_path / "mix.toml"
    mix.write_text(BEARING)
    text = TENANTS + '[[tenant]]\nname = "new"\nworkload = "new"\nmaximum = "40%"\n'
    spec = replace(
        spec_of(str(mix), tenants(tmp_path, text)),
        fast_ratio=0.3,  # of dram-cxl: no load keeps pages from filling it up
        accesses=600_000,
        placement="first-access",
    )
    without = simulate(replace(spec, options={"birth": 0.0}))
    found = simulate(spec)
    assert found["fast_births"] > 0.9 * found["births"]
    assert without["fast_births"] < 0.5 * without["births"]
    assert found["slowdown"] < without["slowdown"]
    (hot, new), (before, _) = found["tenants"], without["tenants"]
    assert hot["slowdown"] < 1.05 * before["slowdown"]
    assert new["paid_moves"] > 0


@pytest.mark.slow
def test_without_guarantees_tenants_change_little(mix: str, tmp_path: Path) -> None:
    """One price for all is what there is without tenants, to a hundredth."""
    text = TENANTS.replace('guarantee = "50%"', "")
    shared = simulate(spec_of(mix, tenants(tmp_path, text)))
    plain = simulate(spec_of(mix, None))
    assert plain["slowdown"] == pytest.approx(shared["slowdown"], rel=0.01)
    assert "tenants" not in plain


@pytest.mark.slow
def test_sharing_none_changes_nothing(mix: str, tmp_path: Path) -> None:
    """Tenants are reported, and every figure of the run is as without them."""
    text = f'sharing = "none"\n{TENANTS}'
    told, plain = simulate(spec_of(mix, tenants(tmp_path, text))), simulate(
        spec_of(mix, None)
    )  # fmt: skip
    for name in ("slowdown", "promoted_pages", "hint_overhead_ns", "fast_share"):
        assert plain[name] == told[name]
    assert told["tenants"][0]["solo_slowdown"] > 1
    assert told["tenants"][0]["price_ns"] is None


@pytest.mark.slow
def test_other_policies_are_reported(mix: str, tmp_path: Path) -> None:
    """A peer knows no tenants; what they meet is told all the same."""
    result = simulate(spec_of(mix, tenants(tmp_path), "tpp"))
    assert result["tenants"][0]["slowdown"] > 1
    assert "owed" not in {row["pool"] for row in result["tenants"]}


def test_what_is_wrong_is_named(mix: str, tmp_path: Path) -> None:
    """A part that is not there, a workload that is one, guarantees above the tier."""
    workload = make_workload(mix, PAGES, 1)
    path = tenants(tmp_path, TENANTS.replace('workload = "hot"', 'workload = "hat"'))
    with pytest.raises(UsageError, match=r"has no part 'hat'; did you mean 'hot'"):
        open_tenants(path, workload)
    path = tenants(tmp_path, TENANTS.replace('workload = "hot"', "pids = 1"))
    with pytest.raises(UsageError, match=r"tenant\[0\]\.workload: missing"):
        open_tenants(path, workload)
    with pytest.raises(UsageError, match="does not say which pages are whose"):
        open_tenants(tenants(tmp_path), make_workload("zipf", PAGES, 1))
    path = tenants(tmp_path, TENANTS.replace('"50%"', '"1GiB"'))
    with pytest.raises(UsageError, match="is more than the fastest tier, which has"):
        simulate(replace(spec_of(mix, path), accesses=1000))
