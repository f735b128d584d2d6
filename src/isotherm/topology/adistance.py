"""Abstract distance: the kernel's one number for how far memory is.

The arithmetic of ``mm/memory-tiers.c`` and ``include/linux/memory-tiers.h``, in
its order and with its integer divisions, so that our tiers equal its own.
"""

from dataclasses import dataclass

#: ``MEMTIER_CHUNK_SIZE``: nodes whose adistance differs by less share a tier.
CHUNK = 128

#: ``MEMTIER_ADISTANCE_DRAM``: 4 chunks and a half, so that slightly faster or
#: slower DRAM stays in tier 4.
ADISTANCE_DRAM = 4 * CHUNK + CHUNK // 2

#: ``MEMTIER_DEFAULT_DAX_ADISTANCE`` in ``drivers/dax/kmem.c``: memory brought up
#: through DAX of which nobody says how fast it is counts as 5 times DRAM.
ADISTANCE_KMEM = 5 * ADISTANCE_DRAM

_U32 = 1 << 32


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The kernel's ``struct access_coordinate``; 0 is "nobody says".

    Latencies in nanoseconds, bandwidths in MiB/s.
    """

    read_latency_ns: int
    write_latency_ns: int
    read_bandwidth_mib_s: int
    write_bandwidth_mib_s: int

    @property
    def latency_ns(self) -> int:
        """Return read plus write latency, as the kernel sums them."""
        return self.read_latency_ns + self.write_latency_ns

    @property
    def bandwidth_mib_s(self) -> int:
        """Return read plus write bandwidth, as the kernel sums them."""
        return self.read_bandwidth_mib_s + self.write_bandwidth_mib_s


def mt_perf_to_adistance(perf: Coordinates, dram: Coordinates) -> int | None:
    """Return the abstract distance of memory relative to DRAM (576).

    In direct proportion to latency, inversely to bandwidth; each division is an
    integer one, left to right (``mt_perf_to_adistance()`` in
    ``mm/memory-tiers.c``). Python's integers do not wrap; where the kernel's
    ``unsigned int`` would, :func:`kernel_wraps` says so.

    Returns:
        The distance, >= 0, or None where the kernel answers ``-EINVAL``: a sum of
        latencies or of bandwidths is 0, that is, unknown.

    >>> cxl = Coordinates(250, 250, 30720, 30720)
    >>> dram = Coordinates(80, 80, 102400, 102400)
    >>> mt_perf_to_adistance(cxl, dram), tier_id(6000)
    (6000, 46)
    """
    if not (perf.latency_ns and perf.bandwidth_mib_s):
        return None
    if not (dram.latency_ns and dram.bandwidth_mib_s):
        return None
    adistance = ADISTANCE_DRAM * perf.latency_ns // dram.latency_ns
    return adistance * dram.bandwidth_mib_s // perf.bandwidth_mib_s


def kernel_wraps(perf: Coordinates, dram: Coordinates) -> bool:
    """Return whether the kernel's 32-bit arithmetic overflows on these figures.

    Then its tier is not the one the figures mean: 576 * latency, or that over the
    DRAM latency times the DRAM bandwidth, is 2^32 or more.

    >>> dram = Coordinates(80, 80, 819200, 819200)
    >>> kernel_wraps(Coordinates(800, 800, 4096, 4096), dram)
    True
    """
    scaled = ADISTANCE_DRAM * perf.latency_ns
    if scaled >= _U32:
        return True
    return scaled // max(dram.latency_ns, 1) * dram.bandwidth_mib_s >= _U32


def tier_id(adistance: int) -> int:
    """Return N of the kernel's ``memory_tierN`` for an abstract distance.

    >>> tier_id(ADISTANCE_DRAM), tier_id(ADISTANCE_KMEM)
    (4, 22)
    """
    return adistance // CHUNK
