"""One question of capacity from beginning to end: search, price, advice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.core.errors import UnsupportedError
from isotherm.lab.capacity import Need, Question, fast_needed
from isotherm.lab.compare import Comparison, compare
from isotherm.lab.grid import default_rate
from isotherm.lab.money import Costs, Offer, as_mapping, offer, recommend
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.machine.sim.spec import MachineSpec, load_machine

#: Rounds of a search: a footprint in 64 steps is halved six times.
ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question.

    Attributes:
        workload: Its name, or a trace's path.
        needs: Fast memory by policy.
        offers: The same in money, in the same order.
        advice: What to do, a sentence.
    """

    workload: str
    needs: list[Need]
    offers: list[Offer]
    advice: str

    def as_json(self, costs: Costs) -> dict[str, Any]:
        """Return one JSON document with raw units."""
        return {
            "workload": self.workload,
            "policies": [
                {
                    **asdict(paid),
                    "ratios": need.ratios,
                    "slowdowns": need.slowdowns,
                    "mean_ratio": need.mean,
                    "interval": need.interval(),
                }
                for need, paid in zip(self.needs, self.offers, strict=True)
            ],
            "costs": as_mapping(costs),
            "advice": self.advice,
        }


class Planner:
    """Answers questions about one machine, with one store of finished runs.

    Args:
        machine: Name or file.
        policies: Whose need is sought.
        max_slowdown: As in `Question`.
        costs: Prices.
        jobs: Processes; None: one per core.
        scheduler: Address of a Dask scheduler instead.
        out: Where finished runs are kept; None: nowhere.
    """

    def __init__(
        self,
        *,
        machine: str,
        policies: Sequence[str],
        max_slowdown: float,
        costs: Costs,
        jobs: int | None = None,
        scheduler: str | None = None,
        out: Path | None = None,
    ) -> None:
        self.machine: MachineSpec = load_machine(machine)
        self._machine_name = machine
        self._policies = policies
        self._max_slowdown = max_slowdown
        self._costs = costs
        self._jobs = jobs
        self._scheduler = scheduler
        self._out = out
        self.progress: Callable[[float], None] = lambda done: None

    def ask(
        self,
        workload: str,
        *,
        rate: float | None,
        own_rate: bool,
        seeds: Sequence[int],
        windows: int,
        memory_bound: float | None,
        pages: int | None,
        accesses: int | None,
        placement: str,
        sampling_period: int,
        workload_options: Mapping[str, Any],
    ) -> Answer:
        """Return the answer for one workload.

        Args:
            workload: Generator, TOML workload or trace.
            rate: Accesses per page and second; None: the trace's own times.
            own_rate: Take what suits the workload instead.
            seeds: Replicas of a generator; a trace has its windows.
            windows: Parts of a trace.
            memory_bound: As in `SimulationSpec`.
            pages: Likewise, and so on.
            accesses: Likewise.
            placement: Likewise.
            sampling_period: Likewise.
            workload_options: Likewise.

        Raises:
            UnsupportedError: A policy cannot run on this machine.
        """
        common = SimulationSpec(
            policy="isotherm",
            workload=workload,
            machine=self._machine_name,
            rate=default_rate(workload) if own_rate else rate,
            pages=pages,
            accesses=accesses,
            placement=placement,
            sampling_period=sampling_period,
            memory_bound=memory_bound,
            workload_options=workload_options,
        )
        question = Question(
            self._policies, common, self._max_slowdown, tuple(seeds), windows
        )
        done = 0

        def runs(specs: Sequence[SimulationSpec]) -> Comparison:
            nonlocal done
            store = None if self._out is None else ResultStore(self._out)
            try:
                found = compare(
                    specs, jobs=self._jobs, scheduler=self._scheduler, store=store
                )
            finally:
                if store is not None:
                    store.close()
            if found.errors:
                raise UnsupportedError(found.errors[0]["error"])
            done += 1
            self.progress(min(1.0, done / ROUNDS))
            return found

        needs = fast_needed(question, runs)
        offers = [offer(need, self.machine, self._costs) for need in needs]
        return Answer(workload, needs, offers, recommend(needs, offers))
