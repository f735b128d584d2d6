"""The directories in which sessions without rights leave word: ``/run/isotherm/UID``.

Each belongs to its user alone; root makes it and root removes it. What is in it is the
user's, so nothing there is followed or believed: names of ours are unlinked.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from isotherm.core.errors import NotPermittedError
from isotherm.core.private import make_private

_OURS: Final = re.compile(r"run-([0-9]{1,7})\.(?:json|sock|partial)|targets\.lock")
_CACHE: Final = "numba"
#: Of the cache: numba makes a folder for each of ours, with files in it.
_MOST_LEVELS: Final = 8


def make_home(directory: Path, uid: int, gid: int) -> Path:
    """Make the directory of a user's sessions, or check the one that is there.

    Others may pass through the run directory then, and still list nothing in it.

    Raises:
        NotPermittedError: What is there is not the user's, or may not be made.
    """
    try:
        make_private(directory)
        directory.chmod(0o711)
    except OSError as error:
        raise NotPermittedError(
            f"{directory}: {error.strerror}",
            hint="ISOTHERM_RUN_DIRECTORY names another place",
        ) from None
    return make_owned(directory, uid, gid)


def make_owned(directory: Path, uid: int, gid: int) -> Path:
    """Make a directory below one of ours that is a user's alone, or check it.

    Raises:
        NotPermittedError: What is there is not the user's, or may not be made.
    """
    home = directory / str(uid)
    try:
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
        file = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(file)
            if found.st_uid not in (0, uid):
                raise NotPermittedError(
                    f"{home}: belongs to user {found.st_uid}, not {uid}",
                    hint="look who made it and remove it",
                )
            if found.st_uid != uid:
                os.fchmod(file, 0o700)
                os.fchown(file, uid, gid)
        finally:
            os.close(file)
    except OSError as error:
        raise NotPermittedError(
            f"{home}: {error.strerror}",
            hint="it takes CAP_CHOWN; ISOTHERM_RUN_DIRECTORY names another place",
        ) from None
    return home


def clear_homes(directory: Path, in_use: Collection[str]) -> None:
    """Remove directories of sessions that have ended.

    Args:
        directory: Root's run directory.
        in_use: Names of those that are somebody's.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(directory)):
            if (
                entry.name.isdecimal()
                and entry.name not in in_use
                and entry.is_dir(follow_symlinks=False)
            ):
                _remove(directory, entry.name)


def _remove(directory: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        home = os.open(directory / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            names = os.listdir(home)  # noqa: PTH208  # a descriptor
            if any(_is_alive(one) for one in names):
                return
            _take(home)
            for one in names:
                if _OURS.fullmatch(one):
                    os.unlink(one, dir_fd=home)
                elif one == _CACHE:
                    _remove_folder(home, _CACHE, _MOST_LEVELS)
        finally:
            os.close(home)
        (directory / name).rmdir()


def _is_alive(name: str) -> bool:
    """Return whether a file may be of a process that lives."""
    found = _OURS.fullmatch(name)
    if found is None or found[1] is None:
        return False
    try:
        text = Path(f"/proc/{found[1]}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _take(folder: int) -> None:
    """Make a folder our own: root removes from others' with CAP_DAC_OVERRIDE alone.

    The service has CAP_CHOWN instead. Whoever has the folder open makes nothing more
    in it.
    """
    if os.fstat(folder).st_uid != os.geteuid():
        with contextlib.suppress(PermissionError):
            os.fchown(folder, os.geteuid(), -1)
            os.fchmod(folder, 0o700)


def _remove_folder(at: int, name: str, levels: int) -> None:
    """Remove a folder and what is in it; links are not followed.

    Its user may have made it as deep as it likes: each level takes a descriptor.

    Raises:
        OSError: It is deeper than so many levels, or the kernel refuses.
    """
    if levels == 0:
        raise OSError(errno.EMLINK, "deeper than numba makes it")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(name, flags, dir_fd=at)
    try:
        _take(folder)
        for one in os.listdir(folder):  # noqa: PTH208  # a descriptor
            try:
                os.unlink(one, dir_fd=folder)
            except IsADirectoryError:
                _remove_folder(folder, one, levels - 1)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=at)


def find_home(uid: int, directory: Path) -> Path | None:
    """Return where sessions of a user leave word; None where there are none."""
    home = directory / str(uid)
    try:
        found = home.lstat()
    except OSError:
        return None
    return home if stat.S_ISDIR(found.st_mode) and found.st_uid == uid else None
