"""Where the tenants of a file are on this host: their cgroups, and what those allow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.core.errors import UsageError
from isotherm.daemon.targets import find_cgroup
from isotherm.policy.tenant_file import TenantFile
from isotherm.policy.tenants import NONE, Tenancy

#: Nobody, to begin with: pods.
EMPTY: Final = TenantFile(Tenancy(()), (), "pods")


@dataclass(frozen=True, slots=True)
class Found:
    """A file of tenants, and where their cgroups are.

    Attributes:
        file: What it says.
        cgroups: Directory of each tenant's cgroup; None: it has none.
        others: Cgroups that are managed, too, and are no tenant's: the rest's.
    """

    file: TenantFile
    cgroups: tuple[Path | None, ...]
    others: tuple[Path, ...] = ()

    @property
    def directories(self) -> tuple[Path, ...]:
        """The cgroups that there are."""
        return (*(path for path in self.cgroups if path is not None), *self.others)


def find_tenants(file: TenantFile, root: Path = Path("/")) -> Found:
    """Return the tenants with their cgroups.

    Raises:
        UsageError: A cgroup is not there, or a tenant has neither one nor processes.
    """
    check_members(file)
    cgroups = []
    for place, member in enumerate(file.members):
        where = f"{file.name}: tenant[{place}]"
        try:
            path = None if member.cgroup is None else find_cgroup(member.cgroup, root)
        except UsageError as error:
            raise UsageError(
                f"{where}.cgroup: {error.message}", hint=error.hint
            ) from None
        cgroups.append(path)
    return Found(file, tuple(cgroups))


def check_members(file: TenantFile) -> None:
    """Check that every tenant could be on a host.

    Raises:
        UsageError: One has neither a cgroup nor processes.
    """
    for place, member in enumerate(file.members):
        if member.cgroup is None and not member.pids:
            raise UsageError(
                f"{file.name}: tenant[{place}] ({file.tenancy.tenants[place].name}):"
                " expected a cgroup or pids, got parts of a workload alone",
                hint="those are for isotherm simulate",
            )


def check_policy(file: TenantFile, policy: str) -> None:
    """Check that who decides keeps to the terms.

    Raises:
        UsageError: It is a policy that knows no tenants.
    """
    if policy != "isotherm" and file.tenancy.sharing != NONE:
        raise UsageError(
            f"{file.name}: policy {policy!r} knows no tenants",
            hint='loop.policy = "isotherm"; or sharing = "none", to have them reported',
        )


def read_mems(cgroup: Path) -> frozenset[int] | None:
    """Return the nodes that a cgroup's cpuset allows; None: it has no cpuset."""
    try:
        text = (cgroup / "cpuset.mems.effective").read_text().strip()
    except OSError:
        return None
    nodes: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        nodes.update(range(int(first), int(last or first) + 1))
    return frozenset(nodes) or None


def read_numa_stat(cgroup: Path) -> dict[int, int] | None:
    """Return bytes that a cgroup is charged for, anonymous and file, by node.

    ``memory.numa_stat`` (Documentation/admin-guide/cgroup-v2.rst); None where the
    memory controller is not on.
    """
    try:
        text = (cgroup / "memory.numa_stat").read_text()
    except OSError:
        return None
    held: dict[int, int] = {}
    for line in text.splitlines():
        kind, *columns = line.split()
        if kind in ("anon", "file"):
            for column in columns:
                node, _, count = column.removeprefix("N").partition("=")
                held[int(node)] = held.get(int(node), 0) + int(count)
    return held
