"""All facts about this host, in one document."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError
from isotherm.daemon.doctor.actuators import find_actuators, memory_nodes
from isotherm.daemon.doctor.devices import find_devices
from isotherm.daemon.doctor.files import entries, read
from isotherm.daemon.doctor.gpus import find_gpu_facts
from isotherm.daemon.doctor.kernel import Kernel, read_kernel
from isotherm.daemon.doctor.permissions import find_permissions
from isotherm.daemon.doctor.sources import find_sources
from isotherm.daemon.movers import find_movers
from isotherm.daemon.permitted import NEEDED

#: Movers that are told as absent where they are.
KNOWN_MOVERS: Final = {
    "numa-balancing-tiering": "/proc/sys/kernel/numa_balancing has no bit 2",
    "demotion": "/sys/kernel/mm/numa/demotion_enabled is not true",
    "damon-scheme": "no running kdamond has a scheme that moves memory",
    "damon-reclaim": "the module is not there or not enabled",
    "damon-lru-sort": "the module is not there or not enabled",
    "pghot": "/proc/sys/vm/pghot_enabled_sources is not there or 0",
    "flat-memory-mode": "no memory-side cache here is extended-linear, as far as seen",
    "gpu-access-counters": "nvidia_uvm is not there, or leaves memory where it is",
    "isotherm": "no other isotherm is known to run",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What this host offers.

    Attributes:
        kernel: Release and options.
        nodes: Nodes that have memory.
        tiers: Tiers that the kernel knows; 0: it does not say.
        facts: Sources, actuators, movers, CXL devices, permissions.
    """

    kernel: Kernel
    nodes: tuple[int, ...]
    tiers: int
    facts: tuple[Availability, ...]

    def of(self, kind: str) -> list[Availability]:
        """Return the facts of one kind."""
        return [fact for fact in self.facts if fact.kind == kind]

    @property
    def verdict(self) -> str:
        """One sentence: what a run could do here."""
        look = [fact.name for fact in self.of("source") if fact.present]
        look = [name for name in look if name != "pressure"]
        move = [fact.name for fact in self.of("actuator") if fact.present]
        movers = [fact.name for fact in self.of("mover") if fact.present]
        parts = [
            f"may look with {', '.join(look)}" if look else "has nothing to look with",
            "moves between nodes" if "move-pages" in move else "has one memory node",
        ]
        if "process-madvise-pageout" in move:
            parts.append("puts cold memory out to swap")
        if movers:
            parts.append(f"meets other movers: {', '.join(movers)}")
        # First what decides, in the order in which a run asks.
        lacks = self._lacking()
        if not {"move-pages", "zram", "zswap"} & set(move):
            # Unless a node comes later, as check_tiers() has it.
            as_root = "as root it " if lacks else ""
            parts.insert(0, f"{as_root}ends with 3: one memory tier")
        if lacks:
            parts.insert(0, f"ends with 4: this user lacks {', '.join(lacks)}")
        return "isotherm run " + "; ".join(parts)

    def _lacking(self) -> list[str]:
        """Return capabilities that a run needs and this user has not."""
        held = {fact.name for fact in self.of("permission") if fact.present}
        return [name for name in NEEDED if name.lower().replace("_", "-") not in held]

    def to_json(self) -> dict[str, Any]:
        """Return builtin types for ``--json``."""
        return {
            "kernel": {
                "release": self.kernel.release,
                "config_source": self.kernel.config_source,
                "options": dict(self.kernel.options),
            },
            "nodes": list(self.nodes),
            "tiers": self.tiers,
            "verdict": self.verdict,
            "facts": [asdict(fact) for fact in self.facts],
        }


def examine(root: Path = Path("/")) -> Report:
    """Look at this host and change nothing.

    Args:
        root: Where /proc, /sys and /boot are; system calls and drivers are
            always this host's.
    """
    kernel = read_kernel(root)
    tiers = sum(
        name[:11] == "memory_tier" and name[11:].isdigit()
        for name in entries(root, "sys/devices/virtual/memory_tiering")
    )
    facts = (
        *find_sources(kernel, root),
        *find_actuators(kernel, root),
        *_movers(root),
        *find_devices(root),
        *find_gpu_facts(root),
        *find_permissions(root),
    )
    return Report(kernel, memory_nodes(root), tiers, facts)


def _movers(root: Path) -> Iterator[Availability]:
    active = [mover.availability for mover in find_movers(root)]
    active += _others()
    yield from active
    names = {fact.name for fact in active}
    for name, absent in KNOWN_MOVERS.items():
        if name in names:
            continue
        why = absent
        if name == "damon-scheme":
            state = read(root, "sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds")
            if state.text is None and not state.missing:
                why = f"{state.said}: nobody knows"
        yield Availability(name, "mover", False, why)


def _others() -> list[Availability]:
    """Return the other isotherms of this user that run."""
    from isotherm.daemon.rundir import RunDirectory, run_directory  # noqa: PLC0415

    try:
        runs = RunDirectory(run_directory()).runs()
    except IsothermError as error:
        return [Availability("isotherm", "mover", False, error.message, error.hint)]
    return [
        Availability(
            "isotherm",
            "mover",
            True,
            f"pid {run.pid} manages {run.targets}",
            f"isotherm stop {run.pid}",
        )
        for run in runs
    ]
