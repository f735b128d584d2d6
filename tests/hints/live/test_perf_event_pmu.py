"""PMUs, nodes and frequencies as sysfs tells them; periods within a budget."""

import numpy as np
import pytest

from isotherm.hints.live.perf_event_nodes import read_physical_nodes
from isotherm.hints.live.perf_event_period import PeriodControl
from isotherm.hints.live.perf_event_pmu import cycles_per_ns, pmu_names, read_pmu
from tests.hints.live.fake_pmus import BLOCK, GHZ, machine, pmu, sapphire_rapids, write


def test_terms_are_put_where_sysfs_says(tmp_path) -> None:
    """Bits may lie apart, in any of the words; too large a value is refused."""
    form = {"event": "config:0-7,32-35", "umask": "config:8-15", "x": "config3:4"}
    pmu(tmp_path, "cpu", 4, format=form | {"odd": "config9:1"}, plain={"cpus": "0,2-3"})
    found = read_pmu("cpu", tmp_path)
    assert found is not None
    assert (4, (0, 2, 3)) == (found.type, found.cpus)
    assert (0xF << 32 | 0x12D3, 0, 0, 16) == found.encode(event=0xFD3, umask=0x12, x=1)
    with pytest.raises(ValueError, match="1 bits"):
        found.encode(x=2)
    with pytest.raises(KeyError):
        found.encode(odd=1)


def test_named_events_are_terms(tmp_path) -> None:
    """Values in any base; a term alone is 1."""
    sapphire_rapids(tmp_path)
    write(tmp_path / "sys/bus/event_source/devices/cpu/events/one", "event=3,umask")
    found = read_pmu("cpu", tmp_path)
    assert {"event": 0xCD, "umask": 1, "ldlat": 3} == found.named("mem-loads")
    assert {"event": 3, "umask": 1} == found.named("one")


def test_what_is_not_there_is_none(tmp_path) -> None:
    """No folder, or a type that is no number."""
    assert read_pmu("ibs_op", tmp_path) is None
    assert [] == pmu_names(tmp_path)
    write(tmp_path / "sys/bus/event_source/devices/x/type", "?")
    assert read_pmu("x", tmp_path) is None
    assert cycles_per_ns(tmp_path) is None


def test_cycles_come_from_the_first_that_knows(tmp_path) -> None:
    """First cpufreq, in kHz, else /proc/cpuinfo in MHz."""
    write(tmp_path / "proc/cpuinfo", "processor : 0\ncpu MHz\t\t: 3100.5")
    assert 3.1005 == cycles_per_ns(tmp_path)
    assert GHZ == cycles_per_ns(machine(tmp_path, {}))


def test_nodes_of_physical_memory(tmp_path) -> None:
    """Blocks of each node by their number and size; a hole is nobody's."""
    nodes = read_physical_nodes(machine(tmp_path, {0: (0, 1, 10), 3: (2,)}))
    at = np.array([5, 2 * BLOCK, 3 * BLOCK, 10 * BLOCK + 1], np.uint64)
    assert [0, 3, -1, 0] == nodes.node_of(at).tolist()
    nothing = read_physical_nodes(tmp_path / "empty")
    assert [-1] == nothing.node_of(at[:1]).tolist()


def test_the_period_grows_until_it_fits_the_budget() -> None:
    """However dear a sample is, after some looks the budget is kept."""
    control = PeriodControl(1024, 1024, 1 << 27, 16, budget=0.01)
    rate, cost_ns = 1e9, 3000.0  # events a second, and what a sample costs
    shares = []
    for _ in range(20):
        spent_ns = rate / control.period * cost_ns
        shares.append(spent_ns / 1e9)
        control.after(spent_ns, 1e9, throttled=False)
        assert 0 == control.period % 16
    assert shares[0] > 100 * control.budget
    assert max(shares[5:]) <= control.budget
    assert min(shares[5:]) > control.budget / 10


def test_throttling_halves_the_rate_at_once() -> None:
    """The kernel said it was too fast, whatever the budget says."""
    control = PeriodControl(4096, 64, 1 << 20, budget=0.5)
    assert control.after(1.0, 1e9, throttled=True)
    assert 8192 == control.period


def test_the_period_keeps_its_bounds() -> None:
    """Neither the budget nor a wish leaves what the hardware takes."""
    control = PeriodControl(1, 0x90, 1000, 16)
    assert 0x90 == control.period
    for _ in range(9):
        control.after(1e9, 1e9, throttled=True)
    assert 992 == control.period
    control.ask(320)
    for _ in range(9):
        control.after(0.0, 1e9, throttled=False)
    assert 320 == control.period
