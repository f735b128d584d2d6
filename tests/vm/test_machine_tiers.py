"""Tiers as the kernel has them, compressed swap as the last, and huge pages."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.linux.machine import LinuxMachine
from tests.vm.puppet import SLOW, Puppet, counter, flat, move, on_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_kernel")]


@pytest.mark.layout("two-tier", "three-tier")
def test_topology_and_latency_are_the_kernels(
    follow: Callable[..., LinuxMachine], puppet: Puppet, tiers: list[list[int]]
) -> None:
    """Tiers as in sysfs, latencies as the firmware tables say."""
    machine = follow(puppet.pid)
    assert tiers == [list(tier.nodes) for tier in machine.topology.tiers]
    base = Path("/sys/devices/system/node")
    for node in machine.nodes.memory_nodes:
        text = (base / f"node{node}/access1/initiators/read_latency").read_text()
        assert float(text) == machine.latency_ns()[0, node]
    assert 0 < machine.usage().promo_pages[0]


@pytest.fixture
def zram() -> Iterator[Path]:
    """Swap on compressed memory, gone afterwards."""
    device = Path("/sys/block/zram0")
    if not device.exists():
        pytest.skip("no zram: boot with --module zram")
    (device / "disksize").write_text("128M")
    subprocess.run(["/run/vmtest/busybox", "mkswap", "/dev/zram0"], check=True)
    subprocess.run(["/run/vmtest/busybox", "swapon", "/dev/zram0"], check=True)
    yield device
    subprocess.run(["/run/vmtest/busybox", "swapoff", "/dev/zram0"], check=True)
    (device / "reset").write_text("1")


def test_compressed_swap_is_the_last_tier(
    zram: Path,
    puppet: Puppet,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """Pages go out to its node and come back to the node that is asked for."""
    page = puppet.do("take(509, node=1)")
    machine = follow(puppet.pid, compressed=True)
    swap = machine.nodes.swap_node
    assert swap is not None
    assert (swap,) == machine.topology.tiers[-1].nodes
    ours = flat(machine, puppet.pid, page, 509)
    before = counter("pswpout")
    # The last pages filled are on no list yet: they go at a later try.
    await_true(lambda: not any(move(machine, ours, swap)), "all pages out")
    assert 509 <= counter("pswpout") - before
    assert {swap} == set(machine.placement()[ours].tolist())
    machine.reread(np.array([[0, machine.pages]]))
    assert {swap} == set(machine.placement()[ours].tolist())
    assert machine.usage().used_pages[swap] >= 509
    # Others may have something of it in hand.
    await_true(lambda: not any(move(machine, ours, SLOW)), "all pages back")
    assert 509 == on_node(puppet.pid, page, SLOW)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    assert 509 == puppet.do(f"read({page}, 509)")
    assert machine.latency_ns()[0, swap] > machine.latency_ns()[0, SLOW]


def test_collapse_makes_huge_pages(
    room: None,
    puppet: Puppet,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """COLLAPSE takes granules; a mapping that refuses huge pages says EINVAL."""
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    page, refusing = puppet.do("take(1024)"), puppet.do("take(512)")
    libc = f"libc.madvise(ctypes.c_long({page} << 12), ctypes.c_long(4 << 20), 14)"
    assert 0 == puppet.do(libc)
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 1024)[[0, 512]]
    theirs = flat(machine, puppet.pid, refusing, 1)
    asked = np.concatenate([ours, theirs])
    await_true(
        lambda: [0, 0, errno.EINVAL] == machine.collapse(asked).errno.tolist(),
        "two granules are huge, one refuses",
    )
    assert (
        "AnonHugePages:      4096 kB" in Path(f"/proc/{puppet.pid}/smaps").read_text()
    )
    assert 1024 == machine.cold(flat(machine, puppet.pid, page, 1024))
