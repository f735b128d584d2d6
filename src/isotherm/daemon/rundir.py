"""Where a running daemon leaves word of itself: /run/isotherm.

=====================  =====================================================
``run-PID.json``       what it manages and since when; for stop, top, doctor
``run-PID.journal``    what it changed in the kernel (``core.changes``)
``run-PID.sock``       answers ``isotherm explain`` (``daemon.socket``)
``targets.lock``       byte PID is locked by whoever manages process PID; byte
                       0 by whoever steers the kernel's own movers
=====================  =====================================================

Locks are record locks: the kernel drops them with their holder, however it ends,
and names the holder to others.
"""

import contextlib
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from isotherm.core.changes import HostChanges, JournalBusyError
from isotherm.core.errors import IsothermError
from isotherm.daemon.movers import Mover

#: Of ``targets.lock``: the host's own settings, not a process.
HOST: Final = 0

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
        return Path("/run/isotherm")
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
        """Say that this daemon runs."""
        self._make()
        path = self.directory / f"run-{self._pid}.json"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(record))
        partial.rename(path)

    def lock(self, numbers: Iterable[int]) -> list[Mover]:
        """Lock processes (or ``HOST``); return who holds those that are taken."""
        taken = []
        for number in numbers:
            try:
                fcntl.lockf(self._lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                holder = self._holder(number)
                what = f"pid {number}" if number != HOST else "the kernel's movers"
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
        (self.directory / f"run-{self._pid}.json").unlink(missing_ok=True)
        if self._locks is not None:
            os.close(self._locks)
            self._locks = None
        self.tidy()

    # -- all of them -------------------------------------------------------

    def runs(self) -> list[RunRecord]:
        """Return the daemons that are alive, by pid."""
        found = []
        for path in sorted(self.directory.glob("run-*.json")):
            record = _read(path)
            if record is not None and start_ticks(record.pid) == record.start_ticks:
                found.append(record)
        return sorted(found, key=lambda record: record.pid)

    def recover(self) -> list[str]:
        """Undo what killed daemons have left, and say what was done.

        Journals of daemons that live are left alone: they hold them.
        """
        said: list[str] = []
        for journal in sorted(self.directory.glob("run-*.journal")):
            if journal == self.journal:
                continue  # a lock file closed here would open our own locks
            try:
                said += HostChanges.recover(journal)
            except JournalBusyError:
                continue
            except (OSError, IsothermError) as error:
                said.append(f"{journal}: cannot be recovered: {error}")
        alive = {record.pid for record in self.runs()}
        for path in self.directory.glob("run-*.json"):
            record = _read(path)
            if record is None or record.pid not in alive:
                path.unlink(missing_ok=True)
        for path in self.directory.glob("run-*.sock"):
            if path.stem.removeprefix("run-") not in {str(pid) for pid in alive}:
                path.unlink(missing_ok=True)
        return said

    def tidy(self) -> None:
        """Remove the directory where nobody has anything in it any more."""
        with contextlib.suppress(OSError):
            names = {entry.name for entry in self.directory.iterdir()}
            if names <= {"targets.lock"}:
                (self.directory / "targets.lock").unlink(missing_ok=True)
                self.directory.rmdir()

    def _make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)

    def _lock_file(self) -> int:
        if self._locks is None:
            self._make()
            self._locks = os.open(
                self.directory / "targets.lock",
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
                0o600,
            )
        return self._locks

    def _holder(self, number: int) -> int | None:
        """Return the pid that holds a lock; None if nobody does any more."""
        ask = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            answer = fcntl.fcntl(self._lock_file(), fcntl.F_GETLK, ask)
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
