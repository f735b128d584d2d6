"""Samples of any sample_type: every word comes out of its place, or none does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.records import perf_sample as ps
from isotherm.records.perf_fields import ORDER, VARIABLE, Field, Kind, SampleLayout
from isotherm.records.perf_ring import decode_ring
from tests.records.samples import SHAPE, between, record, sample

MEMORY = (
    Field.IP
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.WEIGHT_STRUCT
    | Field.DATA_SRC
    | Field.PHYS_ADDR
    | Field.CGROUP
    | Field.DATA_PAGE_SIZE
)
ONE_WORD = [f for f in ORDER if not f & VARIABLE]
word = st.integers(0, 2**64 - 1)
data = st.binary(max_size=40)
VALUES = {
    Field.READ: st.tuples(word, st.lists(st.tuples(word, word), max_size=3)),
    Field.CALLCHAIN: st.lists(word, max_size=9),
    Field.RAW: data,
    Field.BRANCH_STACK: st.lists(st.tuples(word, word, word), max_size=3),
    Field.REGS_USER: st.one_of(st.none(), st.lists(word, min_size=3, max_size=3)),
    Field.STACK_USER: st.integers(0, 5).map(lambda n: bytes(8 * n)),
    Field.REGS_INTR: st.one_of(st.none(), st.lists(word, min_size=3, max_size=3)),
    Field.AUX: data,
}


def words(raw: bytes) -> np.ndarray:
    """Return bytes as the decoder takes them."""
    return np.frombuffer(raw, np.uint64)


@st.composite
def some_samples(draw):
    """Draw a sample_type, and samples of it with what they hold."""
    chosen = draw(st.sets(st.sampled_from(ORDER), min_size=1))
    kind = Field(sum(chosen))
    rows = [
        {f: draw(VALUES.get(f, word)) for f in ORDER if f & kind}
        for _ in range(draw(st.integers(1, 4)))
    ]
    return kind, rows


@given(some_samples(), st.integers(0, 10))
def test_every_field_of_any_sample_type(drawn, other) -> None:
    """Whatever stands before a field of one word, it is found; other kinds pass."""
    kind, rows = drawn
    raw = b"".join(
        sample(kind, row) + between()[(i + other) % 11] for i, row in enumerate(rows)
    )
    got = decode_ring(words(raw), SampleLayout.of(kind, SHAPE))
    wanted = [f for f in ONE_WORD if f & kind]
    assert wanted == list(got.layout.fields)
    assert (len(rows), 0, 0) == (len(got), got.malformed, got.broken_words)
    for one in wanted:
        assert [row[one] for row in rows] == got.column(one).tolist(), one


def test_fields_may_be_chosen() -> None:
    """Only what is wanted is copied, in the kernel's order."""
    kind = MEMORY | Field.CALLCHAIN | Field.RAW
    wanted = (Field.PHYS_ADDR, Field.TID, Field.DATA_SRC)
    layout = SampleLayout.of(kind, SHAPE, wanted)
    row = {f: int(f) for f in ONE_WORD} | {Field.CALLCHAIN: [1, 2], Field.RAW: b"x"}
    got = decode_ring(words(sample(kind, row)), layout)
    assert (Field.TID, Field.DATA_SRC, Field.PHYS_ADDR) == got.layout.fields
    assert [[int(f)] for f in got.layout.fields] == got.columns.tolist()


def test_weights_are_taken_apart() -> None:
    """WEIGHT_STRUCT holds 32, 16 and 16 bits; WEIGHT is one number."""
    row = {Field.WEIGHT_STRUCT: 0x0003_0002_0000_0150}
    got = decode_ring(words(sample(MEMORY, row)), SampleLayout.of(MEMORY))
    second, third = got.weight_parts
    assert [0x150, 2, 3] == [int(got.weight[0]), int(second[0]), int(third[0])]
    plain = Field.ADDR | Field.WEIGHT
    raw = sample(plain, {Field.WEIGHT: 1 << 40})
    assert [1 << 40] == decode_ring(words(raw), SampleLayout.of(plain)).weight.tolist()


def test_each_kind_is_counted() -> None:
    """Losses add up, damage to the AUX area is told, the rest is counted by kind."""
    raw = b"".join(between())
    got = decode_ring(words(raw), SampleLayout.of(MEMORY))
    assert (0, 20, 1, 1) == (len(got), got.lost, got.throttled, got.aux_damaged)
    kinds = [k for k in Kind if got.kinds[k]]
    want = "MMAP LOST COMM EXIT THROTTLE UNTHROTTLE FORK AUX ITRACE_START LOST_SAMPLES"
    assert [*want.split(), "SWITCH"] == [k.name for k in kinds]
    assert 7 == got.other


def test_a_loss_beyond_belief_is_malformed() -> None:
    """A count of 2^63 lost samples neither overflows nor is believed."""
    raw = record(Kind.LOST_SAMPLES, b"\xff" * 8)
    raw += record(Kind.LOST, bytes(8) + b"\x80" * 8)
    got = decode_ring(words(raw), SampleLayout.of(MEMORY))
    assert (0, 2) == (got.lost, got.malformed)


@pytest.mark.parametrize("change", [-8, 8])
def test_a_sample_of_another_size_is_no_sample(change: int) -> None:
    """Too short or too long for its fields: counted, no page made of it."""
    raw = sample(MEMORY, {Field.ADDR: 4096})
    size = len(raw) + change
    body = (raw + bytes(8))[8:size]
    got = decode_ring(words(record(Kind.SAMPLE, body)), SampleLayout.of(MEMORY))
    assert (0, 1, 1) == (len(got), got.malformed, got.missing)


@pytest.mark.parametrize("count", [9, 2**31, 2**61, 2**64 - 1])
@pytest.mark.parametrize(
    "one",
    [Field.CALLCHAIN, Field.READ, Field.BRANCH_STACK, Field.STACK_USER, Field.RAW],
)
def test_counts_beyond_the_record_are_refused(count: int, one: Field) -> None:
    """A length that leaves the record is malformed, however large."""
    kind = one | Field.PHYS_ADDR
    raw = bytearray(sample(kind, {Field.PHYS_ADDR: 4096}))
    raw[8:16] = (count | 0xFFFF if one is Field.RAW else count).to_bytes(8, "little")
    good = sample(kind, {Field.PHYS_ADDR: 8192})
    got = decode_ring(words(bytes(raw) + good), SampleLayout.of(kind, SHAPE))
    assert ([8192], 1) == (got.column(Field.PHYS_ADDR).tolist(), got.malformed)


def test_index_stops_at_records_of_files() -> None:
    """What perf itself writes is left to the reader of files."""
    raw = sample(MEMORY, {}) + record(ps.USER_KIND + 7, bytes(40)) + sample(MEMORY, {})
    at, tally = np.zeros(9, np.int64), np.zeros(ps.TALLIES, np.int64)
    size = len(sample(MEMORY, {})) // 8
    assert (1, size) == tuple(ps.index(words(raw), 0, 1, at, tally))
    assert (1, 2 * size + 6) == tuple(ps.index(words(raw), size + 6, 1, at, tally))


@given(some_samples(), st.integers(0, 60), st.integers(0, 63), st.integers(0, 12))
def test_kernels_equal_their_twins(drawn, place, bit, cut) -> None:
    """Also on records with a flipped bit or a missing end."""
    kind, rows = drawn
    raw = b"".join(sample(kind, row) for row in rows) + between()[cut % 11]
    raw = raw[: max(8, len(raw) - 8 * cut)]
    changed = words(raw).copy()
    changed[place % len(changed)] ^= np.uint64(1 << bit)
    layout = SampleLayout.of(kind, SHAPE)
    program = layout.program if len(layout.program) else np.zeros((0, 4), np.int64)
    found = []
    name = "isotherm.records.perf_sample."
    pairs = [
        TWINS.get(name + n, (getattr(ps, n + "_twin"),) * 2)
        for n in ("index", "gather")
    ]
    for which in (0, 1):
        at, tally = np.zeros(len(changed) + 1, np.int64), np.zeros(ps.TALLIES, np.int64)
        n, end = pairs[0][which](changed, 0, layout.words, at, tally)
        columns = np.zeros((max(1, len(layout.fields)), n), np.uint64)
        got = pairs[1][which](changed, at[:n], program, columns, tally)
        columns = columns[:, :got]
        found.append((n, end, at[:n].tolist(), columns.tolist(), tally.tolist()))
    assert found[0] == found[1]
