"""Trees: links stay inside the root, archives stay in memory, damage is told."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from isotherm.core.errors import TopologyError
from isotherm.topology.tree import (
    MAX_FILE_BYTES,
    Link,
    MemoryStorage,
    Tree,
    open_tree,
    read_tar,
)


def make(**entries: bytes | Link) -> Tree:
    """Return a tree whose paths are written with __ for a slash."""
    return Tree(
        "made", MemoryStorage({k.replace("__", "/"): v for k, v in entries.items()})
    )


def test_links_are_followed() -> None:
    """A link in the middle of a path, relative or absolute, leads to the file."""
    tree = make(a__b__c=b"7\n", l=Link("a/b"), a__up=Link("../l"), abs=Link("/a"))
    assert ["7", "7", "7"] == [tree.read(p) for p in ("l/c", "a/up/c", "abs/b/c")]


def test_links_never_leave_the_root(tmp_path: Path) -> None:
    """However many steps a link climbs, it ends inside the root."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sys").mkdir(parents=True)
    (root / "sys/climb").symlink_to("../../../../../../secret")
    (root / "sys/absolute").symlink_to(tmp_path / "secret")
    tree = open_tree(root)
    assert [None, None] == [tree.read("sys/climb"), tree.read("sys/absolute")]


def test_a_loop_of_links_is_nothing() -> None:
    """Links that go round are absent, not endless."""
    tree = make(a=Link("b"), b=Link("a"))
    assert tree.read("a") is None


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """A pipe, which would block for ever, counts as absent."""
    (tmp_path / "sys").mkdir()
    os.mkfifo(tmp_path / "sys/pipe")
    assert open_tree(tmp_path).read("sys/pipe") is None


def test_a_file_too_large_is_noted() -> None:
    """No attribute is larger than a page or two; a huge file is not taken."""
    tree = make(big=b"1" * (MAX_FILE_BYTES + 1))
    assert tree.read("big") is None
    assert ["big: found more than 65536 bytes, expected a small file"] == tree.notes


def test_nul_bytes_at_the_end_are_cut() -> None:
    """Old recordings end each file with a NUL."""
    assert "0-1" == make(online=b"0-1\n\0").read("online")


def test_a_file_is_no_directory() -> None:
    """A path through a file is absent."""
    tree = make(a=b"1")
    assert (None, False, []) == (
        tree.read("a/b"),
        tree.is_directory("a"),
        tree.list("a"),
    )


def archive(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write a tar of (name, type, link target) members."""
    with tarfile.open(path, "w") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"1\n") if member.size else None)
    return path


def test_a_tar_that_climbs_is_refused(tmp_path: Path) -> None:
    """A member named with .. is an error, whatever it holds."""
    path = archive(tmp_path / "a.tar", ("sys/../../x", tarfile.REGTYPE, ""))
    with pytest.raises(TopologyError, match=r"expected no '\.\.'"):
        read_tar(path)


def test_odd_members_of_a_tar(tmp_path: Path) -> None:
    """Hard links are followed, devices left out, absolute names made relative."""
    path = archive(
        tmp_path / "a.tar",
        ("/sys/one", tarfile.REGTYPE, ""),
        ("sys/two", tarfile.LNKTYPE, "sys/one"),
        ("sys/null", tarfile.CHRTYPE, ""),
    )
    assert {"sys/one": b"1\n", "sys/two": Link("/sys/one")} == read_tar(path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_cut_tar_never_gives_a_topology_of_what_is_missing(
    tmp_path: Path, dram_cxl, mode: str
) -> None:
    """Half a tar is an error in every compression."""
    path = dram_cxl().tar(tmp_path / "a.tar", mode)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TopologyError):
        open_tree(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 512, b"hello", b"BZh9" + b"x" * 99])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    """Other files give an error that names them."""
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(TopologyError, match=r"a\.tar: "):
        open_tree(path)


def test_a_root_that_cannot_be_looked_at() -> None:
    """A name that the kernel refuses is an error of ours with the errno's name."""
    with pytest.raises(TopologyError, match="found ENAMETOOLONG"):
        open_tree(Path("x" * 5000))


def test_a_missing_root(tmp_path: Path) -> None:
    """A root that is not there is an error that names it."""
    with pytest.raises(TopologyError, match="gone: not found"):
        open_tree(tmp_path / "gone")
