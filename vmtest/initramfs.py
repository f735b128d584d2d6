"""The first file system of the guest: a newc cpio archive, made in memory."""

from collections.abc import Mapping
from pathlib import Path

_DIRECTORY = 0o040755
_FILE = 0o100000
_INSIDE = Path(__file__).with_name("inside")
_FOLDERS = ("bin", "dev", "proc", "sys", "lower", "upper", "new", "modules", "vmtest")


class Cpio:
    """A newc archive, as Documentation/driver-api/early-userspace has it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._count = 0

    def add_folder(self, name: str) -> None:
        """Add a directory."""
        self._add(name, _DIRECTORY, b"")

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(name, _FILE | mode, data)

    def finish(self) -> bytes:
        """Return the archive, with its trailer."""
        self._add("TRAILER!!!", 0, b"")
        return bytes(self._data)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, 2 + 2 devices, name, check
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, data):
            self._data += part
            self._data += bytes(-len(part) % 4)


def read_inside(name: str) -> bytes:
    """Return a script that runs inside the guest."""
    return (_INSIDE / name).read_bytes()


def build_initramfs(
    busybox: bytes, modules: Mapping[str, bytes], settings: str, command: str
) -> bytes:
    """Return the archive that the guest boots from.

    Args:
        busybox: A static busybox.
        modules: Kernel modules, in load order.
        settings: Shell assignments that the guest's scripts read.
        command: A shell script: the command itself.
    """
    archive = Cpio()
    for folder in _FOLDERS:
        archive.add_folder(folder)
    archive.add_file("bin/busybox", busybox, 0o755)
    archive.add_file("init", read_inside("init.sh"), 0o755)
    for name, data in modules.items():
        archive.add_file(f"modules/{name}.ko", data)
    archive.add_file("vmtest/settings", settings.encode())
    archive.add_file("vmtest/command", command.encode())
    for name in ("session.sh", "vmtest-cxl", "vmtest-tick"):
        archive.add_file(f"vmtest/{name}", read_inside(name), 0o755)
    archive.add_file("vmtest/vmtest.service", read_inside("vmtest.service"))
    return archive.finish()
