"""What a tiered tensor did, in figures."""

from dataclasses import asdict, dataclass

from isotherm.gpu.engine import Engine
from isotherm.gpu.mover import Mover


@dataclass(frozen=True, slots=True)
class TierStats:
    """What a tensor did so far, and how it stands.

    Attributes:
        hits: Rows (blocks) read in device memory, of those counted so far.
        misses: Those read in the host arena.
        hit_rate: Hits over both; NaN before anything was counted.
        promoted: Pages that were published in a slot.
        deposits: Those of them that a reader had stored there.
        demoted: Pages that left.
        saved: Dirty pages copied back.
        aborted: Copies given up because the page was written, or left meanwhile.
        refused: Promotions refused: no room, held, or coming and going too often.
        bytes_link: Bytes over the link for misses, copies and write-back; where rows
            and blocks are read, a miss counts as the mean of both.
        resident: Pages in device memory now, or promised to be.
        slots: Slots there are.
        grace_slots: Slots that wait for readers.
        hbm_bytes: Bytes of all slots.
        hbm_meta_bytes: Bytes of table and counters beside them.
        epochs: Decisions made.
    """

    hits: int
    misses: int
    hit_rate: float
    promoted: int
    deposits: int
    demoted: int
    saved: int
    aborted: int
    refused: int
    bytes_link: int
    resident: int
    slots: int
    grace_slots: int
    hbm_bytes: int
    hbm_meta_bytes: int
    epochs: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def read_stats(mover: Mover, engine: Engine) -> TierStats:
    """Return the figures of a tensor."""
    g, protocol = mover.backend.geometry, mover.protocol
    totals = protocol.totals
    hits, misses = engine.counters.hits, engine.counters.misses
    moved = totals.copied + totals.saved
    return TierStats(
        hits=hits,
        misses=misses,
        hit_rate=hits / (hits + misses) if hits + misses else float("nan"),
        promoted=totals.copied + totals.deposited,
        deposits=totals.deposited,
        demoted=totals.left,
        saved=totals.saved,
        aborted=totals.aborted,
        refused=totals.refused,
        bytes_link=round(misses * engine.bytes_each) + moved * g.page_bytes,
        resident=protocol.placed,
        slots=g.slots,
        grace_slots=protocol.grace_slots,
        hbm_bytes=g.slots * g.page_bytes,
        hbm_meta_bytes=g.pages * (12 if protocol.writable else 8) + g.slots * 13,
        epochs=0 if engine.tiering is None else engine.tiering.epochs,
    )
