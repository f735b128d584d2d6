"""Explaining a page range from a hand-made recording."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.explain import explain, page_ranges
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.observability.recorder import Recorder
from isotherm.policy.plan import Moves, Outcome, Reason
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology

pytest.importorskip("pyarrow")

TOPOLOGY = Topology(
    nodes=(
        Node(0, MemoryKind.DRAM, Source.CONFIGURED, None),
        Node(1, MemoryKind.CXL, Source.CONFIGURED, None),
    ),
    tiers=(
        Tier(4, 576, (0,), Source.CONFIGURED),
        Tier(46, 6000, (1,), Source.CONFIGURED),
    ),
    initiators=(),
    performance=(),
    distances={},
)
RESULT = {
    "policy": "isotherm",
    "workload": "gups",
    "machine": "dram-cxl",
    "fast_ratio": 0.25,
}
EBUSY = 16


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return four seconds of eight pages, two of them fast at the start.

    Page 4 is promoted in second 1 and page 0 makes room for it; page 7 is
    busy when it is tried. Page p is accessed 10 p times a second.
    """
    node = np.array([0, 0, 1, 1, 1, 1, 1, 1], np.uint8)
    latency = np.array([[80.0, 250.0]])
    with Recorder(tmp_path / "run") as recorder:
        recorder.start(
            spec={},
            topology=TOPOLOGY,
            node=node,
            epoch_ns=10**9,
            latency_ns=latency,
            move_cost_ns=np.full((2, 2), 2500.0),
        )
        assert recorder.regions == 8
        for index in range(4):
            moves = Moves.none()
            errno = np.empty(0, np.int16)
            if index == 1:
                moves = Moves.concat(
                    Moves.to(np.array([4], np.uint32), 0, Reason.PAYS, 9000.0),
                    Moves.to(np.array([0], np.uint32), 1, Reason.MAKES_ROOM, 100.0),
                    Moves.to(np.array([7], np.uint32), 0, Reason.PAYS, 9000.0),
                )
                errno = np.array([0, 0, EBUSY], np.int16)
            recorder.epoch(
                index=index,
                now_ns=(index + 1) * 10**9,
                dt_ns=10**9,
                accesses_per_node=np.array([0, 0]),
                heat=10.0 * np.arange(8),
                plan_moves=moves,
                outcome=Outcome(moves.page, moves.node, errno, 5000.0),
                costs={},
                latency_ns=latency,
                notes={"price_ns_0": 5000.0, "cost_ns_0": 2500.0},
            )
        recorder.finish(RESULT)
    return tmp_path / "run"


def words_of(found: dict[str, Any]) -> dict[str, str]:
    """Return words by what became of the pages."""
    return {group["what"]: group["words"] for group in found["why"]}


def test_moves_have_reason_promise_and_earnings(recording: Path) -> None:
    """A promotion earned its accesses times the latency saved, less its cost."""
    found = explain(recording, 4, 4)
    assert [(m["reason"], m["gain_ns"], m["errno"]) for m in found["moves"]] == [
        ("pays", 9000.0, 0)
    ]
    # Two seconds of 40 accesses remained, each 170 ns faster; the move cost 2.5 µs.
    assert found["moves"][0]["earned_ns"] == pytest.approx(2 * 40 * 170 - 2500)
    assert found["end_pages_per_node"] == {"0": 1}


def test_demotion_pays_for_what_it_loses(recording: Path) -> None:
    """A cold page that made room lost nothing but the cost of its move."""
    found = explain(recording, 0, 0)
    assert found["moves"][0]["earned_ns"] == pytest.approx(-2500)
    assert "demoted" in words_of(found)


def test_busy_page_says_so(recording: Path) -> None:
    """A page that could not be moved names the errno and earned nothing."""
    found = explain(recording, 7, 7)
    assert found["moves"][0]["errno"] == EBUSY
    assert found["moves"][0]["earned_ns"] is None
    assert "EBUSY" in words_of(found)["could not move"]


def test_cold_page_is_not_worth_a_slot(recording: Path) -> None:
    """Ten accesses save 1.7 µs a second, below the price of 5 µs."""
    words = words_of(explain(recording, 1, 1))["stayed fast"]
    assert "a fast slot saves each 1.70 µs an epoch" in words
    assert "the price of one is 5.00 µs" in words
    words = words_of(explain(recording, 2, 2))["stayed slow"]
    assert "not worth a slot" in words


def test_small_advantage_is_below_two_moves(recording: Path) -> None:
    """30 accesses save 5.1 µs: 0.1 µs over the price does not pay two moves."""
    words = words_of(explain(recording, 3, 3))["stayed slow"]
    assert "advantage 2.60 µs at most, below the cost of two moves 5.00 µs" in words


def test_hot_page_would_pay(recording: Path) -> None:
    """60 accesses save 10.2 µs, 5.2 µs over the price: it would pay by now."""
    words = words_of(explain(recording, 6, 6))["stayed slow"]
    assert "it would pay by now" in words


def test_heat_of_the_range(recording: Path) -> None:
    """Heat is the mean over the range's pages, in stretches that cover the run."""
    found = explain(recording, 2, 4)
    assert [row["rate"] for row in found["heat"]] == pytest.approx([30.0] * 4)
    assert found["heat"][0]["from_s"] == 0
    assert found["heat"][-1]["to_s"] == 4.0
    assert found["heat"][-1]["fast_share"] == pytest.approx(1 / 3)
    assert found["heat"][0]["belief"] is None


def test_pages_beyond_the_run(recording: Path) -> None:
    """A range that the run does not have is a usage error."""
    with pytest.raises(UsageError, match="within 0-7"):
        explain(recording, 0, 8)


def test_not_a_recording(tmp_path: Path) -> None:
    """A directory without run.json is named, with the command that makes one."""
    with pytest.raises(UsageError, match="no recording here") as error:
        explain(tmp_path, 0, 1)
    assert "--record" in str(error.value.hint)


@pytest.mark.parametrize("name", ["placement", "epochs", "heat", "moves"])
def test_damaged_recording(recording: Path, name: str) -> None:
    """A file that was cut off is named as damage, one that is gone as well."""
    path = recording / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="damaged recording"):
        explain(recording, 0, 7)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        explain(recording, 0, 7)


def test_ranges() -> None:
    """Neighbouring pages become one range."""
    assert page_ranges(np.array([1, 2, 3, 7])) == [[1, 3], [7, 7]]
    assert page_ranges(np.empty(0, np.int64)) == []


@pytest.mark.slow
def test_who_accesses(tmp_path: Path) -> None:
    """Whom samples named, and whose accesses without a name are taken to be."""
    spec = SimulationSpec(
        "isotherm", "zipf", machine="gpu-coherent", pages=512, accesses=50_000
    )
    for hints, named in ((("sampling",), 1), (("accessed-bit",), 0)):
        folder = tmp_path / hints[0]
        with Recorder(folder) as recorder:
            simulate(replace(spec, hints=hints), recorder=recorder)
        found = explain(folder, 0, 63)["initiators"]
        assert {"named": named, "unnamed_taken_for": ["gpu0"]} == found


def test_recordings_without_initiators(recording: Path) -> None:
    """Those of older machines say nothing of who accesses."""
    nobody = {"named": None, "unnamed_taken_for": []}
    assert nobody == explain(recording, 0, 7)["initiators"]
