"""Samples without fixed places: found first, then gone through step by step.

`index` walks the headers and says where samples begin; it stops at a record of
perf's own, which only files have and only their reader understands. `gather` runs
a layout's program over samples; it reads nothing beyond a sample's end, whatever
the counts in it say, and a sample that does not end where its fields do is
counted and left out.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.records.perf_fields import Counts, Kind, Step

Words = NDArray[np.uint64]

# What is counted beside the samples; from KINDS on, records by kind.
LOST, BROKEN_WORDS, MALFORMED, AUX_DAMAGED, KINDS = range(5)
TALLIES: Final = KINDS + 32
#: More than so many losses told by one record are not believed.
MOST_LOST: Final = 1 << 40
#: Flags of AUX records: truncated, partial, collision (PERF_AUX_FLAG_*).
AUX_DAMAGE: Final = 1 | 4 | 8
#: From here on kinds are perf's own and stand in files only; they end `index`,
#: for some say how to go on (PERF_RECORD_USER_TYPE_START, tools/lib/perf).
USER_KIND: Final = 64
_FIRST_STRIDE: Final = 64  # records that a twin tries at once for a run, doubling

_SAMPLE: Final = int(Kind.SAMPLE)
_KIND_LOST: Final = int(Kind.LOST)
_LOST_SAMPLES: Final = int(Kind.LOST_SAMPLES)
_AUX: Final = int(Kind.AUX)


def run_length(words: Words, at: int, size: int, wanted: int) -> int:
    """Return how many records from ``at`` on have the same kind and size."""
    kind = np.uint64(0xFFFF0000FFFFFFFF)  # misc may differ within a run
    found, step = 1, _FIRST_STRIDE
    while True:
        here = at + found * size
        stop = min(len(words), here + step * size)
        heads = words[here:stop:size]
        # The last head may stand in a record that is cut off.
        if len(heads) and here + (len(heads) - 1) * size + size > len(words):
            heads = heads[:-1]
        same = (heads & kind) == np.uint64(wanted)
        if not len(same) or not same.all():
            return found + int(np.argmin(same)) if len(same) else found
        found += len(same)
        step *= 2


def count_other_twin(
    words: Words, at: int, kind: int, size: int, tally: Counts
) -> None:
    """Count a record that is no sample; the same as `count_other`."""
    tally[KINDS + (kind if 0 < kind < 32 else 0)] += 1
    told = 0
    if kind == _KIND_LOST and size >= 3:
        told = int(words[at + 2])
    elif kind == _LOST_SAMPLES and size >= 2:
        told = int(words[at + 1])
    elif kind == _AUX and size >= 4 and int(words[at + 3]) & AUX_DAMAGE:
        tally[AUX_DAMAGED] += 1
    if told > MOST_LOST:
        tally[MALFORMED] += 1
    else:
        tally[LOST] += told


@compiled
def count_other(
    words: Words, at: np.int64, kind: np.int64, size: np.int64, tally: Counts
) -> None:
    """Count a record that is no sample: by its kind, and the losses that it tells."""
    if 0 < kind < 32:
        tally[KINDS + kind] += 1
    else:
        tally[KINDS] += 1
    told = np.uint64(0)
    if kind == _KIND_LOST and size >= 3:
        told = words[at + 2]
    elif kind == _LOST_SAMPLES and size >= 2:
        told = words[at + 1]
    elif kind == _AUX and size >= 4 and words[at + 3] & np.uint64(AUX_DAMAGE):
        tally[AUX_DAMAGED] += 1
    if told > np.uint64(MOST_LOST):
        tally[MALFORMED] += 1
    else:
        tally[LOST] += np.int64(told)


def index_twin(
    words: Words, start: int, least: int, at: Counts, tally: Counts
) -> tuple[int, int]:
    """Numpy twin of `index`."""
    here, found, end = start, 0, len(words)
    while here < end:
        head = int(words[here])
        kind, size = head & 0xFFFFFFFF, head >> 51
        if size == 0 or here + size > end or (head >> 48) & 7 or kind >= USER_KIND:
            break
        if kind != _SAMPLE:
            count_other_twin(words, here, kind, size, tally)
            here += size
            continue
        run = run_length(words, here, size, head & 0xFFFF0000FFFFFFFF)
        tally[KINDS + _SAMPLE] += run
        if size < least:
            tally[MALFORMED] += run
        else:
            at[found : found + run] = here + size * np.arange(run)
            found += run
        here += run * size
    return found, here


@kernel(twin=index_twin)
def index(
    words: Words, start: int, least: int, at: Counts, tally: Counts
) -> tuple[int, int]:
    """Find the samples, and count what is none.

    Args:
        words: The records, uint64[n].
        start: Word at which the first begins.
        least: A sample with fewer words is malformed; at least 1.
        at: Changed: the word at which each sample begins, int64[> n / least].
        tally: Counts of other things are added here, int64[TALLIES].

    Returns:
        How many samples, and the word at which this ended: at the end of the
        words, at a record that is broken or not whole, or at one that stops it.
    """
    found, end = 0, words.size
    here = np.int64(start)
    while here < end:
        head = words[here]
        kind = np.int64(head & np.uint64(0xFFFFFFFF))
        size = np.int64(head >> np.uint64(51))
        odd = np.int64(head >> np.uint64(48)) & 7
        if size == 0 or here + size > end or odd != 0:
            break
        if kind == _SAMPLE:
            tally[KINDS + _SAMPLE] += 1
            if size < least:
                tally[MALFORMED] += 1
            else:
                at[found] = here
                found += 1
        elif kind >= USER_KIND:
            break
        else:
            count_other(words, here, kind, size, tally)
        here += size
    return found, int(here)


def gather_twin(
    words: Words, at: Counts, program: Counts, columns: Words, tally: Counts
) -> int:
    """Numpy twin of `gather`: one step at a time for all samples."""
    n = len(at)
    if n == 0:
        return 0
    end = at + (words[at] >> np.uint64(51)).astype(np.int64)
    pos = at + 1
    good = np.ones(n, np.bool_)
    out = np.zeros((columns.shape[0], n), np.uint64)
    last = len(words) - 1
    for step, a, b, column in program.tolist():
        if step == Step.WORDS:
            good &= pos + a <= end
            for k in range(a if column >= 0 else 0):
                out[column + k] = words[np.minimum(pos + k, last)]
            pos = np.where(good, pos + a, pos)
            continue
        good &= pos < end
        first = words[np.minimum(pos, last)]
        room = (end - pos).astype(np.uint64)
        if step == Step.COUNTED:
            good &= first < room
            need = 1 + a + b * np.minimum(first, room).astype(np.int64)
        elif step == Step.RAW:
            size = (first & np.uint64(0xFFFFFFFF)).astype(np.int64)
            need = (size + 11) // 8
        elif step == Step.UNLESS_ZERO:
            need = np.where(first != 0, 1 + a, 1)
        else:
            good &= first < room * np.uint64(8)
            size = np.minimum(first, room * np.uint64(8)).astype(np.int64)
            need = 1 + (size + 7) // 8
            if step == Step.STACK:
                need += first != 0
        good &= pos + need <= end
        pos = np.where(good, pos + need, pos)
    good &= pos == end
    tally[MALFORMED] += n - int(good.sum())
    columns[:, : int(good.sum())] = out[:, good]
    return int(good.sum())


@kernel(twin=gather_twin)
def gather(
    words: Words, at: Counts, program: Counts, columns: Words, tally: Counts
) -> int:
    """Copy the wanted words of samples that have no fixed places.

    Args:
        words: The records, uint64[n].
        at: Where whole samples begin, int64[k], as `index` found them.
        program: What follows the header, int64[steps, 4].
        columns: Changed, uint64[columns, >= k].
        tally: Samples that do not fit are added to MALFORMED.

    Returns:
        Samples copied.
    """
    rows = 0
    for i in range(at.size):
        end = at[i] + np.int64(words[at[i]] >> np.uint64(51))
        pos = at[i] + 1
        good = True
        for s in range(program.shape[0]):
            step, a, column = program[s, 0], program[s, 1], program[s, 3]
            need = a
            if step == 0:
                if pos + a > end:
                    good = False
                    break
                if column >= 0:
                    for k in range(a):
                        columns[column + k, rows] = words[pos + k]
            else:
                if pos >= end:
                    good = False
                    break
                first = words[pos]
                room = np.uint64(end - pos)
                if step == 1:  # Step.COUNTED
                    if first >= room:
                        good = False
                        break
                    need = 1 + a + program[s, 2] * np.int64(first)
                elif step == 2:  # Step.RAW
                    need = (np.int64(first & np.uint64(0xFFFFFFFF)) + 11) // 8
                elif step == 3:  # Step.UNLESS_ZERO
                    need = np.int64(1)
                    if first != 0:
                        need = 1 + a
                else:
                    if first >= room * np.uint64(8):
                        good = False
                        break
                    need = 1 + (np.int64(first) + 7) // 8
                    if step == 4 and first != 0:  # Step.STACK
                        need += 1
                if pos + need > end:
                    good = False
                    break
            pos += need
        if good and pos == end:
            rows += 1
        else:
            tally[MALFORMED] += 1
    return rows
