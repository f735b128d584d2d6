"""Daemons that are killed at random moments, and what must hold afterwards.

A run goes through four stages: it starts, manages, is asked to stop, and what it
has left is put back by somebody else. In each a process of it is killed with
SIGKILL at a moment drawn by number: the seed repeats what was drawn, if not what the
kernel was doing then.
"""

import ctypes
import json
import os
import platform
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.vm.runs import RUN, Isotherm

#: Files of the kernel that a run may write.
SETTINGS: Final = (
    "/proc/sys/kernel/numa_balancing",
    "/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps",
    "/sys/kernel/mm/numa/demotion_enabled",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
    "/sys/kernel/mm/mempolicy/weighted_interleave/node0",
    "/sys/kernel/mm/mempolicy/weighted_interleave/node1",
)
STAGES: Final = ("start", "manage", "stop", "restore")
#: What a process that nobody holds any more may take to end: the guest is slow.
END_S: Final = 600.0
#: migrate_pages(2), which no library has here.
MIGRATE_PAGES: Final = {"x86_64": 256, "aarch64": 238}
#: Of the time that stopping is thought to take, where it had ended before the kill.
STOPPED_SOONER: Final = 0.6
#: To wait for the first moves at most.
MOVES_S: Final = 120.0


def read_settings() -> dict[str, str]:
    """Return what the kernel's files say; those that are not there are left out."""
    return {name: Path(name).read_text() for name in SETTINGS if Path(name).exists()}


def family(pid: int) -> list[int]:
    """Return a process and all below it that live."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = entry.read_text()
            state, parent = text[text.rindex(")") + 2 :].split()[:2]
            if state not in "ZX":
                below.setdefault(int(parent), []).append(int(entry.parent.name))
    found = [pid] if pid in {one for some in below.values() for one in some} else []
    todo = [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def is_isotherm(pid: int) -> bool:
    """Return whether a process is one of isotherm's verbs, whoever its parent is."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(
        word.endswith((b"/isotherm", b"isotherm.mover")) or word == b"isotherm"
        for word in words
    )


def left_over() -> list[int]:
    """Return all processes of isotherm that live."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if is_isotherm(pid) and family(pid)[:1] == [pid]]


def recorded() -> dict[str, str]:
    """Return what files said before running daemons wrote them, by their journals."""
    found: dict[str, str] = {}
    for journal in RUN.glob("run-*.journal"):
        with suppress(OSError):
            for line in journal.read_text().splitlines():
                with suppress(json.JSONDecodeError):  # it is being written
                    entry = json.loads(line)
                    if "path" in entry:
                        found.setdefault(entry["path"], entry["old"])
    return found


@dataclass
class Account:
    """What has happened so far.

    Attributes:
        stages: Kills by stage.
        ways: Kills by the run's options.
        victims: Kills by what was killed of how many processes.
        restored: What put back what killed runs had left, and found something.
        undisturbed: Runs that had ended before their moment came.
        had_changed: Kills with kernel files changed at that time.
        had_moved: Kills of runs that had moved pages.
    """

    stages: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    restored: Counter[str] = field(default_factory=Counter)
    undisturbed: int = 0
    had_changed: int = 0
    had_moved: int = 0

    @property
    def kills(self) -> int:
        """Runs of which a process was killed."""
        return sum(self.stages.values())

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }


class Killer:
    """Starts runs over one workload and kills them.

    Args:
        begin: Starts an isotherm command.
        pid: Of the workload.
        seed: Decides what is killed when.
        ways: Options of ``isotherm run``, one set of them drawn for each run.
    """

    def __init__(
        self,
        begin: Callable[..., Isotherm],
        pid: int,
        seed: int,
        ways: Sequence[Sequence[str]],
    ) -> None:
        self._begin, self._pid, self._ways = begin, pid, ways
        self._seed = seed
        self.before = read_settings()
        self.account = Account()
        self._start_s = self._stop_s = self._restore_s = 0.0

    def measure(self) -> None:
        """Run once undisturbed: how long each stage takes here."""
        begun = time.monotonic()
        run = self._run(0)
        self._await_begin(run)
        self._start_s = time.monotonic() - begun
        begun = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.process.communicate(timeout=END_S)
        self._stop_s = time.monotonic() - begun
        begun = time.monotonic()
        self._begin("stop", "--all").process.communicate(timeout=END_S)
        self._restore_s = time.monotonic() - begun
        self._check("an undisturbed run")

    def strike(self, number: int) -> None:
        """Begin a run, kill it in one of the stages, see that it can be put right.

        All of the workload's memory is in the slow node when the run begins, so that
        it has moves to make for as long as it lives.
        The next run puts back what this one has left; after every fourth one
        ``stop --all`` does, which is killed in the middle and started again.
        """
        stage = STAGES[number % len(STAGES)]
        draw = random.Random(f"{self._seed}-{number}").random
        way = int(draw() * len(self._ways))
        send_back(self._pid)
        moved = read_moved()
        run = self._run(way)
        if stage == "start":
            time.sleep(draw() * self._start_s)
        else:
            self._await_begin(run)
            if "--mover" not in self._ways[way]:
                self._await_moves(run, moved)
            time.sleep(draw() * 1.5)
        if stage == "stop":
            run.process.send_signal(signal.SIGTERM)
            time.sleep(draw() * self._stop_s)
        living = family(run.process.pid)
        what = f"kill {number}, {stage}, {len(living)} processes, {self._ways[way]}"
        # Whatever is there now was noted as it was before any run.
        for path, old in recorded().items():
            if path in self.before:
                assert self.before[path].strip() == old, f"{path}: {what}\n{run.said}"
        if living:
            at = int(draw() * len(living))
            with suppress(ProcessLookupError):
                os.kill(living[at], signal.SIGKILL)
            self.account.stages[stage] += 1
            self.account.ways[" ".join(self._ways[way])] += 1
            self.account.victims[f"{at + 1} of {len(living)}"] += 1
        else:
            self.account.undisturbed += 1
            if stage == "stop":  # it takes less than thought
                self._stop_s *= STOPPED_SOONER
        self.account.had_changed += changed(self.before)
        self.account.had_moved += read_moved() > moved
        self._await_end(run, what)
        self.account.restored["the next start"] += "recovered" in run.said
        assert Path(f"/proc/{self._pid}").exists(), what
        if stage == "restore":
            self._restore(what, draw() * self._restore_s)

    def finish(self) -> None:
        """Put back what the last run has left, and see that it is."""
        self._put_back("the end", "")

    def _restore(self, what: str, after_s: float) -> None:
        helper = self._begin("stop", "--all")
        time.sleep(after_s)
        helper.process.kill()
        helper.process.communicate()
        self._put_back(what, helper.said)

    def _put_back(self, what: str, said: str) -> None:
        done = self._begin("stop", "--all")
        done.process.communicate(timeout=END_S)
        assert 0 == done.process.returncode, f"{what}: {done.said}"
        said += done.said
        self.account.restored["stop --all"] += "recovered" in said
        self._check(f"{what}: {said}")

    def _run(self, way: int) -> Isotherm:
        return self._begin("run", "--pid", str(self._pid), *self._ways[way])

    def _await_begin(self, run: Isotherm) -> None:
        end = time.monotonic() + END_S
        journal = RUN / f"run-{run.process.pid}.journal"
        while "hints=" not in run.said and not (
            journal.exists() and "path" in journal.read_text()
        ):
            assert run.process.poll() is None, run.said
            assert time.monotonic() < end, run.said
            time.sleep(0.05)

    def _await_moves(self, run: Isotherm, moved: int) -> None:
        """Wait for pages to move."""
        end = time.monotonic() + MOVES_S
        while read_moved() == moved and time.monotonic() < end:
            assert run.process.poll() is None, run.said
            time.sleep(0.05)

    def _await_end(self, run: Isotherm, what: str) -> None:
        """Wait until no process of the run lives: those not killed end themselves."""
        run.process.communicate(timeout=END_S)
        end = time.monotonic() + END_S
        while pids := left_over():
            assert time.monotonic() < end, f"orphans {pids}: {what}\n{run.said}"
            time.sleep(0.05)

    def _check(self, what: str) -> None:
        """Check that nothing is left: settings, journals, locks, processes."""
        assert self.before == read_settings(), what
        assert not RUN.exists(), f"{list(RUN.iterdir())}: {what}"
        assert [] == left_over(), what


def changed(before: dict[str, str]) -> bool:
    """Return whether the kernel's files differ from what they said."""
    return before != read_settings()


def read_moved() -> int:
    """Return how many pages the kernel has ever moved."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if x.startswith("pgmigrate_success"))


def send_back(pid: int) -> None:
    """Put all memory of a process into node 1, as somebody else would."""
    libc = ctypes.CDLL(None, use_errno=True)
    upper, lower = ctypes.c_ulong(1 << 0), ctypes.c_ulong(1 << 1)
    left = libc.syscall(
        *(MIGRATE_PAGES[platform.machine()], pid, 8 * ctypes.sizeof(upper)),
        *(ctypes.byref(upper), ctypes.byref(lower)),
    )
    assert left >= 0, os.strerror(ctypes.get_errno())


def end_workload(process: subprocess.Popen[bytes]) -> int:
    """Have a native workload verify every line; return its exit status."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=END_S)
    return process.returncode
