"""What the mover does on the device, in Triton: copies, ``loc``, counters.

``loc`` is stored by a kernel of its own, after the one that made ready what it will
point to: between two kernels of a stream everything is in order, within one nothing.
"""

import triton
import triton.language as tl

from isotherm.gpu.backend import CHANGED, DIRTY, DONE
from isotherm.gpu.triton_kernels import start_of

_DONE = tl.constexpr(DONE)
_CHANGED = tl.constexpr(CHANGED)
_DIRTY = tl.constexpr(DIRTY)


@triton.jit(do_not_specialize=["n"])
def copy_pages(
    src, dst, src_page, dst_page, n,
    PW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """``dst[dst_page[i]] = src[src_page[i]]``, by as many programs as there are.

    Persistent: a grid of 12 to 32 programs saturates the bus and leaves the
    processors to the launches beside it.
    """
    tiles: tl.constexpr = (PW + BLOCK_W - 1) // BLOCK_W
    t = tl.program_id(0)
    total = tl.cdiv(n, BLOCK_R) * tiles
    while t < total:
        k = (t // tiles) * BLOCK_R + tl.arange(0, BLOCK_R)
        w = (t % tiles) * BLOCK_W + tl.arange(0, BLOCK_W)
        live = k < n
        mask = live[:, None] & (w < PW)[None, :]
        a = tl.load(src_page + k, mask=live, other=0)
        b = tl.load(dst_page + k, mask=live, other=0)
        x = tl.load(
            src + (start_of(a, PW) + w[None, :]),
            mask=mask,
            other=0,
            eviction_policy="evict_first",
        )
        tl.store(
            dst + (start_of(b, PW) + w[None, :]), x, mask=mask, cache_modifier=".cg"
        )
        t += tl.num_programs(0)


@triton.jit(do_not_specialize=["n"])
def prepare(
    page, slot, version, ver, dirty, dep, hit_cnt, answer, n,
    CHECK: tl.constexpr, VERSIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Ready slots for their pages; the kernel before the one that stores ``loc``.

    With ``CHECK`` (a commit) ``answer`` uint8[n] becomes DONE where the version is
    still the one given, and the slot starts clean; else (a want) ``version``
    becomes the present one and ``dep`` zero. Without ``VERSIONS`` all are 0.
    """
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < n
    p = tl.load(page + k, mask=live, other=0)
    s = tl.load(slot + k, mask=live, other=0)
    now = p * 0
    if VERSIONS:
        now = tl.load(ver + p, mask=live, other=0)
    if CHECK:
        same = now == tl.load(version + k, mask=live, other=0)
        tl.store(answer + k, tl.where(same, _DONE, _CHANGED), mask=live)
        tl.store(dirty + s, 0, mask=live & same)
        tl.store(hit_cnt + s, 0, mask=live & same)
    else:
        tl.store(version + k, now, mask=live)
        tl.store(dep + s, 0, mask=live)


@triton.jit(do_not_specialize=["n"])
def publish(
    page, slot, answer, loc, n, WANT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Store ``loc``: the slot where the answer is DONE, or the wish for it."""
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < n
    p = tl.load(page + k, mask=live, other=0)
    s = tl.load(slot + k, mask=live, other=0)
    if WANT:
        tl.store(loc + p, -2 - s, mask=live)
    else:
        good = tl.load(answer + k, mask=live, other=1) == _DONE
        tl.store(loc + p, s, mask=live & good)


@triton.jit(do_not_specialize=["n"])
def unpublish(page, slot, dirty, answer, loc, n, BLOCK: tl.constexpr):
    """``loc[page] = -1`` where the page is in the slot no more than wanted, or clean.

    A slot that is only wanted has no page yet: what ``dirty`` says of it is of the
    page before.
    """
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < n
    p = tl.load(page + k, mask=live, other=0)
    s = tl.load(slot + k, mask=live, other=0)
    there = tl.load(loc + p, mask=live, other=-1) == s
    good = (tl.load(dirty + s, mask=live, other=0) == 0) | (there == 0)
    tl.store(answer + k, tl.where(good, _DONE, _DIRTY), mask=live)
    tl.store(loc + p, -1, mask=live & good)


@triton.jit(do_not_specialize=["n", "capacity"])
def drain(counter, number, count, cursor, n, capacity, BLOCK: tl.constexpr):
    """List counters that are not zero, and zero those that were listed.

    ``cursor`` int32[1] ends as their number; where it exceeds ``capacity``, those
    beyond keep their counts for the next call. The exchange is atomic: what a launch
    adds meanwhile is in this list or stays for the next.
    """
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = tl.load(counter + k, mask=k < n, other=0, cache_modifier=".cg") != 0
    ones = some.to(tl.int32)
    nr = tl.sum(ones, axis=0)
    if nr > 0:
        at = tl.atomic_add(cursor, nr, sem="relaxed")
        at = at + tl.cumsum(ones, axis=0) - ones
        some = some & (at < capacity)
        was = tl.atomic_xchg(counter + k, 0, mask=some, sem="relaxed")
        tl.store(number + at, k, mask=some)
        tl.store(count + at, was, mask=some)


@triton.jit
def take(stats, taken, BLOCK: tl.constexpr):
    """Exchange the totals for zero."""
    k = tl.arange(0, BLOCK)
    tl.store(taken + k, tl.atomic_xchg(stats + k, 0, sem="relaxed"))
