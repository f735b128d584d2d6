"""Memory that is new: where the simulated machine allocates it, and who is told."""

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.trace.stream import AccessChunk, Pace
from isotherm.workloads.registry import make_workload

PAGES = 4000
EPOCH_NS = 500_000_000


def machine_of(name: str = "dram-cxl") -> SimMachine:
    """Return a machine whose fast tier holds a quarter, all on the slow one."""
    machine = SimMachine(load_machine(name), PAGES, 0.25)
    machine.place(np.full(PAGES, len(machine.capacity) - 1, np.uint8))
    return machine


def bear(machine: SimMachine, page: np.ndarray) -> None:
    """Let an epoch pass in which pages are born."""
    born = page.astype(np.uint32)
    machine.advance(AccessChunk(born, born=born), EPOCH_NS)


def test_births_fill_the_fast_tier_down_to_its_low_watermark() -> None:
    """In order; what finds no room there is born below."""
    machine = machine_of()
    low = int(machine.usage().low_pages[0])
    bear(machine, np.arange(1200))
    node = machine.placement()
    fast = 1000 - low
    assert [0] * fast == node[:fast].tolist()
    assert [1] * (1200 - fast) == node[fast:1200].tolist()
    assert [fast, PAGES - fast] == machine.used.tolist()
    assert (1200, fast) == (machine.bill.births, machine.bill.fast_births)


def test_a_page_that_is_born_gives_its_slot_back_first() -> None:
    """What was there has died: a full tier takes as many as it loses."""
    machine = machine_of()
    bear(machine, np.arange(1200))
    before = machine.used.copy()
    bear(machine, np.arange(100))
    assert before.tolist() == machine.used.tolist()
    assert (machine.placement()[:100] == 0).all()


def test_who_asks_is_told_once() -> None:
    """The refresh names the ranges since the last one; not where nobody can take it."""
    machine = machine_of()
    bear(machine, np.array([7, 5, 6, 100]))
    bear(machine, np.array([8]))
    change = machine.refresh()
    assert change is not None
    assert [[5, 9], [100, 101]] == change.renewed.tolist()
    assert PAGES == change.pages
    assert machine.refresh() is None
    machine.tells_births = False
    bear(machine, np.array([7]))
    assert machine.refresh() is None


def test_nothing_is_born_on_an_expander() -> None:
    """It may refuse a page, and births are not simulated there."""
    with pytest.raises(UnsupportedError, match="expander"):
        bear(machine_of("ocp-expander"), np.arange(4))


def test_the_newest_are_new_memory() -> None:
    """With births, latest bears what its head comes to: so many a second, in turn."""
    workload = make_workload("latest", 1000, 1, {"births": "true", "advance": "1.0"})
    born = [
        chunk.born.tolist() if chunk.born is not None else []
        for chunk in workload.epochs(Pace(accesses=1000 * 10 * 120))
    ]
    every = [page for pages in born for page in pages]
    assert len(every) == pytest.approx(995, abs=5)
    assert len(every) == len(set(every))
    plain = make_workload("latest", 1000, 1, {"advance": "1.0"})
    assert all(c.born is None for c in plain.epochs(Pace(accesses=20_000)))


@pytest.mark.slow
def test_room_by_price_has_the_young_born_fast() -> None:
    """Isotherm with it beats itself without it, and moves no more."""
    results = [
        simulate(
            SimulationSpec(
                "isotherm",
                "latest",
                pages=2048,
                accesses=2048 * 10 * 60,
                sampling_period=500,
                options={"birth": birth},
                workload_options={"births": "true", "advance": "1.0"},
            )
        )
        for birth in (0.0, 1.0)
    ]
    off, on = results
    assert on["fast_births"] > 0.6 * on["births"]
    assert on["fast_births"] > off["fast_births"]
    assert on["slowdown"] < 0.95 * off["slowdown"]


@pytest.mark.parametrize(
    "policy", ["tpp", "numab2", "pghot", "memtis", "hemem", "arms"]
)
def test_peers_forget_what_has_died(policy: str) -> None:
    """Their models go on with pages that are new."""
    result = simulate(
        SimulationSpec(
            policy,
            "latest",
            pages=1024,
            accesses=1024 * 10 * 6,
            workload_options={"births": "true", "advance": "4.0"},
        )
    )
    assert result["births"] > 100
