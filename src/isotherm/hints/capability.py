"""What a source can see, and what it is blind to.

Sources fuse because each says what its numbers stand for. A device behind the
caches counts what missed them, a table of accessed bits knows nothing of how
often, a hot list says nothing of what it left out: the tracker honours it.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Capability:
    """What a source's observations stand for.

    Attributes:
        unit_pages: Pages that one observation covers; 1 where it names a page, 0 where
            every observation names a range of its own.
        post_cache: It sees only what missed the processor's caches: a rate of
            memory accesses, not of loads and stores.
        sees_reads: Reads are among its observations.
        sees_writes: Writes are.
        sees_prefetch: What prefetchers fetch is counted like what a program asked
            for.
        knows_initiator: It can name who accessed.
        knows_latency: It can tell how long an access took.
        thresholded: What stayed below a threshold is not reported at all.
        clears: Looking takes away what another reader would see.
    """

    unit_pages: int = 1
    post_cache: bool = False
    sees_reads: bool = True
    sees_writes: bool = True
    sees_prefetch: bool = False
    knows_initiator: bool = False
    knows_latency: bool = False
    thresholded: bool = False
    clears: bool = False


#: What is true of most sources: a page at a time, reads and writes, every access.
PLAIN: Final = Capability()
