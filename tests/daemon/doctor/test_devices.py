"""CXL memory devices in isotherm doctor."""

from pathlib import Path

import pytest

from isotherm.daemon.doctor.devices import find_devices

LISTING = """[
 {"memdev": "mem0", "health": {"media_normal": true, "life_used_percent": 3}},
 {"memdev": "mem1", "state": "disabled"}
]"""


def machine(root: Path, *names: str) -> Path:
    """Return a tree with these CXL devices."""
    for name in names:
        (root / "sys/bus/cxl/devices" / name).mkdir(parents=True)
    return root


def test_doctor_has_a_fact_per_device(tmp_path: Path) -> None:
    """Present and well, disabled with the command that helps, unknown to the tool."""
    root = machine(tmp_path, "mem0", "mem1", "mem2")
    facts = list(find_devices(root, lambda _: LISTING))
    assert [("mem0", True), ("mem1", False), ("mem2", False)] == [
        (fact.name, fact.present) for fact in facts
    ]
    assert {"device"} == {fact.kind for fact in facts}
    assert "life 3 % used" in facts[0].why
    assert "cxl enable-memdev mem1" == facts[1].command
    assert "cxl list does not name it" == facts[2].why


def test_doctor_says_when_nobody_can_tell(tmp_path: Path) -> None:
    """The device is there; why its health is not known stands beside it."""
    (fact,) = find_devices(machine(tmp_path, "mem0"), lambda _: "{")
    assert fact.present
    assert "cxl list -M -H -i: expected the JSON" in fact.why


def test_doctor_is_silent_without_devices(tmp_path: Path) -> None:
    """Nobody is asked."""
    assert [] == list(find_devices(tmp_path, lambda _: pytest.fail("asked")))
