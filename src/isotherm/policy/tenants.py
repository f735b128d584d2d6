"""Tenants: who shares the fast tier, and what each of them is promised.

A tenant is a group of pages: those of a cgroup or of some processes on a host, of
some parts of a mixed workload in the simulator. Pages of nobody belong to *the
rest*, which is promised nothing and pays the common price.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.protocol import Space
from isotherm.topology.model import MemoryKind, Topology

#: Of the tenants of a host: a page's label is a byte, and a cell's label and number
#: together are a uint16.
MOST_TENANTS = 64
#: What the rest is called, in tables.
REST = "(rest)"

PRICE, PARTITION, NONE = "price", "partition", "none"
#: How the fast tier is shared: by price, in fixed parts, or as if there were no
#: tenants (they are reported all the same).
SHARINGS = (PRICE, PARTITION, NONE)

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of the fastest tier: a share of it, bytes, or all of a footprint.

    Exactly one is set.
    """

    share: float | None = None
    size_bytes: int | None = None
    everything: bool = False

    def pages(self, capacity_pages: int, own_pages: int, page_bytes: int) -> int:
        """Return it in pages of so many bytes; all of a footprint: what there can be.

        Args:
            capacity_pages: Of the tier.
            own_pages: Of the tenant.
            page_bytes: Of what the machine calls a page.
        """
        if self.everything:
            return min(own_pages, capacity_pages)
        if self.share is not None:
            return int(self.share * capacity_pages)
        return (self.size_bytes or 0) // page_bytes

    def __str__(self) -> str:
        """Return it as a file has it."""
        if self.everything:
            return "all"
        if self.share is not None:
            return f"{100 * self.share:g}%"
        return f"{self.size_bytes}B"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant.

    Attributes:
        name: Unlike any other's.
        guarantee: Fast memory that it gets whenever it has use for it.
        maximum: Fast memory that it never exceeds.
        weight: What a nanosecond that it saves counts beside another's, > 0.
        lend: Share of its own memory time by which it may be slower than with its
            whole guarantee, [0, 1]: what of the guarantee earns less is lent.
        move_share: Most of the migration quota that it may take, (0, 1].
        keep_out: Kinds of memory that none of it is to lie in, where there is
            other memory.
        profile: Name of the profile it was made from, for people.
        nodes: Nodes that its pages may be on (cpuset.mems); None: all.
    """

    name: str
    guarantee: Amount = Amount(share=0.0)
    maximum: Amount = Amount(share=1.0)
    weight: float = 1.0
    lend: float = 0.03
    move_share: float = 1.0
    keep_out: frozenset[MemoryKind] = frozenset()
    profile: str = ""
    nodes: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Tenancy:
    """All tenants of one machine.

    Attributes:
        tenants: In the file's order; a page's label is a place in it, and that of
            the rest is their number.
        sharing: One of ``SHARINGS``.
        page_bytes: Of what the machine calls a page.
    """

    tenants: tuple[Tenant, ...]
    sharing: str = PRICE
    page_bytes: int = PAGE_BYTES
    rest: Tenant = field(default_factory=lambda: Tenant(REST, lend=0.0))

    @property
    def all(self) -> tuple[Tenant, ...]:
        """Tenants and, last, the rest."""
        return (*self.tenants, self.rest)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of ``all``."""
        return tuple(tenant.name for tenant in self.all)

    def check_capacity(self, capacity_bytes: int, where: str) -> None:
        """Check that what is guaranteed is there.

        Guarantees of a tenant's whole footprint count as nothing: how large it will
        be nobody knows yet.

        Args:
            capacity_bytes: Of the fastest tier.
            where: The file, for messages.

        Raises:
            UsageError: A guarantee is more than the tier, all together are, or one is
                above its tenant's maximum.
        """
        pages = capacity_bytes // self.page_bytes
        total = 0
        for tenant in self.tenants:
            least = tenant.guarantee.pages(pages, 0, self.page_bytes)
            most = tenant.maximum.pages(pages, pages, self.page_bytes)
            if least > pages:
                raise UsageError(
                    f"{where}: tenant {tenant.name!r}: guarantee:"
                    f" {_mib(least, self)} is more than the fastest tier, which has"
                    f" {_mib(pages, self)}",
                    hint='a share of it ("40%"), or "all": as much as there is',
                )
            if least > most:
                raise UsageError(
                    f"{where}: tenant {tenant.name!r}: guarantee:"
                    f" {_mib(least, self)} is above its maximum of {_mib(most, self)}",
                    hint="raise maximum, or lower guarantee",
                )
            total += least
        if total > pages:
            parts = ", ".join(f"{t.name} {t.guarantee}" for t in self.tenants)
            raise UsageError(
                f"{where}: the guarantees are {_mib(total, self)} ({parts}), and the"
                f" fastest tier has {_mib(pages, self)}",
                hint="guarantees may be all of the tier together, not more",
            )


def _mib(pages: int, tenancy: Tenancy) -> str:
    return f"{pages * tenancy.page_bytes / (1 << 20):.1f} MiB"


def last_tier(tenant: Tenant, topology: Topology) -> int:
    """Return the rank of the slowest tier that a tenant's pages may be in.

    Raises:
        UsageError: There is no tier that it may be in.
    """
    kinds = {node.id: node.kind for node in topology.nodes}
    fine = [
        rank
        for rank, tier in enumerate(topology.tiers)
        if any(_fits(tenant, n, kinds[n]) for n in tier.nodes)
    ]
    if not fine:
        raise UsageError(
            f"tenant {tenant.name!r}: no tier is left to it:"
            f" keep_out {sorted(tenant.keep_out)}, cpuset.mems"
            f" {'any' if tenant.nodes is None else sorted(tenant.nodes)}",
            hint="isotherm topology lists the tiers",
        )
    return max(fine)


def first_tier(tenant: Tenant, topology: Topology) -> int:
    """Return the rank of the fastest tier that a tenant's pages may be in."""
    kinds = {node.id: node.kind for node in topology.nodes}
    return next(
        (
            rank
            for rank, tier in enumerate(topology.tiers)
            if any(_fits(tenant, n, kinds[n]) for n in tier.nodes)
        ),
        len(topology.tiers),
    )


def _fits(tenant: Tenant, node: int, kind: MemoryKind) -> bool:
    if tenant.nodes is not None and node not in tenant.nodes:
        return False
    return kind not in tenant.keep_out


def places(names: Sequence[str], before: Sequence[str]) -> NDArray[np.int64]:
    """Return the place that each had before, int64[names]; -1: it has come.

    >>> places(["b", "c", "(rest)"], ["a", "b", "(rest)"]).tolist()
    [1, -1, 2]
    """
    known = {name: place for place, name in enumerate(before)}
    return np.array([known.get(name, -1) for name in names], np.int64)


def node_mask(tenants: Sequence[Tenant]) -> NDArray[np.bool_]:
    """Return which nodes each tenant's pages may be on, bool[tenants, 256]."""
    mask = np.ones((len(tenants), 256), np.bool_)
    for row, tenant in enumerate(tenants):
        if tenant.nodes is not None:
            mask[row] = False
            mask[row, sorted(tenant.nodes)] = True
    return mask


def kept_out(tenants: Sequence[Tenant], topology: Topology) -> NDArray[np.bool_]:
    """Return which nodes are of a kind that tenants are kept out of, bool[T, 256]."""
    mask = np.zeros((len(tenants), 256), np.bool_)
    for row, tenant in enumerate(tenants):
        mask[row, [n.id for n in topology.nodes if n.kind in tenant.keep_out]] = True
    return mask


class Labeller:
    """Says whose every flat page is, as spaces come and go.

    Args:
        tenant_of: Label of a space; the number of tenants for the rest. Called
            again for all spaces when they or the ``version`` have changed.
        rest: Label of the rest.
        version: Counts up when ``tenant_of`` answers differently.
        spaces: Spaces that count instead of the machine's; None: the machine's.
    """

    def __init__(
        self,
        tenant_of: Callable[[Space], int],
        rest: int,
        version: Callable[[], int] = lambda: 0,
        spaces: tuple[Space, ...] | None = None,
    ) -> None:
        self._tenant_of, self._rest, self._version = tenant_of, rest, version
        self._instead = spaces
        self._labels: Labels = np.zeros(0, np.uint8)
        self._spaces: tuple[Space, ...] | None = None
        self._seen = -1

    def regroup(self, rest: int) -> None:
        """Go on with other tenants; the rest has this label from now on."""
        self._rest, self._spaces = rest, None

    def of(self, spaces: tuple[Space, ...], pages: int) -> Labels:
        """Return the label of every flat page, uint8[pages]; do not write."""
        if self._instead is not None:
            spaces = self._instead
        version = self._version()
        same = spaces is self._spaces and version == self._seen
        if same and len(self._labels) == pages:
            return self._labels
        self._labels = np.full(pages, self._rest, np.uint8)
        for space in spaces:
            label = self._tenant_of(space)
            self._labels[space.base : space.base + space.pages] = label
        self._spaces, self._seen = spaces, version
        return self._labels
