"""The cpio archive reads back; every boot proves that the kernel reads it too."""

from hypothesis import given
from hypothesis import strategies as st

from vmtest.initramfs import Cpio, build_initramfs


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Return mode and contents by name, and insist on alignment and trailer."""
    found = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[i : i + 8], 16) for i in range(at + 6, at + 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (mode, data[at : at + size])
        at = (at + size + 3) & ~3


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1)


@given(st.dictionaries(names.filter(lambda n: n != "TRAILER!!!"), st.binary()))
def test_what_goes_in_comes_out(files: dict[str, bytes]) -> None:
    """Any names and contents survive."""
    archive = Cpio()
    archive.add_folder("d")
    for name, data in files.items():
        archive.add_file(f"d/{name}", data, 0o755)
    expected = {"d": (0o040755, b"")}
    expected |= {f"d/{name}": (0o100755, data) for name, data in files.items()}
    assert expected == read_newc(archive.finish())


def test_the_guest_finds_all_that_it_needs() -> None:
    """First process, modules in place, settings and command."""
    data = build_initramfs(b"busybox", {"9p": b"module"}, "cpus=2\n", "exec true\n")
    found = read_newc(data)
    assert (0o100755, b"busybox") == found["bin/busybox"]
    assert found["init"][1].startswith(b"#!/bin/busybox sh")
    assert b"module" == found["modules/9p.ko"][1]
    assert b"cpus=2\n" == found["vmtest/settings"][1]
    assert b"exec true\n" == found["vmtest/command"][1]
    assert 0o100755 == found["vmtest/vmtest-cxl"][0]
