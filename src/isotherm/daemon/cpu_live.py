"""The adviser of CPU placement on a live host: who runs where, advice, affinities.

Sources that sample accesses name threads. The rest cannot: then a process is taken to
access its own memory, and is advised on as a whole.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.changes import HostChanges
from isotherm.core.units import NS_PER_S
from isotherm.daemon.sources_hardware import initiators_of_cpus
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    HintBatch,
    HintSource,
    LiveMechanism,
    Look,
    Mechanism,
    Samples,
)
from isotherm.hints.capability import Capability
from isotherm.machine.linux.affinity import Running, allowed_cpus, read_running, run_on
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.policy.cpu_adviser import CpuAdvice, CpuAdviser
from isotherm.policy.cpus import Threads
from isotherm.topology.model import Topology

if TYPE_CHECKING:
    from isotherm.daemon.service import Service
    from isotherm.loop.epoch import Step

#: Where threads run is read so often, at 20 µs a thread; where that would take more
#: than a hundredth of the time, not before so many times what it took.
READ_NS: Final = 2 * NS_PER_S
READ_REST: Final = 100
#: A process runs on a socket if it has so much of its CPU time there.
ALONE: Final = 0.9
#: Of a socket's CPUs, those that may be used whatever else runs there.
ALWAYS: Final = 0.5
UNKNOWN: Final = 255
#: Advice that a result tells, the latest.
MOST_SAID: Final = 1000
#: Of about so many pages the rates are asked where nobody names threads.
ASKED_PAGES: Final = 1 << 16
#: Lowest set bit of a byte, 0 for none.
_LOWEST: Final = np.array([(b & -b).bit_length() - 1 if b else 0 for b in range(256)])
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

log = structlog.get_logger()


class Sockets:
    """Which processes and threads run on which initiator, read now and then.

    Args:
        machine: Whose processes.
    """

    def __init__(self, machine: LinuxMachine) -> None:
        self._machine = machine
        self._ticks: dict[int, int] = {}  # by thread
        self._read_ns, self._rest_ns = -READ_NS, READ_NS
        self._take_tiers(machine.topology)
        #: CPU seconds a second by process or thread and initiator.
        self.of_process: dict[int, NDArray[np.float64]] = {}
        self.of_thread: dict[int, NDArray[np.float64]] = {}
        self.owner: dict[int, int] = {}  # process of a thread

    def _take_tiers(self, topology: Topology) -> None:
        self._topology = topology
        found = initiators_of_cpus(topology)
        self.of_cpu = np.empty(0, np.uint8) if found is None else found
        self.count = len(topology.initiators)

    @property
    def matter(self) -> bool:
        """Whether there are sockets, and a tier with a choice of nodes for them."""
        tiers = self._topology.tiers
        return self.several and any(len(tier.nodes) > 1 for tier in tiers)

    @property
    def several(self) -> bool:
        """Whether there are several initiators with CPUs."""
        return len(np.unique(self.of_cpu[self.of_cpu != UNKNOWN])) > 1

    def cpus(self, initiator: int) -> frozenset[int]:
        """Return the CPUs of an initiator."""
        return frozenset(np.flatnonzero(self.of_cpu == initiator).tolist())

    def refresh(self) -> None:
        """Read again where threads run, if the last time is long enough ago."""
        now_ns = self._machine.clock.now_ns()
        passed_ns = now_ns - self._read_ns
        if passed_ns < self._rest_ns:
            return
        began = time.perf_counter_ns()
        if self._topology is not self._machine.topology:
            self._take_tiers(self._machine.topology)
        self._read_ns = now_ns
        before, self._ticks = self._ticks, {}
        self.of_process, self.of_thread, self.owner = {}, {}, {}
        for target in list(self._machine.follower.targets.values()):
            running = read_running(target.process)
            self._add(target.pid, running, before, passed_ns / NS_PER_S)
        self._rest_ns = max(READ_NS, READ_REST * (time.perf_counter_ns() - began))

    def _add(
        self, pid: int, running: Running, before: Mapping[int, int], passed_s: float
    ) -> None:
        whole = np.zeros(self.count)
        for tid, cpu, ticks in zip(
            running.tid.tolist(),
            running.cpu.tolist(),
            running.ticks.tolist(),
            strict=True,
        ):
            self._ticks[tid] = ticks
            if not 0 <= cpu < len(self.of_cpu) or self.of_cpu[cpu] == UNKNOWN:
                continue
            used_s = (ticks - before.get(tid, ticks)) / _TICKS_PER_S / passed_s
            mine = np.zeros(self.count)
            # One that sleeps is where it was last.
            mine[self.of_cpu[cpu]] = max(used_s, 1e-6)
            self.of_thread[tid], self.owner[tid] = mine, pid
            whole += mine
        if whole.any():
            self.of_process[pid] = whole

    def initiator_of(self, pid: int) -> int:
        """Return where a process runs, 255 where that is in several places."""
        used = self.of_process.get(pid)
        if used is None or used.max() < ALONE * used.sum():
            return UNKNOWN
        return int(used.argmax())


class OwnersNamed:
    """A source whose accessed bits say where the processes run whose pages they are.

    Args:
        inner: The source.
        machine: Whose memory.
        sockets: Where processes run.
        unit: Pages in what the source calls a page.
    """

    def __init__(
        self, inner: HintSource, machine: LinuxMachine, sockets: Sockets, unit: int
    ) -> None:
        self.inner, self._machine = inner, machine
        self._sockets, self._unit = sockets, unit

    @property
    def mechanism(self) -> Mechanism | LiveMechanism:
        """The source's."""
        return self.inner.mechanism

    @property
    def capability(self) -> Capability:
        """The source's, which names initiators as well."""
        return replace(self.inner.capability, knows_initiator=True)

    def look(self, looks: tuple[Look, ...]) -> None:
        """Pass it on."""
        self.inner.look(looks)

    def drain(self) -> tuple[HintBatch, ...]:
        """Return what the source saw, with who accesses what."""
        self._sockets.refresh()
        return tuple(self._named(batch) for batch in self.inner.drain())

    def _named(self, batch: HintBatch) -> HintBatch:
        seen = batch.seen
        if not isinstance(seen, AccessedBits) or seen.initiator is not None:
            return batch
        # A block may begin before its mapping: a page of it that was accessed.
        lowest = _LOWEST[seen.bits]
        page = (seen.block.astype(np.int64) * BLOCK_PAGES + lowest) * self._unit
        owner, _ = self._machine.space_map.locate(page.astype(np.uint32))
        who = np.full(len(page), UNKNOWN, np.uint8)
        for pid in np.unique(owner).tolist():
            who[owner == pid] = self._sockets.initiator_of(pid)
        named = replace(seen, initiator=who)
        return replace(batch, seen=named, capability=self.capability)


class LiveThreads:
    """Advises on the threads of managed processes; an observer of the service.

    Args:
        machine: The host.
        sockets: Where threads run.
        changes: Where affinities are written down.
        acts: Set them; else only say.
    """

    def __init__(
        self,
        machine: LinuxMachine,
        sockets: Sockets,
        changes: HostChanges,
        *,
        acts: bool,
    ) -> None:
        self._machine, self._sockets = machine, sockets
        self._changes, self._acts = changes, acts
        self._adviser: CpuAdviser | None = None
        self._unit = 0
        self._by_thread = False
        self._seen_ns = machine.clock.now_ns()
        self._first_may: dict[int, frozenset[int]] = {}
        self._set_to: dict[int, frozenset[int]] = {}
        self._idle = _idle_cpus()
        self.said: list[dict[str, Any]] = []
        self.set_threads = 0

    def __call__(self, service: "Service", step: "Step") -> None:
        """Take an epoch's evidence; at the end of a window advise, and act."""
        machine = service.machine
        if self._adviser is None or self._unit != service.unit_pages:
            self._unit = service.unit_pages
            self._adviser = CpuAdviser(machine.topology, machine.pages, acts=self._acts)
        adviser = self._adviser
        if step.change is not None:
            if step.change.topology is not None:
                self._adviser = None
                return
            adviser.renew(step.change)
        now_ns = machine.clock.now_ns()
        passed_s, self._seen_ns = (now_ns - self._seen_ns) / NS_PER_S, now_ns
        self._sockets.refresh()
        self._by_thread |= any(
            isinstance(b.seen, Samples) and b.seen.thread is not None
            for b in step.hints
        )
        node = machine.placement()
        crossed = 0
        if step.outcome.src is not None:
            same = service.rank[step.outcome.src] == service.rank[step.outcome.node]
            crossed = int(((step.outcome.errno == 0) & same).sum())
        adviser.see(step.hints, node, passed_s, crossed)
        if not adviser.is_due:
            return
        if not self._by_thread and step.hotness is not None:
            stride = 1 + len(node) // ASKED_PAGES
            page = np.arange(0, len(node), stride, dtype=np.uint32)
            rate = step.hotness.rate(page) * stride
            adviser.take_rates(page, self._owner_of(page), rate, node)
        advice = adviser.advise(
            self._threads(),
            node,
            machine.latency_ns(),
            service.engine.move_cost_ns(),
            machine.parallelism,
            now_ns - service.began_ns,
        )
        if advice is not None:
            self._take(advice)
        tracker = service.loop.tracker
        moved = self._acts and advice is not None
        if (moved or adviser.wants_quiet) and tracker is not None:
            tracker.forget_accessors()

    def _owner_of(self, page: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the process of each unit of memory, -1 unknown."""
        first = page.astype(np.int64) * self._unit
        pid, _ = self._machine.space_map.locate(first.astype(np.uint32))
        return pid.astype(np.int64)

    def _threads(self) -> Threads:
        """Return who could be moved."""
        sockets = self._sockets
        used = sockets.of_thread if self._by_thread else sockets.of_process
        who = sorted(used)
        table = np.array([used[one] for one in who]).reshape(-1, sockets.count)
        may = np.zeros((len(who), sockets.count), np.bool_)
        cpus = [sockets.cpus(i) for i in range(sockets.count)]
        # Who has ended is forgotten: its number may be somebody else's.
        first, self._first_may = self._first_may, {}
        self._set_to = {one: cpu for one, cpu in self._set_to.items() if one in used}
        for row, one in enumerate(who):
            allowed = first[one] if one in first else allowed_cpus(one)
            self._first_may[one] = allowed
            may[row] = [bool(allowed & of_socket) for of_socket in cpus]
        before, self._idle = self._idle, _idle_cpus()
        idle = _idle_share(before, self._idle)
        ours = table.sum(0)
        room = np.array(
            [
                max(sum(idle.get(cpu, 0.0) for cpu in own), ALWAYS * len(own))
                for own in cpus
            ]
        )
        return Threads(
            np.array(who, np.int64),
            table.argmax(1) if who else np.empty(0, np.int64),
            may,
            table.sum(1),
            np.where([len(own) > 0 for own in cpus], ours + room, 0.0),
        )

    def _take(self, advice: CpuAdvice) -> None:
        """Say what is advised; set affinities where that is asked for."""
        document = advice.to_dict()
        for row in document["threads"]:
            row["kind"] = "thread" if self._by_thread else "process"
            row["cpus"] = sorted(self._sockets.cpus(row["to"]))
            row["set"] = self._set(row) if self._acts else 0
            self.set_threads += row["set"]
        self.said.append(document)
        del self.said[:-MOST_SAID]
        log.info(
            "cpu-advice",
            threads=len(advice),
            gain=round(advice.gain, 3),
            applied=self._acts,
        )

    def _set(self, row: Mapping[str, Any]) -> int:
        who = int(row["id"])
        pid = self._sockets.owner.get(who, who) if self._by_thread else who
        target = self._machine.follower.targets.get(pid)
        cpus = self._first_may.get(who, frozenset()) & self._sockets.cpus(row["to"])
        if target is None or not cpus:
            return 0
        tid = who if self._by_thread else None
        ours = self._set_to.get(who, frozenset())
        done = run_on(target.process, cpus, self._changes, tid, ours)
        if done:
            self._set_to[who] = cpus
        return done

    def result(self) -> dict[str, Any]:
        """Return what was advised and done, in raw units."""
        adviser = self._adviser
        return {
            "applied": self._acts,
            "evidence": "threads" if self._by_thread else "processes",
            "windows": 0 if adviser is None else adviser.windows,
            "busy_windows": 0 if adviser is None else adviser.busy_windows,
            "set_threads": self.set_threads,
            "advice": self.said,
        }


def _idle_cpus() -> dict[int, tuple[int, int]]:
    """Return ticks idle and ticks in all of every CPU, from /proc/stat."""
    found = {}
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123  # read in part
        for line in file:
            name, *words = line.split()
            if name.startswith("cpu") and name[3:].isdigit():
                ticks = [int(word) for word in words[:8]]
                found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))
    return found


def _idle_share(
    before: Mapping[int, tuple[int, int]], now: Mapping[int, tuple[int, int]]
) -> dict[int, float]:
    """Return the share of the time that each CPU was idle between two readings."""
    return {
        cpu: (idle - before[cpu][0]) / max(1, ticks - before[cpu][1])
        for cpu, (idle, ticks) in now.items()
        if cpu in before
    }
