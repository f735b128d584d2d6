"""Which files of the kernel a session may have read and written, and with what.

Paths are matched whole against patterns that have no place for ``..``, and are
opened without following a link at the end. A value is a whole number within bounds or
one of a few words.
"""

import errno
import os
import re
from collections.abc import Callable
from typing import Final

from isotherm.machine.linux.kdamonds import ADMIN, MARKS
from isotherm.mover.wire import MOST_ANSWER_BYTES

FOLDER: Final = "sys/kernel/mm/mempolicy/weighted_interleave"
#: One past the last address of user space: 56 bits with five levels of tables.
USER_END: Final = 1 << 56
PAGE_MASK: Final = 4095

#: Of a process's ``/proc`` directory, as they are read here: what they say depends
#: on who reads.
READ: Final = re.compile(r"stat|task/[1-9][0-9]{0,6}/stat", re.ASCII)
#: As they are opened here and read there: what they say depends on who opens.
OPEN: Final = re.compile(
    r"maps|smaps|smaps_rollup|numa_maps|pagemap|status|cgroup"
    r"|task/[1-9][0-9]{0,6}/children",
    re.ASCII,
)
LIST: Final = "task"
#: What may be written to ``clear_refs``: accessed bits, of all, of anonymous memory,
#: of files; soft-dirty bits (proc(5)).
CLEARS: Final = frozenset({1})

_KDAMONDS: Final = re.escape(f"{ADMIN}/kdamonds")
_CONTEXT: Final = rf"{_KDAMONDS}/[0-9]/contexts/0"
_WEIGHTS: Final = re.escape(f"/{FOLDER}")
_TRACEFS: Final = r"/sys/kernel/(?:tracing|debug/tracing)"

READABLE: Final = re.compile(
    rf"{_KDAMONDS}/nr_kdamonds"
    rf"|{_KDAMONDS}/[0-9]/(?:state|pid)"
    rf"|{_CONTEXT}/(?:avail_operations|operations)"
    rf"|{_CONTEXT}/monitoring_attrs/intervals/(?:sample|aggr|update)_us"
    rf"|{_TRACEFS}/events/damon/damon_aggregated/(?:id|format)"
    r"|/sys/module/damon_(?:reclaim|lru_sort|stat)/parameters/enabled"
    rf"|{_WEIGHTS}/(?:auto|node[0-9]{{1,4}})",
    re.ASCII,
)

Check = Callable[[str], bool]


def whole(low: int, high: int) -> Check:
    """Return what takes whole numbers in [low, high], as the kernel prints them.

    >>> whole(0, 10)("10"), whole(0, 10)("11"), whole(0, 10)("0x1")
    (True, False, False)
    """

    def check(value: str) -> bool:
        return (
            value.isascii()
            and value.isdecimal()
            and len(value) <= 20
            and (low <= int(value) <= high)
        )

    return check


def among(*words: str) -> Check:
    """Return what takes these words."""
    return lambda value: value in words


#: DAMON: what may be written beside the journal once kdamonds are made, by path.
DAMON: Final[tuple[tuple[re.Pattern[str], Check], ...]] = tuple(
    (re.compile(pattern, re.ASCII), check)
    for pattern, check in (
        (rf"{_KDAMONDS}/nr_kdamonds", whole(0, 2)),
        (
            rf"{_KDAMONDS}/[01]/state",
            among("on", "off", "commit", "update_schemes_tried_regions"),
        ),
        (rf"{_KDAMONDS}/[01]/contexts/nr_contexts", whole(0, 1)),
        (rf"{_CONTEXT}/operations", among("vaddr", "fvaddr")),
        (
            rf"{_CONTEXT}/monitoring_attrs/intervals/(?:sample|aggr)_us",
            whole(1000, 10**9),  # a kdamond that never sleeps is nobody's wish
        ),
        (rf"{_CONTEXT}/monitoring_attrs/intervals/update_us", whole(*MARKS)),
        (rf"{_CONTEXT}/monitoring_attrs/nr_regions/(?:min|max)", whole(3, 10**6)),
        (rf"{_CONTEXT}/targets/nr_targets", whole(0, 4096)),
        (
            rf"{_CONTEXT}/targets/[0-9]{{1,4}}/regions/nr_regions",
            whole(0, 65536),
        ),
        (
            rf"{_CONTEXT}/targets/[0-9]{{1,4}}/regions/[0-9]{{1,5}}/(?:start|end)",
            whole(0, USER_END),
        ),
        (rf"{_CONTEXT}/schemes/nr_schemes", whole(0, 1)),
        (rf"{_CONTEXT}/schemes/0/action", among("stat")),
        (
            rf"{_CONTEXT}/schemes/0/access_pattern/(?:sz|nr_accesses|age)/(?:min|max)",
            whole(0, (1 << 64) - 1),
        ),
    )
)
#: Its value is a process, held against those that are managed.
DAMON_PID: Final = re.compile(rf"{_CONTEXT}/targets/[0-9]{{1,4}}/pid_target", re.ASCII)
DAMON_STATE: Final = re.compile(rf"{_KDAMONDS}/([01])/state", re.ASCII)

#: Weights of interleaving, through the journal.
WEIGHTS: Final[tuple[tuple[re.Pattern[str], Check], ...]] = (
    (re.compile(rf"{_WEIGHTS}/node[0-9]{{1,4}}", re.ASCII), whole(1, 255)),
    (re.compile(rf"{_WEIGHTS}/auto", re.ASCII), among("true", "false", "Y", "N")),
)


def number(value: object, low: int, high: int) -> int:
    """Return a whole number within bounds.

    Raises:
        OSError: EINVAL: it is none.
    """
    if type(value) is not int or not low <= value <= high:
        raise OSError(errno.EINVAL, f"expected {low} to {high}, got {value!r:.40}")
    return value


def may_write(
    table: tuple[tuple[re.Pattern[str], Check], ...], path: str, value: str
) -> None:
    """Refuse a write that is not on a list.

    Raises:
        OSError: EACCES: the path; EINVAL: the value.
    """
    for pattern, check in table:
        if pattern.fullmatch(path):
            if check(value):
                return
            raise OSError(errno.EINVAL, f"{path}: {value[:40]!r} is not to be written")
    raise OSError(errno.EACCES, f"{path[:200]!r} is not to be written")


def read_listed(path: str) -> bytes:
    """Return what a file on the list says, at most 64 KiB.

    Raises:
        OSError: EACCES: it is not on the list; or the kernel's.
    """
    if not READABLE.fullmatch(path):
        raise OSError(errno.EACCES, f"{path[:200]!r} is not to be read")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return os.read(fd, MOST_ANSWER_BYTES)
    finally:
        os.close(fd)
