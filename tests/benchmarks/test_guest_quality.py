"""Figures of the guest benchmark, from windows made by hand."""

import json

import pytest

import guest_quality


def document(shares: list[float], policy: str = "isotherm", moved: int = 500) -> dict:
    """Return a run of two phases of half the windows each, best 0.9, 10 s a window."""
    half = len(shares) // 2
    shift = guest_quality.WORKLOAD["shift_s"]
    windows = [
        {
            "phase": int(at >= half),
            "fast_share": share,
            "best_share": 0.9,
            "from_s": 10.0 * at if at < half else shift + 10.0 * (at - half),
            "to_s": 10.0 * (at + 1) if at < half else shift + 10.0 * (at - half + 1),
            "accesses_per_s": 100.0,
            "capacity_pages": 40_000,
        }
        for at, share in enumerate(shares)
    ]
    counters = [
        {"pgmigrate_success": min(at, half) * moved // half}
        for at in range(len(shares) + 1)
    ]
    return {
        "policy": policy,
        "kernel": "6.12",
        "memory_mib": "512,1024",
        "node0_free_mib": 112,
        "workload": guest_quality.WORKLOAD,
        "settings": {"/proc/x": "1"},
        "settings_after": {"/proc/x": "1"},
        "windows": windows,
        "vmstat": counters,
    }


def test_figures_of_a_run():
    """Steady is the last third; reached when two windows in a row hold 0.95."""
    found = guest_quality.measure(
        document([0.3, 0.88, 0.6, 0.86, 0.87, 0.88, 0.2, 0.5, 0.9, 0.9, 0.9, 0.9])
    )
    assert pytest.approx(0.875 / 0.9) == found["steady"]
    assert pytest.approx(1.0) == found["steady_after"]
    assert 40.0 == found["reach_s"]
    assert 30.0 == found["recover_s"]
    assert pytest.approx(500 / 57.5) == found["moved_per_point"]


def test_what_is_never_reached_is_none():
    """Neither a time nor a price is made up."""
    found = guest_quality.measure(document([0.3] * 12))
    assert found["reach_s"] is found["recover_s"] is found["moved_per_point"] is None


def test_the_table_has_every_mover_and_its_settings(tmp_path):
    """Medians, spread, and what was set; from the files that are there."""
    good = [0.3, 0.88, 0.88, 0.88, 0.88, 0.88] * 2
    for run, policy, shares in (
        (1, "isotherm", good),
        (2, "isotherm", [s - 0.01 for s in good]),
        (1, "none", [0.3] * 12),
    ):
        path = tmp_path / f"{policy}-{run}.json"
        path.write_text(json.dumps(document(shares, policy)))
    target = tmp_path / "table.md"
    guest_quality.write_table(tmp_path, target)
    text = target.read_text()
    assert "| isotherm | 2 | 0.972 (0.967 to 0.978) |" in text
    never = "not within 30 s | not within 60 s"
    assert f"| none | 1 | 0.333 | 0.333 | {never} | - |" in text
    assert "/proc/x: 1" in text
    assert "100% fit into the fast node" in text
