"""Control groups of a node, made of directories as both drivers name them."""

from collections.abc import Callable
from pathlib import Path

import pytest

DB = "0f4a2c8e-1111-4222-8333-0123456789ab"
WEB = "1f4a2c8e-1111-4222-8333-0123456789ab"
JOB = "2f4a2c8e-1111-4222-8333-0123456789ab"
#: A static pod goes by the hash of its file.
STATIC = "00112233445566778899aabbccddeeff"
ID = 64 * "a"

Node = Callable[[str], Path]


def group(path: Path, *pids: int) -> Path:
    """Make what looks like a control group."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return path


def slice_of(mount: Path, qos: str, uid: str, before: str = "") -> Path:
    """Return a pod's directory as the systemd driver names it."""
    top = f"{before}kubepods"
    name = top if qos == "guaranteed" else f"{top}-{qos}"
    above = mount / f"{top}.slice"
    if qos != "guaranteed":
        above /= f"{name}.slice"
    return above / f"{name}-pod{uid.replace('-', '_')}.slice"


@pytest.fixture
def systemd(tmp_path: Path) -> Path:
    """Return the root of a node whose kubelet uses systemd, with four pods."""
    mount = group(tmp_path / "sys/fs/cgroup")
    group(mount / "system.slice/containerd.service", 5)
    group(mount / "kubepods.slice")
    for qos, uid, scope, pid in (
        ("guaranteed", DB, f"cri-containerd-{ID}.scope", 11),
        ("burstable", WEB, f"crio-{ID}.scope", 12),
        ("besteffort", JOB, f"docker-{ID}.scope", 13),
        ("burstable", STATIC, f"cri-containerd-{ID}.scope", 14),
    ):
        pod = group(slice_of(mount, qos, uid))
        group(pod / scope, pid)
        group(pod / f"crio-conmon-{ID}.scope", 99)
    return tmp_path


@pytest.fixture
def cgroupfs(tmp_path: Path) -> Path:
    """Return the root of a node whose kubelet writes cgroups itself."""
    mount = group(tmp_path / "sys/fs/cgroup")
    group(mount / f"kubepods/pod{DB}" / ID, 11)
    group(mount / f"kubepods/pod{DB}")
    for qos, uid, pid in (("burstable", WEB, 12), ("besteffort", JOB, 13)):
        pod = group(mount / f"kubepods/{qos}/pod{uid}")
        group(pod / f"crio-{ID}", pid)
    for above in ("kubepods", "kubepods/burstable", "kubepods/besteffort"):
        group(mount / above)
    return tmp_path
