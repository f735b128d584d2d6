"""The experiments in their quick form: the order of systems must come out."""

import pytest

from isotherm.lab.fidelity.runner import run
from isotherm.lab.fidelity.verdict import Verdict, right_share


def quick(name: str) -> Verdict:
    """Return the verdict of a quick run."""
    return next(run([name], quick=True))


@pytest.mark.slow
def test_colloid() -> None:
    """Gains at the corners: as claimed, and each of 5 % and more is one."""
    verdict = quick("colloid")
    assert all(table.holds for table in verdict.tables)
    gained = [f for f in verdict.tables[0].figures if f.cell.value >= 1.05]
    assert 6 == len(gained)
    assert all(f.ours > 1 for f in gained)


@pytest.mark.slow
def test_even_occupancies_are_not_what_was_measured() -> None:
    """Without an antagonist they would cost a tenth and more; published is 1.008."""
    from isotherm.lab.fidelity.colloid import unloaded_gain
    from isotherm.lab.fidelity.published import read_published

    published = read_published("colloid")
    even = unloaded_gain(published, balance_latency=True, seed=1)
    other = unloaded_gain(published, balance_latency=False, seed=1)
    assert pytest.approx(1.008, abs=0.03) == even
    assert other < 0.9


@pytest.mark.slow
def test_tpp_keeps_more_local_than_default_linux() -> None:
    """Web1 and Cache1: TPP first in every order, its throughput within 5 %."""
    verdict = quick("tpp")
    with_tpp = [p for p in verdict.pairs if ": tpp" in p.better]
    assert len(with_tpp) >= 4
    assert all(p.right for p in with_tpp)
    found = next(t for t in verdict.tables if t.table.name == "throughput").figures
    errors = [abs(f.error) for f in found if f.cell.system == "tpp"]
    assert len(errors) == 2
    assert max(errors) <= 0.05
    assert all(f.why for f in verdict.misses)


@pytest.mark.slow
def test_selection_and_limit_raise_the_score() -> None:
    """pmbench: both are ahead of the base, and the limit lowers promotion."""
    verdict = quick("numab")
    assert right_share([verdict]) >= 0.9
    promoted = {f.cell.system: f.ours for f in verdict.tables[1].figures}
    assert promoted["rate limit"] < promoted["hot selection"] < 1


@pytest.mark.slow
def test_a_record_without_the_node_costs() -> None:
    """Graph500 on two sockets: precise before default, default before none."""
    verdict = quick("pghot")
    ours = {f.cell.key[1:]: f.ours for f in verdict.tables[0].figures}
    assert 1 < ours["v7", "pghot default"] < ours["v7", "pghot precise"]


@pytest.mark.slow
def test_the_promotion_rate_keeps_its_target() -> None:
    """0.2 % of the working set a minute, within a quarter of it."""
    verdict = quick("far-memory")
    assert verdict.tables[1].figures[0].ours == pytest.approx(0.2, rel=0.25)


@pytest.mark.slow
def test_thermostat_keeps_its_degradation() -> None:
    """3 %, within two points; a good part of the footprint is slow."""
    verdict = quick("thermostat")
    assert verdict.tables[1].figures[0].ours == pytest.approx(0.03, abs=0.02)
    assert verdict.tables[0].figures[0].ours > 0.2


@pytest.mark.slow
def test_cold_on_dram_beats_hot_on_dram() -> None:
    """SOAR's microbenchmark: the three placements in their order, as claimed."""
    verdict = quick("soar")
    table = verdict.tables[0]
    assert table.holds
    assert all(p.right for p in table.pairs)
    assert all(f.why for f in verdict.misses)


def test_same_seed_same_figures() -> None:
    """An experiment repeats to the last bit."""
    one, two = (next(run(["thermostat"], quick=True)) for _ in range(2))
    assert one.tables == two.tables
