"""Plays the experiments one after the other."""

import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Protocol, cast

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.lab.fidelity.published import Measured, Published, read_published
from isotherm.lab.fidelity.verdict import Verdict, judge

#: Experiment and its module: imported when it is played.
EXPERIMENTS = {
    "colloid": "isotherm.lab.fidelity.colloid",
    "soar": "isotherm.lab.fidelity.soar",
    "tpp": "isotherm.lab.fidelity.tpp",
    "numab": "isotherm.lab.fidelity.numab",
    "pghot": "isotherm.lab.fidelity.pghot",
    "far-memory": "isotherm.lab.fidelity.far_memory",
    "thermostat": "isotherm.lab.fidelity.thermostat",
}


class Play(Protocol):
    """What an experiment's module offers as ``play``."""

    def __call__(self, published: Published, *, quick: bool, seed: int) -> Measured:
        """Play it; quick: fewer conditions or shorter runs."""
        ...


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError for an experiment that nobody knows."""
    for name in names:
        if name not in EXPERIMENTS:
            raise UsageError(
                f"experiment: no such experiment {name!r}"
                f"{did_you_mean(name, EXPERIMENTS)}",
                hint=f"known: {', '.join(EXPERIMENTS)}",
            )


def run(
    names: Sequence[str] = (),
    *,
    quick: bool = False,
    seed: int = 1,
    announce: Callable[[str], None] | None = None,
) -> Iterator[Verdict]:
    """Play experiments and yield each verdict when it is there.

    Args:
        names: Of ``EXPERIMENTS``; none: all.
        quick: Fewer conditions, shorter runs.
        seed: For everything random.
        announce: Told the name of each before it is played.

    Raises:
        UsageError: No such experiment.
    """
    check_names(names)
    for name in names or EXPERIMENTS:
        if announce is not None:
            announce(name)
        published = read_published(name)
        began = time.perf_counter()
        play = cast("Play", import_module(EXPERIMENTS[name]).play)
        measured = play(published, quick=quick, seed=seed)
        yield judge(name, published, measured, time.perf_counter() - began)
