"""What can move, shrink or steer memory here."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from isotherm.core.availability import Availability
from isotherm.core.errors import UnsupportedError
from isotherm.daemon.doctor.files import entries, exists, read
from isotherm.daemon.doctor.kernel import Kernel, module_known
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.usage import parse_swaps, read_compressed_swap

ADVICE: Final = {
    "cold": (syscalls.MADV_COLD, "marks memory as the next to be reclaimed"),
    "pageout": (syscalls.MADV_PAGEOUT, "puts memory out to swap"),
    "willneed": (syscalls.MADV_WILLNEED, "brings memory back before it is touched"),
    "collapse": (syscalls.MADV_COLLAPSE, "makes huge pages"),
}
_TIERS: Final = "sys/devices/virtual/memory_tiering"


def find_actuators(kernel: Kernel, root: Path = Path("/")) -> list[Availability]:
    """Return every way to move memory, present or not.

    Args:
        kernel: What is known of the kernel.
        root: Where /proc and /sys are; system calls are this host's.
    """
    return [
        _move_pages(root),
        *_advice(kernel, root),
        _demotion(root),
        _promotion(root),
        _damos(kernel, root),
        _zram(kernel, root),
        _zswap(kernel, root),
        _cgroup_reclaim(root),
        _cgroup_limit(root),
        _node_reclaim(root),
        _weighted_interleave(root),
        _unmapped_cache(root),
    ]


def memory_nodes(root: Path) -> tuple[int, ...]:
    """Return the nodes that have memory; node 0 where nobody says."""
    from isotherm.topology.parse import MAX_NODES, parse_list  # noqa: PLC0415

    text = read(root, "sys/devices/system/node/has_memory").text
    try:
        return parse_list(text or "0", MAX_NODES)
    except ValueError:
        return (0,)


def _kernel_tiers(root: Path) -> int:
    return sum(
        name.startswith("memory_tier") and name[11:].isdigit()
        for name in entries(root, _TIERS)
    )


def _move_pages(root: Path) -> Availability:
    name = "move-pages"
    here = np.zeros(1, np.uint64)
    page = np.array([here.ctypes.data // 4096 * 4096], np.uint64)
    try:
        answer = syscalls.move_pages(0, page, None).result
    except UnsupportedError as error:
        return Availability(name, "actuator", False, error.message)
    if answer < 0:
        why = f"move_pages(2): {syscalls.errno_name(-answer)}"
        return Availability(name, "actuator", False, why)
    nodes = memory_nodes(root)
    if len(nodes) < 2:
        why = f"move_pages(2) works, but node {nodes[0]} alone has memory"
        return Availability(name, "actuator", False, why)
    shown = ", ".join(map(str, nodes))
    return Availability(name, "actuator", True, f"move_pages(2), nodes {shown}")


def _advice(kernel: Kernel, root: Path) -> Iterator[Availability]:
    swap = bool(parse_swaps(read(root, "proc/swaps").text or ""))
    pidfd = os.pidfd_open(os.getpid())
    nothing = np.zeros(1, np.uint64)  # no bytes at address 0
    try:
        for word, (advice, does) in ADVICE.items():
            answer = syscalls.process_madvise(pidfd, nothing, nothing, advice)
            present, why, command = answer >= 0, does, None
            if not present:
                why = f"process_madvise(2): {syscalls.errno_name(-answer)}: {does}"
            elif word in ("pageout", "willneed") and not swap:
                present, command = False, zram_command(kernel, root)
                why = f"{does}, but there is no swap: nothing would move"
            yield Availability(
                f"process-madvise-{word}", "actuator", present, why, command
            )
    finally:
        os.close(pidfd)


def zram_command(kernel: Kernel, root: Path) -> str | None:
    """Return what makes swap on zram; None where the kernel has no zram."""
    built_in = exists(root, "sys/class/zram-control")
    if not (built_in or module_known(root, kernel.release, "zram")):
        return None
    load = "" if built_in else "sudo modprobe zram && "
    return (
        f"{load}dev=$(sudo zramctl --find --size 4G --algorithm lz4) && "
        "sudo mkswap $dev && sudo swapon --priority 100 $dev"
    )


def _demotion(root: Path) -> Availability:
    path = "sys/kernel/mm/numa/demotion_enabled"
    reading = read(root, path)
    tiers = _kernel_tiers(root)
    if reading.text is None:
        return Availability("kernel-demotion", "actuator", False, reading.said)
    if tiers < 2:
        why = f"{reading.said}, but the kernel knows {tiers} tier of memory"
        return Availability("kernel-demotion", "actuator", False, why)
    on = reading.text in ("true", "1")
    return Availability(
        "kernel-demotion",
        "actuator",
        on,
        f"{reading.said}, {tiers} tiers",
        None if on else f"echo true | sudo tee /{path}",
    )


def _promotion(root: Path) -> Availability:
    reading = read(root, "proc/sys/kernel/numa_balancing")
    name = "kernel-promotion"
    if reading.number is None:
        return Availability(name, "actuator", False, reading.said)
    if len(memory_nodes(root)) < 2:
        why = f"{reading.said}, but there is one node"
        return Availability(name, "actuator", False, why)
    on = bool(reading.number & 2)
    return Availability(
        name,
        "actuator",
        on,
        f"{reading.said}: " + ("promotes" if on else "does not promote (2 would)"),
        None if on else "sudo sysctl kernel.numa_balancing=2",
    )


def _damos(kernel: Kernel, root: Path) -> Availability:
    name = "damon-schemes"
    path = "sys/kernel/mm/damon/admin/kdamonds"
    if exists(root, path):
        return Availability(
            name,
            "actuator",
            True,
            f"/{path}; that a scheme is accepted does not say that it moves anything: "
            "see its nr_applied (6.12 takes migrate_hot on vaddr and moves nothing)",
        )
    why = f"/{path}: no such folder"
    if kernel.lacks("DAMON_SYSFS"):
        why += ", the kernel was built without CONFIG_DAMON_SYSFS"
    return Availability(name, "actuator", False, why)


def _zram(kernel: Kernel, root: Path) -> Availability:
    swap = read_compressed_swap(root)
    if swap is not None and "zram" in swap.name:
        return Availability("zram", "actuator", True, f"swap on {swap.name}")
    command = zram_command(kernel, root)
    if command is not None:
        why = "no swap on zram (the command's 4G is an example)"
    elif kernel.lacks("ZRAM"):
        why = "the kernel was built without CONFIG_ZRAM"
    else:
        why = f"no zram module for kernel {kernel.release}"
    return Availability("zram", "actuator", False, why, command)


def _zswap(kernel: Kernel, root: Path) -> Availability:
    path = "sys/module/zswap/parameters/enabled"
    reading = read(root, path)
    if reading.text is None:
        lacking = kernel.lacks("ZSWAP")
        why = "the kernel was built without CONFIG_ZSWAP" if lacking else reading.said
        return Availability("zswap", "actuator", False, why)
    on = reading.text in ("Y", "1")
    swap = bool(parse_swaps(read(root, "proc/swaps").text or ""))
    why = reading.said + ("" if swap else ", but there is no swap behind it")
    command = None if on else f"echo Y | sudo tee /{path}"
    return Availability("zswap", "actuator", on and swap, why, command)


def _cgroup_reclaim(root: Path) -> Availability:
    top = "sys/fs/cgroup"
    for name in ["", *entries(root, top)]:
        path = f"{top}/{name}/memory.reclaim".replace("//", "/")
        if exists(root, path):
            return Availability("cgroup-reclaim", "actuator", True, f"/{path}")
    controllers = read(root, f"{top}/cgroup.controllers")
    if controllers.text is None:
        why = "no unified cgroup tree at /sys/fs/cgroup"
    elif "memory" not in controllers.text.split():
        why = f"{controllers.said or controllers.path}: no memory controller in it"
    else:
        return Availability(
            "cgroup-reclaim",
            "actuator",
            False,
            "no cgroup has memory.reclaim: the controller is not handed on, or the "
            "kernel is older than 5.19",
            f"echo +memory | sudo tee /{top}/cgroup.subtree_control",
        )
    return Availability("cgroup-reclaim", "actuator", False, why)


def _cgroup_limit(root: Path) -> Availability:
    path = "sys/fs/cgroup/memory/memory.limit_in_bytes"
    if exists(root, path):
        return Availability("cgroup-v1-limit", "actuator", True, f"/{path}")
    return Availability("cgroup-v1-limit", "actuator", False, f"/{path}: no such file")


def _node_reclaim(root: Path) -> Availability:
    path = "sys/devices/system/node/node0/reclaim"
    there = exists(root, path)
    why = f"/{path}" if there else f"/{path}: no such file (Linux 6.17 has it)"
    return Availability("node-reclaim", "actuator", there, why)


def _unmapped_cache(root: Path) -> Availability:
    """Say that page cache which no process maps is not moved, and how much it is."""
    from isotherm.core.units import render_bytes  # noqa: PLC0415  # only here
    from isotherm.daemon.page_cache import read_unmapped_bytes  # noqa: PLC0415

    size = read_unmapped_bytes(root)
    much = "unknown" if size is None else render_bytes(size)
    why = f"{much} of page cache that nobody maps: pages move through who maps them"
    path = "sys/kernel/mm/numa/demotion_enabled"
    command = f"echo 1 > /{path}" if exists(root, path) else None
    return Availability("unmapped-page-cache", "actuator", False, why, command)


def _weighted_interleave(root: Path) -> Availability:
    path = "sys/kernel/mm/mempolicy/weighted_interleave"
    there = exists(root, path)
    why = f"/{path}" if there else f"/{path}: no such folder (Linux 6.9 has it)"
    return Availability("weighted-interleave", "actuator", there, why)
