"""What a probe says of a source that is not there."""

from typing import Final

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError

#: Hints that can be pasted into a shell begin with one of these.
_COMMANDS: Final = ("echo ", "mount ", "sysctl ", "ulimit ")


def missing(name: str, error: IsothermError) -> Availability:
    """Return that a source is not there, and why.

    A hint that is a command stays one; another is added to the reason.

    >>> missing("x", IsothermError("no y", hint="echo 1 > /z")).command
    'echo 1 > /z'
    >>> missing("x", IsothermError("no y", hint="a kernel with Y"))
    ... # doctest: +NORMALIZE_WHITESPACE
    Availability(name='x', kind='source', present=False,
                 why='no y: needs a kernel with Y', command=None)
    """
    hint, why = error.hint, error.message
    if hint is None or hint.startswith(_COMMANDS):
        return Availability(name, "source", False, why, hint)
    why += f": {hint}" if hint.startswith("run ") else f": needs {hint}"
    return Availability(name, "source", False, why)
