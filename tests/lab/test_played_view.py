"""A recording as a view: it agrees with the run's result and with itself."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.lab.played_view import PlayedView
from isotherm.lab.recorded import read_recorded
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.observability.recorder import Recorder
from isotherm.observability.view import HEAT_COLUMNS, HEAT_ROWS

PAGES = 4096


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recorded run of ten simulated seconds."""
    found = tmp_path_factory.mktemp("recorded") / "run"
    spec = SimulationSpec("isotherm", "gups-shift", pages=PAGES, accesses=400_000)
    with Recorder(found) as recorder:
        simulate(spec, recorder=recorder)
    return found


@pytest.mark.slow
def test_the_end_is_the_result(directory: Path) -> None:
    """Totals at the end are those that the run has printed."""
    played = PlayedView(directory)
    result = read_recorded(directory).run["result"]
    view = played.at(played.end_s)
    assert result["promoted_pages"] == view.promoted_pages > 0
    assert result["demoted_pages"] == view.demoted_pages
    assert played.end_s == view.time_s == pytest.approx(result["simulated_s"])
    assert {(1, 0): view.promoted_pages, (0, 1): view.demoted_pages} == {
        (flow.src, flow.dst): flow.pages for flow in view.flows
    }


@pytest.mark.slow
def test_memory_is_where_the_moves_have_brought_it(directory: Path) -> None:
    """At the start as placed, at the end as read; no page is lost on the way."""
    played, recorded = PlayedView(directory), read_recorded(directory)
    for time_s in (0.0, played.end_s / 3, played.end_s):
        view = played.at(time_s)
        assert PAGES * PAGE_BYTES == sum(view.owners[0].tier_bytes)
    expected = tuple(int((recorded.end == node).sum()) * PAGE_BYTES for node in (0, 1))
    assert expected == view.owners[0].tier_bytes
    assert PAGES == sum(r.nr_pages for r in played.at(1.0, PAGES).ranges)


@pytest.mark.slow
def test_time_is_clipped_to_the_run(directory: Path) -> None:
    """Before the first epoch it is the first, after the last the last."""
    played = PlayedView(directory)
    assert played.at(-5.0) == played.at(0.0)
    assert played.at(1e9) == played.at(played.end_s)
    assert 1 == played.at(0.0).epochs


@pytest.mark.slow
def test_the_heat_map_keeps_all_accesses(directory: Path) -> None:
    """Whatever is joined, rate times pages times time is what was recorded."""
    played, recorded = PlayedView(directory), read_recorded(directory)
    heat = played.at(played.end_s, heat=True).heat
    assert heat is not None
    assert len(heat.start) <= HEAT_ROWS
    assert len(heat.time_s) <= HEAT_COLUMNS
    pages = (np.array(heat.end) - np.array(heat.start)) / PAGE_BYTES
    length = np.diff(np.concatenate([[0.0], heat.time_s]))
    total = (np.array(heat.rate) * pages[:, None] * length).sum()
    assert recorded.accesses.sum() == pytest.approx(total, rel=1e-3)
    assert PAGES * PAGE_BYTES == heat.end[-1]


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    """With what makes one."""
    with pytest.raises(UsageError, match="no recording here"):
        PlayedView(tmp_path)
