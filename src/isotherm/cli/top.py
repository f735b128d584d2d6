"""``isotherm top``: a run in the terminal."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import print_json
from isotherm.core.errors import UnsupportedError, UsageError

EPILOGUE = """\
Examples:
  isotherm top
  isotherm top --pid 4242
  isotherm simulate --policy isotherm --workload gups-shift --record run
  isotherm top --recording run --speed 5

Keys: ? shows them, q ends.

Exit codes: 0 done, 2 several runs and none named, 3 no terminal or textual is
not installed, 4 not permitted, 5 nothing runs.
"""

app = App(name="top", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def top(
    *,
    pid: int | None = None,
    recording: Path | None = None,
    speed: float = 10.0,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Watch a run: tiers, processes, heat by range, moves with reasons.

    Parameters
    ----------
    pid
        Of the isotherm to watch, or of a process that it was told to manage.
    recording
        Play this directory of --record instead; of a simulation or of a live run.
    speed
        Seconds of a recording that pass in a second.
    json
        Print what would be shown now as one JSON document, and end.
    """
    if pid is not None and recording is not None:
        raise UsageError("expected --pid or --recording, got both")

    from isotherm.dashboard.feed import (  # noqa: PLC0415  # --help
        Feed,
        PlayedFeed,
        live_feed,
    )

    feed: Feed = live_feed(pid) if recording is None else PlayedFeed(recording, speed)
    if json:
        if isinstance(feed, PlayedFeed):
            feed.wind(feed.played.end_s)
        print_json(feed.view(heat=True))
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UnsupportedError(
            "top: expected a terminal", hint="--json prints one view without one"
        )
    try:
        from isotherm.dashboard.top import Top  # noqa: PLC0415  # an extra
    except ImportError:
        raise UnsupportedError(
            "top needs textual, which is not installed",
            hint="pip install 'isotherm[service]'",
        ) from None
    if not isinstance(feed, PlayedFeed):
        feed.view(0)  # what is wrong is said before the screen is taken
    return Top(feed).run() or 0
