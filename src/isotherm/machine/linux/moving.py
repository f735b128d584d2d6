"""Moving pages of one process by move_pages(2), whatever it answers.

What move_pages says, and what of it can be believed (do_pages_move() in
mm/migrate.c, and seen on Linux 6.12):

* 0: every status holds. A page whose huge page has just been moved by another
  address of the same call says EBUSY although it moved.
* > 0: the pages without a status, up to the next with one, were tried together, and
  some stayed; what follows was not tried. Where the pages are now is asked.
* -ENOMEM: the same, but for want of room.
* -ENODEV, -EPERM, -ESRCH: none was moved; all pages get that errno.
* -EACCES: the cpuset of the process forbids the node: EXDEV for all pages, so that
  a status of EACCES is left for a page that several processes map.
"""

import errno
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.linux import syscalls
from isotherm.machine.linux.process import Process

#: Most calls for one batch; what is still open then is EAGAIN.
MOST_CALLS: Final = 12
#: Most pages in one call: 40 k pages/s against 32 k at 512 in the guest, and the
#: kernel copies the arrays a page at a time.
PAGES_PER_CALL: Final = 4096

#: What pages get whose process may not use a node.
FORBIDDEN: Final = errno.EXDEV

_UNSURE: Final = (-errno.EBUSY, -errno.EAGAIN, syscalls.NO_STATUS)
_NONE_MOVED: Final = frozenset(
    {errno.EACCES, errno.ENODEV, errno.EPERM, errno.ESRCH, errno.EINVAL, errno.ENOSYS}
)


def where(process: Process, vpage: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Return the node of each page, or a -errno, int32[n].

    -ENOENT and -EFAULT: no page there now; -ESRCH: the process has ended.
    """
    answer = process.move_pages(vpage, None)
    if answer.result < 0:
        return np.full(len(vpage), answer.result, np.int32)
    return answer.status


def move_to(
    process: Process,
    vpage: NDArray[np.uint64],
    node: int,
    flags: int = syscalls.MPOL_MF_MOVE,
) -> NDArray[np.int16]:
    """Move pages of a process to one node; return an errno each, int16[n].

    0: the page is there. EBUSY: it was tried and stayed. EAGAIN: given up for now.
    """
    code = np.full(len(vpage), errno.EAGAIN, np.int16)
    todo: list[NDArray[np.intp]] = [
        np.arange(at, min(at + PAGES_PER_CALL, len(vpage)))
        for at in range(0, len(vpage), PAGES_PER_CALL)
    ]
    todo.reverse()
    calls = MOST_CALLS + 2 * len(todo)
    while todo and calls:
        rows = todo.pop()
        calls -= 1
        target = np.full(len(rows), node, np.int32)
        answer = process.move_pages(vpage[rows], target, flags)
        if answer.result == 0:
            code[rows] = _settle(process, vpage[rows], answer.status, node)
            continue
        if -answer.result in _NONE_MOVED:
            code[rows] = FORBIDDEN if answer.result == -errno.EACCES else -answer.result
            if answer.result == -errno.ESRCH:
                code[np.concatenate([rows, *todo])] = errno.ESRCH
                break
            continue
        now = where(process, vpage[rows])
        result = np.where(now < 0, -now, errno.EBUSY).astype(np.int16)
        # A refusal that was written holds, whatever became of the others.
        refused = (answer.status < 0) & ~np.isin(answer.status, _UNSURE)
        result[refused] = -answer.status[refused]
        result[now == node] = 0
        stop = len(rows)
        if answer.result == -errno.ENOMEM:
            result[result == errno.EBUSY] = errno.ENOMEM
        else:
            stop = _tried(answer.status)
        code[rows[:stop]] = result[:stop]
        if stop < len(rows):
            code[rows[stop]] = result[stop]
            rest = rows[stop + 1 :]
            code[rest[now[stop + 1 :] == node]] = 0
            rest = rest[now[stop + 1 :] != node]
            if len(rest):
                todo.append(rest)
    return code


def _tried(status: NDArray[np.int32]) -> int:
    """Return how many pages a call has tried that ended early: none is after them.

    The list that failed are the first pages without a status; it was sent off
    because its end was reached, or a page came that could not join it, whose
    status is written.
    """
    silent = status == syscalls.NO_STATUS
    if not silent.any():
        return len(status)
    first = int(silent.argmax())
    spoke = ~silent[first:]
    return first + int(spoke.argmax()) if spoke.any() else len(status)


def _settle(
    process: Process, vpage: NDArray[np.uint64], status: NDArray[np.int32], node: int
) -> NDArray[np.int16]:
    """Return errno of statuses that hold, asking again where one may not."""
    code = np.where(status < 0, -status, 0).astype(np.int16)
    unsure = np.isin(status, _UNSURE) | ((status >= 0) & (status != node))
    if unsure.any():
        now = where(process, vpage[unsure])
        again = np.where(now < 0, -now, errno.EBUSY).astype(np.int16)
        again[now == node] = 0
        code[unsure] = again
    return code
