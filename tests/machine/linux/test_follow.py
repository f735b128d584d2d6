"""Processes are followed through forks, threads, execs, mappings and exits."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import NotPermittedError, TargetGoneError
from isotherm.machine.linux.intervals import total
from isotherm.machine.linux.process import NoDescriptorError
from isotherm.machine.linux.targets import follow as following
from isotherm.machine.linux.targets.discover import (
    derive_descendants,
    read_members,
    read_parents,
    read_task_mark,
)
from isotherm.machine.linux.targets.follow import EventKind, Follower


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    """Return a function that makes followers, closed at the end."""
    made: list[Follower] = []

    def begin(*pids: int, **options: Any) -> Follower:
        made.append(Follower(pids, **{"budget_ns": 10**10} | options))
        return made[-1]

    yield begin
    for follower in made:
        follower.close()


def scan(follower: Follower) -> tuple[set[int], list[int]]:
    """Scan; return who has changed and who is void."""
    changed, void = follower.scan(time.monotonic_ns())
    return {target.pid for target in changed}, void


def kinds(follower: Follower) -> list[tuple[EventKind, int]]:
    """Return and clear what has happened."""
    told = [(event.kind, event.pid) for event in follower.events]
    follower.events.clear()
    return told


def holds(follower: Follower, pid: int, page: int) -> bool:
    """Return whether a page of a process is managed."""
    ranges = follower.targets[pid].managed.ranges
    return bool(((ranges[:, 0] <= page) & (page < ranges[:, 1])).any())


def test_mappings_come_and_go(child: Any, follow: Callable[..., Follower]) -> None:
    """Told once each; in between nothing is told."""
    follower = follow(child.pid)
    assert ({child.pid}, []) == scan(follower)
    assert (set(), []) == scan(follower)
    page = child.do("take(512)")
    assert {child.pid} == scan(follower)[0]
    assert holds(follower, child.pid, page)
    assert (set(), []) == scan(follower)
    child.do(f"libc.munmap(ctypes.c_long({page} << 12), 512 << 12)")
    assert {child.pid} == scan(follower)[0]
    assert not holds(follower, child.pid, page)
    found = [EventKind.FOUND, EventKind.MAPPED, EventKind.MAPPED, EventKind.MAPPED]
    assert [(kind, child.pid) for kind in found] == kinds(follower)


def test_children_and_their_children(
    child: Any, follow: Callable[..., Follower], await_true: Callable[..., None]
) -> None:
    """Both are found in one scan, and each end is told."""
    follower = follow(child.pid)
    scan(follower)
    kinds(follower)
    fork = "kept.append(os.pipe()) or os.fork() or (os.fork(), time.sleep(60))"
    first = child.do(fork)
    await_true(
        lambda: Path(f"/proc/{first}/task/{first}/children").read_text(), "a grandchild"
    )
    second = int(Path(f"/proc/{first}/task/{first}/children").read_text())
    assert {first, second} <= scan(follower)[0]
    assert child.pid == follower.targets[first].parent
    os.kill(second, 9)
    os.kill(first, 9)
    gone: list[int] = []

    def ended() -> bool:
        gone.extend(scan(follower)[1])
        return {first, second} <= set(gone)

    await_true(ended, "two ends")
    assert {child.pid} == follower.targets.keys()
    told = kinds(follower)
    for pid in (first, second):
        assert (EventKind.FOUND, pid) in told
        assert (EventKind.EXITED, pid) in told


def test_children_are_left_alone_if_so_told(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """Without descendants only what is named is followed."""
    follower = follow(child.pid, descendants=False)
    first = child.do("os.fork() or time.sleep(60)")
    scan(follower)
    assert {child.pid} == follower.targets.keys()
    os.kill(first, 9)


class Desk:
    """Says who has a process, and notes what is asked."""

    def __init__(self) -> None:
        self.taken: dict[int, str] = {}
        self.told: list[tuple[str, int]] = []

    def claim(self, pid: int) -> str | None:
        """Say who has it."""
        self.told.append(("claim", pid))
        return self.taken.get(pid)

    def release(self, pid: int) -> None:
        """Note that it was given up."""
        self.told.append(("release", pid))


def test_what_is_found_is_claimed_first(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """Another's process is not opened, is told once, and is ours when it is free."""
    desk = Desk()
    follower = follow(child.pid, claims=desk)
    found = child.do("os.fork() or time.sleep(60)")
    desk.taken[found] = "isotherm, pid 1, manages it"
    now = time.monotonic_ns()
    follower.scan(now)
    assert {child.pid} == follower.targets.keys()
    assert [("claim", found)] == desk.told
    refused = [event for event in follower.events if event.kind is EventKind.REFUSED]
    assert [(found, desk.taken[found])] == [(event.pid, event.why) for event in refused]
    follower.events.clear()
    for _ in range(2):
        now += 11 * 10**9
        follower.scan(now)
    assert [("claim", found)] * 3 == desk.told
    assert [] == [e for e in follower.events if e.kind is EventKind.REFUSED]
    desk.taken.clear()
    now += 11 * 10**9
    follower.scan(now)
    assert {child.pid, found} == follower.targets.keys()
    os.kill(found, 9)
    end = time.monotonic() + 60
    while found in follower.targets and time.monotonic() < end:
        follower.scan(now)
    assert ("release", found) == desk.told[-1]
    assert {child.pid} == follower.targets.keys()


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Return a function that limits this process's open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_to(most: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))

    yield set_to
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_who_finds_no_descriptor_is_left_out(
    child: Any, follow: Callable[..., Follower], limit: Callable[[int], None]
) -> None:
    """The rest is followed, each that is not is told once, and tried again."""
    forks = {child.do("os.fork() or time.sleep(60)") for _ in range(12)}
    follower = follow(child.pid)
    fits = follower.targets[child.pid].process.pagemap_fd() + 3 * 5
    limit(int(fits / 0.75))
    now = time.monotonic_ns()
    for _ in range(3):
        follower.scan(now)
        now += 10**9
    assert 3 <= len(follower.targets) <= 7
    told = [e for e in follower.events if e.kind is EventKind.REFUSED]
    assert forks - follower.targets.keys() == {event.pid for event in told}
    assert len(told) == 13 - len(follower.targets)
    assert "left out" in told[0].why
    limit(256)
    follower.scan(now + 11 * 10**9)
    assert {child.pid, *forks} == follower.targets.keys()
    for pid in forks:
        os.kill(pid, 9)


def test_even_named_ones_are_left_out(
    child: Any, follow: Callable[..., Follower], limit: Callable[[int], None]
) -> None:
    """More processes by name than descriptors do not end the run."""
    forks = [child.do("os.fork() or time.sleep(60)") for _ in range(5)]
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    plugs = [os.open("/", os.O_RDONLY)]
    while plugs[-1] <= highest:  # numbers that others have given back
        plugs.append(os.open("/", os.O_RDONLY))
    lowest = plugs.pop()
    os.close(lowest)
    limit(int((lowest + 2 * 3 + 4) / 0.75))
    follower = follow(child.pid, *forks)
    for plug in plugs:
        os.close(plug)
    assert 1 <= len(follower.targets) <= 4
    assert 6 - len(follower.targets) == len(
        [event for event in follower.events if event.kind is EventKind.REFUSED]
    )
    for pid in forks:
        os.kill(pid, 9)


def test_without_a_descriptor_everybody_stays(
    child: Any,
    follow: Callable[..., Follower],
    tmp_path: Path,
    limit: Callable[[int], None],
) -> None:
    """A scan that can open nothing drops nobody, and the next one goes on."""
    (tmp_path / "below").mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "below/cgroup.procs").write_text(f"{child.pid}\n")
    follower = follow(cgroups=[tmp_path])
    now = time.monotonic_ns()
    follower.scan(now)
    limit(3)
    with pytest.raises(NoDescriptorError):
        read_members(tmp_path)
    assert {} == read_parents()
    assert ([], []) == follower.scan(now + 11 * 10**9)
    limit(256)
    assert {child.pid} == follower.targets.keys()
    child.do("take(512)")
    assert {child.pid} == {t.pid for t in follower.scan(now + 22 * 10**9)[0]}


def test_an_exec_voids_everything(
    child: Any, follow: Callable[..., Follower], await_true: Callable[..., None]
) -> None:
    """The process is the same, its memory is not."""
    page = child.do("take(512)")
    follower = follow(child.pid)
    scan(follower)
    process = follower.targets[child.pid].process
    child.tell("os.execv('/bin/sleep', ['sleep', '60'])")
    await_true(lambda: process.stat().comm == "sleep", "an exec")
    changed, void = scan(follower)
    assert ({child.pid}, [child.pid]) == (changed, void)
    assert not holds(follower, child.pid, page)
    assert process is follower.targets[child.pid].process
    assert (EventKind.EXEC, child.pid) in kinds(follower)


def test_threads_are_told(child: Any, follow: Callable[..., Follower]) -> None:
    """With how many there are now."""
    follower = follow(child.pid)
    scan(follower)
    child.do("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    scan(follower)
    told = [e.detail for e in follower.events if e.kind is EventKind.THREADS]
    assert [2] == told


def test_reservations_are_not_managed(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """Of 64 GiB with three pages in use, their granules are; more as they are used."""
    pages = 16 << 20
    page = child.do(f"take({pages}, 0x4022, fill=False)")  # MAP_NORESERVE
    for at in (0, 5_000_000, pages - 1):
        child.do(f"ctypes.memset(({page} + {at}) << 12, 1, 1) and None")
    follower = follow(child.pid)
    scan(follower)
    managed = follower.targets[child.pid].managed
    if not total(managed.ranges):
        pytest.skip("this kernel has no PAGEMAP_SCAN (Linux 6.7)")
    assert total(managed.ranges) < 20_000
    assert managed.left_out["empty"] > pages - 20_000
    for at in (0, 5_000_000, pages - 1):
        assert holds(follower, child.pid, page + at)
    child.do(f"ctypes.memset(({page} + 9_000_000) << 12, 1, 4 << 20) and None")
    scan(follower)
    assert holds(follower, child.pid, page + 9_000_500)


def test_a_budget_is_kept_and_nobody_is_forgotten(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """With no time at all one process is read in a scan, and each has its turn."""
    others = [child.do("os.fork() or time.sleep(60)") for _ in range(4)]
    follower = follow(child.pid, *others, budget_ns=0)
    seen: list[int] = []
    for _ in range(5):
        changed, _ = scan(follower)
        assert 1 == len(changed)
        seen += changed
    assert {child.pid, *others} == set(seen)
    for pid in others:
        os.kill(pid, 9)


def test_who_is_not_there_is_said(follow: Callable[..., Follower]) -> None:
    """A pid or cgroup that does not exist; and no descriptor is left."""
    names = "/proc/self/fd"
    before = os.listdir(names)  # noqa: PTH208  # names
    with pytest.raises(TargetGoneError, match="pid 4194305"):
        follow(os.getpid(), 4194305)
    with pytest.raises(TargetGoneError, match="expected a cgroup"):
        follow(cgroups=[Path("/sys/fs/cgroup/no such group")])
    assert before == os.listdir(names)  # noqa: PTH208  # names


def test_members_of_cgroups_below_count(tmp_path: Path) -> None:
    """All levels, without the zeros of other namespaces; what has gone is passed."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "a/cgroup.procs").write_text("17\n0\n")
    (tmp_path / "a/b/cgroup.procs").write_text("19\n23\n")
    assert {17, 19, 23} == read_members(tmp_path)


def test_a_cgroup_is_followed_and_we_are_not(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """Members are found as they come; the follower never follows itself that way."""
    members = tmp_path / "cgroup.procs"
    members.write_text(f"{os.getpid()}\n")
    follower = follow(cgroups=[tmp_path], descendants=False)
    scan(follower)
    assert not follower.targets
    members.write_text(f"{os.getpid()}\n{child.pid}\n")
    child.do("[t.start() for t in [threading.Thread(target=int)]] and None")
    scan(follower)
    assert {child.pid} == follower.targets.keys()
    members.unlink()
    child.do("[t.start() for t in [threading.Thread(target=int)]] and None")
    scan(follower)
    assert [] == follower.cgroups


def test_new_tasks_change_the_mark(child: Any) -> None:
    """A thread or process anywhere on the machine."""
    before = read_task_mark()
    child.do("[t.start() for t in [threading.Thread(target=int)]] and None")
    assert before != read_task_mark()
    assert "" == read_task_mark(Path("/nowhere"))


def test_parents_lead_to_descendants(child: Any) -> None:
    """A fork is found by the parents of all processes as well."""
    first = child.do("os.fork() or time.sleep(60)")
    parents = read_parents()
    assert child.pid == parents[first]
    assert {first: child.pid} == derive_descendants(parents, [child.pid])
    os.kill(first, 9)


def test_a_members_child_in_another_cgroup_is_a_stranger(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """Of a cgroup its members are followed, not what they fork elsewhere."""
    (tmp_path / "cgroup.procs").write_text(f"{child.pid}\n")
    elsewhere = child.do("os.fork() or time.sleep(60)")
    follower = follow(cgroups=[tmp_path])
    scan(follower)
    scan(follower)
    assert {child.pid} == follower.targets.keys()
    os.kill(elsewhere, 9)


def test_who_leaves_the_cgroup_is_left_alone(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """When it is moved its pages are void, its claim and descriptors free."""
    members = tmp_path / "cgroup.procs"
    members.write_text(f"{child.pid}\n")
    desk = Desk()
    follower = follow(cgroups=[tmp_path], claims=desk)
    now = time.monotonic_ns()
    follower.scan(now)
    process = follower.targets[child.pid].process
    kinds(follower)
    members.write_text("")
    _, void = follower.scan(now + 11 * 10**9)
    assert [child.pid] == void
    assert not follower.targets
    assert not process.alive()
    assert [("claim", child.pid), ("release", child.pid)] == desk.told
    assert [(EventKind.LEFT, child.pid)] == kinds(follower)
    members.write_text(f"{child.pid}\n")
    changed, void = follower.scan(now + 22 * 10**9)
    assert ([child.pid], []) == ([target.pid for target in changed], void)


def test_a_cgroup_that_goes_takes_its_members_with_it(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """It could only be removed after they had been moved out of it."""
    (tmp_path / "cgroup.procs").write_text(f"{child.pid}\n")
    follower = follow(cgroups=[tmp_path])
    now = time.monotonic_ns()
    follower.scan(now)
    (tmp_path / "cgroup.procs").unlink()
    assert [child.pid] == follower.scan(now + 11 * 10**9)[1]
    assert ({}, []) == (follower.targets, follower.cgroups)


def test_a_number_given_out_again_is_no_child(
    child: Any, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is opened as a child must be one then; another is let go at once."""
    desk = Desk()
    follower = follow(child.pid, claims=desk)
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        seen = {child.pid: 1, stranger.pid: child.pid}  # as it was a moment ago
        monkeypatch.setattr(following, "read_children", lambda _: None)
        monkeypatch.setattr(following, "read_parents", lambda: seen)
        scan(follower)
        stranger.kill()
    assert {child.pid} == follower.targets.keys()
    assert [("claim", stranger.pid), ("release", stranger.pid)] == desk.told


def test_a_number_given_out_again_is_no_member(
    child: Any,
    follow: Callable[..., Follower],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who is opened as a member must be one after it was opened."""
    (tmp_path / "cgroup.procs").write_text("")
    follower = follow(cgroups=[tmp_path])
    answers = [{child.pid}]  # as it was a moment ago
    monkeypatch.setattr(
        following,
        "read_members",
        lambda path: answers.pop() if answers else read_members(path),
    )
    scan(follower)
    assert not follower.targets


def test_who_was_named_stays_whatever_its_cgroup(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """A process by name and its children are followed in any cgroup."""
    (tmp_path / "cgroup.procs").write_text("")
    forked = child.do("os.fork() or time.sleep(60)")
    follower = follow(child.pid, cgroups=[tmp_path])
    now = time.monotonic_ns()
    for second in range(3):
        follower.scan(now + second * 10**9)
        assert {child.pid, forked} == follower.targets.keys()
    os.kill(forked, 9)


BIND = (
    "libc.syscall(237, ctypes.c_long({0} << 12), ctypes.c_long(64 << 12), 2, "
    "ctypes.c_long(ctypes.addressof(kept.append(ctypes.c_ulong(1)) or kept[-1])), "
    "ctypes.c_long(64), ctypes.c_long(0))"
)


def bind(child: Any, page: int) -> None:
    """Have a child bind 64 pages to node 0."""
    if os.uname().machine != "x86_64" or child.do(BIND.format(page)) != 0:
        pytest.skip("mbind is not to be had here")


def test_a_new_mapping_waits_for_its_policy(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """It is left out until policies are read: it may be bound to its node."""
    kept = child.do("take(2048)")
    follower = follow(child.pid)
    now = time.monotonic_ns()
    follower.scan(now)
    target = follower.targets[child.pid]
    target.rules_cost_ns = 10**9  # a large process
    page = child.do("take(64)")
    bind(child, page)
    follower.scan(now + 9 * 10**9)
    assert not holds(follower, child.pid, page)
    assert target.managed.left_out["new"] >= 64
    assert holds(follower, child.pid, kept)
    changed, void = follower.scan(now + 201 * 10**9)
    assert ([child.pid], []) == ([t.pid for t in changed], void)
    assert holds(follower, child.pid, page)
    assert "new" not in target.managed.left_out
    vpage, node = np.array([page, page], np.uint64), np.array([0, 1], np.uint8)
    assert [True, False] == target.allows(vpage, node).tolist()


def test_what_was_there_stays_while_a_policy_is_read(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """A mapping that is cut in two, or joined by one below, is not given up."""
    page = child.do("take(2048)")
    follower = follow(child.pid)
    now = time.monotonic_ns()
    follower.scan(now)
    target = follower.targets[child.pid]
    target.rules_cost_ns = 10**9
    child.do(f"libc.munmap(ctypes.c_long(({page} + 512) << 12), 64 << 12)")
    follower.scan(now + 9 * 10**9)
    assert target.has_new
    expected = [True, False, True, True]
    at = (0, 512, 576, 2047)
    assert expected == [holds(follower, child.pid, page + each) for each in at]
    child.do("take(64)")  # in the hole, or below
    follower.scan(now + 18 * 10**9)
    assert [True, True, True] == [
        holds(follower, child.pid, page + at[i]) for i in (0, 2, 3)
    ]


def test_a_small_process_has_new_mappings_managed_at_once(
    child: Any, follow: Callable[..., Follower]
) -> None:
    """Where reading policies takes no time it is done when mappings are."""
    follower = follow(child.pid)
    now = time.monotonic_ns()
    follower.scan(now)
    page = child.do("take(64)")
    bind(child, page)
    target = follower.targets[child.pid]
    target.rules_cost_ns = min(target.rules_cost_ns, 10**6)
    follower.scan(now + 1)
    assert holds(follower, child.pid, page)
    assert (page, page + 64, frozenset({0})) in target.bound


def test_rules_are_read(child: Any, follow: Callable[..., Follower]) -> None:
    """Bound mappings, locked ones, and the nodes that the cpuset allows."""
    page = child.do("take(64)")
    locked = child.do("take(64)")
    bind(child, page)
    if child.do(f"libc.mlock(ctypes.c_long({locked} << 12), 64 << 12)") != 0:
        pytest.skip("mlock is not permitted")
    follower = follow(child.pid)
    scan(follower)
    target = follower.targets[child.pid]
    assert [(page, page + 64, frozenset({0}))] == list(target.bound)
    assert not holds(follower, child.pid, locked)
    assert 64 <= target.managed.left_out["mlocked"]
    vpage = np.array([page, page + 63, page + 64, page], np.uint64)
    node = np.array([0, 1, 1, 1], np.uint8)
    expected = [True, False, target.allowed is None or 1 in target.allowed, False]
    assert expected == target.allows(vpage, node).tolist()


def test_who_may_not_look_is_told_so(follow: Callable[..., Follower]) -> None:
    """Another user's process is refused before anything is done."""
    if os.geteuid() == 0:
        pytest.skip("root may look at everybody; tests/vm tries it as another user")
    with pytest.raises(NotPermittedError, match="pid 1"):
        follow(1)


def test_other_cgroups_are_followed_from_the_next_scan(
    child: Any, follow: Callable[..., Follower], tmp_path: Path
) -> None:
    """As pods come and go: at once, though no task of the machine has."""
    for name, pid in (("one", ""), ("two", child.pid)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{pid}\n")
    follower = follow(cgroups=[tmp_path / "one"])
    now = time.monotonic_ns()
    follower.scan(now)
    assert not follower.targets
    follower.take_cgroups([tmp_path / "two"])
    follower.scan(now + 1)
    assert {child.pid} == follower.targets.keys()
    follower.take_cgroups([])
    _, void = follower.scan(now + 2)
    assert [child.pid] == void
    assert not follower.targets
