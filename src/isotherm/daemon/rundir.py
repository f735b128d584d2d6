"""Where a running daemon leaves word of itself: /run/isotherm.

=====================  =====================================================
``run-PID.json``       what it manages and since when; for stop, top, doctor
``run-PID.journal``    what it changed in the kernel (``core.changes``)
``run-PID.sock``       answers ``isotherm explain`` (``daemon.socket``)
``UID/``               the same of that user's sessions (``daemon.split``)
``targets.lock``       byte PID is locked by whoever manages process PID; byte
                       0 by whoever steers the kernel's own movers; byte
                       2**32 + PID by daemon PID itself; byte 2**33 + 1 by
                       whoever has set the interleave weights
=====================  =====================================================

Locks are record locks: the kernel drops them with their holder, however it ends,
and names the holder to others. A process is a daemon where the kernel says that it
holds the lock of its own: no file alone gets it a signal.

The directory is its user's alone, or is not used.
"""

import contextlib
import fcntl
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from isotherm.core.changes import HostChanges, JournalBusyError
from isotherm.core.errors import IsothermError
from isotherm.core.private import check_private, check_private_file, make_private
from isotherm.daemon.movers import Mover
from isotherm.daemon.session_home import clear_homes, find_home

#: Of root's daemons.
SYSTEM: Final = Path("/run/isotherm")

#: Of ``targets.lock``: the host's own settings, not a process.
HOST: Final = 0
#: Of ``targets.lock``: this plus its pid is locked by a daemon while it runs.
_DAEMON: Final = 1 << 32
#: Shared by all who hold the file open for locks, exclusive to who removes it.
_GUARD: Final = 1 << 33
#: Of ``targets.lock``: the host's weights of weighted interleaving.
WEIGHTS: Final = (1 << 33) + 1

#: What is locked, where it is no process.
_NAMES: Final = {HOST: "the kernel's movers", WEIGHTS: "the interleave weights"}

#: To open the lock file while others remove it.
_TRIES: Final = 100

_LEFT = re.compile(r"run-([0-9]{1,7})\.(?:json|sock|partial)")

#: struct flock on 64-bit Linux: type, whence, start, len, pid, padded.
_FLOCK: Final = "hhqqi4x"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon says of itself.

    Attributes:
        pid: Of the daemon.
        start_ticks: When it started, in ticks since boot: tells it from another
            process with its number.
        since_s: When, seconds since 1970.
        mover: ``isotherm`` or ``kernel``.
        targets: What it was told to manage, in words.
        pids: Processes named at the start.
        command: Its command line.
        socket: Where it answers ``explain``; None: nowhere.
    """

    pid: int
    start_ticks: int
    since_s: float
    mover: str
    targets: str
    pids: tuple[int, ...]
    command: tuple[str, ...]
    socket: str | None = None


def run_directory(
    environment: Mapping[str, str] = os.environ, uid: int | None = None
) -> Path:
    """Return where daemons of this user keep their word; not made yet.

    ``ISOTHERM_RUN_DIRECTORY`` names another place.
    """
    named = environment.get("ISOTHERM_RUN_DIRECTORY")
    if named:
        return Path(named)
    user = os.geteuid() if uid is None else uid
    if user == 0:
        return SYSTEM
    home = find_home(user, SYSTEM)
    if home is not None:  # root has started a run as this user
        return home
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"]) / "isotherm"
    return Path(tempfile.gettempdir()) / f"isotherm-{user}"


def start_ticks(pid: int, root: Path = Path("/")) -> int | None:
    """Return when a process started, in ticks since boot; None if it is gone."""
    try:
        text = (root / f"proc/{pid}/stat").read_text()
    except OSError:
        return None
    field = text[text.rindex(")") + 2 :].split()
    return None if field[0] in ("Z", "X") else int(field[19])


class RunDirectory:
    """The files of one daemon, and a look at those of others.

    Args:
        directory: Made when something is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pid = os.getpid()
        self._locks: int | None = None

    @property
    def journal(self) -> Path:
        """Of this process."""
        return self.directory / f"run-{self._pid}.journal"

    @property
    def socket(self) -> Path:
        """Where this process answers questions."""
        return self.directory / f"run-{self._pid}.sock"

    # -- this daemon -------------------------------------------------------

    def announce(self, record: RunRecord) -> None:
        """Say that this daemon runs.

        Raises:
            NotPermittedError: The directory is not ours alone.
        """
        # Who clears up after a daemon of this number is waited for.
        fcntl.lockf(self._lock_file(), fcntl.LOCK_EX, 1, _DAEMON + self._pid)
        path = self.directory / f"run-{self._pid}.json"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(record))
        partial.rename(path)

    def lock(self, numbers: Iterable[int]) -> list[Mover]:
        """Lock processes, ``HOST`` or ``WEIGHTS``; return who holds what is taken."""
        taken = []
        for number in numbers:
            try:
                fcntl.lockf(self._lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                holder = self._holder(number)
                what = _NAMES.get(number, f"pid {number}")
                who = f"isotherm, pid {holder}," if holder else "another isotherm"
                command = f"isotherm stop {holder}" if holder else None
                taken.append(Mover("isotherm", f"{who} manages {what}", command))
        return taken

    def unlock(self, numbers: Iterable[int]) -> None:
        """Give up processes that have gone."""
        for number in numbers:
            fcntl.lockf(self._lock_file(), fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Take back what this daemon said of itself, and its locks."""
        self._let_go()
        # Who waits for the end of this daemon waits for the end of this file.
        (self.directory / f"run-{self._pid}.json").unlink(missing_ok=True)
        self.tidy()

    # -- all of them -------------------------------------------------------

    def runs(self) -> list[RunRecord]:
        """Return the daemons that are alive, by pid.

        Raises:
            NotPermittedError: The directory is not ours alone.
        """
        if not check_private(self.directory):
            return []
        found = [_read(path) for path in self.directory.glob("run-*.json")]
        alive = [record for record in found if record and self.is_alive(record)]
        return sorted(alive, key=lambda record: record.pid)

    def is_alive(self, record: RunRecord) -> bool:
        """Return whether a record is of an isotherm that runs.

        It started when the record says, and holds the lock of its own.
        """
        if start_ticks(record.pid) != record.start_ticks:
            return False
        if record.pid == self._pid:
            return True  # one's own locks cannot be asked for
        return self._holder(_DAEMON + record.pid) == record.pid

    def recover(self) -> list[str]:
        """Undo what killed daemons have left, and say what was done.

        Journals of daemons that live are left alone: they hold them.

        Raises:
            NotPermittedError: The directory is not ours alone: nothing is undone.
        """
        if not check_private(self.directory):
            return []
        said: list[str] = []
        for journal in sorted(self.directory.glob("run-*.journal")):
            if journal == self.journal:
                continue  # a lock file closed here would open our own locks
            try:
                said += HostChanges.recover(journal)
            except JournalBusyError:
                continue
            except OSError as error:
                said.append(f"cannot be recovered: {journal}: {error.strerror}")
            except IsothermError as error:
                more = f" ({error.hint})" if error.hint else ""
                said.append(f"cannot be recovered: {error.message}{more}")
        self._clear()
        return said

    def _clear_homes(self) -> None:
        """Remove directories of sessions whose movers have ended."""
        if os.geteuid() == 0 and self.directory.is_dir():
            runs = self.runs()
            others = [Path(r.socket).parent for r in runs if r.socket]
            clear_homes(self.directory, {p.name for p in others})

    def _clear(self) -> None:
        """Remove words of daemons that have ended.

        One that begins with the number of another waits for the lock of its own
        meanwhile, and writes its words after.
        """
        had_locks = self._locks is not None
        left: dict[int, list[Path]] = {}
        try:
            there = list(self.directory.iterdir())
        except FileNotFoundError:
            return  # who ended last has removed it meanwhile
        for path in there:
            name = _LEFT.fullmatch(path.name)
            if name is not None and int(name[1]) != self._pid:
                left.setdefault(int(name[1]), []).append(path)
        for pid, paths in left.items():
            try:
                fcntl.lockf(
                    self._lock_file(),
                    fcntl.LOCK_EX | fcntl.LOCK_NB,
                    1,
                    _DAEMON + pid,
                )
            except OSError:
                continue  # it lives
            for path in paths:
                path.unlink(missing_ok=True)
            self.unlock((_DAEMON + pid,))
        if not had_locks:
            self._let_go()
            self.tidy()

    def tidy(self) -> None:
        """Remove the directory where nobody has anything in it any more.

        The lock file goes only while nobody else holds it open for locks; who has
        opened it and waits finds that it has gone, and makes another.
        """
        if self._locks is not None:
            return
        self._clear_homes()
        with contextlib.suppress(OSError):
            names = {entry.name for entry in self.directory.iterdir()}
            if names == {"targets.lock"}:
                self._remove_lock_file()
            if names <= {"targets.lock"}:
                self.directory.rmdir()

    # -- the lock file -----------------------------------------------------

    @property
    def _lock_path(self) -> Path:
        return self.directory / "targets.lock"

    def _remove_lock_file(self) -> None:
        """Remove the lock file; raises OSError where somebody holds it open."""
        file = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _GUARD)
            if os.path.samestat(os.fstat(file), self._lock_path.lstat()):
                self._lock_path.unlink()
        finally:
            os.close(file)

    def _let_go(self) -> None:
        """Drop all locks."""
        if self._locks is not None:
            os.close(self._locks)
            self._locks = None

    def _lock_file(self) -> int:
        if self._locks is None:
            self._locks = self._open_lock_file()
        return self._locks

    def _open_lock_file(self) -> int:
        """Return a descriptor of the lock file, which stays while it is open.

        Raises:
            NotPermittedError: The directory or the file is not ours alone.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        for _ in range(_TRIES):
            make_private(self.directory)
            try:
                file = os.open(self._lock_path, flags, 0o600)
            except FileNotFoundError:
                continue  # who ended last has removed the directory
            try:
                check_private_file(self._lock_path, file)
                fcntl.lockf(file, fcntl.LOCK_SH, 1, _GUARD)
                if os.path.samestat(os.fstat(file), self._lock_path.lstat()):
                    return file
            except FileNotFoundError:
                pass
            except IsothermError:
                os.close(file)
                raise
            os.close(file)
        raise IsothermError(f"{self._lock_path}: was removed {_TRIES} times")

    def _holder(self, number: int) -> int | None:
        """Return the pid that holds a lock; None if nobody does any more."""
        ask = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            if self._locks is not None:
                answer = fcntl.fcntl(self._locks, fcntl.F_GETLK, ask)
            else:
                file = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    answer = fcntl.fcntl(file, fcntl.F_GETLK, ask)
                finally:
                    os.close(file)
        except OSError:
            return None
        kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
        return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else None


def _read(path: Path) -> RunRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError):
        return None


def describe(record: RunRecord) -> dict[str, Any]:
    """Return a record as JSON values."""
    return dict(msgspec.to_builtins(record))
