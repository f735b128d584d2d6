"""Packages come from the right place, or words say why not."""

import shutil
from pathlib import Path

import pytest

from vmtest.errors import FetchError
from vmtest.packages import Apt, Origin, find_archive, source_files, unpack

LIST = "# main\ndeb [signed-by=/k] http://archive.invalid/debian bookworm main\n"
DEB822 = "Types: deb\nURIs: http://archive.invalid/debian\nSuites: bookworm\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", LIST),
        ("sources.list.d/debian.list", LIST),
        ("sources.list.d/debian.sources", DEB822),
    ],
)
def test_the_archive_is_found_in_either_format(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One-line and deb822 sources."""
    monkeypatch.delenv("VMTEST_ARCHIVE", raising=False)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert [path] == source_files(tmp_path)
    assert "http://archive.invalid/debian" == find_archive(tmp_path)


def test_other_archives_are_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security updates and other vendors are elsewhere; the hint names the way out."""
    monkeypatch.delenv("VMTEST_ARCHIVE", raising=False)
    (tmp_path / "sources.list").write_text(
        "deb http://archive.invalid/debian-security bookworm-security main\n"
        "deb http://archive.invalid/ubuntu noble main\n"
        "# deb http://archive.invalid/debian bookworm main\n"
    )
    with pytest.raises(FetchError, match="no Debian archive") as caught:
        find_archive(tmp_path)
    assert "name one in VMTEST_ARCHIVE" == caught.value.hint
    monkeypatch.setenv("VMTEST_ARCHIVE", "http://other.invalid/debian")
    assert "http://other.invalid/debian" == find_archive(tmp_path)


def test_without_apt_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first tool missing is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="apt-get: not found") as caught:
        Apt(())
    assert "VMTEST_CACHE" in str(caught.value.hint)


@pytest.mark.slow
def test_without_a_network_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What apt-get said of the archive is in the message; no folder is left."""
    try:
        Apt(())
    except FetchError as error:
        pytest.skip(str(error))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    # Port 9 of this machine: the connection is refused at once.
    (tmp_path / "sources.list").write_text(
        "deb http://127.0.0.1:9/debian bookworm main\n"
    )
    with (
        pytest.raises(FetchError, match=r"127\.0\.0\.1") as caught,
        Apt((), tmp_path) as apt,
    ):
        apt.fetch_closure("qemu-system-x86")
    assert "network" in str(caught.value.hint)
    assert [] == list(temporary.iterdir())


def test_an_origin_says_where_it_looks() -> None:
    """As it is put on the screen while it is fetched."""
    assert "a from the system's own apt sources" == str(Origin("a"))
    assert "a from x and y" == str(Origin("a", ("x", "y")))


def test_a_package_that_does_not_unpack_is_named(tmp_path: Path) -> None:
    """With what dpkg-deb said of it."""
    deb = tmp_path / "broken.deb"
    deb.write_bytes(b"no archive")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    with pytest.raises(FetchError, match=r"cannot unpack broken\.deb into .*archive"):
        unpack([deb], tmp_path / "tree")
