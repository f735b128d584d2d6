"""Where views come from: a running daemon, or a recording that is played."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from isotherm.core.errors import IsothermError, TargetGoneError, UsageError
from isotherm.daemon.asking import running
from isotherm.daemon.rundir import RunRecord
from isotherm.daemon.socket import Question, ask_raw
from isotherm.lab.played_view import PlayedView
from isotherm.observability.view import RANGES, RangeOrder, View

#: A recording is played so many times as fast as it ran.
SPEED: Final = 10.0


class Feed(Protocol):
    """Gives views of one run."""

    @property
    def live(self) -> bool:
        """Whether it goes on by itself, and cannot be wound back."""
        ...

    def view(
        self,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> View:
        """Return the run as it is now; ranges from the ``first`` in an order.

        Raises:
            TargetGoneError: The run has ended.
        """
        ...


class LiveFeed:
    """Asks a daemon.

    Args:
        run: The daemon.
    """

    live = True

    def __init__(self, run: RunRecord) -> None:
        self.run = run

    def view(
        self,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> View:
        """Return what the daemon says now."""
        found = self.view_json(most_ranges, heat=heat, order=order, first=first)
        try:
            return msgspec.json.decode(found, type=View)
        except msgspec.ValidationError as error:
            raise IsothermError(
                f"daemon {self.run.pid}: not a view: {error}",
                hint="the daemon may be of another version of isotherm",
            ) from None

    def view_json(
        self,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> bytes:
        """Return the same as JSON, as it came: to be handed on.

        Raises:
            TargetGoneError: The run has ended.
        """
        question = Question(
            "view", most_ranges=most_ranges, heat=heat, order=order, first_range=first
        )
        return ask_raw(Path(self.run.socket or ""), question)


class PlayedFeed:
    """Plays a recording; it can be paused and wound.

    Args:
        directory: What ``--record`` wrote.
        speed: Seconds of the run that pass in a second.
        clock: Seconds; tests give their own.

    Raises:
        UsageError: No recording, or a speed that is none.
    """

    live = False

    def __init__(
        self,
        directory: Path,
        speed: float = SPEED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < speed < float("inf"):
            raise UsageError(f"speed: expected a number > 0, got {speed:g}")
        self.played = PlayedView(directory)
        self.speed, self._clock = speed, clock
        self.paused = False
        self._at_s, self._since_s = 0.0, clock()

    @property
    def time_s(self) -> float:
        """Seconds into the run."""
        if self.paused:
            return self._at_s
        passed = (self._clock() - self._since_s) * self.speed
        return min(self._at_s + passed, self.played.end_s)

    def wind(self, time_s: float) -> None:
        """Go to a time of the run, within it."""
        self._at_s = min(max(time_s, 0.0), self.played.end_s)
        self._since_s = self._clock()

    def pause(self) -> None:
        """Stop the time, or let it go on; at the end begin anew."""
        now_s = self.time_s
        if not self.paused and now_s >= self.played.end_s:
            self.wind(0.0)
            return
        self.wind(now_s)
        self.paused = not self.paused

    def view(
        self,
        most_ranges: int = RANGES,
        *,
        heat: bool = False,
        order: RangeOrder = "heat",
        first: int = 0,
    ) -> View:
        """Return the run as it was at this time."""
        return self.played.at(
            self.time_s, most_ranges, heat=heat, order=order, first=first
        )


def live_feed(pid: int | None = None, directory: Path | None = None) -> LiveFeed:
    """Return a feed of the daemon that runs here.

    Args:
        pid: Of the daemon, or of a process that it was told to manage; None: the
            only one.
        directory: Where daemons leave word; None: the user's.

    Raises:
        TargetGoneError: None runs, or not that one.
        UsageError: Several run and none was named.
    """
    runs = running(directory)
    if pid is not None:
        runs = [run for run in runs if pid == run.pid or pid in run.pids]
        if not runs:
            raise TargetGoneError(
                f"pid {pid}: no isotherm with this number, and none manages it",
                hint="isotherm explain lists what runs",
            )
    if not runs:
        raise TargetGoneError(
            "no isotherm runs that could be watched",
            hint="isotherm run -- COMMAND starts one; --recording DIR plays one",
        )
    if len(runs) > 1:
        names = ", ".join(f"{run.pid} ({run.targets})" for run in runs)
        raise UsageError(f"several isotherms run: {names}", hint="name one by --pid")
    return LiveFeed(runs[0])
