"""The errors that reach a person, and the exit code each one ends with.

* IsothermError (1)
    - UsageError (2)        the command line or a file given on it is wrong
        · ConfigError       a TOML file
        · TraceFormatError  a trace that cannot be read
        · TopologyError     a recorded or live tree that cannot be read
    - UnsupportedError (3)  this host, build or machine lacks what was asked for
    - NotPermittedError (4) the caller may not do this here
    - TargetGoneError (5)   the process or space has vanished
"""

from typing import ClassVar


class IsothermError(Exception):
    """An error with a message for a person, an exit code and a hint.

    Args:
        message: Subject, what was found, what was expected; lower case, no full stop.
        hint: A command or a setting that helps.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(IsothermError):
    """The command line, or a file named on it, is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A TOML file holds something other than its schema says."""


class TraceFormatError(UsageError):
    """A trace holds something other than its format says."""


class TopologyError(UsageError):
    """A topology tree cannot be read."""


class UnsupportedError(IsothermError):
    """This host, build or machine lacks what was asked for."""

    exit_code = 3


class NotPermittedError(IsothermError):
    """The caller may not do this here."""

    exit_code = 4


class TargetGoneError(IsothermError):
    """The process or space that was asked for has vanished."""

    exit_code = 5
