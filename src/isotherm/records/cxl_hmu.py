"""Hot lists of CXL Hotness Monitoring Units: entries, and the packets that carry them.

An entry is 64 bits: the lowest ``counter_width`` are a count, the others the
number of the unit. The kernel's driver hands lists on as packets: a word with the
number of entries (bits 15:0) and the counter's width (23:16), a word that is
always 0xDEADBEEF, then the entries.

Nothing in a packet says whether it is whole. So every word is looked at: two that
can be a packet's head are one, wherever they stand, and a packet that they cut
short is taken as far as it goes. Words that belong to no packet are counted as
lost. An entry that happens to look like a head costs itself and its neighbour.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel

MAGIC: Final = 0xDEADBEEF
HEAD_WORDS: Final = 2
MOST_WIDTH: Final = 63

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HotUnits:
    """What hot lists named, one row an entry, in the order of their arrival.

    Attributes:
        unit: Number of the unit in device memory, uint64[n].
        count: Accesses counted, uint64[n].
        counter_width: Bits of a count; 0 where there was no packet.
        packets: Packets that were read.
        lost: Words that could not be read as entries.
        sizes: Entries of each packet, int64[packets]; empty where there are none.
    """

    unit: Words
    count: Words
    counter_width: int
    packets: int
    lost: int
    sizes: Counts = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.unit)

    @staticmethod
    def none() -> "HotUnits":
        """Return no entries."""
        return HotUnits(np.empty(0, np.uint64), np.empty(0, np.uint64), 0, 0, 0)

    def then(self, later: "HotUnits") -> "HotUnits":
        """Return these entries and later ones of the same unit."""
        return HotUnits(
            np.concatenate([self.unit, later.unit]),
            np.concatenate([self.count, later.count]),
            later.counter_width or self.counter_width,
            self.packets + later.packets,
            self.lost + later.lost,
            np.concatenate([self.sizes, later.sizes]),
        )


def split_twin(words: Words, width: int, unit: Words, count: Words) -> None:
    """Numpy twin of `split`."""
    np.right_shift(words, np.uint64(width), out=unit)
    np.bitwise_and(words, np.uint64((1 << width) - 1), out=count)


@kernel(twin=split_twin)
def split(words: Words, width: int, unit: Words, count: Words) -> None:
    """Take entries apart.

    Args:
        words: Entries, uint64[n].
        width: Bits of a count, 1 to 63.
        unit: Filled, uint64[n].
        count: Filled, uint64[n].
    """
    shift = np.uint64(width)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    for i in range(words.size):
        unit[i] = words[i] >> shift
        count[i] = words[i] & mask


def split_entries(words: Words, counter_width: int) -> tuple[Words, Words]:
    """Return units and counts of entries, uint64[n] each.

    Raises:
        ValueError: The width is not 1 to 63.
    """
    if not 1 <= counter_width <= MOST_WIDTH:
        raise ValueError(f"counter width: expected 1 to 63, got {counter_width}")
    unit, count = np.empty_like(words), np.empty_like(words)
    split(words, counter_width, unit, count)
    return unit, count


def find_heads_twin(words: Words, at: Counts) -> int:
    """Numpy twin of `find_heads`."""
    first, second = words[:-1], words[1:]
    width = first >> np.uint64(16)
    good = (second == MAGIC) & (width >= 1) & (width <= MOST_WIDTH)
    found = np.flatnonzero(good)
    # A head's second word is no other head's first: 0xDEADBEEF has no such width.
    at[: len(found)] = found
    return len(found)


@kernel(twin=find_heads_twin)
def find_heads(words: Words, at: Counts) -> int:
    """Find the heads of packets.

    Args:
        words: uint64[n].
        at: Filled with the index of each head's first word, int64[>= n / 2].

    Returns:
        Number of heads.
    """
    found = 0
    for i in range(1, words.size):
        if words[i] == np.uint64(0xDEADBEEF):
            width = words[i - 1] >> np.uint64(16)
            if width >= np.uint64(1) and width <= np.uint64(63):
                at[found] = i - 1
                found += 1
    return found


def gather_twin(
    words: Words, start: Counts, size: Counts, width: int, unit: Words, count: Words
) -> None:
    """Numpy twin of `gather`."""
    total = int(size.sum())
    at = np.repeat(start - np.cumsum(size) + size, size) + np.arange(total)
    split_twin(words[at], width, unit[:total], count[:total])


@kernel(twin=gather_twin)
def gather(
    words: Words, start: Counts, size: Counts, width: int, unit: Words, count: Words
) -> None:
    """Take the entries of packets apart.

    Args:
        words: The stream, uint64[n].
        start: First entry of each packet, int64[k].
        size: Entries of each packet, int64[k].
        width: Bits of a count, 1 to 63.
        unit: Filled, uint64[>= sum of size].
        count: Filled, like ``unit``.
    """
    shift = np.uint64(width)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    row = 0
    for k in range(start.size):
        first = start[k]
        for i in range(first, first + size[k]):
            unit[row] = words[i] >> shift
            count[row] = words[i] & mask
            row += 1


def decode_words(words: Words, counter_width: int | None = None) -> HotUnits:
    """Return the entries of a stretch of packets.

    Args:
        words: The stream, uint64[n].
        counter_width: Packets with another width are lost; None: the width that
            most entries have.
    """
    words = np.ascontiguousarray(words, np.uint64)
    at = np.empty(len(words) // 2 + 1, np.int64)
    heads = int(find_heads(words, at)) if len(words) >= HEAD_WORDS else 0
    if heads == 0:
        return replace(HotUnits.none(), lost=len(words))
    at = at[:heads]
    head = words[at]
    start = at + HEAD_WORDS
    end = np.append(at[1:], len(words))
    told = (head & np.uint64(0xFFFF)).astype(np.int64)
    size = np.minimum(told, end - start)
    width = (head >> np.uint64(16)).astype(np.int64)
    if counter_width is None:
        votes = np.bincount(width, size + 1.0)
        counter_width = int(votes.argmax())
    good = width == counter_width
    start, size = start[good], size[good]
    total = int(size.sum())
    unit, count = np.empty(total, np.uint64), np.empty(total, np.uint64)
    gather(words, start, size, counter_width, unit, count)
    lost = len(words) - total - HEAD_WORDS * len(start)
    return HotUnits(unit, count, counter_width, len(start), lost, size)


def decode_stream(
    stream: bytes | NDArray[np.uint8], counter_width: int | None = None
) -> HotUnits:
    """Return the entries of the bytes of an AUX ring or a perf.data AUX payload.

    Bytes beyond the last whole word are one lost word.

    Args:
        stream: Whole packets, little endian, in order.
        counter_width: As for `decode_words`.
    """
    view = np.frombuffer(stream, np.uint8)
    whole = len(view) // 8
    found = decode_words(view[: 8 * whole].view("<u8"), counter_width)
    if len(view) % 8 == 0:
        return found
    return replace(found, lost=found.lost + 1)


def packets(words: Words, counter_width: int, most: int = 0xFFFF) -> Words:
    """Return entries as packets, as the kernel's driver writes them, uint64[n].

    Args:
        words: Entries, uint64[n].
        counter_width: Bits of a count.
        most: Entries in a packet, at most: the length of the device's list.
    """
    parts = []
    for first in range(0, len(words), most):
        part = words[first : first + most]
        head = [len(part) | counter_width << 16, MAGIC]
        parts += [np.array(head, np.uint64), part.astype(np.uint64)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
