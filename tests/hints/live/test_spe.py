"""SPE from recorded AUX areas: settings, processes by context or by frame, losses."""

import mmap

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import Look, Mechanism
from isotherm.hints.live.spe import SpeSource, read_part
from isotherm.records.perf_fields import Kind
from tests.hints.live.fake_pmus import (
    FIRST,
    GHZ,
    PID,
    Replayed,
    neoverse,
    one_process,
    pmu,
    write,
)
from tests.records.samples import record
from tests.records.spe_packets import (
    END,
    address,
    aligned,
    context,
    counter,
    events,
    op,
    source,
    timestamp,
)


@pytest.fixture
def spaces():
    """Return one process with 1024 pages."""
    return one_process()


class Frames:
    """A frame map that knows page p to be on frame p + 1."""

    def refresh(self, pages: int) -> int:
        """Do nothing."""
        return 0

    def flat_pages(self, frame: np.ndarray) -> np.ndarray:
        """Return the page on a frame; a thousand of them are known."""
        known = (frame > 0) & (frame <= 1000)
        return np.where(known, frame - 1, 0xFFFFFFFF).astype(np.uint32)


def spe(
    page: int, *, time: int = 1, tid: int = PID, store: bool = False, **more
) -> bytes:
    """Return a record of an access to a page of the managed process."""
    out = (
        op(store=store) + counter(0, more.get("cycles", 500)) + events(1 << 8 | 1 << 9)
    )
    out += address(2, (FIRST + page) << 12 | 8)
    if more.get("physical", True):
        out += address(3, (page + 1) << 12 | 8)
    if tid:
        out += context(tid)
    return aligned(out + source(more.get("where", 0xE)) + timestamp(time))


def source_of(root, spaces, *areas: dict[int, bytes], rings=None, **more):
    """Return a source on recorded areas, open, its clock and its events."""
    sampler, clock = Replayed(rings, list(areas)), VirtualClock()
    made = SpeSource(spaces, clock, root=root, make=sampler.made, **more)
    made.open()
    clock.advance(10**9)
    return made, clock, sampler


def test_settings_are_what_sysfs_offers(tmp_path, spaces) -> None:
    """Loads and stores with physical address and time, on the PMU's CPUs."""
    _, _, sampler = source_of(neoverse(tmp_path), spaces)
    spec = sampler.spec
    assert 8 == spec.type
    assert 1 | 1 << 1 | 1 << 16 | 1 << 33 | 1 << 34 == spec.config
    assert (96, 65536, (0, 1)) == (spec.config2, spec.period, sampler.cpus)
    assert 0xD0C == read_part(tmp_path)


def test_the_kernel_shows_records_by_the_page(tmp_path, spaces) -> None:
    """The watermark stands in its place in perf_event_attr, far below half an area."""
    _, _, sampler = source_of(neoverse(tmp_path), spaces)
    attr = sampler.spec.attr()
    assert (112, mmap.PAGESIZE) == (len(attr), int.from_bytes(attr[104:108], "little"))


def test_what_a_new_period_flushes_has_the_old_one(tmp_path, spaces) -> None:
    """Records carry no period: those that the kernel held count as they were drawn."""
    areas = {0: spe(1) + spe(2)}, {0: spe(3)}
    made, _, _ = source_of(neoverse(tmp_path), spaces, *areas)
    made.look((Look(Mechanism.SAMPLING, 0, 8, period=131072),))
    got = [(b.seen.period, b.seen.page.tolist()) for b in made.drain()]
    assert [(65536.0, [1, 2]), (131072.0, [3])] == got


def test_the_longest_period_is_the_register_s(tmp_path, spaces) -> None:
    """PMSIRR_EL1.INTERVAL is 24 bits from bit 8 on."""
    made, _, sampler = source_of(neoverse(tmp_path), spaces)
    for period in (1 << 30, 1 << 40):
        made.look((Look(Mechanism.SAMPLING, 0, 8, period=period),))
    assert [1 << 30, 0xFFFFFF00] == sampler.periods


def test_accesses_of_a_process_by_context(tmp_path, spaces) -> None:
    """Virtual pages of the process in the context; two CPUs in order of time."""
    areas = {0: spe(1, time=5) + spe(2, time=20), 1: spe(3, time=10, store=True)}
    made, _, _ = source_of(neoverse(tmp_path), spaces, areas)
    (batch,) = made.drain()
    assert [1, 3, 2] == batch.seen.page.tolist()
    assert [0, 1, 0] == batch.seen.write.tolist()
    assert [np.float32(500 / GHZ)] * 3 == batch.seen.latency_ns.tolist()
    assert (0, 65536.0) == (batch.lost, batch.seen.period)
    assert batch.capability.sees_writes
    assert batch.capability.post_cache


def test_the_context_is_a_thread(tmp_path, spaces) -> None:
    """A thread's process is asked of /proc; one that is gone is nobody's of ours."""
    root = neoverse(tmp_path)
    write(root / "proc/1234/status", f"Name:\tx\nTgid:\t{PID}\nPid:\t1234")
    made, _, _ = source_of(root, spaces, {0: spe(4, tid=1234) + spe(5, tid=999)})
    (batch,) = made.drain()
    assert ([4], 0) == (batch.seen.page.tolist(), batch.lost)
    assert 1 == made.translate.foreign


def test_without_a_context_the_frame_finds_the_page(tmp_path, spaces) -> None:
    """Physical addresses are translated; what is not known is lost, never guessed."""
    area = spe(6, tid=0) + spe(1010, tid=0) + spe(7, tid=0, physical=False)
    made, _, _ = source_of(neoverse(tmp_path), spaces, {0: area}, frames=Frames())
    (batch,) = made.drain()
    assert ([6], 2) == (batch.seen.page.tolist(), batch.lost)
    made, _, _ = source_of(tmp_path, spaces, {0: area})
    assert 3 == made.drain()[0].lost


def test_what_a_cache_answered_is_left_out(tmp_path, spaces) -> None:
    """Neoverse says so by its data source."""
    area = spe(1, where=0xB) + spe(2, where=0xD) + spe(3)
    made, _, _ = source_of(neoverse(tmp_path), spaces, {0: area})
    (batch,) = made.drain()
    assert ([2, 3], 1) == (batch.seen.page.tolist(), made.filtered)


def test_a_record_in_two_pieces_is_one(tmp_path, spaces) -> None:
    """What is not whole waits for the next drain, each CPU for itself."""
    whole = spe(1) + spe(2)
    first, rest = whole[:80], whole[80:]
    made, _, _ = source_of(neoverse(tmp_path), spaces, {0: first, 1: spe(9)}, {0: rest})
    assert [1, 9] == sorted(made.drain()[0].seen.page.tolist())
    (batch,) = made.drain()
    assert ([2], 0) == (batch.seen.page.tolist(), batch.lost)


def test_damage_is_counted_and_passes(tmp_path, spaces) -> None:
    """Nonsense in one stretch costs what is behind it, and the next one is read."""
    bad = spe(1) + b"\xff" * 64 + spe(2)
    made, _, _ = source_of(neoverse(tmp_path), spaces, {0: bad}, {0: spe(3)})
    (batch,) = made.drain()
    assert ([1], 2) == (batch.seen.page.tolist(), batch.lost)
    assert [3] == made.drain()[0].seen.page.tolist()


def test_an_area_cut_short_makes_it_rarer(tmp_path, spaces) -> None:
    """The kernel's flag counts as a loss and doubles the period."""
    flagged = record(Kind.AUX, b"".join(v.to_bytes(8, "little") for v in (0, 64, 1)))
    made, _, sampler = source_of(
        neoverse(tmp_path),
        spaces,
        {0: spe(1)},
        rings=[[flagged]],
        budget=1e9,  # whatever the first use of a kernel costs here
    )
    (batch,) = made.drain()
    assert (1, 1) == (batch.lost, made.damaged)
    assert [131072] == sampler.periods


def test_a_record_that_was_cut_joins_no_other(tmp_path, spaces) -> None:
    """Where the kernel says that data are missing, the rest of a record is lost."""
    flagged = record(Kind.AUX, b"".join(v.to_bytes(8, "little") for v in (0, 96, 1)))
    # A context that is cut off before the addresses, then a record without one.
    first = spe(1) + op() + context(PID)
    second = spe(3, tid=0, physical=False) + spe(4)
    made, _, _ = source_of(
        neoverse(tmp_path), spaces, {0: first}, {0: second}, rings=[[flagged]]
    )
    (batch,) = made.drain()
    assert ([1], 2) == (batch.seen.page.tolist(), batch.lost)  # the flag, the rest
    (batch,) = made.drain()
    assert ([4], 1) == (batch.seen.page.tolist(), batch.lost)  # nobody's


def test_without_spe(tmp_path, spaces) -> None:
    """The probe says so; a PMU without the filters is refused by the missing term."""
    assert "arm_spe" in SpeSource.probe(tmp_path).why
    with pytest.raises(UnsupportedError):
        SpeSource(spaces, VirtualClock(), root=tmp_path)
    pmu(tmp_path, "arm_spe_0", 8, format={"ts_enable": "config:0"})
    assert "load_filter" in SpeSource.probe(tmp_path).why


def test_end_packets_do_as_well(tmp_path, spaces) -> None:
    """Without timestamps records end with an end packet."""
    area = op() + address(2, (FIRST + 8) << 12) + context(PID) + END
    made, _, _ = source_of(neoverse(tmp_path), spaces, {0: area})
    assert [8] == made.drain()[0].seen.page.tolist()
