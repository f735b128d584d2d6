"""Kernels are taken apart rightly."""

import lzma
import struct
from pathlib import Path

import pytest

from vmtest.errors import GuestError
from vmtest.kernel import Kernel, find_image, unpack_image


def make_image(payload: bytes, setup_sectors: int = 4) -> bytes:
    """Return a bzImage of a header and a payload 32 bytes into the kernel."""
    image = bytearray((setup_sectors + 1) * 512 + 32)
    image[0x1F1] = setup_sectors
    struct.pack_into("<II", image, 0x248, 32, len(payload))
    return bytes(image) + payload + b"behind"


def test_an_xz_kernel_is_unpacked() -> None:
    """The ELF file inside, and nothing of what is behind."""
    elf = b"\x7fELF" + bytes(range(256)) * 40
    assert elf == unpack_image(make_image(lzma.compress(elf)))


def test_an_unknown_packing_stays_as_it_is() -> None:
    """QEMU can start the image itself."""
    image = make_image(b"LZ4 or so")
    assert image == unpack_image(image)


def make_tree(tree: Path, modules: dict[str, bytes]) -> Kernel:
    """Return a kernel with these modules, packed as Debian packs them."""
    folder = tree / "lib" / "modules" / "6.12" / "kernel" / "fs"
    folder.mkdir(parents=True)
    for name, data in modules.items():
        (folder / f"{name}.ko.xz").write_bytes(lzma.compress(data))
    return Kernel(tree)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """Each once, in the order in which they load; dashes are underscores."""
    kernel = make_tree(
        tmp_path,
        {
            "9p": b"\0depends=9pnet,netfs\0",
            "9pnet": b"\0depends=\0",
            "netfs": b"\0depends=\0softdep=pre: crypto-x built_in\0",
            "crypto-x": b"code",
        },
    )
    assert ["9pnet", "crypto_x", "netfs", "9p"] == list(
        kernel.read_modules(["9p", "netfs", "virtio_pci"])
    )
    assert b"code" == kernel.read_modules(["crypto-x"])["crypto_x"]


def test_a_package_without_an_image_is_refused(tmp_path: Path) -> None:
    """It says where it looked and what it found."""
    with pytest.raises(GuestError, match="expected one kernel image, found 0"):
        find_image(tmp_path)
