"""The adviser of CPU placement in a simulation: threads of the workload's programs."""

from typing import Any

import numpy as np

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S
from isotherm.loop.epoch import Loop, Step
from isotherm.machine.sim.machine import SimMachine
from isotherm.migration.ranks import rank_column
from isotherm.policy.cpu_adviser import THREAD_NS, CpuAdviser
from isotherm.policy.cpus import Threads
from isotherm.topology.model import InitiatorKind

MODES = ("off", "print", "apply")


class SimulatedThreads:
    """Advises on a simulated machine's threads, and moves them if told to.

    Args:
        machine: The machine; its workload says who its threads are.
        loop: What runs on it.
        acts: Move threads.

    Raises:
        UsageError: The workload has no threads, or the machine one kind of place.
    """

    def __init__(self, machine: SimMachine, loop: Loop, *, acts: bool) -> None:
        streams = machine.load.streams
        self._row = np.array([i for i, s in enumerate(streams) if s.thread], np.int64)
        self._cpu = np.array(
            [w.kind is InitiatorKind.CPU for w in machine.topology.initiators]
        )
        if len(self._row) == 0 or self._cpu.sum() < 2:
            raise UsageError(
                "advise-cpus: expected threads, and two sockets to run them on",
                hint="a workload in TOML whose parts have threads, on two-socket-cxl",
            )
        self._machine, self._loop, self._acts = machine, loop, acts
        # Caches, like bandwidths, are those of a machine of the footprint's size.
        self._adviser = CpuAdviser(
            machine.topology,
            machine.pages,
            acts=acts,
            thread_ns=THREAD_NS * machine.load.scale,
        )
        self._rank = rank_column(machine.topology, 256)
        self._left: dict[int, set[int]] = {}
        self._remote = self._accesses = 0
        self._shares: list[float] = []
        self._said: list[dict[str, Any]] = []
        self._moves = self._reversals = 0

    def after(self, step: Step, dt_ns: int) -> None:
        """Take what an epoch has shown; at the end of a window advise."""
        machine, adviser, outcome = self._machine, self._adviser, step.outcome
        crossed = 0
        if outcome.src is not None:
            done = outcome.errno == 0
            same = self._rank[outcome.src] == self._rank[outcome.node]
            crossed = int((done & same).sum())
        node = machine.placement()
        adviser.see(step.hints, node, dt_ns / NS_PER_S, crossed)
        if not adviser.is_due:
            return
        self._shares.append(self._remote_share())
        places = len(self._cpu)
        each = -(-len(self._row) // int(self._cpu.sum()))
        threads = Threads(
            self._row,
            machine.load.initiator[self._row].copy(),
            np.tile(self._cpu, (len(self._row), 1)),
            np.ones(len(self._row)),
            np.where(self._cpu, float(each), 0.0)[:places],
        )
        advice = adviser.advise(
            threads,
            node,
            machine.latency_ns(),
            machine.move_cost_ns(),
            machine.parallelism,
            machine.clock.now_ns(),
        )
        if advice is not None:
            self._said.append(advice.to_dict())
        tracker = self._loop.tracker
        if self._acts and advice is not None:
            rows = zip(advice.id, advice.source, advice.target, strict=True)
            for row, here, there in rows:
                self._reversals += int(there) in self._left.get(int(row), ())
                self._left.setdefault(int(row), set()).add(int(here))
                machine.load.run_on(int(row), int(there))
            self._moves += len(advice)
        moved = self._acts and advice is not None
        if (moved or adviser.wants_quiet) and tracker is not None:
            tracker.forget_accessors()

    def _remote_share(self) -> float:
        """Return the share of far accesses since the last call."""
        bill = self._machine.bill
        far = bill.remote_accesses - self._remote
        share = far / max(1, bill.accesses - self._accesses)
        self._remote, self._accesses = bill.remote_accesses, bill.accesses
        return share

    def report(self) -> dict[str, Any]:
        """Return what was advised and done, as JSON values."""
        return {
            "applied": self._acts,
            "windows": self._adviser.windows,
            "busy_windows": self._adviser.busy_windows,
            "thread_moves": self._moves,
            "reversals": self._reversals,
            "remote_shares": self._shares,
            "advice": self._said,
        }
