"""Physical frame to flat page, kept up to date page by page: the inner loops.

A direct table in two levels: frames in chunks of 64 (256 KiB of memory), a chunk is
there while a managed page stands on one of its frames. A look-up is two reads, an
update of a page that stays where it is one compare and one read.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel, prefetch
from isotherm.machine.linux.pagemap import FRAME, PRESENT

CHUNK_SHIFT: Final = 6
CHUNK: Final = 1 << CHUNK_SHIFT
NOBODY: Final = 0xFFFFFFFF  #: page of a frame that no managed page stands on
AHEAD: Final = 16
FRAMES: Final = (1 << 32) - 1

# What a table counts, int64 each.
FREE = 0  #: chunks on the free list, by their number from the list's start
NEXT = 1  #: first chunk that was never used
CHANGED = 2  #: pages that were found on another frame than before
HIDDEN = 3  #: pages with memory whose frame we may not see
BEYOND = 4  #: pages on frames of more than 32 bits
SHARED = 5  #: pages found on a frame that another managed page stands on too
STATE = 6

Frames = NDArray[np.uint32]


class Tables:
    """The columns of a table.

    Attributes:
        directory: Chunk of every 64 frames, 0 for none, int32[n]; frames beyond its
            end are nobody's.
        page: Page on every frame of a chunk, uint32[chunks * CHUNK].
        used: Pages in every chunk, int32[chunks].
        free: Chunks that were given back, int32[chunks]; see ``state[FREE]``.
        state: int64[STATE].
    """

    def __init__(self) -> None:
        self.directory = np.zeros(1, np.int32)
        self.page = np.full(CHUNK, NOBODY, np.uint32)
        self.used = np.zeros(1, np.int32)
        self.free = np.zeros(1, np.int32)
        self.state = np.zeros(STATE, np.int64)
        self.state[NEXT] = 1  # chunk 0 is none

    def grow(self, entry: np.uint64) -> None:
        """Make room for what `update` stopped at.

        Args:
            entry: The pagemap entry.
        """
        wanted = (int(entry) & FRAMES) >> CHUNK_SHIFT
        if wanted >= len(self.directory):
            size = 1 << (wanted + 1).bit_length()
            rest = np.zeros(size - len(self.directory), np.int32)
            self.directory = np.append(self.directory, rest)
            return
        before = len(self.used)
        more = max(512, before // 2)
        page = np.empty((before + more) * CHUNK, np.uint32)
        page[: before * CHUNK] = self.page
        page[before * CHUNK :] = NOBODY
        self.page = page
        self.used = np.append(self.used, np.zeros(more, np.int32))
        self.free = np.append(self.free, np.zeros(more, np.int32))

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        columns = (self.directory, self.page, self.used, self.free, self.state)
        return sum(column.nbytes for column in columns)


def store_entries_twin(
    entry: NDArray[np.uint64], first: int, frame: Frames, state: NDArray[np.int64]
) -> None:
    """Twin of `store_entries`."""
    present = (entry & PRESENT) != 0
    there = np.where(present, entry & FRAME, np.uint64(0))
    beyond = there >> np.uint64(32) != 0
    state[HIDDEN] += np.count_nonzero(present & (there == 0))
    state[BEYOND] += np.count_nonzero(beyond)
    there[beyond] = 0
    mine = frame[first : first + len(entry)]
    state[CHANGED] += np.count_nonzero(mine != there)
    mine[:] = there


@kernel(twin=store_entries_twin)
def store_entries(
    entry: NDArray[np.uint64], first: int, frame: Frames, state: NDArray[np.int64]
) -> None:
    """Take over frames out of pagemap entries, where nobody looks frames up.

    Args:
        entry: Entries of flat pages from ``first`` on, uint64[n].
        first: A flat page.
        frame: Frame of every flat page, 0 for none, uint32[pages], changed.
        state: Counts, int64[STATE], added to.
    """
    for i in range(entry.size):
        e = entry[i]
        there = np.uint64(0)
        if e & np.uint64(1 << 63):
            there = e & np.uint64((1 << 55) - 1)
            if there == np.uint64(0):
                state[HIDDEN] += 1
            if there >> np.uint64(32):
                there = np.uint64(0)
                state[BEYOND] += 1
        if np.uint64(frame[first + i]) != there:
            frame[first + i] = np.uint32(there)
            state[CHANGED] += 1


def update_twin(
    entry: NDArray[np.uint64],
    first: int,
    frame: Frames,
    directory: NDArray[np.int32],
    page: Frames,
    used: NDArray[np.int32],
    free: NDArray[np.int32],
    state: NDArray[np.int64],
) -> int:
    """Plain twin of `update`."""
    for i, e in enumerate(entry.tolist()):
        p, there = first + i, e & ((1 << 55) - 1)
        if not e >> 63:
            there = 0
        elif there == 0:
            state[HIDDEN] += 1
        elif there >> 32:
            there = 0
            state[BEYOND] += 1
        old = int(frame[p])
        if old != there:
            state[CHANGED] += 1
            if old:
                chunk = int(directory[old // CHUNK])
                slot = chunk * CHUNK + old % CHUNK
                if page[slot] == p:
                    page[slot] = NOBODY
                    used[chunk] -= 1
                    if used[chunk] == 0:
                        directory[old // CHUNK] = 0
                        free[state[FREE]] = chunk
                        state[FREE] += 1
            frame[p] = there
        if not there:
            continue
        if there // CHUNK >= len(directory):
            return i
        chunk = int(directory[there // CHUNK])
        if chunk == 0:
            if state[FREE]:
                state[FREE] -= 1
                chunk = int(free[state[FREE]])
            elif state[NEXT] < len(used):
                chunk = int(state[NEXT])
                state[NEXT] += 1
            else:
                return i
            directory[there // CHUNK] = chunk
        slot = chunk * CHUNK + there % CHUNK
        q = int(page[slot])
        if q == NOBODY:
            used[chunk] += 1
        elif q != p:
            state[SHARED] += 1
        page[slot] = min(p, q)
    return len(entry)


@kernel(twin=update_twin)
def update(
    entry: NDArray[np.uint64],
    first: int,
    frame: Frames,
    directory: NDArray[np.int32],
    page: Frames,
    used: NDArray[np.int32],
    free: NDArray[np.int32],
    state: NDArray[np.int64],
) -> int:
    """Take over frames out of pagemap entries, and who stands on them.

    Of several pages on one frame the first stands for it; when that one leaves, the
    next to be updated does.

    Args:
        entry: Entries of flat pages from ``first`` on, uint64[n].
        first: A flat page.
        frame: Frame of every flat page, 0 for none, uint32[pages], changed.
        directory: See `Tables`; so the rest, all changed.
        page: See there.
        used: See there.
        free: See there.
        state: See there.

    Returns:
        Entries that were taken over: all, or fewer where the directory ends before
        a frame or there is no chunk left; grow the table and go on with the entry
        at which it stopped.
    """
    last_key = np.int64(-1)
    last_chunk = np.int64(0)
    changed = 0
    hidden = 0
    beyond = 0
    shared = 0
    done = entry.size
    for i in range(entry.size):
        if i + AHEAD < entry.size:
            soon = np.int64(entry[i + AHEAD] & np.uint64(FRAMES))
            if soon >> CHUNK_SHIFT < directory.size:
                at = np.int64(directory[soon >> CHUNK_SHIFT])
                prefetch(page, (at << CHUNK_SHIFT) + (soon & (CHUNK - 1)))
        e = entry[i]
        p = np.uint32(first + i)
        there = np.int64(0)
        if e & np.uint64(1 << 63):
            there = np.int64(e & np.uint64((1 << 55) - 1))
            if there == 0:
                hidden += 1
            elif there >> 32:
                there = np.int64(0)
                beyond += 1
        old = np.int64(frame[first + i])
        if old != there:
            changed += 1
            if old != 0:
                chunk = np.int64(directory[old >> CHUNK_SHIFT])
                slot = (chunk << CHUNK_SHIFT) + (old & (CHUNK - 1))
                if page[slot] == p:
                    page[slot] = np.uint32(NOBODY)
                    used[chunk] -= 1
                    if used[chunk] == 0:
                        directory[old >> CHUNK_SHIFT] = 0
                        free[state[FREE]] = chunk
                        state[FREE] += 1
                        last_key = np.int64(-1)
            frame[first + i] = np.uint32(there)
        if there == 0:
            continue
        key = there >> CHUNK_SHIFT
        if key != last_key:
            if key >= directory.size:
                done = i
                break
            last_chunk = np.int64(directory[key])
            if last_chunk == 0:
                if state[FREE] > 0:
                    state[FREE] -= 1
                    last_chunk = np.int64(free[state[FREE]])
                elif state[NEXT] < used.size:
                    last_chunk = state[NEXT]
                    state[NEXT] += 1
                else:
                    done = i
                    break
                directory[key] = last_chunk
            last_key = key
        slot = (last_chunk << CHUNK_SHIFT) + (there & (CHUNK - 1))
        q = page[slot]
        if q == p:
            continue
        if q == np.uint32(NOBODY):
            used[last_chunk] += 1
            page[slot] = p
        else:
            shared += 1
            if p < q:
                page[slot] = p
    state[CHANGED] += changed
    state[HIDDEN] += hidden
    state[BEYOND] += beyond
    state[SHARED] += shared
    return done


def find_twin(
    wanted: NDArray[np.uint64],
    directory: NDArray[np.int32],
    page: Frames,
    out: Frames,
) -> int:
    """Twin of `find`."""
    known = wanted >> np.uint64(CHUNK_SHIFT) < np.uint64(len(directory))
    frame = np.where(known, wanted, np.uint64(0)).astype(np.int64)
    chunk = directory[frame // CHUNK].astype(np.int64)
    slot = chunk * CHUNK + frame % CHUNK
    out[:] = np.where(known & (chunk > 0), page[slot], np.uint32(NOBODY))
    return int(np.count_nonzero(out != NOBODY))


@kernel(twin=find_twin)
def find(
    wanted: NDArray[np.uint64],
    directory: NDArray[np.int32],
    page: Frames,
    out: Frames,
) -> int:
    """Look frames up.

    Args:
        wanted: Frames, uint64[n].
        directory: See `Tables`.
        page: See there.
        out: Set: the flat page on each, NOBODY where none is known, uint32[n].

    Returns:
        How many were found.
    """
    found = 0
    n = wanted.size
    end = np.uint64(directory.size)
    for i in range(n):
        if i + AHEAD < n and wanted[i + AHEAD] >> np.uint64(CHUNK_SHIFT) < end:
            soon = np.int64(wanted[i + AHEAD])
            at = np.int64(directory[soon >> CHUNK_SHIFT])
            prefetch(page, (at << CHUNK_SHIFT) + (soon & (CHUNK - 1)))
        out[i] = np.uint32(NOBODY)
        if wanted[i] >> np.uint64(CHUNK_SHIFT) >= end:
            continue
        frame = np.int64(wanted[i])
        chunk = np.int64(directory[frame >> CHUNK_SHIFT])
        if chunk == 0:
            continue
        q = page[(chunk << CHUNK_SHIFT) + (frame & (CHUNK - 1))]
        out[i] = q
        if q != np.uint32(NOBODY):
            found += 1
    return found
