"""The executor on the simulated machine, with injected trouble."""

import errno

import numpy as np
import pytest

from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.migration import MigrationEngine
from isotherm.policy.plan import Moves, Reason

PAGES = 512


@pytest.mark.parametrize("name", ["dram-cxl", "hbm-dram-cxl"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_plans_on_a_machine_in_trouble(name, seed):
    """Busy, pinned, vanished pages and ENOMEM: all counts agree with the machine's."""
    machine = SimMachine(
        load_machine(name), PAGES, 0.25, seed,
        faults=Faults(busy=0.2, no_memory=0.05, vanished=0.05, pinned=0.05),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    nodes = len(machine.capacity)
    start = rng.integers(0, nodes, PAGES).astype(np.uint8)
    for node in range(nodes - 1):
        on = np.flatnonzero(start == node)
        start[on[machine.capacity[node] :]] = nodes - 1
    machine.place(start)
    engine = MigrationEngine(machine, quota_pages_per_s=0.4 * PAGES, validate=True)
    moved = 0
    for _ in range(40):
        machine.clock.advance(500_000_000)
        page = rng.permutation(PAGES)[: rng.integers(0, 80)].astype(np.uint32)
        moves = Moves.concat(
            Moves.none(),
            *(
                Moves.to(page[page % nodes == node], node, Reason.PAYS, 1.0)
                for node in rng.permutation(nodes)
            ),
        )
        before = machine.placement().copy()
        outcome = engine.submit(moves, 500_000_000)
        after = machine.placement()
        ok = outcome.errno == 0
        went = before[outcome.page[ok]] != after[outcome.page[ok]]
        assert went.all()
        assert int(np.count_nonzero(before != after)) == int(np.count_nonzero(ok))
        assert (machine.usage().used_pages <= machine.capacity).all()
        assert len(outcome.page) <= 0.4 * PAGES
        moved += int(np.count_nonzero(ok))
    assert engine.totals.applied == moved > 0
    assert engine.migration_time_ns == pytest.approx(machine.bill.migration_ns)
    assert {errno.EBUSY, errno.ENOMEM, errno.ENOENT} == set(engine.failures)
    assert engine.totals.gave_up > 0
