"""How many files may be open: three a process that is followed, one an event.

The soft limit is 1024 on most hosts, which is 340 processes; the hard limit may be
had without asking. What finds no room is left out, and said.
"""

import contextlib
import errno
import resource
from collections.abc import Iterator
from typing import Final

#: No descriptor is left, of this process or of the host.
NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})

#: Of all descriptors, for followed processes. The rest is for hint sources, and for
#: what is open only for a moment: a file in /proc above all.
FOR_PROCESSES: Final = 0.75
#: Events of threads leave room for processes that are found later.
FOR_EVENTS: Final = 0.5

#: What helps where there is none.
HINT: Final = "ulimit -Hn and fs.file-max bound the open files"


@contextlib.contextmanager
def as_many_as_allowed() -> Iterator[int]:
    """Raise the soft limit to the hard one; give what it is then.

    It is as before afterwards. Processes that are started meanwhile inherit it:
    start commands before.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # EPERM where fs.nr_open has been set below the hard limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fits(descriptor: int, share: float) -> bool:
    """Return whether a descriptor that was just opened may stay.

    The kernel gives out the lowest number that is free: it tells how many are open.

    Args:
        descriptor: The newest.
        share: Of all descriptors, for those of its kind and all before.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit == resource.RLIM_INFINITY or descriptor < limit * share
