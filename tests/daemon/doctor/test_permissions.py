"""Permissions as read from a made-up /proc."""

from pathlib import Path

import pytest

from isotherm.core.availability import Availability
from isotherm.daemon.doctor.permissions import (
    effective_capabilities,
    find_permissions,
    has,
)


def proc(root: Path, *, held: int = 0, **settings: str) -> dict[str, Availability]:
    """Return the permissions of a process with some capabilities and settings."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/status").write_text(f"Name:\tx\nCapEff:\t{held:016x}\n")
    for name, value in settings.items():
        path = root / "proc/sys/kernel" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return {fact.name: fact for fact in find_permissions(root)}


def test_capabilities_are_the_effective_ones(tmp_path: Path) -> None:
    """CAP_SYS_NICE is bit 23, and nothing else is held."""
    facts = proc(tmp_path, held=1 << 23)
    assert 1 << 23 == effective_capabilities(tmp_path)
    there = {name for name, fact in facts.items() if fact.present and "cap-" in name}
    assert {"cap-sys-nice"} == there


def test_unknown_capabilities_are_none(tmp_path: Path) -> None:
    """Without /proc nobody knows, and nothing is promised."""
    assert effective_capabilities(tmp_path) is None
    assert not has(None, "sys-nice")


@pytest.mark.parametrize(
    ("level", "held", "present"),
    [("2", 0, True), ("3", 0, False), ("3", 1 << 38, True), ("-1", 0, True)],
)
def test_paranoid_perf(tmp_path: Path, level: str, held: int, present: bool) -> None:
    """Levels above 2 shut users out, unless a capability lifts them."""
    fact = proc(tmp_path, held=held, perf_event_paranoid=level)["perf-event-paranoid"]
    assert present is fact.present
    expected = None if present else "sudo sysctl kernel.perf_event_paranoid=2"
    assert expected == fact.command


@pytest.mark.parametrize(
    ("level", "held", "present"),
    [("0", 0, True), ("1", 0, False), ("1", 1 << 19, True), ("3", 1 << 19, False)],
)
def test_ptrace_scope(tmp_path: Path, level: str, held: int, present: bool) -> None:
    """Yama's level 3 is for good: no command undoes it."""
    fact = proc(tmp_path, held=held, yama__ptrace_scope=level)["ptrace-scope"]
    assert present is fact.present
    assert (fact.command is None) is (present or level == "3")
