"""Packets of Arm SPE: whole records come out, the rest waits or is counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.records import spe
from isotherm.records.data_source import Where
from isotherm.records.spe import Column, Event, Present, decode_spe, where_of_source
from tests.records.spe_packets import (
    END,
    access,
    address,
    aligned,
    context,
    counter,
    events,
    op,
    source,
    timestamp,
)


def decode(data: bytes, base: int = 0) -> spe.SpeRecords:
    """Return what bytes hold."""
    return decode_spe(np.frombuffer(data, np.uint8), base)


def test_every_packet_of_a_record() -> None:
    """Addresses lose tag and security bit; counters, events and source are kept."""
    data = access(0x7F00_1234_5, frame=0x8_8000, store=True, time=77)
    got = decode(data)
    assert (1, len(data), 0) == (len(got), got.used, got.broken_bytes)
    found = {c.name: int(got.column(c)[0]) for c in Column if c is not Column.PRESENT}
    expected = {
        "VIRTUAL": 0x7F00_1234_5018,
        "PHYSICAL": 0x8800_0018,
        "OP": 1,
        "EVENTS": 0x20A,
        "SOURCE": 0xE,
        "TOTAL": 300,
        "ISSUE": 20,
        "TRANSLATION": 5,
        "TIME": 77,
        "CONTEXT": 4242,
    }
    assert expected == found
    assert [1] == got.is_store.tolist()
    assert (1 << 10) - 1 == int(got.column(Column.PRESENT)[0])


def test_kernel_addresses_keep_their_upper_half() -> None:
    """Byte 6 all ones is the kernel's half: the tag above it becomes ones."""
    got = decode(op() + address(2, 0x00FF_8000_0000_1000) + END)
    assert [0xFFFF_8000_0000_1000] == got.column(Column.VIRTUAL).tolist()


def test_what_is_no_access_is_passed_over() -> None:
    """Branches and operations without an address give no row."""
    branch = op(kind=2) + address(1, 4096) + END
    other = op(kind=0) + address(2, 4096) + END
    bare = op() + counter(0, 9) + END
    got = decode(branch + other + bare + END + access(5))
    assert [5] == (got.column(Column.VIRTUAL) >> np.uint64(12)).tolist()
    assert 0 == got.broken_bytes


def test_nothing_of_one_record_stays_for_the_next() -> None:
    """A record without latency and frame after one with them has none."""
    got = decode(access(5, frame=6, time=3) + op() + address(2, 7 << 12) + END)
    assert [True, False] == got.has(Present.PHYSICAL).tolist()
    assert [300, 0] == got.column(Column.TOTAL).tolist()
    assert [3, 0] == got.column(Column.TIME).tolist()


@pytest.mark.parametrize("base", [0, 5, 64])
def test_padding_and_alignment(base: int) -> None:
    """Bytes of zero and the packet that aligns are passed over, wherever they stand."""
    one = access(9)
    gap = -(base + len(one)) % 16 or 16
    skip = b"\x23\x00" + b"\xff" * (gap - 2) if gap >= 2 else b"\0" * gap
    got = decode(one + skip + aligned(access(8)), base)
    assert [9, 8] == (got.column(Column.VIRTUAL) >> np.uint64(12)).tolist()


def test_extended_headers() -> None:
    """An index above 7 has a header of two bytes; it is not that of data."""
    got = decode(op() + address(10, 1 << 12) + address(2, 2 << 12) + END)
    assert [2 << 12] == got.column(Column.VIRTUAL).tolist()


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_a_record_cut_in_two_waits(cut: int) -> None:
    """What is not whole is neither a row nor broken: it can be joined later."""
    data = access(1, time=1) + access(2, frame=3, time=2)
    first = decode(data[:-cut])
    again = decode(data[first.used :])
    assert 0 == first.broken_bytes == again.broken_bytes
    joined = np.concatenate([r.column(Column.VIRTUAL) for r in (first, again)])
    assert [1, 2] == (joined >> np.uint64(12)).tolist()


@pytest.mark.parametrize("bad", [b"\xff", b"\x20\x77", b"\x80"])
def test_after_a_header_that_is_none_nothing_is_believed(bad: bytes) -> None:
    """The record with it and all after it are counted, not read."""
    data = access(1) + op() + bad + access(2)
    got = decode(data)
    assert [1] == (got.column(Column.VIRTUAL) >> np.uint64(12)).tolist()
    assert (len(access(1)), len(data) - len(access(1))) == (got.used, got.broken_bytes)


def test_sources_and_events_name_a_kind_of_memory() -> None:
    """Neoverse's numbers where the core is one; else the events as far as they go."""
    miss, hit = Event.LLC_ACCESS | Event.LLC_MISS, Event.LLC_ACCESS
    data = b"".join(
        op() + address(2, 4096) + events(bits) + where + END
        for bits, where in (
            (miss, source(0xE)),
            (miss, source(0xD)),
            (hit, source(0xB)),
            (miss | Event.REMOTE, b""),
            (miss, source(0x99)),
        )
    )
    got = decode(data)
    common = where_of_source(got, common=True)
    names = ["LOCAL", "REMOTE", "CACHE", "REMOTE", "UNKNOWN"]
    assert names == [Where(w).name for w in common]
    other = where_of_source(got, common=False)
    names = ["UNKNOWN", "UNKNOWN", "CACHE", "REMOTE", "UNKNOWN"]
    assert names == [Where(w).name for w in other]


def test_events_are_the_architecture_s_bits() -> None:
    """Bits of the events packet: Arm ARM DDI 0487, D10.2, not our names for them."""
    names = ("RETIRED", "L1D_REFILL", "TLB_WALK", "LLC_ACCESS", "LLC_MISS", "REMOTE")
    assert [1, 3, 5, 8, 9, 10] == [Event[n].bit_length() - 1 for n in names]
    bits = (0x100, 0x200, 0x300, 0x400, 0x500, 0x20)
    data = b"".join(op() + address(2, 4096) + events(one) + END for one in bits)
    where = where_of_source(decode(data), common=False)
    names = ("CACHE", "UNKNOWN", "UNKNOWN", "REMOTE", "REMOTE", "UNKNOWN")
    assert list(names) == [Where(w).name for w in where]


word = st.integers(0, 2**64 - 1)
packets = st.one_of(
    st.builds(address, st.integers(0, 31), word),
    st.builds(counter, st.integers(0, 7), st.integers(0, 65535)),
    st.builds(op, store=st.booleans(), kind=st.integers(0, 3)),
    st.builds(events, st.integers(0, 255), st.sampled_from([1, 2, 4, 8])),
    st.builds(source, st.integers(0, 255), st.sampled_from([1, 2, 4, 8])),
    st.builds(context, st.integers(0, 2**32 - 1)),
    st.builds(timestamp, word),
    st.just(END),
    st.integers(1, 9).map(bytes),
    st.builds(access, st.integers(0, 2**40), frame=st.integers(0, 9)),
    st.sampled_from([b"\x20\x00", b"\x23\x00", b"\x22", b"\xff"]),
)


@given(st.lists(packets, max_size=30), st.integers(0, 20), st.integers(0, 64))
def test_kernel_equals_its_twin(parts, cut, base) -> None:
    """Whole or cut, with nonsense between: the same rows, the same places."""
    data = np.frombuffer(b"".join(parts), np.uint8)
    data = data[: max(0, len(data) - cut)]
    pair = TWINS.get("isotherm.records.spe.decode", (spe.decode_twin,) * 2)
    found = []
    for function in pair:
        columns = np.zeros((spe.COLUMNS, len(data) // 12 + 1), np.uint64)
        rows, used, broken = function(data, base, spe._KIND, spe._SIZE, columns)
        found.append((rows, used, broken, columns[:, :rows].tolist()))
    assert found[0] == found[1]
