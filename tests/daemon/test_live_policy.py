"""Who decides on a live host, by the configuration."""

import msgspec
import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.config import Config
from isotherm.daemon.huge import make_live_policy
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.huge_isotherm import HugeIsotherm
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Setup
from isotherm.policy.tenants import Tenancy, Tenant

TOPOLOGY = load_machine("dram-cxl").topology([512, 512])


def config(**sections: dict[str, object]) -> Config:
    """Return a configuration with some keys of some sections set."""
    return msgspec.convert(sections, Config)


def setup(tenancy: Tenancy | None = None) -> Setup:
    """Return what a policy is told."""
    capacity = np.array([512, 512])
    return Setup(1024, TOPOLOGY, capacity, 10**9, 1, frozenset(), tenancy=tenancy)


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("headroom", [False, True])
def test_headroom_is_the_users_to_switch_off(huge: bool, headroom: bool) -> None:
    """Isotherm keeps room unless told not to, with huge pages as without."""
    wanted = config(loop={"headroom": headroom}, huge_pages={"use": huge})
    policy = make_live_policy(wanted, setup())
    assert isinstance(policy, HugeIsotherm if huge else Isotherm)
    assert headroom == policy._bears


def test_a_policy_without_headroom_does_not_mind() -> None:
    """The key is isotherm's: others are made as ever."""
    wanted = config(loop={"headroom": False, "policy": "first-touch"})
    assert "first-touch" == make_live_policy(wanted, setup()).name


def test_huge_pages_go_with_tenants_that_are_only_reported() -> None:
    """On terms of their own tenants trade small pages."""
    wanted = config(huge_pages={"use": True})
    tenants = (Tenant("a"),)
    with pytest.raises(UnsupportedError, match="trade small pages"):
        make_live_policy(wanted, setup(Tenancy(tenants)))
    told = make_live_policy(wanted, setup(Tenancy(tenants, sharing="none")))
    assert isinstance(told, HugeIsotherm)
