"""A process is held by what it is, not by its number."""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.machine.linux import pagemap, syscalls
from isotherm.machine.linux.process import Process, parse_stat


def test_a_name_may_hold_anything() -> None:
    """The name of a stat line ends at its last bracket."""
    rest = " ".join(str(n) for n in range(4, 53))
    stat = parse_stat(f"7 (a) b (c) S {rest}\n")
    assert ("a) b (c", 4) == (stat.comm, stat.parent)
    assert (20, 22, 23, 24) == (
        stat.threads, stat.start_ticks, stat.vsize_bytes, stat.rss_pages,
    )  # fmt: skip
    assert (26, 28) == stat.image
    assert "?[2J" == parse_stat(f"7 (\x1b[2J) S {rest}\n").comm  # a terminal obeys it
    with pytest.raises(ValueError, match="fields"):
        parse_stat("7 (x) S 1 2 3")


def test_what_a_process_is(child: Any) -> None:
    """Its threads, mappings and pages are those it says it has."""
    page = child.do("take(67)")
    with Process(child.pid) as process:
        assert process.alive()
        assert (child.pid,) == process.threads()
        mappings = process.mappings()
        assert mappings.name_of(page) == ""
        entries = process.pagemap(page, page + 67)
        assert 67 == int(np.count_nonzero(entries & pagemap.PRESENT))
        found = pagemap.scan(
            process.pagemap_fd(), page, page + 67, any_of=pagemap.PAGE_IS_PRESENT
        )
        if found.error != -errno.ENOTTY:
            assert [
                [page, page + 67, pagemap.PAGE_IS_PRESENT]
            ] == found.regions.tolist()


def test_a_process_that_has_ended_is_gone(child: Any) -> None:
    """Whatever is asked of it, and nothing is done to whoever has its number."""
    process = Process(child.pid)
    process.pagemap_fd()
    child.end()
    assert not process.alive()
    for ask in (
        process.stat,
        process.threads,
        process.mappings,
        lambda: process.pagemap(0, 8),
        lambda: process.read_text("status"),
    ):
        with pytest.raises(TargetGoneError, match=f"pid {child.pid}"):
            ask()
    page = np.arange(4, dtype=np.uint64)
    assert -errno.ESRCH == process.move_pages(page, None).result
    assert -errno.ESRCH == process.madvise(np.array([[0, 1]]), syscalls.MADV_COLD)
    assert -errno.ESRCH == process.touch(page)
    with pytest.raises(TargetGoneError):
        Process(child.pid)
    process.close()


def descriptors() -> set[str]:
    """Return our open descriptors."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names


def test_a_closed_process_is_gone_too(child: Any) -> None:
    """Closing twice does no harm; no descriptor is left."""
    before = descriptors()
    process = Process(child.pid)
    process.pagemap_fd()
    process.close()
    process.close()
    assert before == descriptors()
    assert not process.alive()
    with pytest.raises(TargetGoneError):
        process.mappings()


def test_threads_may_ask_at_the_same_time(child: Any) -> None:
    """The loop and the thread that moves both ask whether a process is alive."""

    def ask(process: Process) -> int:
        return sum(process.alive() for _ in range(20_000))

    with Process(child.pid) as process, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, process) for _ in range(4)]
        assert [20_000] * 4 == [one.result() for one in asked]


def test_a_thread_is_no_process(child: Any) -> None:
    """Its id is refused with words."""
    child.do("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    with Process(child.pid) as process:
        other = next(t for t in process.threads() if t != child.pid)
    with pytest.raises(UsageError, match="thread"):
        Process(other)


def test_after_an_exec_the_page_table_is_another(
    child: Any, await_true: Callable[..., None]
) -> None:
    """The old descriptor shows nothing; renewed, it shows the new program's."""
    page = child.do("take(16)")
    with Process(child.pid) as process:
        before = process.stat()
        assert process.pagemap(page, page + 16).all()
        child.tell("os.execv('/bin/sleep', ['sleep', '60'])")
        await_true(lambda: process.stat().comm == "sleep", "an exec")
        assert process.alive()
        assert before.image != process.stat().image
        assert before.start_ticks == process.stat().start_ticks
        assert not process.pagemap(page, page + 16).any()
        process.renew()
        stack = process.mappings()
        at = stack.name.index("[stack]")
        entries = process.pagemap(int(stack.start[at]), int(stack.end[at]))
        assert entries.any()


def test_pages_stay_where_there_is_one_node(child: Any) -> None:
    """Asked for, a page is on a node; moved there, it is there already."""
    if syscalls.move_pages(0, np.zeros(1, np.uint64), None).result == -errno.ENOSYS:
        pytest.skip("this kernel has no move_pages")
    page = child.do("take(23)")
    with Process(child.pid) as process:
        vpage = np.arange(page, page + 23, dtype=np.uint64)
        asked = process.move_pages(vpage, None)
        if asked.result == -errno.EPERM:
            pytest.skip("not permitted to ask for the pages of another process")
        assert 0 == asked.result
        assert (asked.status >= 0).all()
        assert 0 == process.move_pages(vpage, asked.status).result


def test_advice_passes_over_what_is_refused(child: Any) -> None:
    """Ranges that are not mapped are left out of the bytes advised."""
    page = child.do("take(64)")
    with Process(child.pid) as process:
        ranges = [[page, page + 8], [1, 2], [page + 16, page + 20], [2, 3]]
        advised = process.madvise(np.array(ranges), syscalls.MADV_COLD)
        if advised == -errno.EPERM:
            pytest.skip("not permitted to advise about another process")
        assert 12 * 4096 == advised
        assert process.madvise(np.array([[1, 2]]), syscalls.MADV_COLD) < 0


def test_more_ranges_than_one_call_takes(child: Any) -> None:
    """Thousands of ranges go in several calls, none is lost."""
    page = child.do("take(4200)")
    with Process(child.pid) as process:
        start = np.arange(page, page + 4200, 2)
        advised = process.madvise(
            np.stack([start, start + 1], axis=1), syscalls.MADV_COLD
        )
        if advised == -errno.EPERM:
            pytest.skip("not permitted to advise about another process")
        assert 2100 * 4096 == advised


def test_touching_brings_pages_in(child: Any) -> None:
    """Pages never written are there afterwards, unmapped ones are passed over."""
    page = child.do("take(32, fill=False)")
    with Process(child.pid) as process:
        vpage = np.arange(page, page + 32, dtype=np.uint64)
        vpage[5] = 1
        touched = process.touch(vpage)
        if touched == -errno.EPERM:
            pytest.skip("not permitted to read another process")
        assert 31 == touched
        entries = process.pagemap(page, page + 32)
        assert 31 == int(np.count_nonzero(entries & pagemap.PRESENT))


def test_syscalls_answer_errno_as_data() -> None:
    """No process, no descriptor: a negative errno and untouched statuses."""
    answer = syscalls.move_pages(2**22 + 1, np.zeros(3, np.uint64), None)
    assert answer.result in (-errno.ESRCH, -errno.ENOSYS)
    assert {syscalls.NO_STATUS} == set(answer.status.tolist())
    assert -errno.EBADF == syscalls.pidfd_getfd(-1, 0)
    empty = syscalls.move_pages(1, np.empty(0, np.uint64), None)
    assert (0, 0) == (empty.result, len(empty.status))


def test_advice_about_more_than_a_call_takes_ends() -> None:
    """A range beyond 2 GiB goes in pieces; what was taken in is all of it."""
    size = 5 << 30
    no_reserve = 0x4000  # MAP_NORESERVE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, size, flags=flags)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pidfd = os.pidfd_open(os.getpid())
    start = np.array([address, address + size - 4096], np.uint64)
    sizes = np.array([size - 4096, 4096], np.uint64)
    taken = syscalls.process_madvise(pidfd, start, sizes, syscalls.MADV_COLD)
    os.close(pidfd)
    assert size == taken
