"""Who else moves the same memory: two movers undo each other's work."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.movers_hardware import find_hardware_movers
from isotherm.daemon.movers_model import Mover

__all__ = ["Mover", "find_movers", "refuse"]

#: DAMOS actions that decide where memory is, or whether it is there at all
#: (enum damos_action in include/linux/damon.h); ``stat`` and the huge-page
#: actions do not.
MOVING_ACTIONS: Final = frozenset(
    {"migrate_hot", "migrate_cold", "pageout", "cold", "lru_prio", "lru_deprio"}
)

#: Programs that move memory between nodes, by the name in /proc/PID/comm, which
#: the kernel cuts off at 15 bytes.
MOVING_PROGRAMS: Final = {
    "memtierd": "the memory tiering daemon of nri-plugins",
    "numad": "moves processes and their memory between nodes",
    "tieringd": "a memory tiering daemon",
    "senpai": "reclaims cgroups to their working set",
}

#: Modules that run DAMON schemes of their own (Documentation/admin-guide/mm/damon,
#: samples/damon). The samples were called without the prefix at first.
MOVING_MODULES: Final = {
    "damon_reclaim": "pages out what is cold",
    "damon_lru_sort": "sorts the lists that reclaim works from",
    "damon_sample_mtier": "promotes and demotes between two nodes",
    "mtier": "promotes and demotes between two nodes",
    "damon_sample_prcl": "pages out what is cold of one process",
    "prcl": "pages out what is cold of one process",
}

#: Kernel threads that promote, by name without the node's number: pghot's
#: kmigrated, and the scanners that were proposed before it. None is in a release;
#: distributions carry them.
PROMOTING_THREADS: Final = {
    "kmigrated": "promotes what pghot has counted as hot",
    "kpromoted": "promotes what was found hot",
    "kmmscand": "scans accessed bits and promotes",
}
PGHOT: Final = "proc/sys/vm/pghot_enabled_sources"


def find_movers(
    root: Path = Path("/"), pids: Iterable[int] | None = None
) -> list[Mover]:
    """Return the kernel's and other programs' movers that are active.

    Another isotherm is found by the lock that it holds, not here.

    Args:
        root: Where /proc and /sys are.
        pids: The processes whose memory is meant; None: any. Movers of other
            processes' memory only are left out.
    """
    mine = None if pids is None else frozenset(pids)
    return [
        *_numa_balancing(root),
        *_demotion(root),
        *_damon(root, mine),
        *_damon_modules(root),
        *_promoters(root),
        *_programs(root),
        *find_hardware_movers(root, mine),
    ]


def refuse(movers: Iterable[Mover]) -> None:
    """Raise for the movers beside which a run is refused.

    Raises:
        UnsupportedError: There is at least one; the message names all.
    """
    refusing = [mover for mover in movers if mover.refuses]
    if not refusing:
        return
    commands = [mover.command for mover in refusing if mover.command]
    raise UnsupportedError(
        "another mover manages this memory: "
        + "; ".join(f"{mover.name}: {mover.why}" for mover in refusing),
        hint=" && ".join([*commands]) + ", or --with-other-movers"
        if commands
        else "--with-other-movers runs beside it",
    )


def _numa_balancing(root: Path) -> list[Mover]:
    """Bits: 1 balancing, 2 tiering (include/linux/sched/sysctl.h)."""
    path = root / "proc/sys/kernel/numa_balancing"
    value = _number(path)
    command = "sysctl kernel.numa_balancing=0"
    limit = _number(path.with_name("numa_balancing_promote_rate_limit_MBps"))
    if value is not None and value & 2 and limit == 0:
        # should_numa_migrate_memory(), kernel/sched/fair.c: no limit is looked at
        # while the node has room.
        return [
            Mover(
                "numa-balancing-hints",
                f"/proc/sys/kernel/numa_balancing is {value} with a rate limit of 0:"
                " hint faults; the kernel promotes only while fast memory is free",
                command,
                refuses=False,
            )
        ]
    if value is not None and value & 2:
        return [
            Mover(
                "numa-balancing-tiering",
                f"/proc/sys/kernel/numa_balancing is {value}: the kernel promotes",
                command,
            )
        ]
    if value is not None and value & 1:
        return [
            Mover(
                "numa-balancing",
                f"/proc/sys/kernel/numa_balancing is {value}: the kernel moves pages"
                " to the node of the CPU that touches them",
                command,
                refuses=False,
            )
        ]
    return []


def _demotion(root: Path) -> list[Mover]:
    path = "sys/kernel/mm/numa/demotion_enabled"
    if _text(root / path) not in ("true", "1"):
        return []
    return [
        Mover(
            "demotion",
            f"/{path} is true: reclaim demotes where memory is short",
            f"echo false > /{path}",
            refuses=False,
        )
    ]


def _damon(root: Path, pids: frozenset[int] | None) -> list[Mover]:
    """Kdamonds that run a scheme which moves memory of these processes."""
    found = []
    top = root / "sys/kernel/mm/damon/admin/kdamonds"
    for kdamond in _numbered(top):
        if _text(kdamond / "state") != "on":
            continue
        for context in _numbered(kdamond / "contexts"):
            actions = {
                _text(scheme / "action") or ""
                for scheme in _numbered(context / "schemes")
            }
            moving = sorted(actions & MOVING_ACTIONS)
            if not moving or not _reaches(context, pids):
                continue
            operations = _text(context / "operations") or "unknown"
            found.append(
                Mover(
                    "damon-scheme",
                    f"kdamond {kdamond.name} ({operations}) runs {', '.join(moving)}",
                    f"echo off > /{(kdamond / 'state').relative_to(root)}",
                )
            )
    return found


def _reaches(context: Path, pids: frozenset[int] | None) -> bool:
    """Return whether a DAMON context watches memory of one of the processes."""
    if pids is None or _text(context / "operations") == "paddr":
        return True
    targets = {
        _number(target / "pid_target") for target in _numbered(context / "targets")
    }
    return bool(targets & pids)


def _damon_modules(root: Path) -> list[Mover]:
    found = []
    for name, does in MOVING_MODULES.items():
        folder = f"sys/module/{name}/parameters"
        files = [f"{folder}/enabled", f"{folder}/enable"]
        path = next((p for p in files if _text(root / p) is not None), files[0])
        if _text(root / path) == "Y":
            found.append(
                Mover(
                    name.replace("_", "-"),
                    f"/{path} is Y: {does}",
                    f"echo N > /{path}",
                )
            )
    return found


def _promoters(root: Path) -> list[Mover]:
    """Kernel threads that promote by themselves: pghot's and its forerunners'."""
    threads: dict[str, list[str]] = {}
    for process in _processes(root):
        name = _text(process / "comm") or ""
        kind = name.rstrip("0123456789")
        # A kernel thread has no command line; anybody may call a program so.
        if kind in PROMOTING_THREADS and not _text(process / "cmdline"):
            threads.setdefault(kind, []).append(name)
    found = []
    sources = _number(root / PGHOT)
    if sources is not None:
        migrated = threads.pop("kmigrated", [])
        if sources:
            who = ", ".join(migrated) or "the kernel"
            found.append(
                Mover(
                    "pghot",
                    f"/{PGHOT} is {sources}: {who} promotes what is counted as hot",
                    "sysctl vm.pghot_enabled_sources=0",
                )
            )
    for kind, names in threads.items():
        found.append(
            Mover(
                kind,
                f"kernel thread {', '.join(names)}: {PROMOTING_THREADS[kind]}",
                None,
            )
        )
    return found


def _programs(root: Path) -> list[Mover]:
    found = []
    for process in _processes(root):
        name = _text(process / "comm")
        if name in MOVING_PROGRAMS:
            found.append(
                Mover(
                    name,
                    f"pid {process.name} is {name}: {MOVING_PROGRAMS[name]}",
                    f"kill {process.name}",
                )
            )
    return found


def _processes(root: Path) -> list[Path]:
    return sorted(_numbered(root / "proc"), key=lambda path: int(path.name))


def _numbered(directory: Path) -> list[Path]:
    """Return the entries whose name is a number."""
    try:
        return sorted(
            entry
            for entry in directory.iterdir()
            if re.fullmatch(r"\d+", entry.name) is not None
        )
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None
