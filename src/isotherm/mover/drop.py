"""Giving rights up, for good."""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.core.errors import IsothermError, NotPermittedError, UsageError

# include/uapi/linux/prctl.h
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP = 1, 4, 24
_SET_NO_NEW_PRIVS, _CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63
#: Rings of perf events are locked memory: some MiB a CPU.
LOCKED_BYTES: Final = 256 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class User:
    """Who to become.

    Attributes:
        name: For people.
        uid: User.
        gid: Group.
        home: Its directory.
    """

    name: str
    uid: int
    gid: int
    home: str


def find_user(name: str) -> User:
    """Return a user by name or number.

    Raises:
        UsageError: There is none, or it is root.
    """
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(
            f"privileges.user: expected a user of this host, got {name!r}",
            hint=f"useradd --system --no-create-home {name}",
        ) from None
    if found.pw_uid == 0:
        raise UsageError(
            "privileges.user: expected a user without rights, got root",
            hint='"" leaves the run in one process',
        )
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def drop(user: User, parent: int, keep: Collection[int]) -> None:
    """Become a user for good: no rights, no way back, no descriptors but some.

    Args:
        user: Who to become.
        parent: The mover; when it ends this process is killed.
        keep: Descriptors to keep beside 0, 1 and 2.

    Raises:
        NotPermittedError: We may not.
        IsothermError: Something was left, or the mover has gone.
    """
    _close_others(keep)
    os.setsid()  # a terminal takes input from those that it controls (TIOCSTI)
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if hard != resource.RLIM_INFINITY:
            most = max(hard, LOCKED_BYTES)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # EPERM: not ours to drop
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except PermissionError as error:
        raise NotPermittedError(
            f"privileges.user: cannot become {user.name}: {error.strerror}",
            hint="it takes CAP_SETUID and CAP_SETGID",
        ) from None
    _clear_capabilities()
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_DUMPABLE, 0)
    # Last: a change of credentials clears it.
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise IsothermError("the mover has ended")
    check()
    for name, value in (("HOME", user.home), ("USER", user.name)):
        os.environ[name] = value
    os.environ["LOGNAME"] = user.name


def check() -> None:
    """Check that no right is left.

    Raises:
        IsothermError: One is.
    """
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    left = [
        name
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")
        if int(status.get(name, "0"), 16)
    ]
    left += [name for name in ("Uid", "Gid") if "0" in status[name].split()]
    left += ["Groups"] if status["Groups"].split() else []
    left += ["NoNewPrivs"] if status["NoNewPrivs"].strip() != "1" else []
    if left:
        raise IsothermError(f"privileges.user: rights are left: {', '.join(left)}")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        code = ctypes.get_errno()
        raise IsothermError(f"prctl({option}, {value}): {os.strerror(code)}")


def _clear_capabilities() -> None:
    """Give up effective, permitted and inheritable capabilities: capset(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing):
        code = ctypes.get_errno()
        raise IsothermError(f"capset: {os.strerror(code)}")


def _close_others(keep: Collection[int]) -> None:
    """Close all descriptors but 0, 1, 2 and some; nothing is read from 0."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    at = 3
    for fd in sorted(keep):
        os.closerange(at, fd)
        at = fd + 1
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    top = max((int(name) for name in os.listdir("/proc/self/fd")), default=at)  # noqa: PTH208  # numbers
    os.closerange(at, min(top + 1, most) if most > 0 else top + 1)
