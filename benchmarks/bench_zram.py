"""Cold memory of a skewed workload goes to zram: what is saved, and what it costs.

Root, a kernel with zram and no swap in use. Two processes of one kind work all the
time, on one CPU, so that they meet the same weather. Nobody puts out memory of the
one. That of the other is put out in turns by nobody, by isotherm, by nobody again,
and by a limit:
``memory.limit_in_bytes`` of its cgroup (v1) is stepped down as long as few major
faults come, as Senpai does. The device, the cgroup and the process are gone at
the end, however it ends.

    .venv/bin/python benchmarks/bench_zram.py [--mib 512] [--seconds 60] [--json]

Throughput is accesses per CPU second of the working thread (a wait for zram is CPU
time of that thread), relative to that of the process beside it, so that other load
on the machine matters little; the spread of this ratio between the rests says how
little. By the wall clock it is printed, too; and what the process spent in the
kernel beyond what it did without tiering, where faults show.
"""

import argparse
import contextlib
import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import zram_workload as zw
from isotherm.hints.batch import AccessedBits
from isotherm.hints.live.page_out import PageOutSource
from isotherm.hints.live.pagemap_scan import (
    Category,
    expand,
    open_pagemap,
    scan_runs,
)
from isotherm.hotness.protocol import HotnessTracker
from isotherm.loop.epoch import Loop, run_epoch
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.targets.follow import Follower
from isotherm.migration.background import BackgroundEngine
from isotherm.policy.plan import Outcome, Setup
from isotherm.policy.reclaim import Reclaim
from zram_swap import ZramSwap, missing, zram_swap

CGROUPS = Path("/sys/fs/cgroup/memory")
EPOCH_S = 0.5
STALL_S = 4.6e-6  # of a touch of a page that is out
STALL_SHARE = 0.005


@dataclass
class Arm:
    """What one way of tiering did.

    Attributes:
        name: Which.
        saved: Of the memory that is never touched again, net of all of
            zram's own memory.
        out_never: Of that memory, what is out at the end.
        ratio: How much smaller zram made what it holds.
        loss: Of throughput, by the CPU time of the thread.
        loss_wall: By the wall clock.
        kernel: CPU time of the process in the kernel beyond that without tiering.
        hot_out: Hot pages that are out at the end, share of the hot ones.
        hot_moved: Hot pages that were put out by decision, share of all moves.
        hot_sampled: Hot pages put out to see whether they are, share of the hot.
        major_faults: Of the process.
        daemon_cpu: CPU time of this process, share of a core.
    """

    name: str
    saved: float = 0.0
    out_never: float = 0.0
    ratio: float = 0.0
    loss: float = 0.0
    loss_wall: float = 0.0
    kernel: float = 0.0
    hot_out: float = 0.0
    hot_moved: float = 0.0
    hot_sampled: float = 0.0
    major_faults: int = 0
    daemon_cpu: float = 0.0
    over_time: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Phase:
    """A workload during a phase, relative to the one beside.

    Attributes:
        by_cpu: Throughput by CPU time, relative.
        by_wall: By the wall clock, relative.
        alone: Accesses per CPU second, not relative.
        kernel: Share of its CPU time that it spent in the kernel.
    """

    by_cpu: float
    by_wall: float
    alone: float
    kernel: float


class Workload:
    """The process and what it says of itself."""

    def __init__(self, pid: int, buffer: mmap.mmap, pages: int) -> None:
        self.pid, self.pages, self._buffer = pid, pages, buffer
        self.header, self.counts, self.classes = zw.views(buffer, pages)

    @property
    def vpage(self) -> int:
        """First virtual page."""
        return int(self.header[zw.VPAGE])

    def reading(self) -> tuple[float, float, float]:
        """Return accesses, CPU seconds and seconds."""
        cpu_s, done = self.header[zw.CPU_NS] / 1e9, self.header[zw.ACCESSES]
        return float(done), float(cpu_s), time.monotonic()

    def out(self) -> Any:
        """Return which pages are out, bool[pages]."""
        found = np.zeros(self.pages, np.bool_)
        fd = open_pagemap(self.pid)
        try:
            end = self.vpage + self.pages
            runs = scan_runs(fd, self.vpage, end, all_of=Category.SWAPPED)
        finally:
            os.close(fd)
        found[expand(runs).astype(np.int64) - self.vpage] = True
        return found

    def times(self) -> tuple[float, float]:
        """Return seconds of CPU time in the kernel and in user space."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return int(fields[12]) / tick, int(fields[11]) / tick

    def major_faults(self) -> int:
        """Return major faults so far."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[9])

    def bring_back(self) -> None:
        """Fault all pages in, from outside."""
        page = np.flatnonzero(self.out()).astype(np.uint64) + np.uint64(self.vpage)
        with Process(self.pid) as process:
            process.touch(page)

    def release(self) -> None:
        """Let go of the shared file."""
        del self.header, self.counts, self.classes
        self._buffer.close()


@contextlib.contextmanager
def memory_cgroup() -> Iterator[Path | None]:
    """Give an empty cgroup of the v1 memory controller; None where there is none."""
    if not (CGROUPS / "memory.limit_in_bytes").exists():
        yield None
        return
    path = CGROUPS / f"isotherm-bench-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        deadline = time.monotonic() + 10
        while True:
            try:
                path.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextlib.contextmanager
def workload(pages: int, cgroup: Path | None, seed: int) -> Iterator[Workload]:
    """Start the process within the cgroup, filled and running; end it afterwards."""
    with tempfile.NamedTemporaryFile(prefix="isotherm-zram-") as file:
        file.truncate(zw.shared_bytes(pages))
        script = str(Path(__file__).with_name("zram_workload.py"))
        command = [sys.executable, script, file.name, str(pages), "900", str(seed)]
        if cgroup is not None:  # memory stays charged to where it was born
            enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
            command = ["/bin/sh", "-c", enter, str(cgroup), *command]
        child = subprocess.Popen(command)
        os.sched_setaffinity(child.pid, {max(os.sched_getaffinity(0))})
        buffer = mmap.mmap(file.fileno(), zw.shared_bytes(pages))
        found = Workload(child.pid, buffer, pages)
        try:
            deadline = time.monotonic() + 120
            while found.header[zw.STATE] == 0:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the workload did not start")
                time.sleep(0.05)
            yield found
            found.header[zw.STATE] = 2
            child.wait(60)
            if found.header[zw.STATE] != 3 or found.header[zw.WRONG]:
                raise RuntimeError(f"data is wrong: {found.header[zw.WRONG]} pages")
        finally:
            child.kill()
            child.wait()
            found.release()


def rest(seconds: float) -> Callable[[Workload], None]:
    """Return a phase in which nobody does anything."""
    return lambda _: time.sleep(seconds)


def throughput(
    load: Workload, beside: Workload, phase: Callable[[Workload], None]
) -> Phase:
    """Run a phase; return what was seen of the workload in it."""
    before, other_before = load.reading(), beside.reading()
    kernel, user = load.times()
    phase(load)
    after, other_after = load.reading(), beside.reading()
    kernel_after, user_after = load.times()
    done, cpu_s, wall_s = (b - a for a, b in zip(before, after, strict=True))
    other, other_cpu_s, other_wall_s = (
        b - a for a, b in zip(other_before, other_after, strict=True)
    )
    spent = kernel_after - kernel + user_after - user
    return Phase(
        done / cpu_s / (other / other_cpu_s),
        done / wall_s / (other / other_wall_s),
        done / cpu_s,
        (kernel_after - kernel) / spent,
    )


def run_isotherm(load: Workload, seconds: float, arm: Arm) -> None:
    """Let the loop put cold pages out: machine, source, policy, engine."""
    began_cpu = time.process_time()
    sampled = np.zeros(load.pages, np.bool_)
    moved_hot, moved = 0, 0
    with LinuxMachine(Follower((load.pid,))) as machine:
        epoch_ns = int(EPOCH_S * 1e9)
        source = PageOutSource(
            machine.space_map,
            machine.clock,
            sample_blocks=32,
            keep_out=True,
        )
        setup = Setup(
            machine.pages,
            machine.topology,
            machine.usage().capacity_pages,
            epoch_ns,
            1,
            frozenset(),
            options={"stall_share": STALL_SHARE},
        )
        at = np.array([load.vpage], np.uint64)
        base = int(machine.space_map.flat_pages(load.pid, at)[0])
        tracker: HotnessTracker | None = None
        with (
            source,
            BackgroundEngine(machine, epoch_ns=epoch_ns, hold_back_share=0.0) as engine,
        ):
            loop = Loop(
                machine, (source,), tracker, Reclaim(setup), engine, Outcome.none()
            )
            begin = time.monotonic()
            index = 0
            while (now := time.monotonic() - begin) < seconds:
                time.sleep(max(0.0, (index + 1) * EPOCH_S - now))
                step = run_epoch(loop, index, epoch_ns)
                page = (
                    step.outcome.page[step.outcome.errno == 0].astype(np.int64) - base
                )
                page = page[(page >= 0) & (page < load.pages)]
                moved += len(page)
                moved_hot += int((load.classes[page] == zw.HOT).sum())
                for batch in step.hints:
                    if not isinstance(batch.seen, AccessedBits):
                        continue
                    block = batch.seen.block.astype(np.int64) * 8 - base
                    block = block[(block >= 0) & (block < load.pages)]
                    sampled[(block[:, None] + np.arange(8)).ravel()] = True
                index += 1
                if index % 10 == 0:
                    out = float(load.out()[load.classes == zw.NEVER].mean())
                    arm.over_time.append((now, out))
    arm.hot_moved = moved_hot / max(moved, 1)
    arm.hot_sampled = float(sampled[load.classes == zw.HOT].mean())
    arm.daemon_cpu = (time.process_time() - began_cpu) / seconds


def run_limit(load: Workload, seconds: float, cgroup: Path) -> None:
    """Step the limit down while major faults are few, and up where they are not.

    A limit below what can be reclaimed at all would have the process killed: the
    killer is kept off, and the limit raised where the process waits for it.
    """
    oom = cgroup / "memory.oom_control"
    oom.write_text("1")
    whole = int((cgroup / "memory.usage_in_bytes").read_text())
    now, faults = whole, load.major_faults()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(EPOCH_S)
        latest = load.major_faults()
        waited = (latest - faults) * STALL_S / EPOCH_S
        faults = latest
        hungry = waited > STALL_SHARE or "under_oom 1" in oom.read_text()
        now = min(whole, now + round(whole * (0.05 if hungry else -0.01)))
        if not set_limit(cgroup, now):
            now = min(whole, now + round(whole * 0.05))
            set_limit(cgroup, now)


def set_limit(cgroup: Path, limit_bytes: int) -> bool:
    """Set the limit; return False where the kernel could not get that small."""
    fd = os.open(cgroup / "memory.limit_in_bytes", os.O_WRONLY)
    try:
        os.write(fd, str(limit_bytes).encode())
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    finally:
        os.close(fd)
    return True


def measure(load: Workload, swap: ZramSwap, arm: Arm) -> None:
    """Fill in what is out now."""
    out = load.out()
    never, hot = load.classes == zw.NEVER, load.classes == zw.HOT
    arm.out_never = float(out[never].mean())
    arm.hot_out = float(out[hot].mean())
    saved = float(out[never].sum() * 4096 - swap.used_bytes())
    arm.saved = saved / float(never.sum() * 4096)
    arm.ratio = swap.stored_bytes() / max(swap.used_bytes(), 1)


def run(
    mib: int,
    seconds: float,
    seed: int = 1,
    ways: tuple[str, ...] = ("isotherm", "limit"),
) -> dict[str, Any]:
    """Run the benchmark and return its figures.

    Raises:
        RuntimeError: Something is missing here, or data came back wrong.
    """
    pages = mib << 8
    base_s = max(4.0, seconds / 4)
    arms: list[Arm] = []
    with (
        zram_swap((mib * 5 // 4) << 20) as swap,
        memory_cgroup() as cgroup,
        workload(pages, cgroup, seed) as load,
        workload(pages, None, seed) as beside,
    ):
        bases = [throughput(load, beside, rest(base_s))]
        for name in ways:
            if name == "limit" and cgroup is None:
                continue
            arm = Arm(name)
            faults = load.major_faults()

            def phase(one: Workload, arm: Arm = arm) -> None:
                if arm.name == "isotherm":
                    run_isotherm(one, seconds, arm)
                elif cgroup is not None:
                    run_limit(one, seconds, cgroup)

            during = throughput(load, beside, phase)
            arm.major_faults = load.major_faults() - faults
            measure(load, swap, arm)
            if cgroup is not None:
                set_limit(cgroup, -1)
            load.bring_back()
            bases.append(throughput(load, beside, rest(base_s)))
            around = bases[-2:]
            cpu = float(np.mean([base.by_cpu for base in around]))
            wall = float(np.mean([base.by_wall for base in around]))
            arm.loss, arm.loss_wall = 1 - during.by_cpu / cpu, 1 - during.by_wall / wall
            arm.kernel = during.kernel - float(np.mean([b.kernel for b in around]))
            arms.append(arm)
    ratios = [base.by_cpu for base in bases]
    spread = float(np.ptp(ratios) / np.mean(ratios))
    return {
        "mib": mib,
        "seconds": seconds,
        "never_touched_again": zw.SHARES[zw.NEVER],
        "accesses_per_cpu_s": float(np.mean([base.alone for base in bases])),
        "base_spread": spread,
        "arms": [asdict(arm) for arm in arms],
    }


def render(result: dict[str, Any]) -> str:
    """Return the figures as a table."""
    alone = result["accesses_per_cpu_s"] / 1e6
    first = f"{result['mib']} MiB, {result['never_touched_again']:.0%} of it never "
    first += f"touched again, {result['seconds']:.0f} s each; {alone:.1f} M accesses "
    first += f"per CPU second alone, spread of the ratio {result['base_spread']:.1%}"
    head = f"{'':10} {'saved':>7} {'out':>7} {'ratio':>6} {'loss':>7} {'wall':>7} "
    head += f"{'kernel':>7} {'hot out':>8} {'hot moved':>10} {'sampled':>8} "
    head += f"{'faults':>8} {'CPU':>6}"
    lines = [first, "", head]
    lines += [
        f"{arm['name']:10} {arm['saved']:7.1%} {arm['out_never']:7.1%} "
        f"{arm['ratio']:6.2f} {arm['loss']:7.2%} {arm['loss_wall']:7.2%} "
        f"{arm['kernel']:7.2%} {arm['hot_out']:8.3%} {arm['hot_moved']:10.3%} "
        f"{arm['hot_sampled']:8.2%} "
        f"{arm['major_faults']:8d} {arm['daemon_cpu']:6.2%}"
        for arm in result["arms"]
    ]
    return "\n".join(lines)


def main() -> int:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    why = missing()
    if why:
        print(f"skipped: {why}", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    result = run(given.mib, given.seconds, given.seed)
    print(json.dumps(result, indent=1) if given.json else render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
