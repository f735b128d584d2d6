"""What a run decided, against what ``explain`` says of the same recording."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from isotherm.lab.decisions import PARTS, decisions_of
from isotherm.lab.explain import explain
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.lab.watched import watch
from isotherm.observability.recorder import Recorder

pytest.importorskip("pyarrow")

PAGES = 1024
SPEC = SimulationSpec(
    "isotherm", "drift", pages=PAGES, accesses=PAGES * 10 * 20, faults={"busy": 0.05}
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return twenty seconds of a hot set that wanders, some moves failing."""
    directory = tmp_path_factory.mktemp("run") / "run"
    with Recorder(directory) as recorder:
        simulate(SPEC, recorder=recorder)
    return directory


def test_totals_are_those_of_explain(recording: Path) -> None:
    """Every move that explain knows is counted once, with its promise and earning."""
    moves = explain(recording, 0, PAGES - 1)["moves"]
    total = decisions_of(recording)["total"]
    done = [move for move in moves if move["errno"] == 0]
    assert len(done) > 100
    assert sum(move["dst"] == 0 for move in done) == total["up"]
    assert sum(move["dst"] == 1 for move in done) == total["down"]
    assert len(moves) - len(done) == total["failed"] > 0
    for name, key in (("promised_ns", "gain_ns"), ("earned_ns", "earned_ns")):
        said = sum(move[key] for move in done if move[key] is not None)
        assert total[name] == pytest.approx(said, rel=1e-5)


def test_stretches_hold_every_move(recording: Path) -> None:
    """The moves of all stretches, by reason, are those of explain, in their time."""
    found = decisions_of(recording)["moved"]
    moves = explain(recording, 0, PAGES - 1)["moves"]
    counted: Counter[str] = Counter()
    for row in found:
        counted[row["reason"]] += row["moves"]
        during = [
            move
            for move in moves
            if row["from_s"] < move["time_s"] <= row["to_s"]
            and move["reason"] == row["reason"]
            and bool(move["errno"]) == bool(row["errno"])
        ]
        assert len(during) == row["moves"]
    assert counted == Counter(move["reason"] for move in moves)
    assert {row["errno"] for row in found} == {"", "EBUSY"}


def test_parts_cover_the_pages_and_add_up(recording: Path) -> None:
    """Parts follow each other without a gap, and their moves are all moves."""
    found = decisions_of(recording)
    parts = found["parts"]
    assert len(parts) == PARTS
    assert [0] + [part["pages"][1] + 1 for part in parts[:-1]] == [
        part["pages"][0] for part in parts
    ]
    assert parts[-1]["pages"][1] == PAGES - 1
    for name in ("up", "down", "failed"):
        assert sum(part[name] for part in parts) == found["total"][name]
    assert all(
        sum(group["nr_pages"] for group in part["why"])
        == part["pages"][1] - part["pages"][0] + 1
        for part in parts
    )


def test_words_of_a_part_are_those_of_explain(recording: Path) -> None:
    """Why pages of a part are where they are is said as explain says it."""
    part = decisions_of(recording)["parts"][3]
    words = {group["what"]: group["words"] for group in part["why"]}
    said = {
        group["what"]: group["words"]
        for group in explain(recording, *part["pages"])["why"]
    }
    assert said == words


def test_watching_changes_no_result() -> None:
    """A run that a report shows has the result that it has without."""
    plain = simulate(SPEC)
    seen, watched = watch(SPEC)
    for name in ("wall_s", "setup_s", "accesses_per_wall_s"):
        plain.pop(name)
        seen.pop(name)
    assert plain == seen
    assert watched.decisions["total"]["up"] == seen["promoted_pages"]
    assert np.isclose(watched.series["promoted_pages"].sum(), seen["promoted_pages"])
