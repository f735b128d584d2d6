"""Memory-side caches out of an HMAT's bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.records.hmat import SideCache, parse_side_caches


def table(*structures: bytes) -> bytes:
    """Return an HMAT with these structures."""
    body = b"".join(structures)
    head = struct.pack("<4sIB27x4x", b"HMAT", 40 + len(body), 2)
    return head + body


def cache(domain: int, size: int, mode: int, handles: int = 0) -> bytes:
    """Return a memory-side cache, with handles of the SMBIOS behind it."""
    length = 32 + 2 * handles
    return struct.pack(
        f"<HHIIIQIHH{2 * handles}x", 2, 0, length, domain, 0, size, 0, mode, handles
    )


def test_side_caches() -> None:
    """Rows in order; other structures are stepped over."""
    other = struct.pack("<HHI8x", 1, 0, 16)
    text = table(other, cache(1, 1 << 37, 1, 3), other, cache(4, 4096, 0))
    assert [SideCache(1, 1 << 37, 1), SideCache(4, 4096, 0)] == parse_side_caches(text)


def test_a_table_without_caches() -> None:
    """As most machines have it."""
    assert [] == parse_side_caches(table())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "expected its signature"),
        (b"SRAT" + table()[4:], "expected its signature, got b'SRAT'"),
        (table(cache(1, 1, 1))[:-1], "72 bytes in its header, 71 there"),
        (table(b"\x02\x00"), "2 bytes left over at 40"),
        (table(struct.pack("<HHI", 2, 0, 8)), "expected 32 to 8 bytes, got 8"),
        (table(struct.pack("<HHI", 1, 0, 0)), "expected 8 to 8 bytes, got 0"),
        (table(struct.pack("<HHI", 1, 0, 99)), "expected 8 to 8 bytes, got 99"),
    ],
)
def test_malformed_tables(text: bytes, words: str) -> None:
    """Say where, what was found, what was expected."""
    with pytest.raises(ValueError, match=words):
        parse_side_caches(text)


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 110), st.binary())))
def test_any_bytes_end(text: bytes, patches: list[tuple[int, bytes]]) -> None:
    """Rows or a ValueError, never anything else, never for ever."""
    mutated = bytearray(table(cache(1, 1 << 37, 1), cache(2, 4096, 0)))
    for at, patch in patches:
        mutated[at : at + len(patch)] = patch
    for candidate in (text, bytes(mutated)):
        try:
            rows = parse_side_caches(candidate)
        except ValueError:
            continue
        assert len(rows) <= len(candidate) // 32
