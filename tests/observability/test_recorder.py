"""The recorder keeps what a run did, in bounded memory and on disk."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import IsothermError, UsageError
from isotherm.observability.recorder import Recorder
from isotherm.observability.recording import read_run
from isotherm.observability.timeline import TimelineBuilder, region_pages_for
from isotherm.policy.plan import Moves, Outcome, Reason
from isotherm.topology.model import (
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

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


def record(recorder: Recorder, epochs: int = 4) -> None:
    """Record a tiny run: 16 pages, one promotion and one demotion an epoch."""
    node = np.ones(16, np.uint8)
    node[:4] = 0
    recorder.start(spec={"policy": "x"}, topology=TOPOLOGY, node=node, epoch_ns=10**9)
    heat = np.zeros(recorder.regions, np.float32)
    for index in range(epochs):
        heat[:] = 160.0 / recorder.regions
        moves = Moves.concat(
            Moves.to(np.array([4 + index], np.uint32), 0, Reason.PAYS, 900.0),
            Moves.to(np.array([index], np.uint32), 1, Reason.MAKES_ROOM),
        )
        outcome = Outcome(
            moves.page, moves.node, np.array([0, 0 if index else 16], np.int16), 5000.0
        )
        recorder.epoch(
            index=index,
            now_ns=(index + 1) * 10**9,
            dt_ns=10**9,
            accesses_per_node=np.array([40, 120]),
            heat=heat,
            plan_moves=moves,
            outcome=outcome,
            costs={"migration_ns": 5000.0},
            latency_ns=np.array([[80.0, 250.0]]),
            notes={"price_ns": 3.0},
        )


def test_timeline_adds_up() -> None:
    """Accesses, moves, failures and time of the epochs come out of the timeline."""
    recorder = Recorder()
    record(recorder)
    line = recorder.timeline()
    assert line.series["accesses"].sum() == 640
    assert line.series["latency_ns"].sum() == 4 * (40 * 80 + 120 * 250)
    assert line.series["promoted_pages"].tolist() == [1, 1, 1, 1]
    assert line.series["demoted_pages"].tolist() == [0, 1, 1, 1]
    assert line.series["failed_pages"].tolist() == [1, 0, 0, 0]
    assert line.end_s.tolist() == [1, 2, 3, 4]
    assert line.heat.shape == (4, 16)
    assert np.allclose(line.heat, 10.0)
    assert line.fast_share.sum(axis=1).tolist() == [5, 5, 5, 5]
    assert line.notes["price_ns"].tolist() == [3, 3, 3, 3]


def test_bins_fold_when_full() -> None:
    """More epochs than bins fold two by two and lose no access."""
    builder = TimelineBuilder(pages=8, region_pages=4, max_bins=4)
    for index in range(11):
        builder.add(
            {"dt_ns": 1e9, "accesses": float(index)},
            np.array([4.0, 8.0]),
            np.array([1.0, 0.5]),
            {},
        )
    line = builder.build()
    assert line.epochs.tolist() == [4, 4, 3]
    assert line.series["accesses"].tolist() == [6, 22, 27]
    assert np.allclose(line.heat, [[1.0, 2.0]] * 3)
    assert np.allclose(line.fast_share, [[1.0, 0.5]] * 3)


def test_region_size_bounds_the_rows() -> None:
    """Any number of pages makes at most 256 rows."""
    for pages in (1, 255, 256, 257, 32768, 16_000_001):
        assert -(-pages // region_pages_for(pages)) <= 256


def test_recording_holds_every_move(tmp_path: Path) -> None:
    """The files hold the run, each move with source, reason, gain and errno."""
    pq = pytest.importorskip("pyarrow.parquet")
    with Recorder(tmp_path / "run") as recorder:
        record(recorder)
        recorder.finish({"slowdown": 1.5})
    run = read_run(tmp_path / "run")
    assert run["pages"] == 16
    assert run["result"] == {"slowdown": 1.5}
    moves = pq.read_table(tmp_path / "run" / "moves.parquet").to_pydict()
    assert moves["page"] == [4, 0, 5, 1, 6, 2, 7, 3]
    assert moves["src"] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert moves["errno"] == [0, 16, 0, 0, 0, 0, 0, 0]
    assert moves["reason"] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert moves["gain_ns"][0] == 900.0
    epochs = pq.read_table(tmp_path / "run" / "epochs.parquet").to_pydict()
    assert epochs["notes"][0] == [("price_ns", 3.0)]
    assert epochs["accesses_per_node"][0] == [40, 120]
    heat = pq.read_table(tmp_path / "run" / "heat.parquet").to_pydict()
    assert sum(heat["accesses"]) == 640


def test_unfinished_recording_leaves_nothing(tmp_path: Path) -> None:
    """A run that fails half-way leaves no files."""
    pytest.importorskip("pyarrow")
    recorder = Recorder(tmp_path / "run")

    def fail() -> None:
        with recorder:
            record(recorder)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not (tmp_path / "run").exists()


def test_foreign_directory_is_not_overwritten(tmp_path: Path) -> None:
    """A directory with other files is refused and left as it was."""
    pytest.importorskip("pyarrow")
    (tmp_path / "moves.parquet").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        record(Recorder(tmp_path))
    assert (tmp_path / "moves.parquet").read_text() == "mine"


def test_recording_can_be_replaced(tmp_path: Path) -> None:
    """Recording again into a recording replaces it."""
    pytest.importorskip("pyarrow")
    for slowdown in (1.0, 2.0):
        with Recorder(tmp_path) as recorder:
            record(recorder)
            recorder.finish({"slowdown": slowdown})
    assert read_run(tmp_path)["result"] == {"slowdown": 2.0}


def test_full_disk_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told which file, and neither files nor the directory stay."""

    def record_fully() -> None:
        with Recorder(tmp_path / "run") as recorder:
            record(recorder)
            recorder.finish({"policy": "x"})

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(IsothermError, match=r"\.parquet: cannot write: File too"):
            record_fully()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    gc.collect()
    assert [] == list(tmp_path.iterdir())
    assert "Exception ignored" not in capfd.readouterr().err
