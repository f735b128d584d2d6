"""A tree of small files: a live machine, a recorded directory or a tar.

One way to read all three. Symbolic links are followed inside the root and never
out of it, however they are written; nothing but regular files is opened, and no
archive is unpacked to disk.
"""

import lzma
import os
import stat
import tarfile
import zlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from isotherm.core.errors import NotPermittedError, TopologyError

#: A sysfs attribute is at most a page; a meminfo of procfs is under 2 KiB.
MAX_FILE_BYTES = 64 << 10

#: The largest recorded tree known has 9384 members; these stop a bomb.
MAX_MEMBERS = 1 << 20
MAX_TAR_BYTES = 1 << 30

_MAX_LINKS = 40  # the kernel's MAXSYMLINKS


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link: its target as written."""

    target: str


class Directory:
    """A directory; the only value is :data:`DIRECTORY`."""


DIRECTORY = Directory()


class Storage(Protocol):
    """Where the entries of a tree come from; paths are real, without links."""

    def stat(self, path: str) -> Link | Directory | str | None:
        """Return a link, a directory, ``"file"``, or None where there is nothing."""

    def load(self, path: str) -> bytes:
        """Return at most ``MAX_FILE_BYTES + 1`` bytes of a file.

        Raises:
            OSError: The file cannot be read.
        """

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, in any order."""


class DirectoryStorage:
    """Entries of a directory on this machine; ``/`` is the live one."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)  # noqa: PTH118  # text in, text out

    def stat(self, path: str) -> Link | Directory | str | None:
        """Return what stands at a path; a device or a pipe counts as nothing."""
        try:
            mode = os.lstat(self._at(path)).st_mode
            if stat.S_ISLNK(mode):
                return Link(os.readlink(self._at(path)))  # noqa: PTH115  # as above
        except (OSError, ValueError):
            return None
        if stat.S_ISDIR(mode):
            return DIRECTORY
        return "file" if stat.S_ISREG(mode) else None

    def load(self, path: str) -> bytes:
        """Return a file's bytes, one more than allowed at most."""
        with open(self._at(path), "rb", buffering=0) as file:  # noqa: PTH123  # hot
            parts: list[bytes] = []
            left = MAX_FILE_BYTES + 1
            # A read() of sysfs may be short; only an empty one is the end.
            while left and (part := file.read(left)):
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def names(self, path: str) -> list[str]:
        """Return a directory's names; none where it cannot be read."""
        try:
            return os.listdir(self._at(path))  # noqa: PTH208  # as above
        except OSError:
            return []


class MemoryStorage:
    """Entries held in memory: from a tar, or made by a test.

    Args:
        entries: ``{path: bytes or Link}``; directories follow from the paths.
    """

    def __init__(self, entries: dict[str, bytes | Link]) -> None:
        self.entries = entries
        self._names: dict[str, set[str]] = {"": set()}
        for path in entries:
            parts = path.split("/")
            for i, part in enumerate(parts):
                parent = "/".join(parts[:i])
                self._names.setdefault(parent, set()).add(part)

    def stat(self, path: str) -> Link | Directory | str | None:
        """Return what stands at a path."""
        if path in self._names:
            return DIRECTORY
        entry = self.entries.get(path)
        if isinstance(entry, bytes):
            return "file"
        return entry

    def load(self, path: str) -> bytes:
        """Return a file's bytes."""
        entry = self.entries[path]
        return entry if isinstance(entry, bytes) else b""

    def names(self, path: str) -> list[str]:
        """Return a directory's names."""
        return list(self._names.get(path, ()))


@dataclass(slots=True)
class Tree:
    """A machine's ``/sys`` and ``/proc``, and a log of what was looked at.

    Attributes:
        name: What the user called it, for messages.
        storage: Where its entries come from.
        notes: What was odd, for people; the readers add to it.
        seen_files: Every file read, by real path.
        seen_links: Every link followed or listed, by real path.
    """

    name: str
    storage: Storage
    notes: list[str] = field(default_factory=list)
    seen_files: dict[str, bytes] = field(default_factory=dict)
    seen_links: dict[str, str] = field(default_factory=dict)

    def resolve(self, path: str) -> str | None:
        """Return the real path inside the root, without links; None if absent.

        ``..`` at the root stays there, and an absolute link starts at the root.
        """
        real: list[str] = []
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del real[-1:]
                continue
            here = "/".join([*real, part])
            entry = self.storage.stat(here)
            if entry is None:
                return None
            if isinstance(entry, Link):
                links += 1
                if links > _MAX_LINKS:
                    return None
                self.seen_links[here] = entry.target
                if entry.target.startswith("/"):
                    real = []
                todo += entry.target.split("/")[::-1]
                continue
            if entry == "file" and any(rest not in ("", ".") for rest in todo):
                return None
            real.append(part)
        return "/".join(real)

    def read(self, path: str) -> str | None:
        """Return a file's text without blanks and NULs around it, None if absent.

        A file that is there but cannot be read is None too, and noted.
        """
        real = self.resolve(path)
        if real is None or self.storage.stat(real) != "file":
            return None
        try:
            data = self.storage.load(real)
        except OSError as error:
            self.note(path, _errno_name(error), "a readable file")
            return None
        if len(data) > MAX_FILE_BYTES:
            self.note(path, f"more than {MAX_FILE_BYTES} bytes", "a small file")
            return None
        self.seen_files[real] = data
        # Trees recorded by hwloc before 2.1 end each file with a NUL.
        return data.decode("ascii", "replace").strip(" \t\r\n\0")

    def list(self, path: str, pattern: str = "*") -> list[str]:
        """Return the names in a directory that match, sorted; none if absent."""
        real = self.resolve(path)
        if real is None or not self.is_directory(real):
            return []
        names = sorted(n for n in self.storage.names(real) if fnmatchcase(n, pattern))
        for name in names:
            here = f"{real}/{name}" if real else name
            entry = self.storage.stat(here)
            if isinstance(entry, Link):
                self.seen_links[here] = entry.target
        return names

    def is_directory(self, path: str) -> bool:
        """Return whether a directory, or a link to one, stands at a path."""
        real = self.resolve(path)
        return real is not None and isinstance(self.storage.stat(real), Directory)

    def note(self, path: str, found: str, expected: str) -> None:
        """Keep a sentence about something odd in a file."""
        sentence = f"{path}: found {shorten(found)}, expected {expected}"
        if sentence not in self.notes:
            self.notes.append(sentence)

    def error(self, path: str, found: str, expected: str) -> TopologyError:
        """Return the error for a tree that cannot be read."""
        return TopologyError(
            f"{self.name}: {path}: found {shorten(found)}, expected {expected}",
            hint="--root takes /, a directory or a tar with sys/ and proc/ in it; "
            "isotherm topology record makes one",
        )


def shorten(text: str) -> str:
    """Return text fit for one line of a message: printable, 60 characters at most."""
    clean = text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    clean = "".join(c if c.isprintable() else "?" for c in clean)
    return clean if len(clean) <= 60 else clean[:57] + "..."


def _errno_name(error: OSError) -> str:
    import errno  # noqa: PLC0415  # only for the message of a failed read

    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _forbidden(name: str, error: OSError) -> NotPermittedError:
    return NotPermittedError(f"{shorten(name)}: cannot be read: {_errno_name(error)}")


def open_tree(root: Path) -> Tree:
    """Return the tree at a path: ``/``, a directory, or a tar (gz, bz2, xz).

    A directory or tar whose only content is one directory that holds the tree, as
    hwloc records it, is read from there.

    Raises:
        TopologyError: Nothing is there, it is no tar, or the tar is damaged.
        NotPermittedError: It may not be read.
    """
    name = str(root)
    try:
        if root.is_dir():
            base = root.resolve()
            return Tree(name, _below_single(DirectoryStorage(base), base))
        there = root.exists()
    except PermissionError as error:
        raise _forbidden(name, error) from error
    except OSError as error:
        raise TopologyError(
            f"{shorten(name)}: found {_errno_name(error)}, "
            "expected a directory or a tar"
        ) from error
    if not there:
        raise TopologyError(f"{name}: not found, expected a directory or a tar")
    return Tree(name, _strip(read_tar(root)))


def _below_single(storage: DirectoryStorage, base: Path) -> DirectoryStorage:
    """Return the storage of the only subdirectory where that holds the nodes."""
    if storage.stat("sys") is not None:
        return storage
    inner = [n for n in storage.names("") if storage.stat(n) is DIRECTORY]
    if len(inner) == 1 and (base / inner[0] / "sys").is_dir():
        return DirectoryStorage(base / inner[0])
    return storage


def _strip(entries: dict[str, bytes | Link]) -> MemoryStorage:
    """Return entries without the one directory that holds them all."""
    tops = {path.split("/", 1)[0] for path in entries}
    if len(tops) == 1 and not tops & {"sys", "proc"}:
        prefix = len(tops.pop()) + 1
        entries = {p[prefix:]: e for p, e in entries.items() if len(p) > prefix}
    return MemoryStorage(entries)


def read_tar(path: Path) -> dict[str, bytes | Link]:
    """Return the small files and links of a tar, by path without a leading slash.

    Nothing is written to disk. A member that climbs out of the archive is an
    error; devices and pipes are left out.

    Raises:
        TopologyError: The file cannot be read, is no tar, is damaged, climbs out
            of itself or is absurdly large.
    """
    entries: dict[str, bytes | Link] = {}
    total = 0
    try:
        with tarfile.open(path, "r:*", bufsize=1 << 20) as tar:
            for count, member in enumerate(tar):
                total += member.size
                if count >= MAX_MEMBERS or total > MAX_TAR_BYTES:
                    raise TopologyError(
                        f"{path}: found more than {count} members of {total} bytes, "
                        "expected a recorded /sys and /proc"
                    )
                name = _safe_name(path, member.name)
                if member.issym():
                    entries[name] = Link(member.linkname)
                elif member.islnk():
                    entries[name] = Link("/" + _safe_name(path, member.linkname))
                elif member.isreg():
                    file = tar.extractfile(member)
                    data = b"" if file is None else file.read(MAX_FILE_BYTES + 1)
                    entries[name] = data
    except (
        tarfile.TarError,
        EOFError,
        lzma.LZMAError,
        zlib.error,
        ValueError,
        OverflowError,
    ) as error:
        raise TopologyError(
            f"{path}: damaged or no tar: {shorten(str(error))}"
        ) from error
    except PermissionError as error:
        raise _forbidden(str(path), error) from error
    except OSError as error:
        found = _errno_name(error) if error.errno else shorten(str(error))
        raise TopologyError(
            f"{path}: found {found}, expected a readable tar"
        ) from error
    if not entries:
        raise TopologyError(f"{path}: empty tar, expected a recorded /sys and /proc")
    return _without_conflicts(entries)


def _safe_name(path: Path, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        if not parts:
            return "."
        raise TopologyError(
            f"{path}: found member {shorten(name)!r}, expected no '..' in it"
        )
    return "/".join(parts)


def _without_conflicts(entries: dict[str, bytes | Link]) -> dict[str, bytes | Link]:
    """Return the entries less those that stand where a directory must be."""
    parents: set[str] = set()
    for path in entries:
        parts = path.split("/")
        parents.update("/".join(parts[:i]) for i in range(1, len(parts)))
    return {path: entry for path, entry in entries.items() if path not in parents}
