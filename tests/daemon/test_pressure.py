"""Stalls and refaults, as differences of kernel counters."""

import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.pressure import Pressure, PressureReader

PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0 total=1\n"


@pytest.fixture
def root(tmp_path):
    """Return a tree with /proc/pressure/memory and /proc/vmstat."""
    (tmp_path / "proc/pressure").mkdir(parents=True)
    say(tmp_path, 1_000_000, 100, 20)
    return tmp_path


def say(root, some, anon, file):
    """Set the counters."""
    (root / "proc/pressure/memory").write_text(PSI.format(some=some))
    (root / "proc/vmstat").write_text(
        f"nr_free 7\nworkingset_refault_anon {anon}\nworkingset_refault_file {file}\n"
        "workingset_activate_anon 5\n"
    )


def test_the_first_reading_knows_nothing(root):
    """One reading of a counter is no rate."""
    assert Pressure(None, None) == PressureReader(root).read(0)


def test_differences_over_the_time_between(root):
    """Half a second stalled in two is 0.25; 60 refaults of both kinds are 30/s."""
    reader = PressureReader(root)
    reader.read(0)
    say(root, 1_500_000, 150, 30)
    assert Pressure(0.25, 30.0) == reader.read(2 * NS_PER_S)


def test_a_host_without_psi_has_none(root):
    """Without CONFIG_PSI the share is unknown, not zero."""
    (root / "proc/pressure/memory").unlink()
    reader = PressureReader(root)
    reader.read(0)
    assert Pressure(None, 0.0) == reader.read(NS_PER_S)


def test_a_cgroup_speaks_for_itself(root, tmp_path):
    """A cgroup's own counters go before the host's; what it lacks the host says."""
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.pressure").write_text(PSI.format(some=0))
    reader = PressureReader(root, group)
    reader.read(0)
    (group / "memory.pressure").write_text(PSI.format(some=1_000_000))
    assert Pressure(1.0, 0.0) == reader.read(NS_PER_S)
