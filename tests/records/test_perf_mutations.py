"""Ten million malformed inputs: no crash, no hang, no page that is not there.

Each input is decoded by itself, by the numba kernels in a compiled loop. What comes
out is held against the input: a sample's columns are words of the input at the
places that a walk, written differently, finds; everything else is counted.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, compiled
from isotherm.records import perf_sample as ps
from isotherm.records import spe
from isotherm.records.data_source import DataSource, where_of
from isotherm.records.hca import decode_hca
from isotherm.records.perf_fields import Field, Kind, SampleLayout
from isotherm.records.perf_ring import decode_ring, walk
from isotherm.records.perf_sample import gather, index
from tests.records.mutation import SEEDS, batches, volume
from tests.records.samples import SHAPE, between, sample
from tests.records.spe_packets import access, aligned, op, timestamp

FIXED = (
    Field.IP
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.WEIGHT_STRUCT
    | Field.DATA_SRC
    | Field.PHYS_ADDR
)
MIXED = FIXED | Field.READ | Field.CALLCHAIN | Field.RAW | Field.REGS_INTR
#: Every address of a valid input; what comes out of a mutated one is its bytes.
PAGES = [0x7F00_0000_1000 + 4096 * n for n in range(8)]

slow_without_numba = pytest.mark.skipif(
    BACKEND == "numpy", reason="volume wants compiled kernels (ISOTHERM_KERNELS=numba)"
)


def plain(n: int) -> bytes:
    """Return a sample with fixed places."""
    row = {Field.TID: 7, Field.TIME: n, Field.ADDR: PAGES[n % 8], Field.PERIOD: 1}
    return sample(FIXED, row | {Field.PHYS_ADDR: n << 12, Field.DATA_SRC: 0x42})


def varied(n: int) -> bytes:
    """Return a sample with everything between."""
    row = {Field.ADDR: PAGES[n % 8], Field.PHYS_ADDR: n << 12, Field.TIME: n}
    row |= {Field.READ: (5, [(1, 2)] * (n % 3)), Field.CALLCHAIN: [n] * (n % 5)}
    row |= {Field.RAW: bytes(n % 20), Field.REGS_INTR: [1, 2, 3] * (n % 2)}
    return sample(MIXED, row)


def rings(one) -> list[bytes]:
    """Return stretches of rings: some samples, and other records between."""
    other = between()
    return [
        b"".join(one(n) + (other[(n + k) % 11] if k % 2 else b"") for n in range(3))
        for k in range(11)
    ]


@compiled
def _each_fixed(words, length, slot, least, columns, tally, out):  # type: ignore[no-untyped-def]
    """Decode every row by itself; note how many samples, and their digest."""
    for i in range(words.shape[0]):
        n = length[i] // 8
        before = tally[1]
        rows = walk(words[i, :n], slot, least, least, columns, tally)
        digest = np.uint64(0)
        for r in range(rows):
            for c in range(slot.size):
                digest = digest * np.uint64(31) + columns[c, r]
        out[i, 0], out[i, 1], out[i, 2] = rows, digest, tally[1] - before


@compiled
def _each_varied(words, length, least, program, at, columns, tally, out):  # type: ignore[no-untyped-def]
    """The same, found first and gone through after."""
    for i in range(words.shape[0]):
        row = words[i, : length[i] // 8]
        found, stop = index(row, 0, least, at, tally)
        rows = gather(row, at[:found], program, columns, tally)
        digest = np.uint64(0)
        for r in range(rows):
            for c in range(columns.shape[0]):
                digest = digest * np.uint64(31) + columns[c, r]
        out[i, 0], out[i, 1], out[i, 2] = rows, digest, row.size - stop


def _digest(columns: np.ndarray) -> int:
    value = 0
    for row in columns.T.tolist():
        for word in row:
            value = (value * 31 + word) & 0xFFFF_FFFF_FFFF_FFFF
    return value


def _by_hand(data: bytes, kind: Field) -> tuple[list[list[int]], int]:
    """Return samples of an input and the bytes not reached, byte by byte.

    Written apart from the decoders: no tables, no steps, one field after another.
    """
    at, rows = 0, []
    whole = len(data) // 8 * 8
    while at + 8 <= whole:
        number = int.from_bytes(data[at : at + 4], "little")
        size = int.from_bytes(data[at + 6 : at + 8], "little")
        if size == 0 or size % 8 or at + size > whole:
            break
        if kind & Field.READ and number >= 64:
            break
        if number == Kind.SAMPLE:
            row = _fields(data[at + 8 : at + size], kind)
            if row is not None:
                rows.append(row)
        at += size
    return rows, (whole - at) // 8


def _fields(body: bytes, kind: Field) -> list[int] | None:
    words = [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body), 8)]
    if not kind & Field.READ:
        return words if len(words) == 9 else None
    head, words = words[:6], words[6:]
    if len(head) < 6 or not words:
        return None
    values = 2 + 2 * words[0]  # count, time enabled, (value, id) each
    words = words[values:]
    if not words:
        return None
    words = words[1 + words[0] :]
    if not words:
        return None
    words = words[((words[0] & 0xFFFFFFFF) + 4 + 7) // 8 :]
    middle, words = words[:2], words[2:]
    if not words or len(middle) < 2:
        return None
    words = words[4 if words[0] else 1 :]
    return head + middle + words if len(words) == 1 else None


@slow_without_numba
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_samples_with_fixed_places_survive(seed: int) -> None:
    """Plain samples of 80 bytes: every one in a hundred is checked by hand."""
    layout = SampleLayout.of(FIXED)
    _run(rings(plain), seed, layout, FIXED)


@slow_without_numba
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_samples_without_fixed_places_survive(seed: int) -> None:
    """Counts and sizes inside the samples are mutated, too."""
    layout = SampleLayout.of(MIXED, SHAPE)
    _run(rings(varied), seed, layout, MIXED)


def _run(valid: list[bytes], seed: int, layout: SampleLayout, kind: Field) -> None:
    tally = np.zeros(ps.TALLIES, np.int64)
    checked = kept = 0
    for batch in batches(valid, volume(60_000) // len(SEEDS), seed):
        words = batch.data.view(np.uint64)
        out = np.zeros((len(batch), 3), np.uint64)
        room = words.shape[1] + 1
        columns = np.zeros((len(layout.fields), room), np.uint64)
        if len(layout.program):
            at = np.zeros(room, np.int64)
            _each_varied(
                words,
                batch.length,
                layout.words,
                layout.program,
                at,
                columns,
                tally,
                out,
            )
        else:
            _each_fixed(
                words, batch.length, layout.slot, layout.words, columns, tally, out
            )
        kept += int(out[:, 0].sum())
        for row in range(0, len(batch), 101):
            rows, broken = _by_hand(batch.one(row), kind)
            assert len(rows) == out[row, 0], batch.name(row)
            table = np.array(rows, np.uint64).reshape(-1, len(layout.fields)).T
            assert _digest(table) == out[row, 1], batch.name(row)
            assert broken == out[row, 2], batch.name(row)
            checked += 1
    assert (tally >= 0).all(), "no count runs over"
    assert tally[ps.MALFORMED] > 0
    assert tally[ps.BROKEN_WORDS] > 0 or len(layout.program)
    assert checked
    assert kept


@compiled
def _each_spe(data, length, kinds, sizes, columns, out):  # type: ignore[no-untyped-def]
    """Decode every row by itself; note rows, places and a digest."""
    for i in range(data.shape[0]):
        rows, used, broken = spe.decode(data[i, : length[i]], 0, kinds, sizes, columns)
        digest = np.uint64(0)
        for r in range(rows):
            for c in range(columns.shape[0]):
                digest = digest * np.uint64(31) + columns[c, r]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = rows, digest, used, broken


@slow_without_numba
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_packets_survive(seed: int) -> None:
    """SPE: the compiled decoder against its twin, which works another way."""
    valid = [
        aligned(access(n, frame=n * (n % 2), time=n % 3, store=n % 2 == 1))
        * (1 + n % 2)
        + (op(kind=2) + timestamp(5) if n % 4 == 0 else b"\x22\x00")
        for n in range(1, 12)
    ]
    kept = 0
    for batch in batches(valid, volume(60_000) // len(SEEDS), seed):
        out = np.zeros((len(batch), 4), np.uint64)
        columns = np.zeros((spe.COLUMNS, batch.data.shape[1] // 12 + 1), np.uint64)
        _each_spe(batch.data, batch.length, spe._KIND, spe._SIZE, columns, out)
        kept += int(out[:, 0].sum())
        assert (out[:, 2] + out[:, 3] <= batch.length.astype(np.uint64)).all()
        for row in range(0, len(batch), 211):
            data = np.frombuffer(batch.one(row), np.uint8)
            table = np.zeros((spe.COLUMNS, len(data) // 12 + 1), np.uint64)
            rows, used, broken = spe.decode_twin(data, 0, spe._KIND, spe._SIZE, table)
            digest = _digest(table[:, :rows])
            assert [rows, digest, used, broken] == out[row].tolist(), batch.name(row)
    assert kept


@pytest.mark.parametrize("seed", SEEDS)
def test_words_without_structure_survive(seed: int) -> None:
    """Data sources and hot-cold entries: any word has a meaning, or none."""
    valid = [bytes(range(n, n + 64)) for n in range(9)]
    for batch in batches(valid, volume(20_000) // len(SEEDS), seed):
        stream = batch.stream()
        words = np.frombuffer(stream[: len(stream) // 8 * 8].tobytes(), np.uint64)
        where = where_of(words)
        assert where.max(initial=0) <= 6
        assert DataSource.of(words).level.max(initial=0) <= 15
        table = decode_hca(words.tobytes())
        assert len(words) == len(table.score)
        assert np.isfinite(table.score).all()
        assert table.score.min(initial=0) >= 0
        assert table.score.max(initial=0) <= 2.0**43


@given(st.binary(max_size=400), st.sampled_from([FIXED, MIXED, Field(0), ~Field(0)]))
def test_any_bytes(data: bytes, kind: Field) -> None:
    """Bytes of any kind, drawn for depth."""
    words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
    got = decode_ring(words, SampleLayout.of(kind, SHAPE))
    assert len(got) <= len(words)
    assert got.missing >= 0
    records = spe.decode_spe(np.frombuffer(data, np.uint8))
    assert records.used + records.broken_bytes <= len(data)
