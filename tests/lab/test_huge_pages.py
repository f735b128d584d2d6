"""Huge pages in a simulation: off by default, whole at first, priced ahead of fixed."""

from dataclasses import replace

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.huge_pages import parse_huge_pages, whole_ranges
from isotherm.lab.simulate import SimulationSpec, simulate

SMALL = SimulationSpec(
    "isotherm", "silo", pages=8192, accesses=2_000_000, sampling_period=200
)


def test_without_being_asked_for_nothing_is_modelled() -> None:
    """The result has no figures of huge pages, and no walk is paid for."""
    result = simulate(SMALL)
    assert "huge_pages" not in result


def test_figures_of_huge_pages_are_in_the_result() -> None:
    """Mode, share, misses, walks, changes; the same run gives the same figures."""
    spec = replace(SMALL, huge_pages="always-split")
    result = simulate(spec)["huge_pages"]
    assert ("always-split", 0.0) == (result["mode"], result["huge_share"])
    assert 15 <= result["splits"] <= 16  # one range may lie in both tiers
    assert 53.0 * result["misses"] + 5.0 * result["huge_misses"] == result["walk_ns"]
    assert result == simulate(spec)["huge_pages"]


@pytest.mark.parametrize(
    ("start", "share"), [("huge", 1.0), ("small", 0.0), ("mixed", 0.5)]
)
def test_a_run_begins_as_it_is_told(start: str, share: float) -> None:
    """MODE:START; never-split keeps what there is."""
    spec = replace(SMALL, huge_pages=f"never-split:{start}", accesses=200_000)
    found = simulate(spec)["huge_pages"]["huge_share"]
    assert share == pytest.approx(found, abs=0.26)
    assert (share == 0.0) == (found == 0.0)


def test_words_that_nobody_knows_are_refused() -> None:
    """Modes, starts, and policies that move small pages alone."""
    with pytest.raises(UsageError, match="expected priced"):
        parse_huge_pages("prized")
    with pytest.raises(UsageError, match="after the colon"):
        parse_huge_pages("priced:large")
    with pytest.raises(UsageError, match="policy isotherm alone"):
        simulate(replace(SMALL, policy="memtis", huge_pages="priced"))


def test_an_order_of_pages_becomes_one_of_ranges() -> None:
    """Ranges come where their first page came, pages in order; the rest is a range."""
    order = np.array([1025, 3, 600, *range(3), *range(4, 600)], np.uint32)
    rest = np.setdiff1d(np.arange(1030, dtype=np.uint32), order)
    got = whole_ranges(np.concatenate([order, rest]))
    expected = [*range(1024, 1030), *range(512), *range(512, 1024)]
    assert expected == got.tolist()


@pytest.mark.slow
def test_priced_is_ahead_of_fixed_sizes_where_heat_is_skewed_inside() -> None:
    """On silo it beats never and always splitting; the table has the figures."""
    spec = SimulationSpec(
        "isotherm",
        "silo",
        fast_ratio=0.2,
        pages=32768,
        accesses=20_000_000,
        sampling_period=199,
    )
    slow = {
        mode: simulate(replace(spec, huge_pages=mode))["slowdown"]
        for mode in ("priced", "never-split", "always-split")
    }
    assert slow["priced"] < min(slow["never-split"], slow["always-split"])


@pytest.mark.slow
def test_priced_leaves_what_is_alike_inside_huge() -> None:
    """On liblinear nothing is split for good, and it costs 1 % at most."""
    spec = SimulationSpec(
        "isotherm",
        "liblinear",
        fast_ratio=0.2,
        pages=32768,
        accesses=20_000_000,
        sampling_period=199,
    )
    priced = simulate(replace(spec, huge_pages="priced"))
    huge = simulate(replace(spec, huge_pages="always-huge"))
    assert priced["slowdown"] <= 1.01 * huge["slowdown"]
    assert priced["huge_pages"]["huge_share"] > 0.95
