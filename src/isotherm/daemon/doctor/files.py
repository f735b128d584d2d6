"""Reading one small file, where absent, forbidden and broken are answers."""

import errno
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file said.

    Attributes:
        path: As on the host, for people.
        text: Its content without the newline; None where it could not be read.
        problem: Why it could not: ``no such file``, ``EACCES``...; else empty.
    """

    path: str
    text: str | None
    problem: str = ""

    @property
    def missing(self) -> bool:
        """Whether there is no such file, rather than one that is not for us."""
        return self.problem == "no such file"

    @property
    def number(self) -> int | None:
        """The integer in it, if it is one."""
        try:
            return None if self.text is None else int(self.text)
        except ValueError:
            return None

    @property
    def said(self) -> str:
        """The finding in words: ``/proc/x is 1`` or ``/proc/x: no such file``."""
        if self.text is None:
            return f"{self.path}: {self.problem}"
        return f"{self.path} is {' '.join(self.text.split())}"


def read(root: Path, path: str) -> Reading:
    """Return what a file says; never raises.

    Args:
        root: Where /proc and /sys are.
        path: Below it, as ``proc/swaps``.
    """
    shown = f"/{path}"
    try:
        return Reading(shown, (root / path).read_text().strip())
    except (FileNotFoundError, NotADirectoryError):
        return Reading(shown, None, "no such file")
    except UnicodeDecodeError:
        return Reading(shown, None, "not text")
    except OSError as error:
        return Reading(shown, None, errno.errorcode.get(error.errno or 0, "unreadable"))


def exists(root: Path, path: str) -> bool:
    """Return whether there is such a file or folder, as far as we may know."""
    try:
        return (root / path).exists()
    except OSError:
        return False


def entries(root: Path, path: str) -> list[str]:
    """Return the names in a folder, sorted; none where it cannot be read."""
    try:
        return sorted(entry.name for entry in (root / path).iterdir())
    except OSError:
        return []
