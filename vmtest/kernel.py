"""A kernel as Debian packs it: the image that QEMU starts, and modules."""

import lzma
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vmtest.errors import GuestError

_XZ = b"\xfd7zXZ\0"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ELF = b"\x7fELF"
_NEEDS = (
    re.compile(rb"\0depends=([^\0]+)\0"),
    re.compile(rb"\0softdep=pre: ([^\0]+)\0"),
)


class Kernel:
    """An unpacked kernel package."""

    def __init__(self, tree: Path) -> None:
        self.image = tree / "vmlinux"
        self._paths: dict[str, Path] = {}
        for top in (tree / "lib" / "modules", tree / "usr" / "lib" / "modules"):
            for path in top.glob("*/kernel/**/*.ko*"):
                self._paths[_module_name(path.name.split(".ko")[0])] = path

    def read_modules(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """Return name and contents of modules and all they need, in load order.

        One that is built in, or that this kernel does not have, is passed over.
        """
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            name = _module_name(name)
            path = self._paths.get(name)
            if path is None or name in found:
                return
            data = path.read_bytes()
            if data.startswith(_XZ):
                data = lzma.decompress(data)
            for pattern in _NEEDS:
                for needs in pattern.findall(data):
                    for need in re.split("[, ]+", needs.decode()):
                        add(need)
            found[name] = data

        for name in wanted:
            add(name)
        return found


def _module_name(name: str) -> str:
    return name.replace("-", "_")


def find_image(tree: Path) -> Path:
    """Return the bzImage of an unpacked kernel package."""
    images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")]
    if len(images) != 1:
        raise GuestError(f"{tree}: expected one kernel image, found {len(images)}")
    return images[0]


def unpack_image(image: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage, or the image as it is.

    QEMU starts an ELF kernel at its PVH entry, and the emulated CPU need not
    unpack it at each boot, which saves about a second. Where zstd is missing
    the image itself serves.

    The offsets are those of Documentation/arch/x86/boot.rst: setup_sects at
    0x1f1, payload_offset and payload_length at 0x248.
    """
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    packed = image[start : start + length]
    elf = b""
    if packed.startswith(_XZ):
        elf = lzma.LZMADecompressor().decompress(packed)
    elif packed.startswith(_ZSTD) and shutil.which("zstd"):
        # The last four bytes are the unpacked size, put there by the kernel.
        elf = subprocess.run(
            ["zstd", "-dcq"], input=packed[:-4], stdout=subprocess.PIPE, check=False
        ).stdout
    return elf if elf.startswith(_ELF) else image
