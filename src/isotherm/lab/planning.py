"""One question of capacity from beginning to end: search, price, advice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

from isotherm.core.errors import UnsupportedError
from isotherm.lab.capacity import Need, Question, fast_needed
from isotherm.lab.compare import Comparison, compare
from isotherm.lab.grid import default_rate
from isotherm.lab.money import Costs, Offer, as_mapping, offer, recommend
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.machine.sim.spec import MachineSpec, load_machine
from isotherm.topology.model import Topology

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


class Asked(TypedDict):
    """What is asked beside the workload; names as in `SimulationSpec`.

    ``own_rate``: take the rate that suits the workload. ``seeds`` are the replicas of
    a generator, ``windows`` the parts of a trace.
    """

    rate: float | None
    own_rate: bool
    seeds: Sequence[int]
    windows: int
    memory_bound: float | None
    pages: int | None
    accesses: int | None
    placement: str
    sampling_period: int
    workload_options: Mapping[str, Any]


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

    @property
    def topology(self) -> Topology:
        """The machine, with room for nothing: tiers and what they are made of."""
        return self.machine.topology([0] * len(self.machine.nodes))

    def ask(self, workload: str, **asked: Unpack[Asked]) -> Answer:
        """Return the answer for one workload.

        Raises:
            UnsupportedError: A policy cannot run on this machine.
        """
        question = Question(
            self._policies,
            self._common(workload, asked),
            self._max_slowdown,
            tuple(asked["seeds"]),
            asked["windows"],
        )
        done = 0

        def runs(specs: Sequence[SimulationSpec]) -> Comparison:
            nonlocal done
            found = self._compare(specs)
            done += 1
            self.progress(min(1.0, done / ROUNDS))
            return found

        needs = fast_needed(question, runs)
        offers = [offer(need, self.machine, self._costs) for need in needs]
        return Answer(workload, needs, offers, recommend(needs, offers))

    def try_out(
        self,
        workload: str,
        settings: Sequence[tuple[str, Mapping[str, float]]],
        fast_ratio: float,
        **asked: Unpack[Asked],
    ) -> list[dict[str, Any]]:
        """Return the results of policies with options, in order, at one ratio.

        Of several seeds the first counts, of windows the whole.

        Raises:
            UnsupportedError: A policy cannot run on this machine.
        """
        common = replace(
            self._common(workload, asked),
            fast_ratio=fast_ratio,
            seed=asked["seeds"][0],
        )
        specs = [
            replace(common, policy=policy, options=options)
            for policy, options in settings
        ]
        return self._compare(specs, self.progress).results

    def _common(self, workload: str, asked: Asked) -> SimulationSpec:
        own = default_rate(workload) if asked["own_rate"] else asked["rate"]
        return SimulationSpec(
            policy="isotherm",
            workload=workload,
            machine=self._machine_name,
            rate=own,
            pages=asked["pages"],
            accesses=asked["accesses"],
            placement=asked["placement"],
            sampling_period=asked["sampling_period"],
            memory_bound=asked["memory_bound"],
            workload_options=asked["workload_options"],
        )

    def _compare(
        self,
        specs: Sequence[SimulationSpec],
        progress: Callable[[float], None] | None = None,
    ) -> Comparison:
        """Make runs; those that the store has are not made again."""
        store = None if self._out is None else ResultStore(self._out)
        try:
            found = compare(
                specs,
                jobs=self._jobs,
                scheduler=self._scheduler,
                store=store,
                progress=None if progress is None else lambda n, of: progress(n / of),
            )
        finally:
            if store is not None:
                store.close()
        if found.errors:
            raise UnsupportedError(found.errors[0]["error"])
        return found
