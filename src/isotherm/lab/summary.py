"""Results in words: who wins, by how much, and where it loses."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isotherm.core.names import without_endings
from isotherm.lab.catalogue import BOUNDS, WITHOUT_HINTS
from isotherm.lab.regret import cell_of, is_flat

Result = Mapping[str, Any]

#: Slowdowns nearer than this are called equal.
TIE: Final = 0.005
#: From here on a policy is so many times slower: per cent have too many digits.
TIMES: Final = 10.0
#: Policies that need no hints: they stand in every hint setting.
REFERENCES: Final = ("first-touch", *BOUNDS)
#: Online, but only as hardware: they see every access, which no host's software
#: does. They are ranked after what a host can run.
IN_HARDWARE: Final = frozenset({"lru"})
#: What runs of one table have in common; the rest are rows, columns or seeds.
SETTING_KEYS: Final = (
    "machine",
    "workload",
    "rate",
    "placement",
    "sampling_period",
)
#: The order in which policies stand where slowdown does not say it.
ORDER: Final = ("all-fast", "clairvoyant", "static-oracle")


def name_of(path_or_name: str) -> str:
    """Return a workload's or machine's name for a table.

    What is no absolute path is a name already, with a folder where it needs one.

    >>> name_of("gups"), name_of("/tmp/x/oltp.parquet"), name_of("old/redis.7.2")
    ('gups', 'oltp', 'old/redis.7.2')
    """
    if path_or_name.startswith("/"):
        return without_endings(Path(path_or_name).name)
    return path_or_name


def settings_of(
    results: Sequence[Result],
) -> list[tuple[tuple[Any, ...], list[Result]]]:
    """Return results by setting (``SETTING_KEYS``).

    What looks at nothing has no sampling period: it stands in each setting.
    """
    periods = list(
        dict.fromkeys(
            row["sampling_period"]
            for row in results
            if row["policy"] not in WITHOUT_HINTS
        )
    )
    grouped: dict[tuple[Any, ...], list[Result]] = {}
    for row in results:
        key = tuple(row[name] for name in SETTING_KEYS[:-1])
        mine = [row["sampling_period"]]
        if row["policy"] in WITHOUT_HINTS and periods:
            mine = periods
        for period in mine:
            grouped.setdefault((*key, period), []).append(row)
    return list(grouped.items())


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known, None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive values; at least one."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


@dataclass(frozen=True, slots=True)
class Duel:
    """One policy against the best of the others, in one cell.

    Attributes:
        cell: What the runs have in common, as a result.
        slowdown: Of the policy.
        rival: The best other policy.
        rival_slowdown: Its slowdown.
    """

    cell: Result
    slowdown: float
    rival: str
    rival_slowdown: float

    @property
    def lead(self) -> float:
        """By how much the policy is faster: 0.1 is 10 %; below 0 it is slower."""
        return self.rival_slowdown / self.slowdown - 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How a policy did over all cells.

    Attributes:
        policy: Its name.
        cells: Cells that it ran in.
        vs_first_touch: Geometric mean of its slowdown over first-touch's.
        slowdown: Geometric mean.
        regret: Mean over the cells that have one; None if none has.
        wins: Cells in which no other policy was faster by more than ``TIE``; for
            a policy that a host can run, no other such policy.
        moves_per_page: Mean.
    """

    policy: str
    cells: int
    vs_first_touch: float | None
    slowdown: float
    regret: float | None
    wins: int
    moves_per_page: float


def contenders(results: Sequence[Result]) -> list[str]:
    """Return the policies that do not know the future, in the order found."""
    return list(
        dict.fromkeys(row["policy"] for row in results if row["policy"] not in BOUNDS)
    )


def _cells(results: Sequence[Result]) -> list[tuple[Result, dict[str, float]]]:
    """Return every cell with the slowdown of each contender in it."""
    cells: dict[tuple[Any, ...], tuple[Result, dict[str, float]]] = {}
    for (*_, period), rows in settings_of(results):
        for row in rows:
            if row["policy"] in BOUNDS:
                continue
            key = (*cell_of(row), period)
            cell = cells.setdefault(key, ({**row, "sampling_period": period}, {}))
            cell[1].setdefault(row["policy"], row["slowdown"])
    return list(cells.values())


def standings(results: Sequence[Result]) -> list[Standing]:
    """Return how every contender did, best first, those in hardware last."""
    wins = dict.fromkeys(contenders(results), 0)
    for _, slowdowns in _cells(results):
        best = min(slowdowns.values())
        best_host = min(_on_hosts(slowdowns).values(), default=best)
        for policy, slowdown in slowdowns.items():
            least = best if policy in IN_HARDWARE else best_host
            wins[policy] += slowdown <= least * (1 + TIE)
    table = []
    for policy in wins:
        rows = [row for row in results if row["policy"] == policy]
        ratios = [row["vs_first_touch"] for row in rows]
        known = [ratio for ratio in ratios if ratio is not None]
        table.append(
            Standing(
                policy=policy,
                cells=len(rows),
                vs_first_touch=geometric_mean(known) if known else None,
                slowdown=geometric_mean(row["slowdown"] for row in rows),
                regret=mean(row["regret"] for row in rows),
                wins=wins[policy],
                moves_per_page=mean(row["moves_per_page"] for row in rows) or 0.0,
            )
        )
    return sorted(
        table,
        key=lambda standing: (standing.policy in IN_HARDWARE, standing.slowdown),
    )


def _on_hosts(slowdowns: Mapping[str, float]) -> dict[str, float]:
    """Return the slowdowns of what a host can run."""
    return {name: value for name, value in slowdowns.items() if name not in IN_HARDWARE}


def duels(results: Sequence[Result], policy: str) -> list[Duel]:
    """Return a policy against its best rival on a host, cell by cell."""
    found = []
    for cell, slowdowns in _cells(results):
        others = _on_hosts(slowdowns)
        others.pop(policy, None)
        if policy in slowdowns and others:
            rival = min(others, key=lambda name: others[name])
            found.append(Duel(cell, slowdowns[policy], rival, others[rival]))
    return found


def place_of(cell: Result, results: Sequence[Result]) -> str:
    """Return words for where a cell is, with what tells it from the others."""
    place = name_of(cell["workload"])
    if len({row["machine"] for row in results}) > 1:
        place += f" on {name_of(cell['machine'])}"
    place += f" at {cell['fast_ratio']:.0%} fast"
    if len({row["sampling_period"] for row in results}) > 1:
        place += f", period {cell['sampling_period']}"
    if len({row["rate"] for row in results}) > 1 and cell["rate"] is not None:
        place += f", rate {cell['rate']:g}"
    return place


def _ahead(ahead: float) -> str:
    """Return by how much another one is slower (above 0) or faster, in words."""
    if ahead >= TIMES:
        return f"{ahead:,.0f} times slower"
    return f"{abs(ahead):.1%} {'slower' if ahead >= 0 else 'faster'}"


def _hardware_in_words(
    results: Sequence[Result], subject: str, ranking: Sequence[Standing]
) -> list[str]:
    """Return a sentence on each policy that stands apart, as no host can run it."""
    own = next(one for one in ranking if one.policy == subject)
    sentences = []
    for one in ranking:
        if one.policy not in IN_HARDWARE or one.policy == subject:
            continue
        ahead = one.slowdown / own.slowdown - 1
        text = (
            f"{one.policy} stands apart, and is left out above: a cache as hardware"
            " would run it, which sees every access and which no host can run. It is"
            f" {_ahead(ahead)} than {subject}"
        )
        found = [
            (values[subject], values[one.policy])
            for _, values in _cells(results)
            if subject in values and one.policy in values
        ]
        if len(found) > 1:
            faster = sum(other < mine / (1 + TIE) for mine, other in found)
            text += f", faster in {faster} of {len(found)} cells"
        sentences.append(text + ".")
    return sentences


def headline(results: Sequence[Result]) -> tuple[str, list[str]]:
    """Return a headline and the sentences under it.

    The subject is ``isotherm`` where it ran, else the policy with the lowest
    mean slowdown. Losses are named as plainly as gains.
    """
    ranking = standings(results)
    if not ranking:
        return "Bounds only", ["No policy ran, so there is nothing to compare."]
    names = [standing.policy for standing in ranking]
    subject = "isotherm" if "isotherm" in names else names[0]
    own = ranking[names.index(subject)]
    fights = duels(results, subject)
    sentences = []
    if own.vs_first_touch is None or not fights or subject == "first-touch":
        title = f"{subject}: slowdown {own.slowdown:.2f} against all memory fast"
    else:
        gain = 1 - own.vs_first_touch
        title = (
            f"{subject} takes {abs(gain):.0%} {'less' if gain >= 0 else 'more'} memory"
            " time than leaving pages where they are"
        )
    if fights:
        won = sum(fight.lead >= -TIE for fight in fights)
        others = [
            standing
            for standing in ranking
            if standing.policy != subject and standing.policy not in IN_HARDWARE
        ]
        next_best = others[0]
        ahead = next_best.slowdown / own.slowdown - 1
        rank = (
            f"It is the fastest, or within {TIE:.1%} of it, in {won} of {len(fights)}"
            " cells. Over all cells the"
            if len(fights) > 1
            else "The"
        )
        sentences.append(
            f"{rank} best of the others is {next_best.policy}, {_ahead(ahead)}."
        )
        losses = sorted(fights, key=lambda fight: fight.lead)
        worst = [fight for fight in losses if fight.lead < -TIE]
        if worst:
            named = "; ".join(
                f"{place_of(fight.cell, results)} to {fight.rival} by {-fight.lead:.1%}"
                for fight in worst[:3]
            )
            more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
            sentences.append(f"It loses on {named}{more}.")
        else:
            where = " in any cell" if len(fights) > 1 else ""
            sentences.append(f"No policy that a host can run beats it{where}.")
    sentences += _hardware_in_words(results, subject, ranking)
    if own.regret is not None:
        sentences.append(
            f"Mean regret {own.regret:.2f}: 0 would be as good as knowing the future,"
            " 1 as good as never moving a page."
        )
    flat = [row for row in results if row["policy"] == subject and is_flat(row)]
    if flat:
        moves = max(row["moves_per_page"] for row in flat)
        slower = max((row["vs_first_touch"] or 1) - 1 for row in flat)
        sentences.append(
            "Where nothing is to be gained (uniform, stream) it moves"
            f" {moves:.2f} times its memory at most and costs {max(slower, 0):.1%}."
        )
    return title, sentences
