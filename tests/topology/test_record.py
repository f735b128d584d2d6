"""Recording: what comes back is the machine, and nothing that names its owner."""

import os
import tarfile
from pathlib import Path

import pytest

from isotherm.core.errors import NotPermittedError, TopologyError, UsageError
from isotherm.topology.record import record_tree
from isotherm.topology.sysfs import read_topology

NODES = "sys/devices/system/node"


@pytest.mark.parametrize(
    "name", ["m.tar", "m.tar.gz", "m.tgz", "m.tar.bz2", "m.tar.xz"]
)
def test_a_recorded_machine_reads_as_the_machine(
    tmp_path: Path, hbm_dram_pmem, name: str
) -> None:
    """Recording a tree and reading the tar gives the tree's topology."""
    root = hbm_dram_pmem().tier(4, "0").write(tmp_path / "root")
    assert read_topology(root).notes == record_tree(root, tmp_path / name)
    assert read_topology(root) == read_topology(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fakeheteromemtiers",
        "nvidiagpunumanodes",
        "32em64t-2n8c+dax+nvme+mic+dimms",
        "memorysidecaches",
    ],
)
def test_recorded_machines_can_be_recorded(
    tmp_path: Path, shared_dir: Path, name: str
) -> None:
    """Our recording of a foreign recording gives the same topology, in less."""
    root = shared_dir / "topologies" / f"{name}.tar.bz2"
    if not root.exists():
        pytest.skip(f"no recorded machine at {root}")
    out = tmp_path / "again.tar.gz"
    record_tree(root, out)
    assert read_topology(root) == read_topology(out)
    assert out.stat().st_size < root.stat().st_size


def test_nothing_that_tells_who_owns_the_machine(tmp_path: Path, dram_cxl) -> None:
    """Host name, serial numbers, UUIDs and what ran are not in the tar."""
    machine = dram_cxl().put("proc/sys/kernel/hostname", "secret-host\n")
    machine.put("sys/class/dmi/id/product_serial", "secret-serial\n")
    machine.put("sys/devices/uuid", "secret-uuid\n")
    machine.put(f"{NODES}/node0/meminfo", "Node 0 MemTotal: 8 kB\nNode 0 Dirty: 5 kB\n")
    root = machine.write(tmp_path / "secret-root")
    out = tmp_path / "m.tar"
    record_tree(root, out)
    data = out.read_bytes()
    assert (False, False) == (b"secret" in data, b"Dirty" in data)
    with tarfile.open(out) as tar:
        assert {(0, 0, "", "", 0)} == {
            (m.uid, m.gid, m.uname, m.gname, m.mtime) for m in tar
        }


def test_two_recordings_are_the_same_bytes(tmp_path: Path, dram_cxl) -> None:
    """No time, name or order gets into the file."""
    root = dram_cxl().write(tmp_path / "root")
    for name in ("a.tar.gz", "b.tar.gz"):
        record_tree(root, tmp_path / name)
    one, other = (tmp_path / n for n in ("a.tar.gz", "b.tar.gz"))
    assert one.read_bytes() == other.read_bytes()


def test_a_broken_machine_is_recorded_for_the_report(tmp_path: Path, dram_cxl) -> None:
    """A tree that the reader refuses is written with the reason as a note."""
    root = dram_cxl().put(f"{NODES}/online", "3-1").write(tmp_path / "root")
    notes = record_tree(root, tmp_path / "m.tar")
    assert "online: found '3-1'" in notes[-1]
    with pytest.raises(TopologyError, match="3-1"):
        read_topology(tmp_path / "m.tar")


def test_nothing_to_record(tmp_path: Path) -> None:
    """An empty tree gives an error and no file."""
    (tmp_path / "root").mkdir()
    with pytest.raises(TopologyError):
        record_tree(tmp_path / "root", tmp_path / "m.tar")
    assert ["root"] == [at.name for at in tmp_path.iterdir()]


def test_where_it_may_not_be_written(tmp_path: Path, dram_cxl) -> None:
    """A wrong ending or a missing directory is a usage error; nothing is left."""
    root = dram_cxl().write(tmp_path / "root")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.tar"):
        record_tree(root, tmp_path / "m.zip")
    with pytest.raises(UsageError, match="no such directory"):
        record_tree(root, tmp_path / "gone/m.tar")
    assert ["root"] == [at.name for at in tmp_path.iterdir()]


def test_a_directory_without_permission(tmp_path: Path, dram_cxl) -> None:
    """A directory that may not be written to is not permitted."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    root = dram_cxl().write(tmp_path / "root")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(NotPermittedError):
        record_tree(root, tmp_path / "closed/m.tar")


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, dram_cxl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing stops half way the old file stays and no other is left."""
    root = dram_cxl().write(tmp_path / "root")
    (tmp_path / "m.tar").write_text("old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", stop)
    with pytest.raises(KeyboardInterrupt):
        record_tree(root, tmp_path / "m.tar")
    assert "old" == (tmp_path / "m.tar").read_text()
    assert ["m.tar", "root"] == sorted(at.name for at in tmp_path.iterdir())
