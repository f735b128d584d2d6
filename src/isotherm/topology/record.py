"""Record a machine's topology: the files that the reader looks at, in a tar.

The list of files is the reader's own: it runs over the tree, and what it touched
is written. So a recorded tree gives the topology that the machine gave, and holds
no host name, serial number, UUID or user: the reader opens no such file.
"""

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TopologyError,
    UsageError,
)
from isotherm.core.files import output_file
from isotherm.topology.sysfs import read_tree
from isotherm.topology.tree import Link, Tree, open_tree

_MODES = {
    ".tar": "w",
    ".tar.gz": "w:gz",
    ".tgz": "w:gz",
    ".tar.bz2": "w:bz2",
    ".tar.xz": "w:xz",
}


def record_tree(root: Path, out_tar: Path) -> tuple[str, ...]:
    """Write what the reader sees of a machine to a tar, at once or not at all.

    A tree that the reader refuses is recorded too, as far as it was read: it is
    what a bug report needs.

    Args:
        root: ``/``, a recorded directory or a tar.
        out_tar: Ends in .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz; replaced if there.

    Returns:
        Notes for people: what the reader found odd, and what it refused.

    Raises:
        UsageError: The name ends in something else, its directory is missing, or
            what is there is no file.
        NotPermittedError: The directory may not be written to.
        TopologyError: Nothing of a topology is at the root.
    """
    mode = next((_MODES[s] for s in _MODES if out_tar.name.endswith(s)), None)
    if mode is None:
        raise UsageError(
            f"{out_tar}: expected a name that ends in {', '.join(_MODES)}",
            hint="try machine.tar.gz",
        )
    tree = open_tree(root)
    refused: list[str] = []
    try:
        read_tree(tree)
    except TopologyError as error:
        if not tree.seen_files:
            raise
        refused.append(error.message)
    entries = recorded_entries(tree)
    try:
        _write(entries, output_file(out_tar), mode)
    except PermissionError as error:
        raise NotPermittedError(f"{out_tar}: cannot be written: EACCES") from error
    except FileNotFoundError as error:
        raise UsageError(f"{out_tar}: no such directory") from error
    except OSError as error:
        raise IsothermError(
            f"{out_tar}: cannot be written: {error.strerror}"
        ) from error
    return (*tree.notes, *refused)


def recorded_entries(tree: Tree) -> dict[str, bytes | Link]:
    """Return what a reader touched in a tree, as entries of a smaller tree.

    Of a ``meminfo`` only ``MemTotal`` is kept: the rest changes from second to
    second and says what the machine was doing.
    """
    entries: dict[str, bytes | Link] = {}
    for path, target in tree.seen_links.items():
        entries[path] = Link(target)
    for path, data in tree.seen_files.items():
        entries[path] = _only_total(data) if path.endswith("/meminfo") else data
    return entries


def _only_total(data: bytes) -> bytes:
    lines = [line for line in data.split(b"\n") if b"MemTotal:" in line]
    return b"\n".join(lines) + b"\n" if lines else data


def _write(entries: dict[str, bytes | Link], out: Path, mode: str) -> None:
    """Write a tar beside its name and move it there; nothing half-written stays."""
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _write_tar(entries, file, mode)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(out)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write_tar(
    entries: dict[str, bytes | Link], file: io.BufferedWriter, mode: str
) -> None:
    # The gzip header of "w:gz" holds the time and the name; write it ourselves.
    if mode == "w:gz":
        import gzip  # noqa: PLC0415  # only for .tar.gz

        with (
            gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add(entries, tar)
        return
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]  # one of _MODES
        _add(entries, tar)


def _add(entries: dict[str, bytes | Link], tar: tarfile.TarFile) -> None:
    for path in sorted(entries):
        entry = entries[path]
        # A fresh TarInfo has no owner, no time and mode 0644.
        member = tarfile.TarInfo(path)
        if isinstance(entry, Link):
            member.type = tarfile.SYMTYPE
            member.linkname = entry.target
            tar.addfile(member)
        else:
            member.size = len(entry)
            tar.addfile(member, io.BytesIO(entry))
