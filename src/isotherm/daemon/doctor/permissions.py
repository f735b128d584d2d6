"""What this user may do: capabilities, and the settings that stand in for them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isotherm.core.availability import Availability
from isotherm.daemon.doctor.files import read
from isotherm.machine.linux.pagemap import frames_visible

#: Numbers and uses (include/uapi/linux/capability.h).
CAPABILITIES: Final = {
    "sys-nice": (23, "move pages of other users' processes, and advise on them"),
    "sys-admin": (21, "see frame numbers, steer DAMON and the kernel's own movers"),
    "sys-ptrace": (19, "read the page tables of other users' processes"),
    "perfmon": (38, "sample any process whatever perf_event_paranoid says"),
    "sys-resource": (24, "watch pressure in windows of any length"),
}
#: What it takes to keep all of the above away from who decides: ``run --user``.
SPLITTING: Final = {"setuid": 7, "setgid": 6, "setpcap": 8, "chown": 0, "kill": 5}
#: perf_event_paranoid above this keeps users from watching their own processes
#: (Debian's and Android's level 3; the kernel's own levels end with 2).
MAX_PARANOID: Final = 2


def find_permissions(root: Path = Path("/")) -> list[Availability]:
    """Return what this process may do.

    Args:
        root: Where /proc is.
    """
    held = effective_capabilities(root)
    return [
        *_capabilities(held),
        _splitting(held),
        *_settings(root, held),
        _frames(held),
    ]


def effective_capabilities(root: Path = Path("/")) -> int | None:
    """Return the effective capabilities of this process as bits; None: unknown."""
    text = read(root, "proc/self/status").text or ""
    for line in text.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return None


def has(held: int | None, name: str) -> bool:
    """Return whether a capability is held; unknown is no."""
    return bool(held and held >> CAPABILITIES[name][0] & 1)


def _capabilities(held: int | None) -> Iterator[Availability]:
    for name, (number, use) in CAPABILITIES.items():
        there = has(held, name)
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        why = f"{who} has it: {use}" if there else f"{who} lacks it: {use}"
        command = None
        if not there and os.geteuid() == 0:
            why += " (withheld by what started this: a container, a service)"
        elif not there:
            capability = "cap_" + name.replace("-", "_")
            command = (
                f"sudo setpriv --reuid {os.geteuid()} --regid {os.getegid()}"
                f" --clear-groups --inh-caps +{capability[4:]}"
                f" --ambient-caps +{capability[4:]} {sys.executable} -m isotherm doctor"
            )
        if held is None:
            why = f"/proc/self/status does not say: {use}"
        assert 0 <= number < 64  # noqa: S101  # a bit of CapEff
        yield Availability(f"cap-{name}", "permission", there, why, command)


def _splitting(held: int | None) -> Availability:
    """Return whether a run can give its rights to a process of their own."""
    lacks = [name for name, bit in SPLITTING.items() if not (held or 0) >> bit & 1]
    there = not lacks and os.geteuid() == 0
    why = "run --user NAME leaves these with a small mover: nobody else needs them"
    if not there:
        named = ", ".join(f"CAP_{name.upper()}" for name in lacks) or "root"
        why = f"run --user needs {named}: a run keeps all its rights"
    return Availability("split", "permission", there, why)


def _settings(root: Path, held: int | None) -> Iterator[Availability]:
    paranoid = read(root, "proc/sys/kernel/perf_event_paranoid")
    level = paranoid.number
    free = has(held, "perfmon") or has(held, "sys-admin")
    good = level is not None and (level <= MAX_PARANOID or free)
    why = paranoid.said
    if level is not None:
        why += " and capabilities lift it" if free else f", {MAX_PARANOID} is wanted"
    yield Availability(
        "perf-event-paranoid",
        "permission",
        good,
        why,
        None
        if good or level is None
        else f"sudo sysctl kernel.perf_event_paranoid={MAX_PARANOID}",
    )
    scope = read(root, "proc/sys/kernel/yama/ptrace_scope")
    # Levels: 0 same user, 1 descendants only, 2 CAP_SYS_PTRACE, 3 nobody
    # (Documentation/admin-guide/LSM/Yama.rst); reading page tables is no attach,
    # which Yama leaves alone: --intrusive needs it.
    level = scope.number
    if level is None:
        good, why = True, "no Yama: only the usual rules"
    else:
        good = level == 0 or (level < 3 and has(held, "sys-ptrace"))
        why = f"{scope.said}; it matters for --intrusive only"
    yield Availability(
        "ptrace-scope",
        "permission",
        good,
        why,
        None if good or level == 3 else "sudo sysctl kernel.yama.ptrace_scope=0",
    )
    lockdown = read(root, "sys/kernel/security/lockdown").text
    if lockdown is not None and "[" in lockdown:
        mode = lockdown.partition("[")[2].partition("]")[0]
        yield Availability(
            "lockdown",
            "permission",
            mode != "confidentiality",
            f"/sys/kernel/security/lockdown is {mode}"
            + ("" if mode == "none" else ": debugfs is closed to writing"),
        )


def _frames(held: int | None) -> Availability:
    there = frames_visible()
    return Availability(
        "frame-numbers",
        "permission",
        there,
        "/proc/PID/pagemap shows frame numbers"
        if there
        else "/proc/PID/pagemap hides frame numbers without CAP_SYS_ADMIN: "
        "placement is asked of move_pages, DAMON on physical memory cannot be used",
        None if there or has(held, "sys-admin") else "sudo isotherm doctor",
    )
