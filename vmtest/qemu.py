"""QEMU's command line: pure functions from a layout to options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtest.errors import GuestError
from vmtest.layout import Layout

PORTS = ("stdout", "stderr", "control")
"""The virtio ports by which the guest answers."""

KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable "
    "nmi_watchdog=0 nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 "
    "random.trust_cpu=on apparmor=0 audit=0 memhp_default_state=online_movable"
)
"""A quick boot, no watchdogs that a slow host would set off, and hot-plugged
memory in a zone that can be taken off line again."""


_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def loader_words(tree: Path) -> list[str]:
    """Return what runs a program of an unpacked tree with the tree's C library.

    Raises:
        GuestError: There is none.
    """
    libraries = [tree / folder for folder in _LIBRARIES]
    for folder in (*libraries, tree / "lib64"):
        loader = folder / "ld-linux-x86-64.so.2"
        if loader.exists():
            paths = ":".join(map(str, libraries))
            return [str(loader), "--library-path", paths]
    raise GuestError(
        f"{tree}: no C library in it", f"remove {tree}; it is fetched again"
    )


class Qemu:
    """An unpacked QEMU, run with the C library that came with it."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.words = (
            *loader_words(tree),
            str(tree / "usr/bin/qemu-system-x86_64"),
            "-L",
            str(tree / "usr/share/qemu"),
            "-L",
            str(tree / "usr/share/seabios"),
        )
        self.environment = {
            **os.environ,
            "QEMU_MODULE_DIR": str(tree / _LIBRARIES[0] / "qemu"),
        }

    def read_busybox(self) -> bytes:
        """Return the static busybox that came along."""
        for path in (self._tree / "bin/busybox", self._tree / "usr/bin/busybox"):
            if path.exists():
                return path.read_bytes()
        raise GuestError(f"{self._tree}: no busybox in it")


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of this machine that the guest may write to.

    Attributes:
        host: Where it is here.
        guest: Where the guest finds it.
    """

    host: Path
    guest: Path


def layout_options(layout: Layout, cpus: int) -> list[str]:
    """Return the options for CPUs, memory and what the firmware says of them.

    Raises:
        GuestError: Fewer CPUs than nodes that have some.
    """
    cxl = layout.cxl_node
    initiators = layout.initiators
    if cpus < len(initiators):
        raise GuestError(
            f"--cpus: {layout.name}: expected at least {len(initiators)}, found {cpus}"
        )
    at_boot_mib = sum(node.memory_mib for node in layout.nodes if not node.cxl)
    sockets = f",sockets={len(initiators)}" if cpus % len(initiators) == 0 else ""
    options = [
        "-M",
        "q35,hmat=on" + (",cxl=on" if cxl is not None else ""),
        "-smp",
        f"{cpus}{sockets}",
        "-m",
        f"{at_boot_mib}M",
        "-cpu",
        # A kernel that knows itself to be a guest commits no CXL region: it
        # trusts no hypervisor to have flushed the CPU caches.
        # QEMU 7.2 emulates AVX2 wrongly: numpy's argsort, which uses its gathers,
        # returns orders that are none.
        "max,avx2=off,hypervisor=off" if cxl is not None else "max,avx2=off",
    ]
    ranges = _divide_cpus(cpus, initiators)
    for number, node in enumerate(layout.nodes):
        nearest = min(range(len(initiators)), key=lambda i: node.access[i].latency_ns)
        words = f"node,nodeid={number},initiator={initiators[nearest]}"
        if number in ranges:
            words += f",cpus={ranges[number]}"
        if not node.cxl:
            memory = f"memory-backend-ram,id=mem{number},size={node.memory_mib}M"
            options += ["-object", memory]
            words += f",memdev=mem{number}"
        options += ["-numa", words]
    for number, node in enumerate(layout.nodes):
        for initiator, access in zip(initiators, node.access, strict=True):
            pair = f"hmat-lb,initiator={initiator},target={number},hierarchy=memory"
            latency = f"data-type=access-latency,latency={access.latency_ns}"
            bandwidth = (
                f"data-type=access-bandwidth,bandwidth={access.bandwidth_mib_s}M"
            )
            options += ["-numa", f"{pair},{latency}", "-numa", f"{pair},{bandwidth}"]
        for nearer in range(number):
            distance = layout.distances[nearer][number]
            options += ["-numa", f"dist,src={nearer},dst={number},val={distance}"]
    if cxl is not None:
        options += _cxl_options(cxl, layout.nodes[cxl].memory_mib)
    return options


def _divide_cpus(cpus: int, initiators: Sequence[int]) -> dict[int, str]:
    ranges = {}
    first = 0
    for place, node in enumerate(initiators):
        last = cpus * (place + 1) // len(initiators) - 1
        ranges[node] = f"{first}-{last}"
        first = last + 1
    return ranges


def _cxl_options(node: int, memory_mib: int) -> list[str]:
    window_gib = max(4, 2 ** (memory_mib - 1).bit_length() // 1024)
    return [
        "-object",
        f"memory-backend-ram,id=cxlmem,size={memory_mib}M",
        "-device",
        "pxb-cxl,id=cxlbus,bus=pcie.0,bus_nr=12",
        "-device",
        "cxl-rp,id=cxlport,bus=cxlbus,port=0,chassis=0,slot=2",
        "-device",
        "cxl-type3,bus=cxlport,volatile-memdev=cxlmem,sn=1",
        # Which node the port is, so that the HMAT speaks of it.
        "-object",
        f"acpi-generic-port,id=cxlgp,pci-bus=cxlbus,node={node}",
        "-M",
        f"cxl-fmw.0.targets.0=cxlbus,cxl-fmw.0.size={window_gib}G",
    ]


def share_options(shares: Sequence[Share], image: Path | None = None) -> list[str]:
    """Return the options for the root, read-only, and for what is shared.

    Args:
        shares: What the guest may write to.
        image: A file system to be the root; None: this machine's root.
    """
    options = []
    folders = []
    if image is None:
        folders = [("root", Path("/"), ",readonly=on")]
    else:
        options += [
            "-drive",
            f"file={image},format=raw,if=none,id=root,readonly=on",
            "-device",
            "virtio-blk-pci,bus=pcie.0,drive=root",
        ]
    folders += [(f"share{n}", share.host, "") for n, share in enumerate(shares)]
    for tag, path, mode in folders:
        options += [
            "-fsdev",
            f"local,id={tag},path={path},security_model=none,multidevs=remap{mode}",
            "-device",
            # With a CXL bridge there are two buses; a device must say which.
            f"virtio-9p-pci,bus=pcie.0,fsdev={tag},mount_tag={tag}",
        ]
    return options


def port_options(descriptors: Mapping[str, int]) -> list[str]:
    """Return the options that lead the guest's ports to open descriptors."""
    options = ["-device", "virtio-serial-pci,bus=pcie.0"]
    for number, (name, descriptor) in enumerate(descriptors.items()):
        options += [
            "-add-fd",
            f"fd={descriptor},set={number}",
            "-chardev",
            # Without append QEMU truncates, which a pipe refuses.
            f"file,id={name},path=/dev/fdset/{number},append=on",
            "-device",
            f"virtserialport,chardev={name},name={name}",
        ]
    return options


def machine_options(accelerator: str) -> list[str]:
    """Return the options that no layout changes."""
    accelerators = {"tcg": "tcg,thread=multi", "kvm": "kvm"}
    return [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-accel",
        accelerators[accelerator],
    ]
