"""Samples and counters of the hardware, as a run chooses them."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from isotherm.cli.main import main
from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.clock import VirtualClock
from isotherm.daemon.config import Config, SourcesConfig
from isotherm.daemon.doctor.kernel import read_kernel
from isotherm.daemon.doctor.sources import find_sources
from isotherm.daemon.source_kind import Chosen
from isotherm.daemon.sources import KINDS, choose_sources
from isotherm.daemon.sources_hardware import HARDWARE, initiators_of_cpus
from isotherm.hints.batch import LiveMechanism, Mechanism
from isotherm.hints.live import hca, ibs, pebs, perf_event_cpu, spe
from isotherm.topology.model import (
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Topology,
)
from tests.hints.live.fake_pmus import (
    FIRST,
    PID,
    Replayed,
    memory_sample,
    neoverse,
    one_process,
    sapphire_rapids,
    write,
    zen4,
)
from tests.records.spe_packets import (
    address,
    aligned,
    context,
    counter,
    events,
    op,
    source,
    timestamp,
)

SECOND = 1_000_000_000
TWO_SOCKETS = Topology(
    tuple(
        Node(n, MemoryKind.DRAM, Source.FIRMWARE, 1 << 30, cpus)
        for n, cpus in enumerate([(0, 2), (1, 3), ()])
    ),
    (),
    tuple(Initiator(n, InitiatorKind.CPU, n, f"cpu{n}") for n in range(2)),
    (),
    {},
)


def machine():
    """Return one process of 1024 pages on two sockets."""
    return SimpleNamespace(
        follower=SimpleNamespace(targets={PID: None}),
        space_map=one_process(),
        clock=VirtualClock(),
        topology=TWO_SOCKETS,
    )


def chosen_of(made, name: str) -> Chosen:
    """Return the source of that name, as ``--hints`` takes it."""
    config = Config(sources=SourcesConfig(use=(name,)))
    (chosen,) = choose_sources(made, config, HostChanges(None))
    return chosen


def arrange(monkeypatch, module, driver: str, root, replayed: Replayed) -> None:
    """Let a driver find its hardware below ``root`` and read what was recorded."""
    real = getattr(module, driver)
    made = partial(real, root=root, make=replayed.made)
    made.probe = lambda: Availability(module.NAME, "source", True, "recorded")
    monkeypatch.setattr(module, driver, made)


def arm_record(page: int) -> bytes:
    """Return a record of a store to a page of the managed process."""
    out = op(store=True) + counter(0, 500) + events(1 << 8 | 1 << 9)
    out += address(2, (FIRST + page) << 12) + context(PID)
    return aligned(out + source(0xE) + timestamp(1))


@pytest.mark.parametrize(
    ("module", "driver", "host"),
    [(ibs, "IbsSource", zen4), (pebs, "PebsSource", sapphire_rapids)],
)
def test_samples_reach_a_run(monkeypatch, tmp_path, module, driver, host) -> None:
    """``--hints ibs`` and ``pebs`` give pages, and which socket accessed them."""
    rings = [[memory_sample(3, cpu=0) + memory_sample(9, cpu=3)]]
    replayed = Replayed(rings)
    arrange(monkeypatch, module, driver, host(tmp_path), replayed)
    made = machine()
    chosen = chosen_of(made, module.NAME)
    chosen.open()
    made.clock.advance(SECOND)
    (batch,) = chosen.source.drain()
    assert [3, 9] == batch.seen.page.tolist()
    assert [0, 1] == batch.seen.initiator.tolist()
    assert {"name": module.NAME, "mechanism": "sampling"} == chosen.to_dict()
    chosen.close()
    assert not replayed.is_open


def test_arm_records_reach_a_run(monkeypatch, tmp_path) -> None:
    """``--hints spe`` has a frame map for records without a process."""
    replayed = Replayed(None, [{1: arm_record(5)}])
    arrange(monkeypatch, spe, "SpeSource", neoverse(tmp_path), replayed)
    made = machine()
    chosen = chosen_of(made, "spe")
    chosen.open()
    made.clock.advance(SECOND)
    (batch,) = chosen.source.drain()
    assert ([5], [1]) == (batch.seen.page.tolist(), batch.seen.initiator.tolist())
    assert chosen.frames is not None
    assert 1024 == chosen.to_dict()["frames"]["read"]
    chosen.close()


def test_counters_reach_a_run(monkeypatch, tmp_path) -> None:
    """``--hints hca`` opens the tables; what it told of frames is in the result."""
    for name, text in (
        ("enable", "1"),
        ("monitor-base", "0"),
        ("monitor-size", "4096"),
        ("counter-size", "8"),
        ("counter-data", ""),
    ):
        write(tmp_path / hca.FOLDER / "engine0" / name, text)
    made = partial(hca.HcaSource, root=tmp_path)
    made.probe = partial(hca.HcaSource.probe, tmp_path)
    monkeypatch.setattr(hca, "HcaSource", made)
    chosen = chosen_of(machine(), "hca")
    chosen.open()
    assert LiveMechanism.COUNTER_TABLE is chosen.source.mechanism
    assert 0 == chosen.to_dict()["frames"]["untranslated"]
    chosen.close()


@pytest.mark.parametrize("name", ["ibs", "pebs", "spe", "hca", "chmu"])
def test_hardware_that_is_not_there(name, monkeypatch, tmp_path, capsys) -> None:
    """One sentence says what was looked for, and the exit code is 3."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path))
    (kind,) = (kind for kind in HARDWARE if kind.name == name)
    if kind.probe().present:
        pytest.skip(f"this host has {name}")
    # A host with one tier is refused for that; here it is asked what it can look with.
    for module in ("host", "session"):
        name_of = f"isotherm.daemon.{module}.check_tiers"
        monkeypatch.setattr(name_of, lambda topology: None)
    words = ["run", "--hints", name, "--dry-run", "--duration", "1", "--", "sleep", "1"]
    assert 3 == main(words)
    said = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("error: ")
    ]
    assert [f"error: {name}: {kind.probe().why}"] == said


def test_the_doctor_names_them_all() -> None:
    """Every kind that ``--hints`` takes is among the facts, under the same name."""
    told = {fact.name for fact in find_sources(read_kernel())}
    assert {kind.name for kind in KINDS} <= told


def test_none_is_enough_and_none_intrudes() -> None:
    """Each sees a part, so that all that are there are used together."""
    assert ["chmu", "ibs", "pebs", "spe", "hca"] == [kind.name for kind in HARDWARE]
    assert not any(kind.enough or kind.intrusive for kind in HARDWARE)


def test_who_accesses_is_known_by_the_cpu() -> None:
    """A CPU is of its node's initiator; without any nothing is known."""
    assert [0, 1, 0, 1] == initiators_of_cpus(TWO_SOCKETS).tolist()
    assert initiators_of_cpus(Topology(TWO_SOCKETS.nodes, (), (), (), {})) is None


def test_memory_that_comes_late_is_memory(monkeypatch, tmp_path) -> None:
    """A device that is onlined during a run is no device to the samples."""
    root = zen4(tmp_path)
    late = memory_sample(3, frame=(4 << 27) >> 12)
    replayed = Replayed([[late], [late]])
    arrange(monkeypatch, ibs, "IbsSource", root, replayed)
    made = machine()
    chosen = chosen_of(made, "ibs")
    chosen.open()
    made.clock.advance(SECOND)
    assert [] == chosen.source.drain()[0].seen.page.tolist()
    (root / "sys/devices/system/node/node2/memory4").mkdir(parents=True)
    chosen.source.take_tiers(TWO_SOCKETS)
    made.clock.advance(SECOND)
    assert [3] == chosen.source.drain()[0].seen.page.tolist()
    chosen.close()


def test_columns_of_counters_are_those_of_hotness_units() -> None:
    """The tracker is told to expect ranges, not bits."""
    from isotherm.daemon.service import _as_columns

    assert Mechanism.CHMU is _as_columns(LiveMechanism.COUNTER_TABLE)
    assert Mechanism.ACCESSED_BIT is _as_columns(LiveMechanism.PAGE_OUT)
    assert Mechanism.SAMPLING is _as_columns(Mechanism.SAMPLING)


def test_nothing_is_opened_by_asking(monkeypatch) -> None:
    """A probe of hardware that is not there opens no event."""

    def refuse(*_: object) -> int:
        raise AssertionError

    monkeypatch.setattr(perf_event_cpu, "open_event", refuse)
    for kind in HARDWARE:
        if kind.name in ("ibs", "pebs", "spe") and kind.probe().present:
            pytest.skip(f"this host has {kind.name}")
    assert np.all([not kind.probe().present for kind in HARDWARE[1:4]])
