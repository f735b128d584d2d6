"""Damaged listings and tables in volume: cxl list's JSON, and ACPI's HMAT."""

import json
from typing import Any

import pytest

from isotherm.records.cxl_list import Memdev, parse_cxl_list
from isotherm.records.hmat import HEADER_BYTES, parse_side_caches
from tests.records.mutation import SEEDS, batches, volume
from tests.records.test_cxl_list import MEM0, WELL
from tests.records.test_hmat import cache, table

LISTINGS = [
    json.dumps(document, indent=indent).encode()
    for document in (
        [MEM0],
        [MEM0, {"memdev": "mem1", "pmem_size": 1 << 34, "state": "disabled"}],
        {"memdev": "mem2", "health": WELL},
        [{"bus": "root0"}, {"memdevs": [MEM0]}],
        [],
    )
    for indent in (None, 2)
]
OTHER = bytes.fromhex("0100000010000000") + bytes(8)
TABLES = [
    table(),
    table(cache(1, 1 << 37, 1, 3)),
    table(OTHER, cache(0, 1 << 30, 0), cache(4, 4096, 1, 1)),
    table(cache(2, 1, 1), OTHER, OTHER),
]


def sizes(items: list[Any]) -> list[Any]:
    """Return names and sizes of the devices of a listing, by another reader."""
    found = []
    for item in items:
        devices = [item] if "memdev" in item else item.get("memdevs", [])
        found += [(d["memdev"], d.get("ram_size"), d.get("pmem_size")) for d in devices]
    return found


def by_hand(data: bytes) -> list[Memdev] | list[Any]:
    """Return the same of bytes that were taken for a listing."""
    document = json.loads(data)
    return sizes(document if isinstance(document, list) else [document])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_listings_survive(seed: int) -> None:
    """A listing is read or refused in words; no device and no size is invented."""
    read = refused = checked = 0
    for batch in batches(LISTINGS, volume(20_000) // len(SEEDS), seed, rows=8192):
        for row in range(len(batch)):
            data = batch.one(row)
            try:
                devices = parse_cxl_list(data)
            except ValueError:
                refused += 1
                continue
            read += 1
            if read % 11:
                continue
            checked += 1
            told = [(d.memdev, d.ram_size, d.pmem_size) for d in devices]
            assert by_hand(data) == told, batch.name(row)
    assert read
    assert refused
    assert checked


def caches_by_hand(data: bytes) -> list[tuple[int, int, int]]:
    """Return the caches of a table that was read, field by field."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    at, found = HEADER_BYTES, []
    while at < number(4, 4):
        if number(at, 2) == 2:
            found.append((number(at + 8, 4), number(at + 16, 8), number(at + 28, 2)))
        at += number(at + 4, 4)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_tables_survive(seed: int) -> None:
    """A table is read or refused in words; every cache is where a walk finds one."""
    read = refused = 0
    for batch in batches(TABLES, volume(20_000) // len(SEEDS), seed):
        for row in range(len(batch)):
            data = batch.one(row)
            try:
                found = parse_side_caches(data)
            except ValueError:
                refused += 1
                continue
            read += 1
            assert caches_by_hand(data) == [
                (one.domain, one.size_bytes, one.address_mode) for one in found
            ], batch.name(row)
    assert read
    assert refused
