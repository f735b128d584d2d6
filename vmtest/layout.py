"""Memory layouts: nodes, and what the firmware tables say of them.

A layout is data; ``qemu.py`` turns it into options. The figures decide how the
guest's kernel ranks the nodes. Emulated memory itself is equally fast on every
node.
"""

from dataclasses import dataclass, replace

from vmtest.errors import GuestError

SMALLEST_MIB = 64
SMALLEST_BOOT_MIB = 256
"""A node 0 smaller than this does not boot to a command."""
MOST_SLOW_MOTION = 100


@dataclass(frozen=True, slots=True)
class Access:
    """What the HMAT says of one initiator's access to one node.

    Attributes:
        latency_ns: Read and write latency.
        bandwidth_mib_s: Read and write bandwidth.
    """

    latency_ns: int
    bandwidth_mib_s: int


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node.

    Attributes:
        memory_mib: Its memory.
        access: As each node with CPUs sees it, in the order of those nodes.
        cpus: Whether it has CPUs.
        cxl: Its memory is a CXL type-3 device, not there at boot; ``access``
            is then to the CXL port, and the device's own table adds the rest.
    """

    memory_mib: int
    access: tuple[Access, ...]
    cpus: bool = False
    cxl: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes and their distances.

    Attributes:
        name: As ``--layout`` and ``VMTEST_LAYOUT`` have it.
        summary: One line for people.
        nodes: Node 0 has CPUs.
        distances: The SLIT, nodes x nodes, symmetric, 10 on the diagonal.
    """

    name: str
    summary: str
    nodes: tuple[Node, ...]
    distances: tuple[tuple[int, ...], ...]

    @property
    def initiators(self) -> tuple[int, ...]:
        """The nodes with CPUs."""
        return tuple(n for n, node in enumerate(self.nodes) if node.cpus)

    @property
    def cxl_node(self) -> int | None:
        """The node whose memory is a CXL device, if there is one."""
        return next((n for n, node in enumerate(self.nodes) if node.cxl), None)

    def with_memory(self, memory_mib: tuple[int, ...]) -> "Layout":
        """Return this layout with other sizes; nodes not named keep theirs.

        Raises:
            GuestError: More sizes than nodes, or one that is too small.
        """
        if len(memory_mib) > len(self.nodes):
            raise GuestError(
                f"--memory: found {len(memory_mib)} sizes, expected at most "
                f"{len(self.nodes)}, the nodes of {self.name}"
            )
        nodes = list(self.nodes)
        for n, mib in enumerate(memory_mib):
            smallest = SMALLEST_MIB if n else SMALLEST_BOOT_MIB
            if mib < smallest:
                raise GuestError(
                    f"--memory: node {n}: expected at least {smallest} MiB, found {mib}"
                )
            if nodes[n].cxl and mib % 256:
                # A CXL region is made of 256 MiB pieces.
                raise GuestError(
                    f"--memory: node {n}: expected a multiple of 256 MiB for a "
                    f"CXL device, found {mib}"
                )
            nodes[n] = replace(nodes[n], memory_mib=mib)
        return replace(self, nodes=tuple(nodes))

    def in_slow_motion(self, factor: float) -> "Layout":
        """Return this layout with memory that claims to be so many times slower.

        Emulation makes code slower, not memory. A program that weighs its own work
        against what memory takes finds the proportion of a real machine where both
        are slower alike.

        Raises:
            GuestError: The factor is not within 1 and 100.
        """
        if not 1 <= factor <= MOST_SLOW_MOTION:
            raise GuestError(
                f"--slow-motion: expected 1 to {MOST_SLOW_MOTION}, found {factor:g}"
            )
        nodes = tuple(
            replace(
                node,
                access=tuple(
                    Access(
                        round(access.latency_ns * factor),
                        max(1, round(access.bandwidth_mib_s / factor)),
                    )
                    for access in node.access
                ),
            )
            for node in self.nodes
        )
        return replace(self, nodes=nodes)


_DRAM = Access(100, 25600)

_ALL = (
    Layout(
        "two-tier",
        "DRAM, and a slow node without CPUs",
        (
            Node(512, (_DRAM,), cpus=True),
            Node(1024, (Access(400, 6400),)),
        ),
        ((10, 40), (40, 10)),
    ),
    Layout(
        "three-tier",
        "DRAM, an HBM-like node above it and a slow node below",
        (
            Node(512, (_DRAM,), cpus=True),
            # Four times the bandwidth at the same latency: abstract distance 144.
            Node(256, (Access(100, 102400),)),
            Node(1024, (Access(400, 6400),)),
        ),
        ((10, 13, 40), (13, 10, 42), (40, 42, 10)),
    ),
    Layout(
        "memory-only",
        "the CPUs' own memory is the slow one; the fast node has no CPUs",
        (
            Node(512, (Access(400, 6400),), cpus=True),
            Node(256, (_DRAM,)),
        ),
        ((10, 13), (13, 10)),
    ),
    Layout(
        "two-socket",
        "two sockets with DRAM, and a CXL-like node at the first",
        (
            Node(512, (_DRAM, Access(180, 12800)), cpus=True),
            Node(512, (Access(180, 12800), _DRAM), cpus=True),
            Node(1024, (Access(300, 9600), Access(420, 6400))),
        ),
        ((10, 21, 30), (21, 10, 50), (30, 50, 10)),
    ),
    Layout(
        "cxl",
        "DRAM, and a CXL type-3 device that comes on line as a node",
        (
            Node(512, (_DRAM,), cpus=True),
            Node(1024, (Access(150, 16384),), cxl=True),
        ),
        ((10, 20), (20, 10)),
    ),
    Layout("flat", "one node", (Node(1024, (_DRAM,), cpus=True),), ((10,),)),
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
