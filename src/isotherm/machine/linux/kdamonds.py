"""The way back from kdamonds that a killed process has left: stop and remove them.

They carry a mark, an odd ``update_us``, by which they are known again; see
``hints.live.damon_admin``, which makes them.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from isotherm.core.changes import Facts, read_value, undoes, write_value

ADMIN: Final = Path("/sys/kernel/mm/damon/admin")
KIND: Final = "damon-kdamonds"
MARKS: Final = (1_000_001, 1_999_999)  #: µs: also a fair interval of updates

#: The files answer EBUSY while another call has DAMON's lock; so long it is tried.
PATIENCE_S: Final = 2.0

Answer = TypeVar("Answer")


def patiently(action: Callable[[], Answer]) -> Answer:
    """Return what an action gives, tried again while it ends in EBUSY.

    mm/damon/sysfs.c takes its lock by mutex_trylock(), for reading ``state``, too,
    on newer kernels.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)


@undoes(KIND)
def remove(facts: Facts) -> str:
    """Stop and remove kdamonds that carry our mark."""
    base, mark = Path(facts["admin"]) / "kdamonds", str(facts["mark"])
    try:
        count = int(read_value(base / "nr_kdamonds"))
    except FileNotFoundError:
        return "damon: gone meanwhile"
    if count == 0:
        return "damon: no kdamond is left"
    ours = count == facts["kdamonds"]
    for i in range(count):
        context = base / f"{i}/contexts/0"
        if not context.is_dir():  # killed before it was marked
            ours = ours and _state(base / f"{i}") == "off"
            continue
        ours &= read_value(context / "monitoring_attrs/intervals/update_us") == mark
    if not ours:
        return "damon: left alone, these kdamonds are somebody else's"
    for i in range(count):
        if _state(base / f"{i}") == "on":
            _turn_off(base / f"{i}")
    patiently(lambda: write_value(base / "nr_kdamonds", "0"))
    return f"damon: {count} kdamonds stopped and removed"


def _state(kdamond: Path) -> str:
    return patiently(lambda: read_value(kdamond / "state"))


def _turn_off(kdamond: Path) -> None:
    """Stop a kdamond; it may end by itself meanwhile."""
    try:
        patiently(lambda: write_value(kdamond / "state", "off"))
    except OSError:
        if _state(kdamond) == "on":
            raise
