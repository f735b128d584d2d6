"""What is read: batches that change as a workload does, and what is seen of it."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_ceilings import Ceilings, fill
from gpu_contenders import Contender, Ours, Static
from gpu_data import Rig, Table, Zipf, hit_rate, place
from isotherm.gpu.backend import Geometry, Launch

#: One batch in so many is compared with the table, word by word.
CHECK_EVERY = 16

#: Batches of a mean that tells whether a policy is back.
SMOOTH = 5

CHANGES = ("none", "full", "quarter", "drift", "scan")


class Stream:
    """Batches before a change, and after it.

    Args:
        zipf: Where they come from; changed by this.
        change: ``none``; ``full``: all ranks get other rows; ``quarter``: 25 % of the
            hot ones; ``drift``: 0.1 % of them each batch; ``scan``: every tenth batch
            is uniform.
        size: Rows a batch.
        hot: Ranks that are called hot.
        rotation: Different batches between changes.
    """

    def __init__(
        self, zipf: Zipf, change: str, size: int, hot: int, rotation: int
    ) -> None:
        self.zipf, self.change, self._size = zipf, change, size
        self._hot, self._rotation = max(1, hot), rotation

    def before(self, number: int) -> Iterator[Any]:
        """Yield batches of the hot set as it is."""
        some = self.zipf.batches(min(number, self._rotation), self._size)
        for i in range(number):
            yield some[i % len(some)]

    def after(self, number: int) -> Iterator[Any]:
        """Yield batches as the workload changes; the first has changed."""
        if self.change in ("full", "quarter"):
            self.zipf.reshuffle(1.0 if self.change == "full" else 0.25, self._hot)
        some = self.zipf.batches(min(number, self._rotation), self._size)
        scan = Zipf(self.zipf.rig, self.zipf.rows, 0.0, seed=99)
        for i in range(number):
            if self.change == "drift":
                self.zipf.reshuffle(0.001, self._hot)
                yield self.zipf.batch(self._size)
            elif self.change == "scan" and i % 10 == 9:
                yield scan.batch(self._size)
            else:
                yield some[i % len(some)]


class Seen:
    """What a run showed, batch by batch."""

    def __init__(self) -> None:
        self.device_s: list[float] = []
        self.wall_s = 0.0  # of all batches, what a policy does between them included
        self.wrong_words = 0
        self.checked = 0

    def smooth_s(self) -> NDArray[np.float64]:
        """Return means over ``SMOOTH`` batches, from each one on."""
        took = np.array(self.device_s)
        if len(took) < SMOOTH:
            return took
        window = np.ones(SMOOTH) / SMOOTH
        mean: NDArray[np.float64] = np.convolve(took, window, "valid")
        return mean

    def back_after(self, bar_s: float) -> int | None:
        """Return the first batch from which the mean stays at or below a time."""
        late = np.flatnonzero(self.smooth_s() > bar_s)
        if len(late) == 0:
            return 0
        first = int(late[-1]) + 1
        return first if first < len(self.smooth_s()) else None


def read_all(
    rig: Rig,
    table: Table,
    geometry: Geometry,
    contender: Contender,
    batches: Iterator[Any],
    *,
    check: bool = True,
) -> Seen:
    """Read batches, timing each on the device, and compare some with the table."""
    seen = Seen()
    out: Any = None
    marks: list[tuple[Any, Any]] = []
    comparing_s = 0.0
    rig.synchronise()
    whole = time.perf_counter()
    for i, index in enumerate(batches):
        if out is None or len(out) != len(index):
            device = getattr(contender, "device", None)
            shape = (len(index), geometry.row_dim)
            if device is not None:
                out = device.empty(shape)
            else:
                kind = {"dtype": rig.torch.int32, "device": rig.device.torch}
                out = rig.torch.empty(shape, **kind)
        checked = check and i % CHECK_EVERY == 0
        if checked:
            out[:] = -1
        if rig.cuda:
            begin, end = rig.event(), rig.event()
            begin.record()
            contender.read(index, out)
            end.record()
            marks.append((begin, end))
        else:
            began = time.perf_counter()
            contender.read(index, out)
            seen.device_s.append(time.perf_counter() - began)
        if checked:
            rig.synchronise()
            began = time.perf_counter()
            seen.checked += 1
            seen.wrong_words += table.wrong_words(geometry, index, out)
            comparing_s += time.perf_counter() - began
        contender.between(i)
    rig.synchronise()
    seen.wall_s = time.perf_counter() - whole - comparing_s
    seen.device_s += [begin.elapsed_time(end) / 1e3 for begin, end in marks]
    return seen


def run_policy(
    rig: Rig,
    table: Table,
    ceilings: Ceilings,
    geometry: Geometry,
    skew: float,
    change: str,
    contenders: list[Callable[[], Contender]],
    add: Callable[..., None],
    may: Callable[[str], bool],
    attempt: Callable[[str, Callable[[], None]], None],
) -> None:
    """Run contenders over the same batches, the oracles of both halves first."""
    scale = rig.scale
    size = geometry.slots
    footprint = geometry.pages * geometry.page_bytes

    def stream() -> Stream:
        zipf = Zipf(rig, geometry.rows, skew, seed=11)
        return Stream(zipf, change, scale.batch, size, scale.rotation)

    # The oracle knows the hot set, and after a full change the new one.
    now = stream()
    pages = now.zipf.hottest(geometry)
    oracle = Static("oracle", rig, table, geometry, pages)
    first = read_all(rig, table, geometry, oracle, now.before(scale.warm))
    if change in ("full", "quarter"):
        unpublish(oracle.device, pages)
        batches = list(now.after(scale.after))
        place(oracle.device, now.zipf.hottest(geometry))
    else:
        batches = list(now.after(scale.after))
    oracle.counted()
    second = read_all(rig, table, geometry, oracle, iter(batches))
    hits, misses = oracle.counted()
    best_rate = hits / max(1, hits + misses)
    best_s = float(np.median(second.device_s))
    where = {
        "workload": "stationary" if change == "none" else change,
        "zipf": skew,
        "share": round(geometry.slots / geometry.pages, 4),
        "row_bytes": geometry.row_bytes,
    }
    batch_bytes = scale.batch * geometry.row_bytes
    _tell(add, where, oracle, second, best_rate, batch_bytes, first.wrong_words)
    oracle.close()

    ideal_s = ceilings.ideal(geometry.row_bytes, footprint, best_rate)[0]

    def run(make: Callable[[], Contender]) -> None:
        contender = make()
        now = stream()
        warm = read_all(rig, table, geometry, contender, now.before(scale.warm))
        hits, misses = contender.counted()
        seen = read_all(rig, table, geometry, contender, iter(batches))
        later = contender.counted()
        rate = later[0] / max(1, sum(later))
        mine = ceilings.ideal(geometry.row_bytes, footprint, rate)[0]
        more: dict[str, Any] = {
            "warm_hit_rate": hits / max(1, hits + misses),
            "of_oracle": best_s / float(np.median(seen.device_s)),
            "f_policy": ideal_s / mine,
        }
        if change in ("full", "quarter"):
            more["batches_to_90"] = seen.back_after(best_s / 0.90)
            more["batches_to_95"] = seen.back_after(best_s / 0.95)
            back = more["batches_to_95"]
            lost = sum(t - best_s for t in seen.device_s if t > best_s)
            more["ms_to_95"] = None if back is None else 1e3 * sum(seen.device_s[:back])
            more["lost_gb"] = lost * batch_bytes / best_s / 1e9
        _tell(add, where, contender, seen, rate, batch_bytes, warm.wrong_words, **more)
        contender.close()

    for make in contenders:
        what = f"{where['workload']} {skew} {make.__name__}"
        if may(what):
            attempt(what, partial(run, make))


def _tell(
    add: Callable[..., None],
    where: dict[str, Any],
    contender: Contender,
    seen: Seen,
    rate: float,
    batch_bytes: int,
    wrong_before: int,
    **more: Any,
) -> None:
    """Add a row of the report."""
    p50, p99 = np.percentile(seen.device_s, (50, 99))
    add(
        "policy",
        contender=contender.name,
        **where,
        hit_rate=rate,
        gb_s=batch_bytes / p50 / 1e9,
        p50_us=p50 * 1e6,
        p99_us=p99 * 1e6,
        wall_us=seen.wall_s / len(seen.device_s) * 1e6,
        **more,
        **contender.facts(),
        wrong_words=seen.wrong_words + wrong_before,
    )


def unpublish(device: Any, pages: NDArray[np.uint32]) -> None:
    """Take pages out of the slots that ``place`` has put them in."""
    device.unpublish(pages, np.arange(len(pages), dtype=np.uint32)).result()


# -- KV blocks ----------------------------------------------------------------------


def run_blocks(rig: Rig, table: Table, add: Callable[..., None]) -> None:
    """Read a KV cache's blocks as attention over parts of long sequences does.

    Each step reads of every sequence 4 blocks at its start, the 16 most recent, and 64
    in between by Zipf 1.0, whose ranks wander; every 16 steps each sequence writes a
    block. Written blocks are checked like others: their words rise by one.
    """
    scale = rig.scale
    per = scale.blocks // scale.sequences
    geometry = Geometry(scale.blocks, 16384, "int32", 1, max(1, scale.blocks // 10))
    if geometry.pages * geometry.page_bytes > len(table.bytes):
        geometry = Geometry(
            scale.blocks, 128, "int32", 1, max(1, scale.blocks // 10)
        )  # the tiny table
    nothing = np.empty(0, np.uint32)
    makers: list[Callable[[], Any]] = [
        lambda: Static("all zero-copy", rig, table, geometry, nothing),
        lambda: Ours(rig, table, geometry, every=scale.every, writable=True),
    ]
    for make in makers:
        contender = make()
        written = rig.array(np.zeros(scale.blocks, np.int64))
        zero = written.sum() * 0
        took: list[float] = []
        wrong = 0
        random = np.random.default_rng(4)
        level = random.standard_normal((scale.sequences, per))
        steps = max(36, scale.warm // 2)
        for step in range(steps):
            recent = per // 2 + step // 16
            if step % 16 == 15:
                new = np.arange(scale.sequences) * per + recent
                written = _write(rig, contender, table, geometry, new, written)
            level = 0.99 * level + 0.14 * random.standard_normal(level.shape)
            index = _blocks_of(random, level, recent, per)
            table_of = rig.array(index.astype(np.int32))
            out = contender.device.empty((len(index), 1, geometry.row_dim))
            read = partial(_read_blocks, contender, table_of, out)
            took += rig.seconds(read, 1).tolist()
            if step % CHECK_EVERY == 0 or step == steps - 1:
                flat = out.reshape(len(index), geometry.row_dim)
                wrong += table.wrong_words(geometry, table_of, flat, written)
            contender.between(step)
        hits, misses = contender.counted()
        late = np.array(took[len(took) // 2 :])
        p50, p99 = np.percentile(late, (50, 99))
        add(
            "blocks",
            contender=contender.name,
            row_bytes=geometry.row_bytes,
            share=round(geometry.slots / geometry.pages, 4),
            hit_rate=hits / max(1, hits + misses),
            gb_s=len(index) * geometry.row_bytes / p50 / 1e9,
            p50_us=p50 * 1e6,
            p99_us=p99 * 1e6,
            **contender.facts(),
            written_blocks=int(written.sum() + zero),
            wrong_words=wrong,
        )
        _restore(rig, contender, table, geometry, written)
        contender.close()


def _blocks_of(
    random: np.random.Generator, level: NDArray[np.float64], recent: int, per: int
) -> NDArray[np.int64]:
    """Return the blocks of a step, those of one sequence after the other."""
    sequences = len(level)
    sink = np.arange(min(4, per))
    late = np.arange(max(0, recent - 15), recent + 1)
    middle = max(1, recent - 20)
    picks = min(64, middle)
    rank = np.arange(1, middle + 1, dtype=np.float64) ** -1.0
    chosen = np.argsort(-level[:, 4 : 4 + middle], axis=1)
    drawn = random.choice(middle, (sequences, picks), p=rank / rank.sum())
    between = 4 + np.take_along_axis(chosen, drawn, axis=1)
    between = np.minimum(between, recent)
    ends = np.append(sink, late)
    ends = np.broadcast_to(ends, (sequences, len(ends)))
    of_all = np.concatenate([ends, between], axis=1)
    index: NDArray[np.int64] = (of_all + np.arange(sequences)[:, None] * per).ravel()
    return index


def _read_blocks(contender: Any, table_of: Any, out: Any, _: int) -> None:
    if isinstance(contender, Ours):
        contender.launch(lambda l: contender.device.read_blocks(table_of, out, l))
    else:
        contender.device.read_blocks(table_of, out, Launch(1, deposit=False))


def _write(
    rig: Rig,
    contender: Any,
    table: Table,
    geometry: Geometry,
    blocks: NDArray[np.int64],
    written: Any,
) -> Any:
    """Write blocks: each word one more than it was."""
    index = rig.array(blocks.astype(np.int32))
    values = contender.device.empty((len(blocks), geometry.row_dim))
    if isinstance(contender, Ours):
        contender.launch(lambda l: contender.device.gather(index, values, l))
        values += 1
        contender.launch(
            lambda l: contender.device.scatter(index, values, l), writes=True
        )
    else:
        contender.device.gather(index, values, Launch(1, deposit=False))
        values += 1
        contender.device.scatter(index, values, Launch(1))
    written[index if rig.torch is None else index.long()] += 1
    return written


def _restore(
    rig: Rig, contender: Any, table: Table, geometry: Geometry, written: Any
) -> None:
    """Bring the table back to what it was before blocks were written."""
    if isinstance(contender, Ours):
        contender.mover.settle()
        protocol = contender.mover.protocol
        live = np.flatnonzero(protocol.owner >= 0).astype(np.uint32)
        owner = protocol.owner[live].astype(np.uint32)
        contender.device.copy_out(owner, live).result()
    rig.synchronise()
    times = written if rig.torch is None else written.cpu().numpy()
    changed = np.flatnonzero(times)
    arena = table.arena(geometry).view(np.int32)
    arena[changed] -= times[changed, None].astype(np.int32)


# -- beside a product ---------------------------------------------------------------


def run_beside_matmul(
    rig: Rig,
    table: Table,
    geometry: Geometry,
    skew: float,
    modes: tuple[str, ...],
    add: Callable[..., None],
) -> None:
    """Gather on one stream while a bf16 product runs on another; both are timed."""
    torch = rig.torch
    side, kind = rig.scale.matmul, torch.bfloat16
    a = torch.randn((side, side), dtype=kind, device=rig.device.torch)
    b = torch.randn((side, side), dtype=kind, device=rig.device.torch)
    c = torch.empty_like(a)
    zipf = Zipf(rig, geometry.rows, skew, seed=11)
    pages = zipf.hottest(geometry)
    batches = zipf.batches(min(8, rig.scale.rotation), rig.scale.batch)
    rate = hit_rate(rig, geometry, pages, batches)
    times = max(4, rig.scale.timed // 4)
    alone = float(np.median(rig.seconds(lambda _: torch.mm(a, b, out=c), times)[1:]))
    for mode in modes:
        contender = Static(mode, rig, table, geometry, pages, mode=mode)
        out = fill(rig, (rig.scale.batch, geometry.row_dim), contender.device)
        together = _together(
            rig, contender, batches, out, lambda: torch.mm(a, b, out=c)
        )
        add(
            "beside",
            contender=f"ours, {mode}",
            row_bytes=geometry.row_bytes,
            zipf=skew,
            hit_rate=rate,
            matmul_ms_alone=alone * 1e3,
            matmul_ms_beside=together["matmul_s"] * 1e3,
            matmul_slowdown=together["matmul_s"] / alone - 1,
            gb_s=rig.scale.batch * geometry.row_bytes / together["gather_s"] / 1e9,
            wrong_words=table.wrong_words(geometry, batches[0], out),
        )
        contender.close()


def _together(
    rig: Rig, contender: Contender, batches: list[Any], out: Any, product: Any
) -> dict[str, float]:
    """Return seconds per product and per batch while both streams are kept busy."""
    times = 20 if rig.cuda else 2
    if not rig.cuda:

        def one_after_the_other(_: int) -> None:
            product()
            contender.read(batches[0], out)

        both = rig.seconds(one_after_the_other, times)
        return {"matmul_s": float(np.median(both)), "gather_s": float(np.median(both))}
    torch = rig.torch
    other = torch.cuda.Stream()
    contender.read(batches[0], out)
    rig.synchronise()
    products = [rig.event() for _ in range(times + 1)]
    gathers = [rig.event()]
    with torch.cuda.stream(other):
        products[0].record()
        for i in range(times):
            product()
            products[i + 1].record()
    gathers[0].record()
    # As many batches as the products take: the queue is refilled as it empties.
    while not products[-1].query():
        if len(gathers) > 3 and not gathers[-3].query():
            continue
        contender.read(batches[len(gathers) % len(batches)], out)
        gathers.append(rig.event())
        gathers[-1].record()
    contender.read(batches[0], out)
    rig.synchronise()
    per_product = products[0].elapsed_time(products[-1]) / times / 1e3
    spans = [a.elapsed_time(b) / 1e3 for a, b in pairwise(gathers)]
    per_batch = float(np.median(spans[: max(1, len(spans) - 3)]))
    return {"matmul_s": per_product, "gather_s": per_batch}
