"""Hint faults without a second node: what is watched, and what is made of it.

A write to a page that was only read so far faults, as a poisoned page does: the
kernel has mapped its page of zeros until then.
"""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import FaultDelays
from isotherm.hints.live.page_fault import (
    BALANCING,
    RATE_LIMIT,
    SPEC,
    PageFaultSource,
)
from isotherm.hints.live.perf_event import open_event

PAGES = 2048


@pytest.fixture(autouse=True)
def _permitted() -> None:
    """Skip where this user may not open such events."""
    try:
        os.close(open_event(SPEC, 0, -1))
    except OSError as error:
        pytest.skip(f"perf_event_open: {errno.errorcode.get(error.errno or 0)}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a host whose balancing is on, as far as its files say."""
    (tmp_path / BALANCING).parent.mkdir(parents=True)
    (tmp_path / BALANCING).write_text("1\n")
    (tmp_path / RATE_LIMIT).write_text("65536\n")
    return tmp_path


def only(source: PageFaultSource) -> FaultDelays:
    """Return the one batch of a drain."""
    (batch,) = source.drain()
    assert isinstance(batch.seen, FaultDelays)
    assert batch.start_ns <= batch.end_ns
    return batch.seen


def test_first_touches_are_no_hint_faults(new_target, root: Path) -> None:
    """Touch 1009 new pages: none is reported, all are counted."""
    target = new_target(PAGES)
    with PageFaultSource(target.spaces(), MonotonicClock(), root=root) as source:
        target.write(0, 1009)
        assert 0 == len(only(source).page)
        assert 1009 == source.first_touches


def test_faults_of_pages_that_were_there_are_reported(new_target, root: Path) -> None:
    """All but the first of them, whose delay nobody knows; delays grow with time."""
    target = new_target(PAGES)
    target.read(0, 1009)
    with PageFaultSource(target.spaces(), MonotonicClock(), root=root) as source:
        target.write(0, 500)
        target.write(500, 509, thread=True)
        seen = only(source)
    assert list(range(1, 509)) == seen.page.tolist()
    assert 1 == source.undated
    assert (np.diff(seen.delay_s) >= 0).all()
    assert (seen.delay_s > 0).all()
    assert seen.exposure_s is not None
    assert seen.delay_s.tolist() == seen.exposure_s.tolist()
    assert {255} == set(seen.initiator.tolist())


def test_the_cpu_names_the_initiator(new_target, root: Path) -> None:
    """Each fault carries the initiator of the CPU that took it."""
    target = new_target(PAGES)
    target.read(0, 100)
    of_cpu = np.full(4096, 3, np.uint8)
    source = PageFaultSource(
        target.spaces(), MonotonicClock(), root=root, initiator_of_cpu=of_cpu
    )
    with source:
        target.write(0, 100)
        assert [3] * 99 == only(source).initiator.tolist()


def test_faults_elsewhere_in_the_target_are_counted_only(
    new_target, root: Path
) -> None:
    """What the spaces do not manage is no evidence."""
    target = new_target(PAGES)
    spaces = target.spaces()
    spaces.update(target.pid, np.array([[target.vpage, target.vpage + 512]]))
    with PageFaultSource(spaces, MonotonicClock(), root=root) as source:
        target.write(512, 1024)
        assert 0 == len(only(source).page)
        assert source.strange >= 512


def test_new_processes_are_followed_and_old_ones_left(new_target, root: Path) -> None:
    """A process that joins the spaces is watched from the next drain on."""
    first, second = new_target(PAGES), new_target(PAGES)
    spaces = first.spaces()
    with PageFaultSource(spaces, MonotonicClock(), root=root) as source:
        second.read(0, 200)
        spaces.update(second.pid, np.array([[second.vpage, second.vpage + PAGES]]))
        only(source)
        second.write(0, 200)
        page = only(source).page
        at = np.array([second.vpage], np.uint64)
        base = int(spaces.flat_pages(second.pid, at)[0])
        assert list(range(base + 1, base + 200)) == page.tolist()
        spaces.forget(first.pid)
        only(source)
        first.write(0, 50)
        assert 0 == len(only(source).page)


def test_off_is_refused_with_the_command_that_enables_it(
    new_target, root: Path
) -> None:
    """It is never switched on without being told to."""
    (root / BALANCING).write_text("0\n")
    source = PageFaultSource(new_target(64).spaces(), MonotonicClock(), root=root)
    with pytest.raises(UnsupportedError) as refused:
        source.open()
    assert "kernel.numa_balancing=2" in str(refused.value.hint)
    assert "0\n" == (root / BALANCING).read_text()


def test_switched_on_when_told_to_and_off_again(new_target, root: Path) -> None:
    """Tiering mode without promotions while it runs; afterwards as before."""
    (root / BALANCING).write_text("0\n")
    with HostChanges(None) as changes:
        source = PageFaultSource(
            new_target(64).spaces(),
            MonotonicClock(),
            root=root,
            changes=changes,
            enable=True,
        )
        with source:
            assert "2" == (root / BALANCING).read_text().strip()
            assert "0" == (root / RATE_LIMIT).read_text().strip()
    assert "0" == (root / BALANCING).read_text().strip()
    assert "65536" == (root / RATE_LIMIT).read_text().strip()


def test_a_kernel_without_balancing_is_unsupported(tmp_path: Path) -> None:
    """The probe names the file that it looked for."""
    found = PageFaultSource.probe(tmp_path)
    assert not found.present
    assert str(BALANCING) in found.why


def test_nothing_is_left_open(new_target, root: Path) -> None:
    """After close there is not a descriptor more than before."""
    target = new_target(64)
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = PageFaultSource(target.spaces(), MonotonicClock(), root=root)
    source.open()
    source.close()
    source.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))
    assert () == source.drain()
