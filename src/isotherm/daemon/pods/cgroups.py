"""Pods as control groups: what the kubelet names them, with either driver.

===========  ==========================================================================
systemd      ``kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice``
             with ``cri-containerd-ID.scope`` or ``crio-ID.scope`` below; dashes of the
             uid are written as underscores, and a ``--cgroup-root`` stands before
             ``kubepods`` (kind: ``kubelet-kubepods``)
cgroupfs     ``kubepods/burstable/podUID`` with ``ID`` or ``crio-ID`` below
===========  ==========================================================================

Guaranteed pods have no class in their path (qos_container_manager_linux.go and
cgroup_manager_linux.go in pkg/kubelet/cm of Kubernetes). A static pod goes by the hash
of its file.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.targets import CGROUP_ROOTS

_UID: Final = r"[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12}"
#: Groups of all pods, of a class, and of one, as either driver writes them.
_ALL: Final = re.compile(r"(?:.+-)?kubepods(?:\.slice)?")
_CLASS: Final = re.compile(
    r"(?:(?:.+-)?kubepods-)?(?P<qos>burstable|besteffort)(?:\.slice)?"
)
_POD: Final = re.compile(
    rf"(?:(?:.+-)?kubepods-(?:(?:burstable|besteffort)-)?)?pod(?P<uid>{_UID})(?:\.slice)?"
)
_CONTAINER: Final = re.compile(
    r"(?:(?P<runtime>cri-containerd|crio|docker|libpod)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?"
)
#: A ``--cgroup-root`` is found so many directories down.
_DEEPEST: Final = 3


class Qos(StrEnum):
    """Class of a pod, by its requests and limits."""

    GUARANTEED = "guaranteed"
    BURSTABLE = "burstable"
    BESTEFFORT = "besteffort"


@dataclass(frozen=True, slots=True)
class PodGroup:
    """A pod's control group.

    Attributes:
        uid: As the API server writes it; of a static pod the hash of its file.
        qos: Its class.
        path: Directory.
    """

    uid: str
    qos: Qos
    path: Path


@dataclass(frozen=True, slots=True)
class ContainerGroup:
    """A container of a pod.

    Attributes:
        id: 64 hexadecimal digits.
        runtime: Who named the group; None: the name does not say.
        path: Directory.
    """

    id: str
    runtime: str | None
    path: Path


def plain_uid(text: str) -> str:
    """Return a uid as the API server writes it: 32 digits, with dashes or without.

    >>> plain_uid("6b2f_0000".replace("_", "-")), plain_uid("A1")
    ('6b2f-0000', 'a1')
    """
    return text.strip().lower().replace("_", "-")


def parse_pod(path: Path) -> PodGroup | None:
    """Return the pod whose group this directory is by its name; None: of none.

    >>> uid = "0f4a2c8e_1111_4222_8333_0123456789ab"
    >>> one = parse_pod(Path(f"kubepods.slice/kubepods-pod{uid}.slice"))
    >>> one.uid, str(one.qos)
    ('0f4a2c8e-1111-4222-8333-0123456789ab', 'guaranteed')
    """
    found = _POD.fullmatch(path.name)
    if found is None:
        return None
    kind = _CLASS.fullmatch(path.parent.name)
    qos = Qos.GUARANTEED if kind is None else Qos(kind["qos"])
    return PodGroup(plain_uid(found["uid"]), qos, path)


def find_roots(root: Path = Path("/")) -> tuple[Path, ...]:
    """Return the groups of all pods, in hierarchies of version 2.

    Raises:
        UnsupportedError: There is none, or the pods are in a hierarchy of version 1.
    """
    tried = [root / mount for mount in CGROUP_ROOTS]
    found = [
        path
        for mount in tried
        if (mount / "cgroup.procs").is_file()
        for path in _kubepods(mount, 0)
    ]
    if found:
        return tuple(found)
    first = root / CGROUP_ROOTS[0]
    legacy = [path for path in _below(first) if list(_kubepods(path, 0))]
    if legacy:
        raise UnsupportedError(
            f"pods: {legacy[0]} is a control group of version 1, expected version 2",
            hint="boot the node with systemd.unified_cgroup_hierarchy=1",
        )
    raise UnsupportedError(
        "pods: found no kubepods.slice and no kubepods below "
        + ", ".join(str(path) for path in tried),
        hint="is a kubelet running here? in a container mount /sys/fs/cgroup of the"
        " host",
    )


def find_pods(root: Path = Path("/")) -> tuple[PodGroup, ...]:
    """Return the pods that have a control group, by path.

    Raises:
        UnsupportedError: As of `find_roots`.
    """
    return list_pods(find_roots(root))


def list_pods(roots: tuple[Path, ...]) -> tuple[PodGroup, ...]:
    """Return the pods below some groups of all pods; what goes meanwhile is not."""
    found: list[PodGroup] = []
    for path in roots:
        for child in _below(path):
            if _CLASS.fullmatch(child.name):
                found += [pod for one in _below(child) if (pod := parse_pod(one))]
            elif pod := parse_pod(child):
                found.append(pod)
    return tuple(sorted(found, key=lambda pod: str(pod.path)))


def list_containers(pod: PodGroup) -> tuple[ContainerGroup, ...]:
    """Return the containers of a pod, by path; what watches over one is none."""
    return tuple(
        ContainerGroup(match["id"], match["runtime"], path)
        for path in _below(pod.path)
        if (match := _CONTAINER.fullmatch(path.name))
    )


def _kubepods(path: Path, depth: int) -> Iterator[Path]:
    for child in _below(path):
        if _ALL.fullmatch(child.name):
            yield child
        elif depth + 1 < _DEEPEST and not child.name.endswith((".service", ".scope")):
            yield from _kubepods(child, depth + 1)


def _below(path: Path) -> list[Path]:
    """Return the directories in one, in order; none where it has gone."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(one) for one in entries if one.is_dir())
    except OSError:
        return []
