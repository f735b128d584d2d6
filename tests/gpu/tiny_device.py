"""A device of a few words for the model checker: every kernel one step at a time.

Pages and slots have two words. What the host does (the state machine, the calls)
is the real ``SlotProtocol``; what a device does is written down here, a step each
for everything that another kernel could see in between.
"""

import copy
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from isotherm.gpu.backend import CHANGED, DIRTY, DONE
from isotherm.gpu.protocol import Instruction, Op, SlotProtocol

WORDS = 2
NEW = "new"  # what a writer writes
ORDERED = frozenset({Op.COMMIT, Op.CLEAN, Op.UNPUBLISH})


@dataclass(frozen=True)
class Kernel:
    """A reader or writer of one page under way.

    Attributes:
        page: Which.
        writes: Whether it writes.
        pc: Steps made; 0: not launched.
        epoch: Its epoch.
        after: Mover's instructions that it waits for (writers).
        loc: What it saw in ``loc``.
        seen: Words read so far.
        fresh: Launched after the end of the last write had been seen.
        over: Its end has been seen by the host.
    """

    page: int
    writes: bool = False
    pc: int = 0
    epoch: int = 0
    after: int = 0
    loc: int = -1
    seen: tuple[str, ...] = ()
    fresh: bool = False
    over: bool = False

    def key(self, first: int) -> tuple[object, ...]:
        """Return what tells it from others, seen from the mover's first instruction."""
        return (
            self.page,
            self.writes,
            self.pc,
            self.epoch,
            max(0, self.after - first),
            self.loc,
            self.seen,
            self.fresh,
            self.over,
        )


@dataclass(frozen=True)
class Flaws:
    """What a device, or a state machine's user, may do wrong.

    Attributes:
        bump: When a writer raises the version: "end", "start".
        versions: Whether commit and clean look at versions.
        ordered: Whether writers and commits exclude each other.
    """

    bump: str = "end"
    versions: bool = True
    ordered: bool = True


class NoGuard:
    """Nothing comes and goes too often here."""

    def refuse(self, page: np.ndarray, epoch: int) -> np.ndarray:
        """Refuse nothing."""
        return np.zeros(len(page), np.bool_)

    def left(self, page: np.ndarray, epoch: int) -> None:
        """Remember nothing."""

    def hold(self, page: np.ndarray, epoch: int) -> None:
        """Hold nothing."""


def clone(p: SlotProtocol) -> SlotProtocol:
    """Return a state machine that goes on from here, apart from the first."""
    q = copy.copy(p)
    for name, value in vars(p).items():
        if isinstance(value, np.ndarray | deque | list):
            setattr(q, name, value.copy())
    q.readers = p.readers.copy()
    q.totals = copy.copy(p.totals)
    q._lists = copy.copy(p._lists)
    q._lists.grace, q._lists.sealed = p._lists.grace.copy(), p._lists.sealed.copy()
    return q


def key_of(p: SlotProtocol) -> tuple[object, ...]:
    """Return what tells two states of a state machine apart."""
    waiting = tuple(
        (epoch, tuple(slot.tolist()))
        for some in (p._lists.grace, p._lists.sealed)
        for epoch, slot in some
    )
    return (
        p.state.tobytes(),
        p.owner.tobytes(),
        p.version.tobytes(),
        p.tries.tobytes(),
        p.doomed.tobytes(),
        p._copies.tobytes(),
        p.place.tobytes(),
        p.slot_of.tobytes(),
        p.readers.running,
        p.readers.epoch,
        waiting,
        len(p._lists.grace),
        p._wanted.tobytes(),
        tuple((page.tobytes(), mode) for page, mode in p._queue),
        p._free[: p._frees].tobytes(),
        p._probe,
        p._probing,
    )


@dataclass(frozen=True)
class Memory:
    """Device memory and the host arena, as tuples by page or slot."""

    loc: tuple[int, ...]
    slots: tuple[tuple[str, ...], ...]
    host: tuple[tuple[str, ...], ...]
    ver: tuple[int, ...]
    dirty: tuple[bool, ...]
    dep: tuple[int, ...]

    def put(self, name: str, at: int, value: object) -> "Memory":
        """Return memory with one entry changed."""
        column = list(getattr(self, name))
        column[at] = value
        return replace(self, **{name: tuple(column)})

    def put_word(self, name: str, at: int, word: int, value: str) -> "Memory":
        """Return memory with one word of a page or slot changed."""
        words = list(getattr(self, name)[at])
        words[word] = value
        return self.put(name, at, tuple(words))


@dataclass(frozen=True)
class Running:
    """The mover's first instruction: how far it is, and its answer so far."""

    pc: int = 0
    answer: tuple[int, ...] = ()


def steps_of(told: Instruction) -> int:
    """Return how many steps an instruction takes."""
    rows = len(told.page)
    if told.op is Op.WANT:
        return 2 * rows
    if told.op in {Op.COPY_IN, Op.COPY_OUT}:
        return rows * (1 + WORDS)
    return rows


def run_step(
    memory: Memory, told: Instruction, run: Running, flaws: Flaws
) -> tuple[Memory, Running]:
    """Return what one step of a mover's instruction makes of memory."""
    per_row = steps_of(told) // len(told.page)
    row, part = divmod(run.pc, per_row)
    page, slot = int(told.page[row]), int(told.slot[row])
    answer = run.answer
    version = None if told.version is None else int(told.version[row])
    same = not flaws.versions or version == memory.ver[page]
    if told.op is Op.WANT:
        if part == 0:
            answer += (memory.ver[page],)
            memory = memory.put("dep", slot, 0)
        else:
            memory = memory.put("loc", page, -2 - slot)
    elif told.op is Op.DEPOSITED:
        answer += (memory.dep[slot],)
    elif told.op is Op.COPY_IN:
        if part == 0:
            answer += (memory.ver[page],)
        else:
            word = memory.host[page][part - 1]
            memory = memory.put_word("slots", slot, part - 1, word)
    elif told.op is Op.COPY_OUT:
        if part == 0:
            answer += (memory.ver[page],)
        else:
            word = memory.slots[slot][part - 1]
            memory = memory.put_word("host", page, part - 1, word)
    elif told.op is Op.COMMIT:
        answer += (DONE if same else CHANGED,)
        if same:
            memory = memory.put("dirty", slot, False).put("loc", page, slot)
    elif told.op is Op.CLEAN:
        answer += (DONE if same else CHANGED,)
        if same:
            memory = memory.put("dirty", slot, False)
    else:
        dirty = memory.dirty[slot] and memory.loc[page] >= 0
        answer += (DIRTY if dirty else DONE,)
        if not dirty:
            memory = memory.put("loc", page, -1)
    return memory, Running(run.pc + 1, answer)


def kernel_step(memory: Memory, k: Kernel, flaws: Flaws) -> tuple[Memory, Kernel]:
    """Return what one step of a launched kernel makes of memory."""
    if k.pc == 1:
        if k.writes and flaws.bump == "start":
            memory = memory.put("ver", k.page, memory.ver[k.page] + 1)
        return memory, replace(k, pc=2, loc=memory.loc[k.page])
    word = k.pc - 2
    if k.writes:
        if word < WORDS:
            if k.loc >= 0:
                memory = memory.put("dirty", k.loc, True)
                memory = memory.put_word("slots", k.loc, word, NEW)
            else:
                memory = memory.put_word("host", k.page, word, NEW)
        elif flaws.bump == "end":
            memory = memory.put("ver", k.page, memory.ver[k.page] + 1)
        return memory, replace(k, pc=k.pc + 1)
    if word < WORDS:
        line = memory.slots[k.loc] if k.loc >= 0 else memory.host[k.page]
        return memory, replace(k, pc=k.pc + 1, seen=(*k.seen, line[word]))
    slot, word = -2 - k.loc, word - WORDS
    if word < WORDS:
        memory = memory.put_word("slots", slot, word, k.seen[word])
    else:
        memory = memory.put("dep", slot, k.epoch)
    return memory, replace(k, pc=k.pc + 1)


def has_ended(k: Kernel) -> bool:
    """Return whether a kernel has made its last step."""
    last = 2 + WORDS
    if k.writes:
        last += 1
    elif k.pc >= 2 and k.loc <= -2:
        last += WORDS + 1
    return k.pc >= last
