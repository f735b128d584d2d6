"""How much fast memory a workload needs: a search over ratios for every policy.

A question has replicas: seeds of a generator, windows of a trace. For each policy
and replica the smallest ratio of fast memory that keeps the slowdown is found by
halving an interval; runs are made in rounds, so that they fill all cores, and kept
in a store, so that a search that was cut off goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from isotherm.lab.compare import Comparison
from isotherm.lab.simulate import SimulationSpec

#: Ratios are searched in steps of 1/64 of the footprint.
STEPS: Final = 64

Runs = Callable[[Sequence[SimulationSpec]], Comparison]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        policies: Whose need is sought.
        common: Everything that all runs share; its policy, ratio, seed and window
            are ignored.
        max_slowdown: Allowed time over that with all memory fast, less one: 0.05.
        seeds: One replica each; of windows the first counts.
        windows: As many replicas, for traces: equal parts of it.
    """

    policies: Sequence[str]
    common: SimulationSpec
    max_slowdown: float
    seeds: Sequence[int] = (1, 2, 3)
    windows: int = 1

    def replicas(self) -> list[SimulationSpec]:
        """Return the runs' common part, one for each replica."""
        if self.windows > 1:
            return [
                replace(
                    self.common,
                    seed=self.seeds[0],
                    workload_options={
                        **self.common.workload_options,
                        "window": f"{k}/{self.windows}",
                    },
                )
                for k in range(1, self.windows + 1)
            ]
        return [replace(self.common, seed=seed) for seed in self.seeds]


@dataclass(slots=True)
class Need:
    """What one policy needs.

    Attributes:
        policy: Its name.
        ratios: Smallest fast memory over footprint that keeps the slowdown, one a
            replica, in steps of 1/64; 1 where only all of it does.
        slowdowns: Time over all-fast at that ratio, one a replica.
    """

    policy: str
    ratios: list[float] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean of the replicas' ratios."""
        return sum(self.ratios) / len(self.ratios)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the confidence interval of the mean, None for a single replica.

        Student's t over replicas, no wider than (0, 1]; where all agree it is one
        step wide: the search knows no better.
        """
        from scipy import stats  # noqa: PLC0415  # 0.3 s, only here

        n = len(self.ratios)
        if n < 2:
            return None
        spread = math.sqrt(sum((r - self.mean) ** 2 for r in self.ratios) / (n - 1))
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)
        half = max(half, 0.5 / STEPS)
        return max(0.0, self.mean - half), min(1.0, self.mean + half)


@dataclass(slots=True)
class _Search:
    """The interval of one policy and replica, in steps: low fails, high keeps."""

    policy: str
    replica: int
    low: int = 0
    high: int = STEPS
    slowdown: float = 1.0

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2


def fast_needed(question: Question, runs: Runs) -> list[Need]:
    """Return what every policy needs, in the question's order.

    The slowdown is taken to fall as fast memory grows. Where it does not, the answer
    is a ratio that keeps it, and not always the smallest.

    Args:
        question: What is asked.
        runs: Makes runs and returns their results, in order.

    Raises:
        IsothermError: A run failed.
    """
    replicas = question.replicas()
    searches = [
        _Search(policy, replica)
        for policy in question.policies
        for replica in range(len(replicas))
    ]
    while True:
        open_ones = [s for s in searches if s.high - s.low > 1]
        if not open_ones:
            break
        specs = [
            replace(replicas[s.replica], policy=s.policy, fast_ratio=s.middle / STEPS)
            for s in open_ones
        ]
        for search, row in zip(open_ones, runs(specs).results, strict=True):
            slowdown = slowdown_of(row)
            if slowdown <= 1 + question.max_slowdown:
                search.high, search.slowdown = search.middle, slowdown
            else:
                search.low = search.middle
    needs = {policy: Need(policy) for policy in question.policies}
    for search in searches:
        needs[search.policy].ratios.append(search.high / STEPS)
        needs[search.policy].slowdowns.append(search.slowdown)
    return list(needs.values())


def slowdown_of(row: Mapping[str, Any]) -> float:
    """Return the slowdown that counts: of the program where it is known."""
    slowdown = row.get("app_slowdown")
    return float(row["slowdown"] if slowdown is None else slowdown)
