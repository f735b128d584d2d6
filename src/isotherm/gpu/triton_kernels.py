"""Launches of a tiered tensor in Triton: reads, sums, writes.

The mover's kernels stand in ``triton_mover``.

One source for three uses: compiled on a CUDA device, compiled to PTX for sm_90
without one (the tests read the widths and cache modifiers of every access there),
and run on CPU tensors under ``TRITON_INTERPRET=1``.

Data are moved as *words*: the widest of 4, 2 or 1 bytes that divides a row. Rows of
a multiple of 16 bytes are then read 16 bytes a lane. ``RW`` words make a row, ``PW``
a page (always a multiple of 128 bytes, so that no two slots share a line).

**One look.** Where a page is read is said by one 32-bit load of ``loc`` per row and
launch. Every column of the row, its counter and its deposit follow that one answer:
if half of a row saw the page wanted and the other half did not, half a page would be
deposited and stamped as whole. Triton gives no such promise by itself: it loads
again, in another layout, what fewer lanes than there are threads would load, and a
row that spans warps is looked up by each of them. So there are two forms:

- ``gather`` takes exactly as many rows as threads: each element of ``loc`` belongs to
  one thread, and the compiler then carries it through shared memory (the tests count
  the loads in the generated code). It is for narrow rows.
- ``look`` writes the answers down, and ``gather_placed``, ``gather_list`` and
  ``gather_bag`` read them as often as they like. It is for wide rows, for bags, and
  for misses apart from hits.

Cache modifiers:

- slots ``.cg``: through L2 only. A slot is refilled only after a grace period, and
  an L1 line of it cannot outlive the kernel that read it; this is the second guard.
- host ``evict_first``: a line that came over the bus is read once as a rule. (ptxas
  takes no ``.cg`` together with an eviction policy.)
- results ``.cs``: streamed, so that they do not push ``loc`` out of L2.

Counters are relaxed atomics in device memory: PCIe hosts have no atomics. Programs
add to row ``program % STRIPES`` of ``stats``, so that few meet at one address.
"""

import triton
import triton.language as tl

from isotherm.gpu.drained import (
    BAD_INDEX,
    DEPOSITS,
    HITS,
    MISSES,
    OUT_OF_RANGE,
    STATS,
    STRIPES,
)

_HITS = tl.constexpr(HITS)
_MISSES = tl.constexpr(MISSES)
_DEPOSITS = tl.constexpr(DEPOSITS)
_OUT_OF_RANGE = tl.constexpr(OUT_OF_RANGE)
_BAD_INDEX = tl.constexpr(BAD_INDEX)
_STATS = tl.constexpr(STATS)
_STRIPES = tl.constexpr(STRIPES)

_NOT_SPECIAL = ["n", "rows", "epoch", "salt"]


@triton.jit
def _stripe(stats):
    return stats + (tl.program_id(0) % _STRIPES) * _STATS


@triton.jit
def _in_range(i, live, rows, stats):
    """Return the index, 0 for one outside, and note those."""
    bad = live & ((i < 0) | (i >= rows))
    nr_bad = tl.sum(bad.to(tl.int32), axis=0)
    if nr_bad > 0:
        mine = _stripe(stats)
        tl.atomic_add(mine + _OUT_OF_RANGE, nr_bad.to(tl.int64), sem="relaxed")
        # Any of them will do: each store is whole.
        tl.store(i * 0 + (mine + _BAD_INDEX), i.to(tl.int64), mask=bad)
    return tl.where(bad, 0, i)


@triton.jit
def _look(i, live, loc, RPP: tl.constexpr):
    """Return page, row within it, and where it is: the one look at ``loc``."""
    page = i // RPP
    row = i - page * RPP
    return page, row, tl.load(loc + page, mask=live, other=-1, cache_modifier=".ca")


@triton.jit
def _placed(i, rows, RPP: tl.constexpr):
    """Return page and row of an index that ``look`` has dealt with."""
    i = tl.where((i < 0) | (i >= rows), 0, i)
    page = i // RPP
    return page, i - page * RPP


@triton.jit
def start_of(number, STRIDE: tl.constexpr):
    """Return where rows or pages begin, int64[n, 1]."""
    return (number.to(tl.int64) * STRIDE)[:, None]


@triton.jit
def _fetch(
    page, row, v, live, w, in_row, slots, host, RW: tl.constexpr, PW: tl.constexpr
):
    """Return a tile [rows, words]: slots where resident, else the host arena."""
    inner = start_of(row, RW) + w[None, :]
    hit = live & (v >= 0)
    a = tl.load(
        slots + (start_of(v, PW) + inner),
        mask=hit[:, None] & in_row[None, :],
        other=0,
        cache_modifier=".cg",
    )
    b = tl.load(
        host + (start_of(page, PW) + inner),
        mask=(live & (v < 0))[:, None] & in_row[None, :],
        other=0,
        eviction_policy="evict_first",
    )
    return tl.where(hit[:, None], a, b)


@triton.jit
def _count(
    k, page, v, live, miss_cnt, hit_cnt, stats, salt,
    HIT_SHIFT: tl.constexpr,
):  # fmt: skip
    """Count misses one by one, hits by sample."""
    hit = live & (v >= 0)
    miss = live & (v < 0)
    tl.atomic_add(miss_cnt + page, 1, mask=miss, sem="relaxed")
    sampled = hit
    if HIT_SHIFT > 0:
        # Fibonacci hashing: Knuth, The Art of Computer Programming 3, section 6.4.
        golden = tl.full((), 0x9E3779B1, tl.uint32)
        mixed = (k.to(tl.uint32) ^ salt.to(tl.uint32)) * golden
        sampled = hit & ((mixed >> (32 - HIT_SHIFT)) == 0)
    tl.atomic_add(hit_cnt + v, 1, mask=sampled, sem="relaxed")
    mine = _stripe(stats)
    nr_hits = tl.sum(hit.to(tl.int32), axis=0)
    nr_misses = tl.sum(miss.to(tl.int32), axis=0)
    if nr_hits > 0:
        tl.atomic_add(mine + _HITS, nr_hits.to(tl.int64), sem="relaxed")
    if nr_misses > 0:
        tl.atomic_add(mine + _MISSES, nr_misses.to(tl.int64), sem="relaxed")


@triton.jit
def _stamp(v, want, dep, stats, epoch):
    """Note this launch as the one that deposited, unless another has before.

    Of several launches at a time the mover waits for the one it finds here: the
    first, since a page that every launch reads would otherwise never be ready.
    """
    was = tl.load(dep + (-2 - v), mask=want, other=1, cache_modifier=".cg")
    tl.store(dep + (-2 - v), epoch, mask=want & (was == 0))
    nr_want = tl.sum(want.to(tl.int32), axis=0)
    if nr_want > 0:
        tl.atomic_add(_stripe(stats) + _DEPOSITS, nr_want.to(tl.int64), sem="relaxed")


@triton.jit
def _deposit_pages(
    page, v, want, slots, host, PW: tl.constexpr, BLOCK_W: tl.constexpr
):  # fmt: skip
    """Copy whole wanted pages of several rows into their slots."""
    for c in range(0, PW, BLOCK_W):
        w = c + tl.arange(0, BLOCK_W)
        mask = want[:, None] & (w < PW)[None, :]
        x = tl.load(host + (start_of(page, PW) + w[None, :]), mask=mask, other=0)
        tl.store(slots + (start_of(-2 - v, PW) + w[None, :]), x, mask=mask)


@triton.jit
def _read(
    k, live, page, row, v, out, slots, host,
    RPP: tl.constexpr, RW: tl.constexpr, PW: tl.constexpr, OW: tl.constexpr,
    DEPOSIT: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Read rows, all their words in steps, into ``out``, and into wanted slots."""
    want = live & (v <= -2)
    for c in range(0, RW, BLOCK_W):
        w = c + tl.arange(0, BLOCK_W)
        in_row = w < RW
        x = _fetch(page, row, v, live, w, in_row, slots, host, RW, PW)
        tl.store(
            out + (start_of(k, OW) + w[None, :]),
            x,
            mask=live[:, None] & in_row[None, :],
            cache_modifier=".cs",
        )
        if DEPOSIT and RPP == 1:
            tl.store(
                slots + (start_of(-2 - v, PW) + w[None, :]),
                x,
                mask=want[:, None] & in_row[None, :],
            )
    if DEPOSIT and RPP > 1:
        _deposit_pages(page, v, want, slots, host, PW, BLOCK_W)


@triton.jit(do_not_specialize=_NOT_SPECIAL)
def gather(
    out, index, loc, slots, host, miss_cnt, hit_cnt, dep, stats,
    n, rows, epoch, salt,
    RPP: tl.constexpr, RW: tl.constexpr, PW: tl.constexpr, OW: tl.constexpr,
    HIT_SHIFT: tl.constexpr, COUNT: tl.constexpr, DEPOSIT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """``out[k] = row index[k]``, ``BLOCK_R`` rows a program: one for each thread.

    ``RW`` words are read of each row and stored ``OW`` words apart. Blocks are read by
    this too, with a page for a row: RPP 1, RW the words of its rows.
    """
    k = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = k < n
    i = _in_range(tl.load(index + k, mask=live, other=0), live, rows, stats)
    page, row, v = _look(i, live, loc, RPP)
    _read(k, live, page, row, v, out, slots, host, RPP, RW, PW, OW, DEPOSIT, BLOCK_W)
    if DEPOSIT:
        _stamp(v, live & (v <= -2), dep, stats, epoch)
    if COUNT:
        _count(k, page, v, live, miss_cnt, hit_cnt, stats, salt, HIT_SHIFT)


@triton.jit(do_not_specialize=_NOT_SPECIAL)
def look(
    index, loc, place, key, hit_list, miss_list, cursor,
    miss_cnt, hit_cnt, dep, stats, n, rows, epoch, salt,
    RPP: tl.constexpr, HIT_SHIFT: tl.constexpr, COUNT: tl.constexpr,
    DEPOSIT: tl.constexpr, SPLIT: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """``place[k]`` = what ``loc`` says of row ``index[k]``; count it; one row a thread.

    Wanted pages are stamped here: the launch ends with the kernel that deposits.

    ``SPLIT`` lists hits and misses too. ``cursor`` int32[2] ends as the lengths of the
    two lists. ``key[k]`` is the page of a miss and the largest int32 of a hit:
    sorted, it puts the misses in the order of their addresses, which is worth it where
    they outgrow the device's reach of the host's page table.
    """
    k = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = k < n
    i = _in_range(tl.load(index + k, mask=live, other=0), live, rows, stats)
    page, _row, v = _look(i, live, loc, RPP)
    tl.store(place + k, v, mask=live)
    if SPLIT:
        hit = live & (v >= 0)
        miss = live & (v < 0)
        tl.store(key + k, tl.where(miss, page.to(tl.int32), 0x7FFFFFFF), mask=live)
        ones = hit.to(tl.int32)
        at = tl.atomic_add(cursor, tl.sum(ones, axis=0), sem="relaxed")
        tl.store(hit_list + at + tl.cumsum(ones, axis=0) - ones, k, mask=hit)
        ones = miss.to(tl.int32)
        at = tl.atomic_add(cursor + 1, tl.sum(ones, axis=0), sem="relaxed")
        tl.store(miss_list + at + tl.cumsum(ones, axis=0) - ones, k, mask=miss)
    if DEPOSIT:
        _stamp(v, live & (v <= -2), dep, stats, epoch)
    if COUNT:
        _count(k, page, v, live, miss_cnt, hit_cnt, stats, salt, HIT_SHIFT)


@triton.jit(do_not_specialize=_NOT_SPECIAL)
def gather_placed(
    out, index, place, slots, host, n, rows,
    RPP: tl.constexpr, RW: tl.constexpr, PW: tl.constexpr, OW: tl.constexpr,
    DEPOSIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Read wide rows after ``look``: a few rows a program, and a part of each.

    The programs of a row deposit its parts; pages of several rows, whole, the first.
    """
    k = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = k < n
    page, row = _placed(tl.load(index + k, mask=live, other=0), rows, RPP)
    v = tl.load(place + k, mask=live, other=-1)
    want = live & (v <= -2)
    w = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    in_row = w < RW
    x = _fetch(page, row, v, live, w, in_row, slots, host, RW, PW)
    tl.store(
        out + (start_of(k, OW) + w[None, :]),
        x,
        mask=live[:, None] & in_row[None, :],
        cache_modifier=".cs",
    )
    if DEPOSIT and RPP == 1:
        tl.store(
            slots + (start_of(-2 - v, PW) + w[None, :]),
            x,
            mask=want[:, None] & in_row[None, :],
        )
    if DEPOSIT and RPP > 1:
        first = want & (tl.program_id(1) == 0)
        _deposit_pages(page, v, first, slots, host, PW, BLOCK_W)


@triton.jit(do_not_specialize=_NOT_SPECIAL)
def gather_list(
    out, index, place, order, length, slots, host, rows,
    RPP: tl.constexpr, RW: tl.constexpr, PW: tl.constexpr, OW: tl.constexpr,
    DEPOSIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Read the rows of one list of ``look``, by as many programs as there are.

    Hits take every processor; misses a few, since what limits them is the bus.
    ``order`` int[at least length[0]] numbers the rows; ``length`` is read on the
    device, so that the host need not wait for it.
    """
    t = tl.program_id(0)
    total = tl.load(length)
    while t * BLOCK_R < total:
        j = t * BLOCK_R + tl.arange(0, BLOCK_R)
        live = j < total
        k = tl.load(order + j, mask=live, other=0)
        page, row = _placed(tl.load(index + k, mask=live, other=0), rows, RPP)
        v = tl.load(place + k, mask=live, other=-1)
        _read(
            k, live, page, row, v, out, slots, host, RPP, RW, PW, OW, DEPOSIT, BLOCK_W
        )
        t += tl.num_programs(0)


@triton.jit
def _rounded(x, to: tl.constexpr, BY_BITS: tl.constexpr):
    """Return float sums in the tensor's type, to nearest, ties to even.

    ``BY_BITS`` for bfloat16 in the interpreter, which cuts it off.
    """
    if BY_BITS:
        bits = x.to(tl.uint32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        y = tl.where(x == x, near, 0x7FC0).to(tl.uint16).to(to, bitcast=True)
    else:
        y = x.to(to)
    return y


@triton.jit(do_not_specialize=[*_NOT_SPECIAL, "bags"])
def gather_bag(
    out, index, offsets, weights, place, slots, host, bags, n, rows,
    RPP: tl.constexpr, RE: tl.constexpr, PE: tl.constexpr,
    DEPOSIT: tl.constexpr, MEAN: tl.constexpr, WEIGHTED: tl.constexpr,
    WIDE: tl.constexpr, BY_BITS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Sum the rows of each bag, in their order, after ``look``; some bags a program.

    ``slots``, ``host`` and ``out`` are of the tensor's own type: ``RE`` elements a
    row, ``PE`` a page. Bags of a program advance together, one row each a step, so
    that the loads of a step are independent while each sum keeps its order.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    real = b < bags
    begin = tl.maximum(tl.load(offsets + b, mask=real, other=0).to(tl.int64), 0)
    end = tl.load(offsets + b + 1, mask=real & (b + 1 < bags), other=0).to(tl.int64)
    end = tl.minimum(tl.where(b + 1 < bags, end, n), n)  # whatever offsets say
    length = tl.where(real, end - begin, 0)
    longest = tl.max(length, axis=0)
    for c in tl.static_range(0, RE, BLOCK_E):
        w = c + tl.arange(0, BLOCK_E)
        in_row = w < RE
        acc = tl.zeros((BLOCK_B, BLOCK_E), tl.float64 if WIDE else tl.float32)
        step = longest * 0
        while step < longest:
            live = step < length
            k = begin + step
            page, row = _placed(tl.load(index + k, mask=live, other=0), rows, RPP)
            v = tl.load(place + k, mask=live, other=-1)
            x = _fetch(page, row, v, live, w, in_row, slots, host, RE, PE)
            if DEPOSIT and RPP == 1:
                tl.store(
                    slots + (start_of(-2 - v, PE) + w[None, :]),
                    x,
                    mask=(live & (v <= -2))[:, None] & in_row[None, :],
                )
            if DEPOSIT and RPP > 1 and c == 0:
                _deposit_pages(page, v, live & (v <= -2), slots, host, PE, BLOCK_E)
            x = x.to(acc.dtype)
            if WEIGHTED:
                factor = tl.load(weights + k, mask=live, other=0).to(acc.dtype)
                x = x * factor[:, None]
            # A bag that has ended adds nothing, not even 0 to -0.
            acc = tl.where(live[:, None], acc + x, acc)
            step += 1
        if MEAN:
            by = tl.maximum(length, 1).to(acc.dtype)[:, None]
            by = tl.broadcast_to(by, (BLOCK_B, BLOCK_E))
            acc = acc / by if WIDE else tl.div_rn(acc, by)
        tl.store(
            out + (start_of(b, RE) + w[None, :]),
            _rounded(acc, out.dtype.element_ty, BY_BITS),
            mask=real[:, None] & in_row[None, :],
            cache_modifier=".cs",
        )


@triton.jit(do_not_specialize=_NOT_SPECIAL)
def scatter(
    values, index, keep, loc, slots, host, dirty, ver, stats, n, rows,
    RPP: tl.constexpr, RW: tl.constexpr, PW: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Write rows where they are; ``keep[k]`` is 0 for all but one of equal indices.

    The version rises last: a copy that began before it and looks at the version
    afterwards sees the change, whichever bytes it caught.
    """
    k = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = k < n
    i = tl.load(index + k, mask=live, other=0)
    bad = live & ((i < 0) | (i >= rows))
    i = _in_range(i, live, rows, stats)
    live = live & (bad == 0) & (tl.load(keep + k, mask=live, other=0) != 0)
    page, row, v = _look(i, live, loc, RPP)
    hit = live & (v >= 0)
    for c in tl.static_range(0, RW, BLOCK_W):
        w = c + tl.arange(0, BLOCK_W)
        in_row = w < RW
        inner = start_of(row, RW) + w[None, :]
        x = tl.load(
            values + (start_of(k, RW) + w[None, :]),
            mask=live[:, None] & in_row[None, :],
            other=0,
            eviction_policy="evict_first",
        )
        tl.store(
            slots + (start_of(v, PW) + inner),
            x,
            mask=hit[:, None] & in_row[None, :],
            cache_modifier=".cg",
        )
        tl.store(
            host + (start_of(page, PW) + inner),
            x,
            mask=(live & (v < 0))[:, None] & in_row[None, :],
            cache_modifier=".cg",
        )
    tl.store(dirty + v, 1, mask=hit)
    tl.debug_barrier()  # every store of the program comes before the version
    tl.atomic_add(ver + page, 1, mask=live, sem="release")
