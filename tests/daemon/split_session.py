"""A run split in two whose session does nothing but wait: for tests of its life.

    python split_session.py RUN_DIRECTORY PID FILE WORD

The mover changes FILE, through its journal, before it splits. The session says its
pid and user; then ``wait`` waits for a signal and ends with 0, ``deaf`` waits for
none, and a number ends with it.
"""

import os
import sys
import time
from pathlib import Path

import msgspec

from isotherm.core.changes import HostChanges
from isotherm.daemon import split as splitting
from isotherm.daemon.config import Config
from isotherm.daemon.preflight import Request
from isotherm.daemon.rundir import RunDirectory, RunRecord, start_ticks
from isotherm.daemon.waiting import Waiter


class Changes(HostChanges):
    """A journal that begins with a change."""

    def __init__(self, journal: Path | None) -> None:
        super().__init__(journal)
        self.write(Path(sys.argv[3]), "changed")


def main() -> int:
    """Split, and be one of the two."""
    runs = RunDirectory(Path(sys.argv[1]))
    fields = {"privileges": {"user": "nobody"}}
    config = msgspec.convert(fields, Config)
    request = Request(pids=(int(sys.argv[2]),), config=config)
    splitting.HostChanges = Changes  # type: ignore[misc]  # with one change
    # Python may lie where nobody else may read: all is imported by now.
    splitting._check_reach = lambda user, home: None
    splitting.OBEY_S = 1.0  # type: ignore[misc]  # not a minute
    parted = splitting.split(request, (runs, []))
    if isinstance(parted, int):
        return parted
    mine, _ = parted
    me = os.getpid()
    with Waiter() as waiter:
        assert [] == mine.lock([int(sys.argv[2])])
        mine.announce(
            RunRecord(
                pid=me,
                start_ticks=start_ticks(me) or 0,
                since_s=0.0,
                mover="isotherm",
                targets="",
                pids=(),
                command=(),
            )
        )
        print(me, os.geteuid(), mine.directory, flush=True)  # noqa: T201
        if sys.argv[4] == "wait":
            waiter.wait(600)
        while sys.argv[4] == "deaf":
            time.sleep(600)
    mine.close()
    return 0 if sys.argv[4] == "wait" else int(sys.argv[4])


if __name__ == "__main__":
    sys.exit(main())
