"""What was changed in the kernel, written down first, so that it can be undone.

A change goes to the journal, and the journal to the disk, before the change is
made. A process that is killed in between leaves a journal that the next start
reads: it undoes what is there, newest first, and finds nothing to do where the
change was never made.

The journal is one JSON document a line. The first line says which boot it
belongs to: what was changed before a reboot is gone with it.
"""

import contextlib
import errno
import fcntl
import importlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from isotherm.core import privileged
from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.core.private import check_private_file, make_private, not_private

FORMAT: Final = "isotherm-journal"
VERSION: Final = 1
#: To open a journal that others remove, or its folder, at the same time.
_TRIES: Final = 100
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

#: The thing that was changed is no longer there: nothing is left to undo.
GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESRCH})

#: A file that shows all its choices with the present one in brackets, as
#: /sys/kernel/mm/transparent_hugepage/enabled and zram's comp_algorithm do.
_CHOICE = re.compile(r"(?:^|\s)\[([^\]\s]+)\](?:\s|$)")

#: What an undo raises on facts that are not those it knows.
_BAD_FACTS: Final = (LookupError, TypeError, ValueError)

Facts = Mapping[str, Any]
Undo = Callable[[Facts], str]

_undos: dict[str, Undo] = {}


class JournalBusyError(UnsupportedError):
    """Another process holds the journal."""


def undoes(kind: str) -> Callable[[Undo], Undo]:
    """Return a decorator that makes a function the undo of a kind of change.

    The function takes the facts that ``made`` was given and returns a sentence
    that says what it did. It must be at module level of a module of isotherm
    (recovery imports that module by name) and must do no harm where the change
    was never made, was made in part, or is undone already.
    """

    def register(function: Undo) -> Undo:
        _undos[kind] = function
        return function

    return register


@dataclass(slots=True)
class _Entry:
    """One change that is not undone yet."""

    number: int
    path: str | None = None  # of a file write
    old: str = ""
    wrote: str | None = None  # what the file said after the write
    kind: str = ""  # of any other change
    module: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What was changed, for people."""
        return self.path if self.path is not None else self.kind


class HostChanges:
    """Changes of this process to the host, and the way back.

    Safe to call from several threads. Changes that a killed process has left in
    the same journal are taken over and undone with the own ones.

    Args:
        journal: Where changes are written down, its folder made if missing; None
            keeps them in memory only, which a kill does not survive.
        boot_id: What names this boot of the kernel.

    Raises:
        JournalBusyError: Another live process holds the journal.
        NotPermittedError: The journal or its folder is another user's, or others
            may write it: what it says is not believed.
        IsothermError: It is no journal, or one of another version of isotherm.
    """

    def __init__(self, journal: Path | None, *, boot_id: Path = BOOT_ID) -> None:
        self._journal = journal
        self._boot = _boot(boot_id)
        self._entries: list[_Entry] = []
        self._number = 0
        self._head_bytes = 0  # of the journal's first line
        self._journal_bytes = 0
        self._guard = threading.RLock()
        self._file: int | None = None
        if journal is not None:
            self._file = _open_locked(journal)
            try:
                self._read()
            except IsothermError:
                os.close(self._file)
                raise

    # -- making changes ----------------------------------------------------

    def write(self, path: Path, value: str | int) -> bool:
        """Write a kernel file; its old value is in the journal before.

        Args:
            path: A file that exists and can be read.
            value: What to write; nothing is done where the file says so already.

        Returns:
            Whether the file was written.

        Raises:
            OSError: The file cannot be read or written. Nothing has changed then.
        """
        text = str(value)
        with self._guard:
            old = read_value(path)
            if old == text:
                return False
            entry = self._append(_Entry(self._next(), path=str(path), old=old))
            try:
                write_value(path, text)
            except OSError:
                self._forget(entry)
                raise
            entry.wrote = read_value(path)
            try:
                self._log({"wrote": entry.number, "value": entry.wrote})
            except OSError:
                write_value(path, old)
                self._forget(entry)
                raise
        return True

    def made(self, kind: str, **facts: Any) -> None:  # any JSON value
        """Note a change that is not a file write; call this before making it.

        Args:
            kind: A name that ``undoes`` has registered.
            facts: What its undo needs; JSON values.

        Raises:
            KeyError: Nobody can undo this kind.
        """
        with self._guard:
            module = _undos[kind].__module__
            self._append(_Entry(self._next(), kind=kind, module=module, facts=facts))

    @property
    def pending(self) -> int:
        """Changes that are not undone."""
        return len(self._entries)

    @property
    def journal_bytes(self) -> int:
        """Size of the journal: it grows until nothing is left to undo."""
        return self._journal_bytes

    # -- undoing them ------------------------------------------------------

    def restore(self, kind: str | None = None) -> list[str]:
        """Undo all changes, newest first, and say what was done.

        What fails for another reason than that it is gone stays in the journal
        and is tried again by the next call. A file that somebody else has
        changed meanwhile is left as it is.

        Args:
            kind: Undo only changes noted by ``made`` as this kind.
        """
        said = []
        with self._guard:
            for entry in reversed(self._entries.copy()):
                if kind is not None and entry.kind != kind:
                    continue
                try:
                    said.append(_undo(entry))
                except (OSError, IsothermError, *_BAD_FACTS) as error:
                    said.append(f"{entry.subject}: not restored: {_why(error)}")
                    continue
                self._forget(entry)
        return said

    def close(self) -> None:
        """Give the journal back; it is removed when nothing is left in it."""
        with self._guard:
            if self._file is None:
                return
            if not self._entries and self._journal is not None:
                self._journal.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Undo everything."""
        self.restore()
        self.close()

    @classmethod
    def recover(cls, journal: Path, *, boot_id: Path = BOOT_ID) -> list[str]:
        """Undo what a killed process has left in a journal, and say what was done.

        Returns:
            One sentence a change; empty where there is no journal.

        Raises:
            JournalBusyError: The process is not dead: it holds the journal.
            NotPermittedError: The journal may be another user's work.
            IsothermError: It is no journal, or one of another version.
        """
        if not os.path.lexists(journal):
            return []
        changes = cls(journal, boot_id=boot_id)
        try:
            return changes.restore()
        finally:
            changes.close()

    @classmethod
    def peek(cls, journal: Path, *, boot_id: Path = BOOT_ID) -> list[str]:
        """Say what putting back a journal's changes would do; do nothing.

        Nothing is locked: its process may live, and go on changing things.

        Returns:
            One sentence a change, newest first.

        Raises:
            NotPermittedError: The journal may be another user's work.
            IsothermError: It is no journal, or one of another version.
            OSError: It cannot be read.
        """
        changes = cls(None, boot_id=boot_id)
        changes._journal = journal
        file = os.open(journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            check_private_file(journal, file)
            lines = os.pread(file, os.fstat(file).st_size, 0).split(b"\n")
        finally:
            os.close(file)
        documents = [_parse(line) for line in lines[:-1]]
        if not documents or not changes._is_of_this_boot(documents[0]):
            return []
        try:
            entries = _entries(documents[1:])
        except (LookupError, TypeError) as error:
            raise changes._foreign(f"holds what is no change: {error}") from None
        return [_foresee(entry) for entry in reversed(entries.values())]

    # -- the journal -------------------------------------------------------

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _append(self, entry: _Entry) -> _Entry:
        line: dict[str, Any] = {"change": entry.number}
        if entry.path is not None:
            line |= {"path": entry.path, "old": entry.old}
        else:
            line |= {"kind": entry.kind, "module": entry.module, "facts": entry.facts}
        self._log(line)
        self._entries.append(entry)
        return entry

    def _forget(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        if self._entries or self._file is None:
            # Where there is no room for that, it is undone once more: no change.
            with contextlib.suppress(OSError):
                self._log({"undone": entry.number})
            return
        # Nothing is left to undo: what is made and undone again and again for
        # months takes no more room than once.
        os.ftruncate(self._file, self._head_bytes)
        os.fsync(self._file)
        self._journal_bytes = self._head_bytes

    def _log(self, line: dict[str, Any]) -> None:
        """Append a line and wait until it is on the disk.

        Raises:
            OSError: There is no room for all of it; then none of it stays.
        """
        if self._file is None:
            return
        data = json.dumps(line).encode() + b"\n"
        try:
            done = 0
            while done < len(data):  # a full file system takes a part first
                done += os.write(self._file, data[done:])
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._journal_bytes)
            raise
        self._journal_bytes += len(data)

    def _read(self) -> None:
        """Take over what the journal holds, or begin it."""
        assert self._file is not None  # noqa: S101  # only called with a journal
        size = os.fstat(self._file).st_size
        lines = os.pread(self._file, size, 0).split(b"\n")
        # A line without its end was never waited for: its change was not made.
        documents = [_parse(line) for line in lines[:-1]]
        if not documents or not self._is_of_this_boot(documents[0]):
            os.ftruncate(self._file, 0)
            self._log({"format": FORMAT, "version": VERSION, "boot": self._boot})
            self._head_bytes = os.fstat(self._file).st_size
            return
        self._head_bytes = len(lines[0]) + 1
        try:
            entries = _entries(documents[1:])
        except (LookupError, TypeError) as error:
            raise self._foreign(f"holds what is no change: {error}") from None
        self._journal_bytes = size - len(lines[-1])
        os.ftruncate(self._file, self._journal_bytes)
        self._entries = list(entries.values())
        self._number = max(entries, default=0)

    def _is_of_this_boot(self, head: dict[str, Any] | None) -> bool:
        """Return whether a journal is of this boot, by its first line.

        Raises:
            IsothermError: It is no journal, or of another version and this boot.
        """
        if head is None or head.get("format") != FORMAT or "boot" not in head:
            raise self._foreign("is no journal of isotherm")
        if head["boot"] != self._boot:
            return False  # whatever it says went with that boot
        if head.get("version") != VERSION:
            said = head.get("version")
            raise self._foreign(f"is of version {said!r}, expected {VERSION}")
        return True

    def _foreign(self, what: str) -> IsothermError:
        return IsothermError(
            f"{self._journal}: {what}",
            hint="isotherm stop of the version that wrote it undoes what is in it;"
            " without one remove the file: a reboot undoes it, too",
        )


def _entries(documents: list[dict[str, Any] | None]) -> dict[int, _Entry]:
    """Return the changes of a journal that are not undone, by number.

    Raises:
        KeyError: A field is missing.
        TypeError: There is one that is not known, or not of its type.
    """
    entries: dict[int, _Entry] = {}
    for line in documents:
        if line is None:
            continue
        if "change" in line:
            number = line.pop("change")
            entry = entries[number] = _Entry(number, **line)
            words = (entry.old, entry.kind, entry.module, entry.path or "")
            if not all(isinstance(word, str) for word in words):
                raise TypeError(f"change {number}: expected texts")
            if not isinstance(entry.facts, dict) or not isinstance(number, int):
                raise TypeError(f"change {number}: expected a number and facts")
        elif "wrote" in line and line["wrote"] in entries:
            entries[line["wrote"]].wrote = line["value"]
        elif "undone" in line:
            entries.pop(line["undone"], None)
    return entries


def read_value(path: Path) -> str:
    """Return what a kernel file says, without the newline.

    Of a list of choices only the chosen one, as it has to be written back.

    Raises:
        OSError: The file cannot be read.
    """
    text = privileged.read_kernel_text(path).strip()
    choice = _CHOICE.search(text)
    return choice[1] if choice else text


def write_value(path: Path, value: str) -> None:
    """Write a kernel file in one call; never creates it.

    Raises:
        OSError: The kernel refuses. Python's buffered files may lose this error.
    """
    asked = privileged.broker()
    if asked is not None:
        asked.write_file(path, value)
        return
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, value.encode() + b"\n")
    finally:
        os.close(file)


def _undo(entry: _Entry) -> str:
    if entry.path is None:
        if entry.kind not in _undos and entry.module.startswith("isotherm."):
            with contextlib.suppress(ImportError):  # another version has it
                importlib.import_module(entry.module)
        if entry.kind not in _undos:
            raise UnsupportedError(f"nobody knows how to undo {entry.kind}")
        return _undos[entry.kind](entry.facts)
    path = Path(entry.path)
    try:
        now = read_value(path)
        if now == entry.old:
            return f"{path}: says {entry.old!r} as before"
        if entry.wrote is not None and now != entry.wrote:
            return f"{path}: left at {now!r}, somebody else has changed it"
        write_value(path, entry.old)
    except OSError as error:
        if error.errno in GONE:
            return f"{path}: gone meanwhile"
        raise
    return f"{path}: {now!r} -> {entry.old!r}"


def _foresee(entry: _Entry) -> str:
    """Return what ``_undo`` would do."""
    if entry.path is None:
        facts = ", ".join(f"{name} {value}" for name, value in entry.facts.items())
        return f"{entry.kind}: {facts}"
    try:
        now = read_value(Path(entry.path))
    except OSError as error:
        return f"{entry.path}: {_why(error)}"
    if entry.wrote is not None and now not in (entry.old, entry.wrote):
        return f"{entry.path}: stays at {now!r}, somebody else has changed it"
    return f"{entry.path}: {now!r} -> {entry.old!r}"


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, str(error.errno))
    if isinstance(error, _BAD_FACTS):
        return f"its facts are not those of this version: {error!r}"
    return str(error)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _boot(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"


def _open_locked(journal: Path) -> int:
    """Return a descriptor of the journal that holds its lock."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(_TRIES):
        make_private(journal.parent)
        try:
            file = os.open(journal, flags, 0o600)
        except FileNotFoundError:
            continue  # who ended last has removed the folder meanwhile
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise not_private(journal, "is a symbolic link", "a file") from None
            raise
        try:
            check_private_file(journal, file)
        except NotPermittedError:
            os.close(file)
            raise
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise JournalBusyError(
                f"{journal}: another isotherm holds this journal",
                hint="isotherm stop ends it",
            ) from None
        # Whoever held it before may have removed it between open and lock.
        try:
            same = os.path.samestat(os.fstat(file), journal.stat())
        except FileNotFoundError:
            same = False
        if same:
            _sync_directory(journal.parent)
            return file
        os.close(file)
    raise IsothermError(f"{journal}: was removed {_TRIES} times while it was opened")


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
