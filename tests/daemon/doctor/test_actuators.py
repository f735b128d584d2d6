"""Actuators as the doctor finds them on made-up machines."""

from pathlib import Path

import pytest

from isotherm.core.availability import Availability
from isotherm.daemon.doctor.actuators import find_actuators, memory_nodes
from isotherm.daemon.doctor.kernel import OPTIONS, Kernel

ALL = Kernel("6.12", "/boot/config-6.12", dict.fromkeys(OPTIONS, "y"))


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root; a name that ends in / is a folder."""
    for name, text in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def found(root: Path, name: str, kernel: Kernel = ALL) -> Availability:
    """Return one fact."""
    return {fact.name: fact for fact in find_actuators(kernel, root)}[name]


TWO_TIERS = {
    "sys/devices/system/node/has_memory": "0-1",
    "sys/devices/virtual/memory_tiering/memory_tier4/": "",
    "sys/devices/virtual/memory_tiering/memory_tier22/": "",
}


def test_two_nodes_can_be_moved_between(tmp_path: Path) -> None:
    """move_pages works here and two nodes have memory."""
    fact = found(tree(tmp_path, TWO_TIERS), "move-pages")
    assert (True, None) == (fact.present, fact.command)
    assert (0, 1) == memory_nodes(tmp_path)


def test_one_node_is_said(tmp_path: Path) -> None:
    """With one node there is nowhere to move to, and nothing to paste."""
    tree(tmp_path, {"sys/devices/system/node/has_memory": "0"})
    fact = found(tmp_path, "move-pages")
    assert (False, None) == (fact.present, fact.command)
    assert "node 0 alone" in fact.why


@pytest.mark.parametrize(("value", "on"), [("false", False), ("true", True)])
def test_demotion_comes_with_its_command(tmp_path: Path, value: str, on: bool) -> None:
    """Where it is off, the command turns it on."""
    path = "sys/kernel/mm/numa/demotion_enabled"
    fact = found(tree(tmp_path, {**TWO_TIERS, path: value}), "kernel-demotion")
    assert on is fact.present
    assert (None if on else f"echo true | sudo tee /{path}") == fact.command


def test_demotion_needs_a_lower_tier(tmp_path: Path) -> None:
    """The switch alone does nothing where all memory is of one tier."""
    tree(tmp_path, {"sys/kernel/mm/numa/demotion_enabled": "true"})
    assert found(tmp_path, "kernel-demotion").present is False


def test_promotion_is_bit_two(tmp_path: Path) -> None:
    """Plain balancing (1) promotes nothing; 2 and 3 do."""
    files = {**TWO_TIERS, "proc/sys/kernel/numa_balancing": "1"}
    root = tree(tmp_path, files)
    assert "sudo sysctl kernel.numa_balancing=2" == (
        found(root, "kernel-promotion").command
    )
    (root / "proc/sys/kernel/numa_balancing").write_text("3\n")
    assert found(root, "kernel-promotion").present


def test_page_out_needs_swap(tmp_path: Path) -> None:
    """The kernel takes the advice without swap, and moves nothing."""
    root = tree(tmp_path, {"sys/class/zram-control/": ""})
    fact = found(root, "process-madvise-pageout")
    assert fact.present is False
    assert fact.command is not None
    assert "modprobe" not in fact.command  # built in
    swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1048572 8 100"
    tree(root, {"proc/swaps": swaps})
    assert found(root, "process-madvise-pageout").present
    assert "swap on /dev/zram0" == found(root, "zram").why


def test_a_module_that_can_be_loaded_is_loaded_first(tmp_path: Path) -> None:
    """The command for zram begins with modprobe where it is a module."""
    dep = {"lib/modules/6.12/modules.dep": "kernel/drivers/block/zram/zram.ko.xz:"}
    command = found(tree(tmp_path, dep), "zram").command
    assert command is not None
    assert command.startswith("sudo modprobe zram && ")


def test_what_the_kernel_lacks_has_no_command(tmp_path: Path) -> None:
    """A kernel built without it is the reason, and no command helps."""
    none = Kernel("6.1", "/proc/config.gz", dict.fromkeys(OPTIONS, "n"))
    for name in ("zram", "zswap", "damon-schemes"):
        fact = found(tmp_path, name, none)
        assert (False, None) == (fact.present, fact.command)
        assert "built without CONFIG_" in fact.why


def test_cgroup_without_memory_controller(tmp_path: Path) -> None:
    """A unified tree whose controllers lack memory offers no reclaim."""
    tree(tmp_path, {"sys/fs/cgroup/cgroup.controllers": "hugetlb"})
    assert "no memory controller" in found(tmp_path, "cgroup-reclaim").why
    tree(tmp_path, {"sys/fs/cgroup/batch/memory.reclaim": ""})
    assert found(tmp_path, "cgroup-reclaim").present
