"""``--mover kernel``: steer what upstream ships, and move nothing oneself.

Two ways. *numa-balancing*: hint faults promote (mode 2), within a rate limit;
*damon*: schemes promote and demote. With either, reclaim may demote. All of it
goes through the journal and is put back at the end; what has moved stays moved.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from isotherm.core.changes import HostChanges, read_value
from isotherm.core.errors import NotPermittedError, UnsupportedError, UsageError
from isotherm.core.units import NS_PER_S
from isotherm.daemon.config import KernelConfig
from isotherm.daemon.damos import ADMIN, Schemes, SchemesSpec, render_stats
from isotherm.topology.model import Topology

NUMA_BALANCING: Final = "proc/sys/kernel/numa_balancing"
RATE_LIMIT: Final = "proc/sys/kernel/numa_balancing_promote_rate_limit_MBps"
DEMOTION: Final = "sys/kernel/mm/numa/demotion_enabled"
#: Of numa_balancing (include/linux/sched/sysctl.h).
TIERING: Final = 2
#: A scheme that has applied nothing after this long does not work here.
PATIENCE_NS: Final = 10 * NS_PER_S
#: Counters of /proc/vmstat, by prefix: newer kernels have more of each kind.
COUNTERS: Final = ("pgpromote_", "pgdemote_", "numa_hint_faults", "numa_pte_updates")
WAYS: Final = ("auto", "numa-balancing", "damon")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Steered:
    """What the kernel mover works with.

    Attributes:
        pids: The managed processes now.
        cgroup: Path below the mount, where a cgroup is managed.
        limit_mib_s: Most memory to move.
    """

    pids: Callable[[], tuple[int, ...]]
    cgroup: str | None
    limit_mib_s: float


class KernelMover:
    """Sets the kernel's own movers going, and reads what they do.

    Args:
        topology: Which nodes are fast and slow.
        steered: Whose memory, and how much of it.
        config: What to use.
        changes: Where what is changed is written down.
        root: Where /proc and /sys are.
        dry_run: Note what would be written instead of writing it.

    Raises:
        UsageError: The configuration names something else than there is.
        UnsupportedError: There is one tier only.
    """

    def __init__(
        self,
        topology: Topology,
        steered: Steered,
        config: KernelConfig,
        changes: HostChanges,
        root: Path = Path("/"),
        *,
        dry_run: bool = False,
    ) -> None:
        if config.use not in WAYS:
            raise UsageError(
                f"kernel.use: expected {', '.join(WAYS)}, got {config.use!r}"
            )
        if len(topology.tiers) < 2:
            raise UnsupportedError(
                "this host has one memory tier: the kernel has nothing to move between",
                hint="--mover isotherm waits for a node that comes later",
            )
        self._steered, self._config, self._changes = steered, config, changes
        self._root = root
        self._dry_run = dry_run
        self._fast = topology.tiers[0].nodes[0]
        self._slow = topology.tiers[1].nodes[0]
        self._schemes = Schemes(changes, root)
        self._before = read_counters(root)
        self._began_ns = 0
        self._applied: list[dict[str, Any]] = []
        self._pids: tuple[int, ...] = ()
        self.way = ""
        self.events: list[dict[str, Any]] = []
        #: What a dry run would write, in its order.
        self.would_write: list[dict[str, str]] = []

    def start(self, now_ns: int) -> None:
        """Set it going.

        Raises:
            UnsupportedError: This kernel has none of what was asked for.
            NotPermittedError: Its files may not be written.
        """
        self._began_ns = now_ns
        if self._config.demotion:
            self._set(DEMOTION, "true")
        if self._config.use == "damon":
            self._start_schemes(now_ns)
        elif (self._root / NUMA_BALANCING).exists():
            self._set(RATE_LIMIT, str(max(1, round(self._steered.limit_mib_s))))
            if not self._set(NUMA_BALANCING, str(TIERING), needed=True):
                log.info("kernel-mover", note="numa_balancing was in tiering mode")
            self.way = "numa-balancing"
        elif self._config.use == "auto":
            self._start_schemes(now_ns)
        else:
            raise UnsupportedError(
                f"/{NUMA_BALANCING}: not in this kernel (CONFIG_NUMA_BALANCING)"
            )
        log.info("kernel-mover", way=self.way, operations=self._schemes.operations)

    def epoch(self, now_ns: int) -> None:
        """Look after the schemes: new processes, and whether they apply at all.

        Raises:
            UnsupportedError: They apply nothing to the processes' own memory.
        """
        if self.way != "damon" or self._dry_run:
            return
        stats = self._schemes.stats()
        if stats:
            self._applied = render_stats(stats)
        tried = sum(one.nr_tried for one in stats)
        applied = sum(one.nr_applied for one in stats)
        vaddr = self._schemes.operations == "vaddr"
        if vaddr and tried and not applied and now_ns - self._began_ns > PATIENCE_NS:
            if not self._config.host_wide:
                raise UnsupportedError(
                    "DAMON's schemes apply nothing to the memory of these processes:"
                    f" {tried} regions tried, none moved",
                    hint="--cgroup keeps them to a group; kernel.host_wide = true"
                    " lets them move the memory of all processes",
                )
            self._note(
                "schemes-apply-nothing", operations="vaddr", tried=tried, then="paddr"
            )
            self._restart("paddr", now_ns)
        elif vaddr and self._steered.pids() != self._pids:
            self._restart("vaddr", now_ns)

    def result(self, seconds: float) -> dict[str, Any]:
        """Return what the kernel has done since the start, in raw units."""
        now = read_counters(self._root)
        counters = {
            name: value - self._before.get(name, 0) for name, value in now.items()
        }
        applied_pages = sum(one["applied_bytes"] for one in self._applied) // 4096
        promoted = counters.get("pgpromote_success", 0)
        demoted = sum(
            value for name, value in counters.items() if name.startswith("pgdemote_")
        )
        return {
            "mover": "kernel",
            "way": self.way,
            "operations": self._schemes.operations,
            "duration_s": seconds,
            "promoted_pages": promoted,
            "demoted_pages": demoted,
            "scheme_pages": applied_pages,
            "schemes": self._applied,
            "without_goals": self._schemes.without_goals,
            "counters": counters,
            "events": self.events,
            "would_write": self.would_write,
        }

    def _start_schemes(self, now_ns: int) -> None:
        cgroup = self._steered.cgroup
        self._launch("paddr" if cgroup else "vaddr")
        self.way = "damon"
        self._began_ns = now_ns

    def _restart(self, operations: str, now_ns: int) -> None:
        self._schemes.stop()
        self._began_ns = now_ns
        if self._steered.pids():
            self._launch(operations)

    def _launch(self, operations: str) -> None:
        self._pids = self._steered.pids()
        quota = round(self._steered.limit_mib_s * (1 << 20))
        spec = SchemesSpec(
            self._fast,
            self._slow,
            self._config.damon_quota_ms,
            quota,
            round(self._config.fast_used_percent * 100),
        )
        if self._dry_run:
            target = self._steered.cgroup or f"pid {', '.join(map(str, self._pids))}"
            self.would_write.append(
                {
                    "path": f"/{ADMIN}",
                    "now": "",
                    "new": f"migrate_hot to node {spec.fast}, migrate_cold to node"
                    f" {spec.slow}, of {target} by {operations}",
                }
            )
            return
        self._schemes.start(operations, self._pids, spec, self._steered.cgroup or "")
        if operations == "paddr" and not self._steered.cgroup:
            self._note(
                "host-wide", why="schemes on physical memory move that of all processes"
            )

    def _set(self, name: str, value: str, *, needed: bool = False) -> bool:
        """Write a file if it is there; return whether it changed."""
        path = self._root / name
        try:
            if self._dry_run:
                now = read_value(path)
                if now != value:
                    what = {"path": f"/{name}", "now": now, "new": value}
                    self.would_write.append(what)
                return now != value
            return self._changes.write(path, value)
        except PermissionError as error:
            raise NotPermittedError(
                f"/{name}: EACCES", hint="run as root; isotherm doctor lists the rest"
            ) from error
        except OSError as error:
            if needed:
                raise UnsupportedError(f"/{name}: {error.strerror}") from error
            self._note("not-there", file=f"/{name}")
            return False

    def _note(self, event: str, **fields: Any) -> None:  # fields of any JSON kind
        self.events.append({"event": event, **fields})
        log.warning(event, **fields)


def read_counters(root: Path = Path("/")) -> dict[str, int]:
    """Return the counters of promotion, demotion and hint faults there are."""
    try:
        text = (root / "proc/vmstat").read_text()
    except OSError:
        return {}
    return {
        name: int(value)
        for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)
        if name.startswith(COUNTERS)
    }
