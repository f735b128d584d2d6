"""Which runs a report shows in full, and the parts of what it shows."""

import json
from types import ModuleType

import numpy as np
import pytest

from isotherm.lab.charts import style_of
from isotherm.lab.grid import Grid
from isotherm.lab.palette import DARK, dark_of, standalone
from isotherm.lab.regret import judge
from isotherm.lab.shown import (
    MAX_SHOWN,
    STILL,
    group_name,
    groups_of,
    run_charts,
    run_series,
    timeline_wanted,
)
from isotherm.policy.registry import BOUNDS, POLICIES


def test_small_grid_keeps_every_run() -> None:
    """Of few runs all are kept over time, whatever their ratio; still ones never."""
    specs = Grid(["isotherm"], ["gups"], fast_ratios=(0.5, 0.2), seeds=(1, 2)).specs()
    wanted = timeline_wanted(specs)
    assert [s for s in specs if wanted(s)] == [
        s for s in specs if s.policy not in STILL
    ]


def test_every_run_of_a_cell_is_shown(samples: ModuleType) -> None:
    """Runs over time are grouped by cell, isotherm first, a rival beside it."""
    results, timelines = samples.report_input()
    groups = groups_of(results, timelines)
    assert [group.row["workload"] for group in groups] == ["gups", "drift"]
    assert [group.full for group in groups] == [
        ["isotherm", "memtis", "first-touch", "clairvoyant", "tpp"]
    ] * 2
    assert groups[0].rival == "memtis"
    assert group_name(groups[0], groups) == "gups, 0.2 fast"


def test_names_tell_ratios_and_seeds_apart(samples: ModuleType) -> None:
    """Groups of one workload have different names."""
    rows = judge(
        [
            samples.result("isotherm", fast_ratio=ratio, seed=seed)
            for ratio in (0.5, 0.2)
            for seed in (1, 2)
        ]
    )
    groups = groups_of(rows, dict.fromkeys(range(4), samples.timeline(epochs=4)))
    names = [group_name(group, groups) for group in groups]
    assert names[0] == "gups, 0.5 fast, seed 1"
    assert len(set(names)) == 4


def test_large_grid_shows_a_share_of_each_cell(samples: ModuleType) -> None:
    """However many cells, the runs shown in full stay within the file's budget."""
    line = samples.timeline(epochs=4)
    rows = judge(
        [
            samples.result(policy, seed=seed)
            for seed in range(50)
            for policy in ("isotherm", "memtis", "tpp", "first-touch")
        ]
    )
    groups = groups_of(rows, dict.fromkeys(range(len(rows)), line))
    shown = [policy for group in groups for policy in group.full]
    assert len(shown) <= MAX_SHOWN
    assert len(groups) == 50
    assert all(group.full == ["isotherm", "memtis"] for group in groups)


def test_bounds_alone_make_no_group(samples: ModuleType) -> None:
    """A cell in which only a bound was kept has nothing to look into."""
    rows = judge([samples.result("clairvoyant")])
    assert groups_of(rows, {0: samples.timeline()}) == []


def test_parts_of_an_access_add_up(samples: ModuleType) -> None:
    """The stack's height is the time of an access: latency, moving and looking."""
    line = samples.timeline(epochs=10)
    rows = run_series(line)[1:]
    total = sum(
        line.series[name]
        for name in ("latency_ns", "migration_ns", "application_ns", "background_ns")
    )
    stacked = [row["base"] + row["wait"] + row["move"] + row["look"] for row in rows]
    assert np.allclose(stacked, total / line.series["accesses"], rtol=1e-3)
    assert {row["base"] for row in rows} == {80.0}


def test_series_begin_with_the_run(samples: ModuleType) -> None:
    """The first point is at 0 seconds, moves down are drawn below the line."""
    rows = run_series(samples.timeline(epochs=10))
    assert [row["t"] for row in rows[:3]] == [0.0, 0.5, 1.0]
    assert all(row["up"] > 0 > row["down"] for row in rows)
    assert all(0 <= row["fast"] <= 1 for row in rows)


def test_standalone_chart_has_title_width_and_legend(samples: ModuleType) -> None:
    """A chart by itself names its colours, and is on white."""
    chart = run_charts(run_series(samples.timeline()))["latency"]
    assert chart["encoding"]["color"]["legend"] is None
    made = standalone(chart, "latency")
    assert made["encoding"]["color"]["legend"] == {"title": None, "symbolSize": 80}
    assert (made["width"], made["background"]) == (640, "#ffffff")
    assert made["title"]["text"] == "latency"
    assert chart["encoding"]["color"]["legend"] is None
    json.dumps(made)


@pytest.mark.parametrize("light", sorted(DARK))
def test_dark_colours_stand_out(light: str) -> None:
    """What is dark on white is light on dark paper; shading stays dark."""

    def brightness(colour: str) -> float:
        text = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        return sum(int(text[at : at + 2], 16) for at in (0, 2, 4)) / 3

    if brightness(light) > 190:  # shading, grid lines
        assert brightness(DARK[light]) < 100
    else:
        assert brightness(DARK[light]) >= min(brightness(light), 110)


def test_every_policy_has_a_colour_on_dark_paper() -> None:
    """No line is lost on a dark screen, and no two policies share a look there."""
    looks = []
    for name in POLICIES:
        color, dash, mark = style_of(name)
        text = dark_of(color)
        assert max(int(text[at : at + 2], 16) for at in (1, 3, 5)) >= 0xA0, name
        if name not in BOUNDS:
            looks.append((text, dash, mark))
    assert len(set(looks)) == len(looks)
