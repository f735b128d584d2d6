"""Directories and files that nobody else can have put there, or can change.

What is in them is acted upon: a journal is undone, a process that is named gets a
signal. In a directory that another user owns or may write all of that is theirs.
"""

import os
import stat
from pathlib import Path

from isotherm.core.errors import NotPermittedError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_private(directory: Path) -> None:
    """Make a directory that only we may enter, or check the one that is there.

    Folders above it are made as the umask says, where they are missing.

    Raises:
        NotPermittedError: What is there is not ours alone; see ``check_private``.
        OSError: It cannot be made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)  # a umask takes bits away, and adds none
    except FileExistsError:
        check_private(directory)


def check_private(directory: Path) -> bool:
    """Return whether a directory is there; it is ours alone then.

    Raises:
        NotPermittedError: It is a link or a file, another user's, or others may
            write it.
        OSError: It cannot be looked at.
    """
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    _check(directory, found, stat.S_ISDIR(found.st_mode), "a directory")
    return True


def check_private_file(path: Path, descriptor: int) -> None:
    """Check that an open file is a file of ours that nobody else may write.

    Raises:
        NotPermittedError: It is not.
    """
    found = os.fstat(descriptor)
    _check(path, found, stat.S_ISREG(found.st_mode), "a file")


def not_private(path: Path, found: str, expected: str) -> NotPermittedError:
    """Return the error for what somebody else may have put there."""
    return NotPermittedError(
        f"{path}: {found}, expected {expected} of user {os.geteuid()} alone",
        hint="look who made it and remove it; ISOTHERM_RUN_DIRECTORY names another"
        " place",
    )


def _check(path: Path, found: os.stat_result, is_it: bool, expected: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise not_private(path, "is a symbolic link", expected)
    if not is_it:
        raise not_private(path, "is something else", expected)
    if found.st_uid != os.geteuid():
        raise not_private(path, f"belongs to user {found.st_uid}", expected)
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise not_private(path, f"others may write it (mode {mode:04o})", expected)
