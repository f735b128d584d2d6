"""Who makes the accesses of a workload, and how many misses are in flight."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError
from isotherm.trace.stream import AccessChunk, Pace
from isotherm.workloads.registry import make_workload
from isotherm.workloads.stream import Generated, label_streams, label_streams_twin

PACE = Pace(rate=10.0, accesses=20_000)

MIX = """
[[part]]
name = "database"
kind = "btree"
pages = 3
accesses = 0.6

[[part]]
name = "training"
kind = "cold-on-dram"
initiator = 1
accesses = 0.3

[[part]]
kind = "uniform"
parallelism = 12
accesses = 0.1

[[background]]
node = 0
read_gb_s = 10
until_s = 5
"""


def made(directory: Path, text: str, pages: int = 1000) -> Generated:
    """Return the workload of a file."""
    path = directory / "w.toml"
    path.write_text(text)
    workload = make_workload(str(path), pages)
    assert isinstance(workload, Generated)
    return workload


def columns(workload: Generated) -> AccessChunk:
    """Return a run as one chunk."""
    chunks = [
        AccessChunk(
            c.page.copy(),
            None,
            c.initiator,
            stream=None if c.stream is None else c.stream.copy(),
        )
        for c in workload.epochs(PACE)
    ]
    none = np.empty(0, np.uint8)
    return AccessChunk(
        np.concatenate([c.page for c in chunks]),
        None,
        np.concatenate([none if c.initiator is None else c.initiator for c in chunks]),
        stream=np.concatenate([none if c.stream is None else c.stream for c in chunks]),
    )


@given(
    ends=st.lists(st.integers(1, 999), min_size=0, max_size=254, unique=True),
    seed=st.integers(0, 100),
)
def test_labels_equal_their_twin(ends: list[int], seed: int) -> None:
    """Pages are told apart the same with numba and without."""
    bounds = np.array([*sorted(ends), 1000], np.uint32)
    page = np.random.default_rng(seed).integers(0, 1000, 300).astype(np.uint32)
    page[:2] = 0, 999
    one, other = np.empty(300, np.uint8), np.empty(300, np.uint8)
    label_streams(page, bounds, one)
    label_streams_twin(page, bounds, other)
    assert one.tolist() == other.tolist()


def test_a_mixture_tells_its_parts_apart(tmp_path: Path) -> None:
    """Every access has its stream, by pages, and its initiator, by stream."""
    workload = made(tmp_path, MIX)
    assert ["database", "training.sequential", "training.chase", "w.2"] == [
        s.name for s in workload.streams
    ]
    assert ["database", "training", "training", "w.2"] == [
        s.workload for s in workload.streams
    ]
    assert [None, 7.0, 1.0, 12.0] == [s.parallelism for s in workload.streams]
    seen = columns(workload)
    assert seen.stream is not None
    starts = np.array(workload.stream_starts)
    expected = np.searchsorted(starts, seen.page, side="right") - 1
    assert expected.tolist() == seen.stream.tolist()
    assert ((expected == 1) | (expected == 2)).tolist() == (
        seen.initiator == 1
    ).tolist()
    assert [10.0, 5.0] == [
        workload.background[0].read_gb_s,
        workload.background[0].until_s,
    ]


def test_what_is_said_of_streams_changes_no_access(tmp_path: Path) -> None:
    """Names, initiators and parallelism leave the pages as they were."""
    plain = MIX.replace("initiator = 1\n", "").replace("parallelism = 12\n", "")
    plain = plain.replace('name = "training"\n', "")
    pages = [columns(made(tmp_path, text)).page.tolist() for text in (MIX, plain)]
    assert pages[0] == pages[1]


def test_one_generator_has_no_streams_unless_it_is_told(tmp_path: Path) -> None:
    """A plain generator is one stream that nobody need tell apart."""
    assert () == made(tmp_path, 'kind = "zipf"\n').streams
    told = made(tmp_path, 'kind = "zipf"\nparallelism = 3\ninitiator = 2\n')
    assert [(3.0, 2)] == [(s.parallelism, s.initiator) for s in told.streams]
    assert {2} == set(columns(told).initiator.tolist())


def test_cold_on_dram_is_two_threads() -> None:
    """A sweep of 8-byte loads with seven misses in flight, and a chase with one."""
    workload = make_workload("cold-on-dram", 1000)
    assert isinstance(workload, Generated)
    sweep, chase = workload.streams
    assert (7.0, 1 / 8, 1.0, 1.0) == (
        sweep.parallelism,
        sweep.miss_share,
        chase.parallelism,
        chase.miss_share,
    )
    assert (0, 500) == workload.stream_starts
    # SOAR: with the sweep's half in DRAM instead of the chase's, a machine of
    # 90/190 ns ran at 52.4 % of all-DRAM: the chase is 82 % of the stall.
    heat = 13.6
    stall = np.array([heat * sweep.miss_share / sweep.parallelism, 1.0])
    hot_on_dram = 1 / float(stall @ [1, 190 / 90] / stall.sum())
    assert 0.524 == pytest.approx(hot_on_dram, abs=0.02)


def test_cold_on_dram_of_one_page() -> None:
    """There is nothing to chase, and no second stream."""
    workload = make_workload("cold-on-dram", 1)
    assert isinstance(workload, Generated)
    assert ["sequential"] == [s.name for s in workload.streams]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("initiator = 1", "initiator = 255", "initiator: expected 0 to 254"),
        ("initiator = 1", "initiator = 1.5", "initiator: expected a number"),
        ("initiator = 1", "parallelism = 3", "its streams have their own"),
        (
            "parallelism = 12",
            "parallelism = 0.5",
            "parallelism: expected a number >= 1",
        ),
        ('name = "training"', 'name = "database"', "two are called 'database'"),
        ('name = "training"', "name = 3", "name: expected text"),
        ("until_s = 5", "until_s = -1", "until_s: expected > 0"),
        ("until_s = 5", "until = 5", "background.*unknown field"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    """File, field and what was expected."""
    with pytest.raises(ConfigError, match=words):
        made(tmp_path, MIX.replace(old, new))
