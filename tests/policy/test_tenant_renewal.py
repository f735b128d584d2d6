"""Tenants that come and go under a running policy: what stays, and whose."""

import numpy as np

from isotherm.machine.protocol import Space
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.cells import CELLS
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Outcome, Setup
from isotherm.policy.tenant_ledger import TenantLedger
from isotherm.policy.tenant_market import TenantMarket
from isotherm.policy.tenant_prices import TenantPrices
from isotherm.policy.tenants import REST, Amount, Labeller, Tenancy, Tenant, places

TOPOLOGY = load_machine("dram-cxl").topology([400, 4000])
TIER = np.full(256, 2, np.uint8)
TIER[[0, 1]] = 0, 1


def tenancy(*names: str) -> Tenancy:
    """Return tenants of these names."""
    return Tenancy(tuple(Tenant(name) for name in names))


def test_places_follow_names() -> None:
    """Who stays has its place of before, who has come none."""
    assert [1, -1, 2] == places(["b", "c", REST], ["a", "b", REST]).tolist()


def test_who_stays_keeps_its_price() -> None:
    """A place may change; who has come begins at the common price over its weight."""
    before = TenantPrices(np.array([1.0, 2.0, 1.0]))
    before.common = 60.0
    before.own = np.array([11.0, 22.0, 33.0])
    before.advantage = np.arange(3.0)[:, None] * np.ones(CELLS)
    now = TenantPrices(np.array([2.0, 4.0, 1.0]))
    now.take(before, np.array([1, -1, 2]))
    assert 60.0 == now.common
    assert [22.0, 15.0, 33.0] == now.own.tolist()
    assert [1.0, 2.0, 2.0] == now.advantage[:, 0].tolist()


def test_prices_that_were_never_settled_begin_anew() -> None:
    """Before the first decision there is nothing to go on with."""
    now = TenantPrices(np.ones(2))
    now.take(TenantPrices(np.ones(3)), np.array([0, 2]))
    assert now.common is None


def test_moves_under_way_stay_with_who_pays() -> None:
    """Payers are renumbered; those of who has gone are the rest's."""
    market = TenantMarket(TOPOLOGY, TIER, 0.5, tenancy("a", "b"))
    market._paid = np.array([5, 6, 7], np.uint32), np.array([0, 1, 2], np.uint8)
    after = market.renewed(tenancy("c", "b", "d"))
    page = np.array([5, 6, 7], np.uint32)
    label = np.zeros(8, np.uint8)
    assert [3, 1, 3] == after.payers(page, label).tolist()


def test_bills_follow_names() -> None:
    """What a tenant has caused stays its own; a new one has caused nothing."""
    ledger = TenantLedger(3, np.array([0, 1]))
    page = np.array([0, 1, 2], np.uint32)
    node, src = np.zeros(3, np.uint8), np.ones(3, np.uint8)
    done = Outcome(page, node, np.zeros(3, np.int16), 300.0, src=src)
    ledger.moved(done, np.array([0, 1, 1], np.uint8), None)
    ledger.regroup(np.array([1, -1, -1, 2]))
    assert [2, 0, 0, 0] == [bill.promoted_pages for bill in ledger.bills()]
    assert 200.0 == ledger.bills()[0].migration_ns
    ledger.spent(100.0, np.array([0, 1, 3], np.uint8))
    assert 100.0 == sum(bill.cpu_ns for bill in ledger.bills())


def test_labels_follow_the_tenants() -> None:
    """After a change all spaces are asked about again, and the rest has its label."""
    whose = {0: 1}
    labeller = Labeller(lambda space: whose.get(space.base, whose["rest"]), 2)
    whose["rest"] = 2
    spaces = (Space(0, 2, "x"), Space(2, 2, "y"))
    assert [1, 1, 2, 2] == labeller.of(spaces, 5)[:4].tolist()
    whose |= {0: 0, "rest": 3}
    labeller.regroup(3)
    assert [0, 0, 3, 3, 3] == labeller.of(spaces, 5).tolist()


def test_a_policy_takes_other_tenants_and_keeps_what_it_knows() -> None:
    """Cells, counts and transitions stay; the market is of the new ones."""
    capacity = np.array([400, 4000])
    setup = Setup(
        4400, TOPOLOGY, capacity, 500_000_000, 1, frozenset(), tenancy=tenancy()
    )
    policy = Isotherm(setup)
    cell, before = policy._cell, policy.tenants
    half = Tenancy((Tenant("a", guarantee=Amount(share=0.5)),))
    policy.take_tenancy(half)
    assert policy._cell is cell
    assert policy.tenants is not before
    assert ("a", REST) == policy.tenants._tenancy.names
    assert policy._setup.tenancy is half  # for tiers that come later
