"""Judging results: regret against the bounds, and moves where nothing is to gain.

``regret = (policy - best bound) / max(first-touch - best bound, 0.05)``, all of
them slowdowns of runs that differ in nothing but the policy; the best bound is
the lower of ``static-oracle`` and ``clairvoyant``. 0 is as good as knowing the
future, 1 as good as never moving a page. Workloads that offer nothing
(``uniform``, ``stream``) get no regret: what counts there is how little a policy
moves and that it is no slower than ``first-touch``.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from isotherm.lab.catalogue import FLAT_WORKLOADS

#: Below this a gap between first-touch and the bound is no yardstick.
REGRET_FLOOR: Final = 0.05

#: What runs must have in common to be compared.
CELL_KEYS: Final = (
    "workload",
    "machine",
    "fast_ratio",
    "seed",
    "rate",
    "placement",
    "pages",
    "accesses",
    "epoch_s",
    "memory_bound",
    "workload_options",
    "faults",
)

Result = Mapping[str, Any]
Cell = tuple[object, ...]


def cell_of(result: Result) -> Cell:
    """Return what a result must share with another one to be compared with it."""
    return tuple(_plain(result.get(key)) for key in CELL_KEYS)


def _plain(value: object) -> object:
    """Return a table as something that can be a key; none and an empty one alike."""
    return tuple(sorted(value.items())) or None if isinstance(value, dict) else value


def judge(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return the results, each with ``regret`` and what goes with it.

    Added to each: ``regret`` (None without the runs that it needs, and on flat
    workloads), ``best_bound`` (slowdown), ``vs_first_touch`` (slowdown over that
    of first-touch), ``moves_per_page`` (moves over footprint).
    """
    rows = [dict(result) for result in results]
    slowdowns: dict[Cell, dict[str, float]] = {}
    for row in rows:
        slowdowns.setdefault(cell_of(row), {}).setdefault(
            row["policy"], row["slowdown"]
        )
    for row in rows:
        near = slowdowns[cell_of(row)]
        first = near.get("first-touch")
        bounds = [
            near[name] for name in ("static-oracle", "clairvoyant") if name in near
        ]
        best = min(bounds) if bounds else None
        row["best_bound"] = best
        row["regret"] = None
        if best is not None and first is not None and not is_flat(row):
            row["regret"] = (row["slowdown"] - best) / max(first - best, REGRET_FLOOR)
        row["vs_first_touch"] = None if first is None else row["slowdown"] / first
        moves = row["promoted_pages"] + row["demoted_pages"]
        row["moves_per_page"] = moves / row["pages"]
    return rows


def is_flat(result: Result) -> bool:
    """Return whether the workload of a run offers nothing to gain.

    Its kind says so, not its name, which is a file's where there is one. Results
    from before kinds were kept have the name alone.
    """
    return result.get("workload_kind", result["workload"]) in FLAT_WORKLOADS
