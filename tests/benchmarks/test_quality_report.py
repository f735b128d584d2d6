"""Bars and page of the quality benchmark, from cells made by hand."""

from pathlib import Path
from typing import Any

import pytest

import publish
import quality
import quality_report as report
import quality_short


def row(workload: str, policy: str, slowdown: float, **more: Any) -> dict[str, Any]:
    """Return one policy in one cell."""
    return {
        "regime": "main",
        "workload": workload,
        "tuning": workload == "gups",
        "flat": workload == "uniform",
        "fast_ratio": 1 / 9,
        "seed": 1,
        "period": 2000,
        "policy": policy,
        "variant": "only",
        "options": "",
        "slowdown": slowdown,
        "moves_per_page": 0.1,
        **more,
    }


def cell(workload: str, ours: float, peer: float, first: float) -> list[dict[str, Any]]:
    """Return a cell whose best bound is 1.2."""
    return [
        row(workload, "isotherm", ours),
        row(workload, "static-oracle", 1.3),
        row(workload, "clairvoyant", 1.2),
        row(workload, "first-touch", first),
        row(workload, "tpp", peer + 0.5, variant="default"),
        row(workload, "tpp", peer, variant="tuned", options="x=1"),
    ]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Return a file of three cells: one won, one lost, one flat."""
    path = tmp_path / "cells.parquet"
    rows = cell("gups", 1.4, 1.6, 2.2) + cell("btree", 1.7, 1.6, 2.2)
    quality.write_cells(rows + cell("uniform", 2.21, 2.5, 2.2), path)
    return path


def test_figures_are_those_of_the_definition(cells: Path):
    """Regret against the better bound, uniform apart, the best run of a peer."""
    got = {bar.name: bar for bar in report.read_bars(cells)}
    expected = {
        "mean regret": (0.35, False),
        "mean regret, workloads for tuning": (0.2, None),
        "mean regret, other workloads": (0.5, None),
        "highest regret of a cell": (0.5, False),
        "slower than first-touch, worst cell": (0.01 / 2.2, True),
        "within 2 % of the best peer": (0.5, False),
        "faster than every peer": (0.5, False),
        "within 2 %, uniform and stream too": (2 / 3, None),
        "moves over pages on uniform and stream": (0.1, True),
        "cells": (3.0, None),
    }
    for name, (value, passed) in expected.items():
        assert value == pytest.approx(got[name].value, abs=1e-12), name
        assert passed is got[name].passed, name


def test_page_names_every_loss_first(cells: Path):
    """A lost cell stands in the table of losses, a won one only in the whole."""
    page = report.render_page(report.connect(cells))
    losses = page.partition("### Where a peer is faster")[2].partition("###")[0]
    assert "| btree | 1/9 | 2000 | 1.700 | 1.600 | tpp | 6.2% |" in losses
    assert "gups" not in losses
    whole = page.partition("### Every cell")[2]
    assert "| gups | 1/9 | 2000 | **1.400** | 1.600 | tpp |" in whole


def test_incomplete_cells_are_left_out():
    """A cell that lacks one of its runs is in no table."""
    part = quality.Selection(workloads=("zipf",), ratios=(0.2, 0.5), seeds=(1,))
    planned = list(quality.plan(quality.REGIMES["main"], part, {}))
    result = {
        "promoted_pages": 1,
        "demoted_pages": 1,
        "pages": 2,
        "slowdown": 1.5,
        "fast_share": 0.5,
        "hint_overhead_ns": 1.0,
        "mean_latency_ns": 100.0,
        "accesses": 10,
        "simulated_s": 1.0,
    }
    done = {entry.key: result for entry in planned}
    whole = quality.cell_rows(planned, done)
    lost = next(e for e in planned if e.spec.policy == "tpp")
    del done[lost.key]
    rest = quality.cell_rows(planned, done)
    assert {0.2, 0.5} == {r["fast_ratio"] for r in whole}
    assert {0.2, 0.5} - {lost.spec.fast_ratio} == {r["fast_ratio"] for r in rest}


def test_published_rows_stand_for_runs_that_are_not_kept(monkeypatch, tmp_path: Path):
    """Also for those of other code; a run of this code stands before what was."""
    part = quality.Selection(workloads=("zipf",), ratios=(0.2,), seeds=(1,))
    planned = list(quality.plan(quality.REGIMES["main"], part, {}))
    rows = [
        {**dict(zip(quality.PLACE, e.place, strict=True)), "slowdown": 2.0, "pages": 8}
        for e in planned
    ]
    path = tmp_path / "cells.parquet"
    quality.write_cells(rows, path)
    assert {} == quality.read_published(tmp_path / "none.parquet", 8)
    assert {} == quality.read_published(path, 9)  # of another size
    published = quality.read_published(path, 8)
    assert rows == quality.cell_rows(planned, {}, published)

    ours = next(e for e in planned if e.spec.policy == "isotherm")
    result = dict.fromkeys(("promoted_pages", "demoted_pages", "fast_share"), 0)
    result |= dict.fromkeys(("pages", "accesses", "simulated_s"), 1)
    result |= {"slowdown": 1.5, "hint_overhead_ns": 0.0, "mean_latency_ns": 1.0}
    for current, expected in ((False, 2.0), (True, 1.5)):
        monkeypatch.setattr(quality, "is_current", lambda row, now=current: now)
        got = quality.cell_rows(planned, {ours.key: result}, published)
        assert len(rows) == len(got)
        assert [expected] == [
            r["slowdown"]
            for r, e in zip(got, planned, strict=True)
            if e.place == ours.place
        ]


def test_the_short_of_it_says_what_the_table_says(cells: Path):
    """Means and worst cells of main, and nothing of regimes that are not there."""
    got = quality_short.render_short(report.read_bars(cells))
    assert "mean regret is 0.35 (0 would" in got
    assert "in the worst of 3 cells 0.50;" in got
    assert "in 50.0 % of cells, the fastest in 50.0 %" in got
    assert "never more than 0.5 % slower" in got
    assert "at most 0.10 pages a page" in got
    assert "elsewhere" not in got


def test_tables_go_between_their_markers(tmp_path: Path):
    """What stood there is replaced, the rest of the page stays."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- core -->\nold\n<!-- /core -->\nb\n")
    publish.publish("core", "new", page)
    publish.publish("core", "newer", page)
    assert page.read_text() == "a\n<!-- core -->\n\nnewer\n\n<!-- /core -->\nb\n"
    with pytest.raises(SystemExit, match="expected the markers <!-- x -->"):
        publish.publish("x", "new", page)


def test_every_table_has_its_place():
    """docs/measurements.md has the markers that the scripts fill."""
    page = publish.MEASUREMENTS.read_text()
    for name in ("quality", "core", "decision"):
        assert f"<!-- {name} -->" in page
        assert f"<!-- /{name} -->" in page
    assert "<!-- quality-short -->" in publish.README.read_text()
