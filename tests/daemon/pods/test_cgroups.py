"""Pods found by their control groups, whoever named them."""

from pathlib import Path

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.pods.cgroups import (
    find_pods,
    find_roots,
    list_containers,
    parse_pod,
)

from .conftest import DB, ID, JOB, STATIC, WEB, group, slice_of

CLASSES = {DB: "guaranteed", WEB: "burstable", JOB: "besteffort"}


def test_pods_of_the_systemd_driver(systemd: Path) -> None:
    """Uids with their dashes again, classes, and static pods by their hash."""
    found = {pod.uid: pod.qos.value for pod in find_pods(systemd)}
    assert {**CLASSES, STATIC: "burstable"} == found


def test_pods_of_the_cgroupfs_driver(cgroupfs: Path) -> None:
    """The same without systemd's names."""
    assert CLASSES == {pod.uid: pod.qos.value for pod in find_pods(cgroupfs)}


def test_a_root_of_its_own_stands_before_the_names(tmp_path: Path) -> None:
    """As in kind, where a node is a container: --cgroup-root /kubelet."""
    mount = group(tmp_path / "sys/fs/cgroup") / "kubelet.slice"
    group(mount)
    for qos, uid in (("guaranteed", DB), ("besteffort", JOB)):
        group(slice_of(mount, qos, uid, "kubelet-"))
    found = {pod.uid: pod.qos.value for pod in find_pods(tmp_path)}
    assert {DB: "guaranteed", JOB: "besteffort"} == found


def test_a_hybrid_mount_is_looked_into(tmp_path: Path) -> None:
    """Where version 2 is mounted beside version 1."""
    mount = group(tmp_path / "sys/fs/cgroup/unified")
    path = group(mount / f"kubepods/pod{DB}")
    assert [path] == [pod.path for pod in find_pods(tmp_path)]


def test_containers_are_told_from_what_watches_them(
    systemd: Path, cgroupfs: Path
) -> None:
    """One container a pod, with its id and who named it; conmon is none."""
    for root in (systemd, cgroupfs):
        for pod in find_pods(root):
            (one,) = list_containers(pod)
            assert ID == one.id
    crio = next(pod for pod in find_pods(systemd) if pod.uid == WEB)
    assert "crio" == list_containers(crio)[0].runtime


@pytest.mark.parametrize(
    "name",
    [
        "pod",
        "podman-1.scope",
        "kubepods-burstable.slice",
        "kubepods-pod123.slice",
        f"pod{DB}x",
        f"xpod{DB}",
        "kubepods-pod0f4a2c8e_1111_4222_8333_0123456789AB.slice",
    ],
)
def test_what_is_no_pod(name: str) -> None:
    """Other groups, and what is nearly one."""
    assert parse_pod(Path("/sys/fs/cgroup") / name) is None


def test_pods_come_and_go(systemd: Path) -> None:
    """A group that has gone is no pod; what goes while it is read is left out."""
    before = find_pods(systemd)
    path = next(pod.path for pod in before if pod.uid == JOB)
    for below in sorted(path.rglob("*"), reverse=True):
        below.rmdir() if below.is_dir() else below.unlink()
    path.rmdir()
    assert {pod.uid for pod in before} - {JOB} == {p.uid for p in find_pods(systemd)}


def test_no_kubelet_is_said(tmp_path: Path) -> None:
    """A host without pods' groups: what was looked for, and where."""
    group(tmp_path / "sys/fs/cgroup/system.slice")
    with pytest.raises(UnsupportedError, match=r"no kubepods\.slice and no kubepods"):
        find_roots(tmp_path)


def test_version_1_is_said(tmp_path: Path) -> None:
    """Pods in a hierarchy of version 1 are no pods that can be followed."""
    group(tmp_path / "sys/fs/cgroup/memory/kubepods")
    with pytest.raises(UnsupportedError, match="version 1, expected version 2"):
        find_roots(tmp_path)
