"""Every interleaving of a few readers, a writer and the mover, on the real protocol.

The state machine that the engine uses decides; a device of a few words carries out.
Whole steps under sequential consistency: the memory model of a GPU is left to the
argument at the head of ``protocol.py`` and to the stress test on a device.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from isotherm.gpu.protocol import HBM, Instruction, Rules, SlotProtocol
from tests.gpu.tiny_device import (
    NEW,
    ORDERED,
    WORDS,
    Flaws,
    Kernel,
    Memory,
    NoGuard,
    Running,
    clone,
    has_ended,
    kernel_step,
    key_of,
    run_step,
    steps_of,
)

MOST_STATES = 2_000_000

#: A wish: ("promote" | "copy" | "demote", page).
Wish = tuple[str, int]


@dataclass(frozen=True)
class Scene:
    """What is to happen, in any order that the rules leave.

    Attributes:
        kernels: Readers and writers, each launched at any time.
        wishes: Carried out one after the other, each at any time.
        resident: Pages that are published before anything starts.
        writable: Whether the tensor is.
        rules: The protocol's.
        flaws: The device's.
        slots: How many.
        pages: How many.
        settled: Wishes wait until what is promised is published.
    """

    kernels: tuple[Kernel, ...]
    wishes: tuple[Wish, ...]
    resident: tuple[int, ...] = ()
    writable: bool = False
    rules: Rules = field(default_factory=Rules)
    flaws: Flaws = field(default_factory=Flaws)
    slots: int = 1
    pages: int = 2
    settled: bool = False


@dataclass
class State:
    """One moment."""

    protocol: SlotProtocol
    memory: Memory
    lane: tuple[Instruction, ...]
    run: Running
    kernels: tuple[Kernel, ...]
    wishes: int
    written: bool  # the end of the last write has been seen

    def key(self) -> tuple[object, ...]:
        """Return what tells it from other moments."""
        lane = tuple(
            (i.op, i.page.tobytes(), i.slot.tobytes(), _bytes(i.version))
            for i in self.lane
        )
        first = self.lane[0].id if self.lane else 0
        # Writers wait for instructions by number: only how far off matters.
        # Of two kernels alike it does not matter which is which.
        kernels = sorted(k.key(first) for k in self.kernels)
        return (
            key_of(self.protocol),
            self.memory,
            lane,
            self.run,
            tuple(kernels),
            self.wishes,
            self.written,
        )


def _bytes(column: np.ndarray | None) -> bytes:
    return b"" if column is None else column.tobytes()


@dataclass
class Found:
    """What a search saw."""

    states: int = 0
    torn: int = 0
    lost: int = 0
    stuck: int = 0

    @property
    def wrong(self) -> int:
        """All violations."""
        return self.torn + self.lost + self.stuck


def words_of(page: int) -> tuple[str, ...]:
    """Return what a page holds at first."""
    return tuple(f"{page}.{word}" for word in range(WORDS))


def first_state(scene: Scene) -> State:
    """Return the moment before anything happens, its residents published."""
    protocol = SlotProtocol(
        scene.pages,
        scene.slots,
        writable=scene.writable,
        guard=NoGuard(),  # type: ignore[arg-type]  # as much of it as is used
    )
    memory = Memory(
        (-1,) * scene.pages,
        (("?",) * WORDS,) * scene.slots,
        tuple(words_of(page) for page in range(scene.pages)),
        (0,) * scene.pages,
        (False,) * scene.slots,
        (0,) * scene.slots,
    )
    for page in scene.resident:
        protocol.promote(np.array([page], np.uint32), copy=True)
    while todo := protocol.tick():
        for told in todo:
            run = Running()
            while run.pc < steps_of(told):
                memory, run = run_step(memory, told, run, scene.flaws)
            protocol.answered(told.id, np.array(run.answer))
    protocol.rules = scene.rules
    return State(protocol, memory, (), Running(), scene.kernels, 0, True)


def tick(state: State) -> State:
    """Hand what the protocol wants to the device."""
    lane = state.lane
    while todo := state.protocol.tick():
        lane += tuple(todo)
    return replace_state(state, lane=lane)


def replace_state(state: State, **changes: object) -> State:
    """Return a state with some parts changed; the others are shared."""
    parts = {name: getattr(state, name) for name in State.__dataclass_fields__}
    return State(**(parts | changes))  # type: ignore[arg-type]  # as its fields


def with_kernel(state: State, i: int, kernel: Kernel) -> tuple[Kernel, ...]:
    """Return the kernels with one changed."""
    return (*state.kernels[:i], kernel, *state.kernels[i + 1 :])


def next_states(state: State, scene: Scene) -> list[State]:
    """Return every moment that may come next."""
    out = []
    for i, k in enumerate(state.kernels):
        if k.pc == 0:
            p = clone(state.protocol)
            last = state.lane[-1].id if state.lane else 0
            waits = [t.id for t in state.lane if t.op in ORDERED]
            after = max(waits, default=0) if scene.flaws.ordered and k.writes else 0
            assert last >= after
            launched = replace(
                k, pc=1, epoch=p.launch(), after=after, fresh=state.written
            )
            out.append(
                replace_state(
                    state,
                    protocol=p,
                    kernels=with_kernel(state, i, launched),
                    written=state.written and not k.writes,
                )
            )
        elif not has_ended(k):
            first = state.lane[0].id if state.lane else 1 << 60
            if k.after and first <= k.after:
                continue
            memory, k2 = kernel_step(state.memory, k, scene.flaws)
            out.append(
                replace_state(state, memory=memory, kernels=with_kernel(state, i, k2))
            )
        elif not k.over:
            p = clone(state.protocol)
            p.ended(k.epoch)
            out.append(
                tick(
                    replace_state(
                        state,
                        protocol=p,
                        kernels=with_kernel(state, i, replace(k, over=True)),
                        written=state.written or k.writes,
                    )
                )
            )
    out += mover_step(state, scene)
    if state.wishes < len(scene.wishes):
        out += wish(state, scene)
    return out


def mover_step(state: State, scene: Scene) -> list[State]:
    """Return the moment after a step of the mover's lane, if it can make one."""
    if not state.lane:
        return []
    told = state.lane[0]
    if state.run.pc == steps_of(told):  # the host sees its answer
        p = clone(state.protocol)
        p.answered(told.id, np.array(state.run.answer))
        return [
            tick(replace_state(state, protocol=p, lane=state.lane[1:], run=Running()))
        ]
    if scene.flaws.ordered and told.op in ORDERED:
        # A writer that was launched before waits for nothing later.
        for k in state.kernels:
            if k.writes and k.pc and not has_ended(k) and k.after < told.id:
                return []
    memory, run = run_step(state.memory, told, state.run, scene.flaws)
    return [replace_state(state, memory=memory, run=run)]


def wish(state: State, scene: Scene) -> list[State]:
    """Return the moment after the next wish, if it is granted now."""
    what, page = scene.wishes[state.wishes]
    if scene.settled and any(
        loc < 0 <= state.protocol.slot_of[p] for p, loc in enumerate(state.memory.loc)
    ):
        return []
    p = clone(state.protocol)
    column = np.array([page], np.uint32)
    if what == "demote":
        status = p.demote(column)
    else:
        status = p.promote(column, copy=what == "copy")
    if status[0]:
        return []
    return [tick(replace_state(state, protocol=p, wishes=state.wishes + 1))]


def judge(state: State, scene: Scene, found: Found, *, last: bool) -> None:
    """Count what is wrong at a moment."""
    writers = [k for k in scene.kernels if k.writes]
    new = (NEW,) * WORDS
    for k in state.kernels:
        if k.writes or k.over or not has_ended(k):
            continue
        expected = words_of(k.page)
        launched = [w for w in state.kernels if w.writes and w.pc and w.page == k.page]
        if launched:
            if not k.fresh or any(w.epoch > k.epoch for w in launched):
                continue  # a read beside a write of its page may see either
            expected = new
        found.torn += k.seen != expected
    if not last:
        return
    p = state.protocol
    ungranted = state.wishes < len(scene.wishes) and not scene.settled
    if ungranted or not p.idle or p._lists.grace:
        found.stuck += 1
    for page, loc in enumerate(state.memory.loc):
        words = state.memory.slots[loc] if loc >= 0 else state.memory.host[page]
        wrote = any(w.page == page for w in writers)
        found.lost += words != (new if wrote else words_of(page))
        if loc >= 0:
            assert p.place[page] == HBM


def search(scene: Scene, *, stop: bool = False) -> Found:
    """Visit every reachable moment; or stop at the first that is wrong."""
    found = Found()
    seen = set()
    stack = [first_state(scene)]
    while stack:
        state = stack.pop()
        key = hash(state.key())
        if key in seen:
            continue
        seen.add(key)
        assert len(seen) <= MOST_STATES
        following = next_states(state, scene)
        judge(state, scene, found, last=not following)
        if stop and found.wrong:
            break
        stack += following
    found.states = len(seen)
    return found


P, Q = Kernel(0), Kernel(1)
WRITE_P = Kernel(0, writes=True)

SWAP = Scene((P, Q), (("demote", 1), ("copy", 0)), resident=(1,))
CANCEL = Scene((P, P, Q), (("promote", 0), ("demote", 0), ("promote", 1)))
EVICT = replace(CANCEL, settled=True)
WRITE = Scene((WRITE_P,), (("demote", 1), ("copy", 0)), resident=(1,), writable=True)
DEPOSIT_WRITE = Scene((P, P, WRITE_P), (("promote", 0),), writable=True)
DIRTY_OUT = Scene((WRITE_P, P), (("demote", 0),), resident=(0,), writable=True)
HURRY = Scene((P, P, Q), (("promote", 0), ("copy", 0)))
HURRY_WRITE = Scene((P, WRITE_P), (("promote", 0), ("copy", 0)), writable=True)
ROUND = Scene(
    (WRITE_P, P), (("demote", 0), ("copy", 0)), resident=(0,), writable=True, slots=2
)


@pytest.mark.parametrize(
    "scene",
    [
        SWAP,
        pytest.param(replace(SWAP, kernels=(P, Q, Q)), marks=pytest.mark.slow),
        pytest.param(CANCEL, marks=pytest.mark.slow),
        pytest.param(EVICT, marks=pytest.mark.slow),
        WRITE,
        pytest.param(DEPOSIT_WRITE, marks=pytest.mark.slow),
        pytest.param(DIRTY_OUT, marks=pytest.mark.slow),
        pytest.param(ROUND, marks=pytest.mark.slow),
        pytest.param(HURRY, marks=pytest.mark.slow),
        pytest.param(HURRY_WRITE, marks=pytest.mark.slow),
    ],
    ids=[
        "swap",
        "swap3",
        "cancel",
        "evict",
        "write",
        "deposit",
        "dirty",
        "round",
        "hurry",
        "hurry-write",
    ],
)
def test_no_interleaving_is_wrong(scene: Scene) -> None:
    """With every rule no reader sees a torn page, no write is lost, nothing sticks."""
    found = search(scene)
    assert found.states > 100
    assert 0 == found.wrong


NO_GRACE = Rules(grace=False)


@pytest.mark.parametrize(
    ("scene", "what"),
    [
        (replace(SWAP, rules=NO_GRACE), "torn"),
        (replace(SWAP, rules=Rules(grace_from_answer=False)), "torn"),
        (replace(SWAP, rules=Rules(publish_last=False)), "torn"),
        pytest.param(replace(CANCEL, rules=NO_GRACE), "wrong", marks=pytest.mark.slow),
        pytest.param(replace(EVICT, rules=NO_GRACE), "wrong", marks=pytest.mark.slow),
        (
            replace(WRITE, flaws=Flaws(versions=False, ordered=False)),
            "lost",
        ),
        (replace(WRITE, flaws=Flaws(bump="start")), "lost"),
        (replace(WRITE, flaws=Flaws(ordered=False)), "lost"),
        pytest.param(
            replace(DEPOSIT_WRITE, rules=Rules(seal_deposits=False)),
            "lost",
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "no grace",
        "grace from the call",
        "published first",
        "cancelled without grace",
        "evicted without grace",
        "no rule for writers",
        "version raised at the start",
        "versions without order",
        "deposit not sealed",
    ],
)
def test_every_rule_is_needed(scene: Scene, what: str) -> None:
    """Without the rule some interleaving goes wrong: the search would find it."""
    found = search(scene, stop=True)
    assert getattr(found, what) > 0
