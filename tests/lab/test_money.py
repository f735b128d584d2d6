"""Prices, and whether to tier at all."""

import pytest

from isotherm.core.errors import ConfigError, UsageError
from isotherm.lab.capacity import Need
from isotherm.lab.money import (
    ASSUMED,
    Costs,
    memory_price,
    offer,
    read_costs,
    recommend,
)
from isotherm.machine.sim.spec import load_machine
from isotherm.topology.model import MemoryKind

MACHINE = load_machine("dram-cxl")


def offers_of(needs):
    """Return the offers at assumed prices."""
    return [offer(need, MACHINE, ASSUMED) for need in needs]


def test_price_of_two_tiers():
    """A fifth at 1 and the rest at a half: 0.6 of all at 1."""
    assert 0.6 == pytest.approx(memory_price(MACHINE, ASSUMED, 0.2), abs=1e-5)


def test_price_of_three_tiers():
    """HBM a tenth, DRAM its ratio of that, the rest behind CXL."""
    machine = load_machine("hbm-dram-cxl")
    middle = next(n.capacity_ratio for n in machine.nodes if n.tier == 1) * 0.1
    expected = (0.1 * 5 + middle * 1 + (0.9 - middle) * 0.5) / 5
    assert expected == pytest.approx(memory_price(machine, ASSUMED, 0.1), abs=1e-5)


def test_dearer_slow_memory_saves_nothing():
    """CXL at twice the price of DRAM: the price rises, nothing is saved."""
    costs = Costs({MemoryKind.DRAM: 1.0, MemoryKind.CXL: 2.0})
    paid = offer(Need("tpp", [0.5], [1.0]), MACHINE, costs)
    assert (1.5, 0.0) == pytest.approx((paid.price, paid.saved), abs=1e-5)


def test_a_kind_without_price():
    """The machine's memory must have one."""
    with pytest.raises(ConfigError, match="no price for cxl"):
        memory_price(MACHINE, Costs({MemoryKind.DRAM: 1.0}), 0.5)


def test_buys_for_the_replica_that_needs_most():
    """Not for the mean."""
    assert 0.5 == offer(Need("tpp", [0.2, 0.5], [1, 1]), MACHINE, ASSUMED).ratio


def test_advice_to_tier():
    """Half against all of it."""
    needs = [Need("isotherm", [0.5], [1.05]), Need("first-touch", [1.0], [1.0])]
    assert "Tier with isotherm: 50%" in recommend(needs, offers_of(needs))


def test_advice_to_leave_it_off():
    """What needs no mover is as good."""
    needs = [Need("isotherm", [0.5], [1.05]), Need("first-touch", [0.5], [1.05])]
    assert "leave tiering off" in recommend(needs, offers_of(needs))


def test_advice_compares_no_policy_with_itself():
    """Where placement alone needs least, it is held against the best mover."""
    needs = [Need("first-touch", [0.5], [1.05]), Need("tpp", [0.6], [1.05])]
    offers = [offer(need, MACHINE, ASSUMED) for need in needs]
    assert "first-touch does as well as tpp." in recommend(needs, offers)
    assert "does as well" not in recommend(needs[:1], offers[:1])


def test_advice_not_to_tier():
    """Nearly all of it must be fast: nothing to save."""
    needs = [Need("isotherm", [63 / 64], [1.04]), Need("first-touch", [1.0], [1.0])]
    assert recommend(needs, offers_of(needs)).startswith("Do not tier")


def test_advice_says_when_replicas_disagree():
    """A wide spread asks for more of them."""
    needs = [Need("isotherm", [0.2, 0.6], [1, 1]), Need("first-touch", [1, 1], [1, 1])]
    assert "Replicas differ by 40%" in recommend(needs, offers_of(needs))


def test_reads_prices(tmp_path):
    """Kinds, unit and source."""
    path = tmp_path / "prices.toml"
    path.write_text('unit = "EUR"\nsource = "quote"\n[per_gib]\ndram = 4\ncxl = 2.5\n')
    costs = read_costs(path)
    assert ("EUR", "quote", 2.5) == (
        costs.unit,
        costs.source,
        costs.per_gib[MemoryKind.CXL],
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[per_gib]\ndram = 0\n", "expected above 0"),
        ("[per_gib]\ndarm = 1\n", "darm"),
        ("per_gib = 3\n", "per_gib"),
        ("[per_gib\n", "prices.toml"),
    ],
)
def test_wrong_prices(tmp_path, text, says):
    """One error that names the file and what is wrong."""
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_costs(path)


def test_no_such_prices(tmp_path):
    """A file that is not there."""
    with pytest.raises(UsageError, match=r"none\.toml"):
        read_costs(tmp_path / "none.toml")
