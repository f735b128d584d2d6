"""What runs of Triton's kernels for a launch, in what shapes, on what stream."""

from typing import Any

import torch
import triton

from isotherm.gpu import triton_kernels as kernels
from isotherm.gpu import triton_mover as mover
from isotherm.gpu.backend import DONE, Launch
from isotherm.gpu.drained import STATS, STRIPES
from isotherm.gpu.torch_steps import (
    State,
    TorchSteps,
    last_of_equal,
    signed,
    total_of,
)

#: Warps of a program.
WARPS = 4

#: Words that each row of a narrow tile is read by: a line of 128 bytes.
_LINE_WORDS = 32

#: Words of other tiles: 16 KiB in flight per program and arena; and their width.
TILE_WORDS, _MOST_WORDS = 4096, 1024

#: Widest row, in elements, of which a program adds up bags in one step.
_MOST_ELEMENTS = 4096

#: Rows from so many bytes on are looked up in a kernel of their own.
APART_BYTES = 2048

#: A drain lists so many counters at most; the rest keeps for the next.
MOST_LISTED = 1 << 22

#: Programs of a copy, and of the misses of a split gather: published kernels for
#: offloading need 12 to 32 to saturate a PCIe bus, and more slow down what runs
#: beside them.
PROGRAMS = 24


def interpreted() -> bool:
    """Return whether the kernels run in the interpreter."""
    return not isinstance(kernels.gather, triton.runtime.JITFunction)


class TritonSteps:
    """``torch_steps.Steps`` as kernels; see ``create`` for the arguments."""

    name = "triton"
    atomic = True
    deposits = True

    def __init__(
        self, mode: str, *, count: bool, programs: int, apart_bytes: int
    ) -> None:
        self.mode = mode
        self.apart_bytes = apart_bytes
        self.count = count
        self.programs = programs
        self._plain = TorchSteps()
        # The interpreter pays by program and by step, a device by idle lanes.
        self._wide = 4 if interpreted() else 1
        self._options: dict[str, Any] = {} if interpreted() else {"num_warps": WARPS}

    # -- launches ------------------------------------------------------------

    def gather(self, state: State, index: Any, out: Any, launch: Launch) -> None:
        """Read rows."""
        g = state.geometry
        if not state.zero_copy:
            self._plain.gather(state, index, out, launch)
            return
        words = g.row_bytes // state.word_bytes
        self._read(
            state,
            index,
            out,
            launch,
            rows=g.rows,
            per_page=g.rows_per_page,
            words=words,
            deposit=g.deposits,
        )

    def read_blocks(self, state: State, table: Any, out: Any, launch: Launch) -> None:
        """Read pages, as rows that fill one."""
        g = state.geometry
        if not state.zero_copy:
            self._plain.read_blocks(state, table, out, launch)
            return
        words = g.rows_per_page * g.row_bytes // state.word_bytes
        self._read(
            state,
            table,
            out,
            launch,
            rows=g.pages,
            per_page=1,
            words=words,
            deposit=True,
        )

    def _read(
        self,
        state: State,
        index: Any,
        out: Any,
        launch: Launch,
        *,
        rows: int,
        per_page: int,
        words: int,
        deposit: bool,
    ) -> None:
        n = index.numel()
        if n == 0:
            return
        shape = {
            "RPP": per_page,
            "RW": words,
            "PW": state.geometry.page_bytes // state.word_bytes,
            "OW": words,
            "DEPOSIT": deposit and launch.deposit,
        }
        data = (state.words(out), index)
        arenas = (state.words(state.slots), state.words(state.host))
        if self.mode != "fused":
            self._split(state, data, arenas, launch, rows, shape)
        elif words * state.word_bytes >= self.apart_bytes:
            place, _ = self._look(state, index, launch, rows, shape)
            tile = self._tile(words)
            grid = (
                triton.cdiv(n, tile["BLOCK_R"]),
                triton.cdiv(words, tile["BLOCK_W"]),
            )
            kernels.gather_placed[grid](
                *data, place, *arenas, n, rows, **shape, **tile, **self._options
            )
        else:
            kernels.gather[(triton.cdiv(n, self._one_a_thread),)](
                *data,
                state.loc,
                *arenas,
                state.misses,
                state.hits,
                state.dep,
                state.stats,
                n,
                rows,
                signed(launch.epoch),
                signed(launch.salt),
                HIT_SHIFT=launch.hit_shift,
                COUNT=self.count,
                BLOCK_R=self._one_a_thread,
                BLOCK_W=self._tile(words)["BLOCK_W"] if interpreted() else _LINE_WORDS,
                **shape,
                **self._options,
            )

    def _look(
        self,
        state: State,
        index: Any,
        launch: Launch,
        rows: int,
        shape: dict[str, Any],
        *,
        split: bool = False,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return where each row is; with ``split`` key, hits, misses, lengths too."""
        n = index.numel()
        columns = torch.empty(
            (4 if split else 1, n), dtype=torch.int32, device=index.device
        )
        place = columns[0]
        lists = tuple(columns[1:]) if split else (place, place, place)
        cursor = torch.zeros(2, dtype=torch.int32, device=index.device)
        kernels.look[(triton.cdiv(n, self._one_a_thread),)](
            index,
            state.loc,
            place,
            *lists,
            cursor,
            state.misses,
            state.hits,
            state.dep,
            state.stats,
            n,
            rows,
            signed(launch.epoch),
            signed(launch.salt),
            RPP=shape["RPP"],
            HIT_SHIFT=launch.hit_shift,
            COUNT=self.count,
            DEPOSIT=shape["DEPOSIT"],
            SPLIT=split,
            BLOCK_R=self._one_a_thread,
            **self._options,
        )
        return place, (*lists, cursor)

    def _split(
        self,
        state: State,
        data: tuple[Any, Any],
        arenas: tuple[Any, Any],
        launch: Launch,
        rows: int,
        shape: dict[str, Any],
    ) -> None:
        """Read hits here and misses on the side stream."""
        device = state.device
        index = data[1]
        place, (key, hits, misses, cursor) = self._look(
            state, index, launch, rows, shape, split=True
        )
        tile = self._tile(shape["RW"])
        most = triton.cdiv(index.numel(), tile["BLOCK_R"])

        def read(order: Any, length: Any, programs: int) -> None:
            kernels.gather_list[(min(most, programs),)](
                *data,
                place,
                order,
                length,
                *arenas,
                rows,
                **shape,
                **tile,
                **self._options,
            )

        def read_misses() -> None:
            ordered = self.mode == "split-sorted"
            order = torch.argsort(key, stable=True) if ordered else misses
            read(order, cursor[1:], self.programs)

        if not device.cuda:
            read_misses()
            read(hits, cursor, 8)
            return
        stream = torch.cuda.current_stream()
        device.side.wait_event(stream.record_event())
        with torch.cuda.stream(device.side):
            read_misses()
            ended = device.side.record_event()
        read(hits, cursor, 8 * device.processors)
        stream.wait_event(ended)  # so memory of this call is not given away before

    def gather_bag(
        self,
        state: State,
        index: Any,
        offsets: Any,
        out: Any,
        launch: Launch,
        mean: bool,
        weights: Any | None,
    ) -> None:
        """Read sums of rows."""
        g = state.geometry
        bags, n = len(offsets), len(index)
        if not state.zero_copy:
            self._plain.gather_bag(state, index, offsets, out, launch, mean, weights)
            return
        if bags == 0:
            return
        block_e = min(triton.next_power_of_2(g.row_dim), _MOST_ELEMENTS)
        block_b = max(1, (TILE_WORDS // 4) // block_e) * self._wide
        shape = {"RPP": g.rows_per_page, "DEPOSIT": g.deposits and launch.deposit}
        place = index
        if n:
            place, _ = self._look(state, index, launch, g.rows, shape)
        kernels.gather_bag[(triton.cdiv(bags, block_b),)](
            out,
            index,
            offsets,
            index if weights is None else weights,
            place,
            state.slots.view(out.dtype),
            state.host.view(out.dtype),
            bags,
            n,
            g.rows,
            RE=g.row_dim,
            PE=g.page_bytes // out.element_size(),
            MEAN=mean,
            WEIGHTED=weights is not None,
            WIDE=g.dtype == "float64",
            BY_BITS=interpreted() and g.dtype == "bfloat16",
            BLOCK_B=block_b,
            BLOCK_E=block_e,
            **shape,
            **self._options,
            # A product is rounded before it is added, as the seam says.
            **({} if interpreted() else {"enable_fp_fusion": False}),
        )

    def scatter(self, state: State, index: Any, values: Any) -> None:
        """Write rows where they are."""
        g = state.geometry
        n = index.numel()
        if n == 0:
            return
        if not state.zero_copy:
            self._plain.scatter(state, index, values)
            return
        state.keep_versions()
        words = g.row_bytes // state.word_bytes
        tile = self._tile(words)
        kernels.scatter[(triton.cdiv(n, tile["BLOCK_R"]),)](
            state.words(values),
            index,
            last_of_equal(index).to(torch.uint8),
            state.loc,
            state.words(state.slots),
            state.words(state.host),
            state.dirty,
            state.ver,
            state.stats,
            n,
            g.rows,
            RPP=g.rows_per_page,
            RW=words,
            PW=g.page_bytes // state.word_bytes,
            **tile,
            **self._options,
        )

    def _tile(self, words: int) -> dict[str, int]:
        """Return how many rows and words a program takes at once."""
        block_w = min(triton.next_power_of_2(words), _MOST_WORDS)
        return {
            "BLOCK_R": min(512, max(1, TILE_WORDS // block_w) * self._wide),
            "BLOCK_W": block_w,
        }

    # -- the mover's lane ------------------------------------------------------

    def want(self, state: State, page: Any, slot: Any) -> Any:
        """Clear ``dep`` in one kernel, store the wish in the next."""
        version = torch.empty_like(page)
        if len(page):
            self._prepare(state, page, slot, version, version, check=False)
            self._publish(state, page, slot, version, want=True)
        return version

    def commit(self, state: State, page: Any, slot: Any, version: Any) -> Any:
        """Ready the slots in one kernel, store ``loc`` in the next."""
        answer = torch.full(page.shape, DONE, dtype=torch.int32, device=page.device)
        if len(page):
            self._prepare(state, page, slot, version, answer, check=True)
            self._publish(state, page, slot, answer, want=False)
        return answer

    def _prepare(
        self,
        state: State,
        page: Any,
        slot: Any,
        version: Any,
        answer: Any,
        *,
        check: bool,
    ) -> None:
        mover.prepare[self._columns(page)](
            page,
            slot,
            version,
            state.ver,
            state.dirty,
            state.dep,
            state.hits,
            answer,
            len(page),
            CHECK=check,
            VERSIONS=state.has_versions,
            BLOCK=self._column,
            **self._options,
        )

    def _publish(
        self, state: State, page: Any, slot: Any, answer: Any, *, want: bool
    ) -> None:
        mover.publish[self._columns(page)](
            page,
            slot,
            answer,
            state.loc,
            len(page),
            WANT=want,
            BLOCK=self._column,
            **self._options,
        )

    def unpublish(self, state: State, page: Any, slot: Any) -> Any:
        """Store -1 in ``loc`` of all but dirty ones."""
        answer = torch.empty_like(page)
        if len(page):
            mover.unpublish[self._columns(page)](
                page,
                slot,
                state.dirty,
                answer,
                state.loc,
                len(page),
                BLOCK=self._column,
                **self._options,
            )
        return answer

    def copy(self, state: State, page: Any, slot: Any, *, out: bool) -> None:
        """Copy pages by the device's processors, a few of them."""
        if not state.zero_copy:
            self._plain.copy(state, page, slot, out=out)
            return
        words = state.geometry.page_bytes // state.word_bytes
        tile = self._tile(words)
        tiles = triton.cdiv(len(page), tile["BLOCK_R"])
        tiles *= triton.cdiv(words, tile["BLOCK_W"])
        host, slots = state.words(state.host), state.words(state.slots)
        ends = (slots, host, slot, page) if out else (host, slots, page, slot)
        mover.copy_pages[(min(tiles, self.programs),)](
            *ends, len(page), PW=words, **tile, **self._options
        )

    def take_counts(self, counter: Any) -> tuple[Any, Any, Any]:
        """List what is not zero, exchanging it for zero."""
        n = len(counter)
        capacity = min(n, MOST_LISTED)
        number, count = torch.empty(
            (2, capacity), dtype=torch.int32, device=counter.device
        )
        cursor = torch.zeros(1, dtype=torch.int32, device=counter.device)
        if n:
            block = 1024 * self._wide
            mover.drain[(triton.cdiv(n, block),)](
                counter,
                number,
                count,
                cursor,
                n,
                capacity,
                BLOCK=block,
                **self._options,
            )
        return number, count, cursor

    def take_totals(self, state: State) -> Any:
        """Exchange the totals for zero."""
        taken = torch.empty_like(state.stats)
        mover.take[(1,)](state.stats, taken, BLOCK=STRIPES * STATS, **self._options)
        return total_of(taken)

    @property
    def _one_a_thread(self) -> int:
        """Rows of a program that looks at ``loc``: see ``triton_kernels``."""
        return 32 * WARPS * self._wide

    @property
    def _column(self) -> int:
        return 128 * self._wide

    def _columns(self, page: Any) -> tuple[int]:
        return (triton.cdiv(len(page), self._column),)
