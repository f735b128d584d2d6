"""What cxl list says of memory devices: fields, what is left out, what is malformed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.records.cxl_list import Health, Memdev, parse_cxl_list

WELL: dict[str, Any] = {
    "maintenance_needed": False,
    "performance_degraded": False,
    "hw_replacement_needed": False,
    "media_normal": True,
    "media_not_ready": False,
    "ext_life_used": "normal",
    "ext_temperature": "normal",
    "ext_corrected_volatile": "normal",
    "ext_corrected_persistent": "normal",
    "life_used_percent": 3,
    "temperature": 45,
    "dirty_shutdowns": 0,
    "volatile_errors": 0,
    "pmem_errors": 0,
}
MEM0: dict[str, Any] = {
    "memdev": "mem0",
    "ram_size": 274877906944,
    "serial": 23,
    "numa_node": 1,
    "host": "0000:35:00.0",
    "health": WELL,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_a_device() -> None:
    """Every field that is there, with its type; what is not there is None."""
    (device,) = parse_cxl_list(json.dumps([MEM0]))
    assert ("mem0", 274877906944, None, 1) == (
        device.memdev,
        device.ram_size,
        device.pmem_size,
        device.numa_node,
    )
    assert device.enabled
    assert device.health is not None
    assert WELL == {name: getattr(device.health, name) for name in WELL}
    assert device.health.media_data_lost is None
    assert () == device.health.troubles


def test_troubles_in_words() -> None:
    """What needs care, in the order of its weight."""
    sick = {
        **WELL,
        "media_normal": False,
        "maintenance_needed": True,
        "media_data_lost": True,
        "ext_temperature": "critical",
        "ext_corrected_volatile": "warning",
        "ext_life_used": "unknown",
        "volatile_errors": 20,
        "pmem_errors": 1,
    }
    (device,) = parse_cxl_list(json.dumps([{**MEM0, "health": sick}]))
    assert device.health is not None
    assert (
        "maintenance needed",
        "data lost",
        "temperature critical",
        "corrected volatile errors warning",
        "20 volatile errors",
        "1 persistent errors",
    ) == device.health.troubles


@pytest.mark.parametrize(
    ("raw", "degrees"), [(None, None), (0, 0), (45, 45), (65516, -20), (32767, 32767)]
)
def test_temperature_is_signed(raw: int | None, degrees: int | None) -> None:
    """The tool prints sixteen bits."""
    assert degrees == Health(temperature=raw).degrees


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ([], []),
        (MEM0, ["mem0"]),
        ([{"memdevs": [MEM0, {"memdev": "mem1", "state": "disabled"}]}], ["mem0", 1]),
        ([{"region": "region0", "size": 1}, MEM0], ["mem0"]),
        ([{"memdev": "mem9", "firmware": {"x": 1}, "serial": "0x17"}], ["mem9"]),
    ],
)
def test_shapes(document: object, names: list[object]) -> None:
    """Nothing, one alone, groups, other objects beside, fields that nobody knows."""
    found = [d.memdev if d.enabled else 1 for d in parse_cxl_list(json.dumps(document))]
    assert names == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the JSON of cxl list -M -H -i, got none"),
        ("mem0 is well", "expected the JSON of cxl list"),
        (b"\xff[", "expected the JSON of cxl list"),
        ("[" * 100_000, "expected the JSON of cxl list"),
        ("[1]", "[0]: expected a device, got 1"),
        ("3", "[0]: expected a device, got 3"),
        ("[{}]", "[0]: expected a device, got {}"),
        ('[{"memdev": 0}]', "[0].memdev: expected `str`, got `int`"),
        (
            '[{"memdev": "mem0", "ram_size": "256.00 GiB (274.88 GB)"}]',
            "[0].ram_size: expected `int | null`, got `str`; list without -u",
        ),
        ('[{"memdev": "mem0", "ram_size": -1}]', "[0].ram_size: expected `int` >= 0"),
        (
            '[{"memdev": "mem0", "health": {"media_normal": "yes"}}]',
            "[0].health.media_normal: expected `bool | null`, got `str`",
        ),
        ('[{"memdevs": [{"host": "x"}]}]', "[0].memdevs[0]: object missing required"),
    ],
)
def test_malformed_listings(text: str | bytes, words: str) -> None:
    """The field, what it holds, what was expected."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # words below
        parse_cxl_list(text)
    assert words in str(error.value)


@given(JSON, st.sampled_from(sorted(WELL)), st.binary(max_size=40))
def test_any_document_ends(value: object, field: str, junk: bytes) -> None:
    """Devices or a ValueError: never another error, never a device made up."""
    documents = [value, [{**MEM0, "health": {**WELL, field: value}}]]
    for text in [*(json.dumps(d) for d in documents), junk]:
        try:
            found = parse_cxl_list(text)
        except ValueError:
            continue
        assert all(isinstance(device, Memdev) for device in found)
