"""One guest, from the request to the outcome."""

import shlex
import sys
from dataclasses import replace
from typing import BinaryIO

from vmtest.accelerator import choose_accelerator
from vmtest.attend import Outcome, Streams, attend
from vmtest.cache import Cache
from vmtest.environment import command_script
from vmtest.initramfs import build_initramfs
from vmtest.layout import Layout
from vmtest.qemu import (
    KERNEL_ARGUMENTS,
    Share,
    layout_options,
    machine_options,
    share_options,
)
from vmtest.request import Request, resolve_shares

_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_CXL_MODULES = ("cxl_acpi", "cxl_pci", "cxl_mem", "cxl_port", "dax_cxl", "kmem")
_SYSTEM_MODULES = ("virtio_blk", "squashfs")
_SYSTEM_ARGUMENTS = "systemd.show_status=0 systemd.unit=multi-user.target"
_PROBE_LIMIT_S = 20.0
"""Emulated, the probe takes 3 s; what needs longer is not worth having."""


def qemu_name(layout: Layout) -> str:
    """Return which QEMU of ``QEMUS`` a layout needs."""
    return "own" if layout.cxl_node is None else "newer"


def run(
    request: Request,
    cache: Cache | None = None,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
) -> Outcome:
    """Run a command in a guest.

    Its output goes to the streams given, or to this process's own, as it
    comes. The exit status is 124 after the time limit, and 125 where the guest
    ended without an answer; either puts words on the error stream.

    Raises:
        GuestError: The guest cannot be started.
        FetchError: QEMU or the kernel cannot be fetched.
    """
    cache = cache or Cache()
    streams = Streams(stdout or sys.stdout.buffer, stderr or sys.stderr.buffer)
    # Refuse what cannot be before anything is fetched.
    layout_options(request.layout, request.cpus)
    resolve_shares(request, cache.folder("numba"))

    def boots_with_kvm() -> bool:
        probe = replace(
            request,
            command=("true",),
            accelerator="kvm",
            limit_s=_PROBE_LIMIT_S,
            console=None,
            verbose=False,
        )
        with open("/dev/null", "wb") as nowhere:  # noqa: PTH123  three times shorter
            return _start(probe, cache, Streams(nowhere, nowhere)).exit_status == 0

    accelerator = choose_accelerator(request.accelerator, boots_with_kvm)
    if request.verbose:
        streams.say(f"accelerator: {accelerator}")
    return _start(replace(request, accelerator=accelerator), cache, streams)


def _start(request: Request, cache: Cache, streams: Streams) -> Outcome:
    qemu = cache.qemu(qemu_name(request.layout))
    kernel = cache.kernel(request.kernel)
    numba = cache.folder("numba")
    shares = resolve_shares(request, numba)
    wanted = [*_MODULES, *request.modules]
    arguments = f"{KERNEL_ARGUMENTS} {request.kernel_arguments}".strip()
    image = None
    if request.system is not None:
        image = cache.system(request.system, request.offered)
        wanted += _SYSTEM_MODULES
        arguments += f" {_SYSTEM_ARGUMENTS}"
    if request.layout.cxl_node is not None:
        wanted += _CXL_MODULES
    modules = kernel.read_modules(wanted)
    archive = build_initramfs(
        qemu.read_busybox(),
        modules,
        _settings(request, list(modules), shares),
        command_script(request, numba),
    )
    words = [
        *qemu.words,
        *machine_options(request.accelerator),
        *layout_options(request.layout, request.cpus),
        "-kernel",
        str(kernel.image),
        "-append",
        arguments,
        *share_options(shares, image),
    ]
    return attend(
        words,
        qemu.environment,
        archive,
        streams,
        console=request.console,
        limit_s=request.limit_s,
        verbose=request.verbose,
    )


def _settings(request: Request, modules: list[str], shares: list[Share]) -> str:
    cxl = ""
    if request.layout.cxl_node is not None:
        cxl = "late" if request.late else "arrive"
    settings = {
        "modules": " ".join(modules),
        "shares": " ".join(str(share.guest) for share in shares),
        "cpus": str(request.cpus),
        "tick_s": f"{request.tick_ms / 1000:g}",
        "cxl": cxl,
        "system": request.system or "",
        "cgroup": "yes" if request.cgroup else "",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
