"""Cold memory of a skewed workload goes to zram: what is saved, and what it costs.

Root, a kernel with zram and no swap in use. Two processes of one kind work all the
time, on one CPU, so that they meet the same weather. Nobody puts out memory of the
one. That of the other is put out by isotherm, brought back, and put out by a limit:
``memory.limit_in_bytes`` of its cgroup (v1) is stepped down as long as few major
faults come, as Senpai does. The device, the cgroup and the processes are gone at
the end, however it ends.

    .venv/bin/python benchmarks/bench_zram.py [--mib 512] [--seconds 60] [--json]
                                              [--publish]

Whoever puts out works in slices of 5 s and rests for as long in between. Throughput
is accesses per CPU second of the working thread (a wait for zram is CPU time of that
thread), relative to that of the process beside it. Every slice is compared with the
rests before and after it; the loss is the median, with its standard error as the
quartiles give it: other load on the machine matters little then. What it costs that
pages stay out shows in the rests as well: the time that the process spent in the
kernel, beyond that before anything went out, is printed for the whole arm.
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
from collections.abc import Iterator
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
from publish import markdown, processor, publish
from zram_swap import ZramSwap, missing, zram_swap

PAGE = Path(__file__).parents[1] / "docs/reference/compressed-tier.md"
CGROUPS = Path("/sys/fs/cgroup/memory")
EPOCH_S = 1.0
STEP_S = 0.5  # of the limit
STALL_S = 4.6e-6  # of a touch of a page that is out
STALL_SHARE = 0.005
SLICE_S = 5.0


@dataclass
class Arm:
    """What one way of tiering did.

    Attributes:
        name: Which.
        saved: Of the memory that is never touched again, net of all of
            zram's own memory.
        out_never: Of that memory, what is out at the end.
        ratio: How much smaller zram made what it holds.
        loss: Of throughput while pages were put out.
        loss_error: Its standard error.
        kernel: CPU time of the process in the kernel beyond that without tiering.
        hot_out: Hot pages that are out at the end, share of the hot ones.
        hot_moved: Hot pages that were put out by decision, share of all moves.
        hot_sampled: Hot pages put out to see whether they are, share of the hot.
        major_faults: Of the process.
        daemon_cpu: CPU time of this process while it worked, share of a core.
        start_cpu_s: CPU seconds before the first epoch, once.
        cpu_of: Parts of that share: where CPU time went.
    """

    name: str
    saved: float = 0.0
    out_never: float = 0.0
    ratio: float = 0.0
    loss: float = 0.0
    loss_error: float = 0.0
    kernel: float = 0.0
    hot_out: float = 0.0
    hot_moved: float = 0.0
    hot_sampled: float = 0.0
    major_faults: int = 0
    daemon_cpu: float = 0.0
    start_cpu_s: float = 0.0
    cpu_of: dict[str, float] = field(default_factory=dict)
    over_time: list[tuple[float, float]] = field(default_factory=list)


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


class Slices:
    """Turns of work and rest, and the throughput in each.

    Args:
        load: Whose memory is put out.
        beside: The process to compare it with.
        seconds: Of work in all.
    """

    def __init__(self, load: Workload, beside: Workload, seconds: float) -> None:
        self.load, self.beside = load, beside
        self.turns = 1 + 2 * max(3, round(seconds / SLICE_S))
        self.ratio: list[float] = []
        self.alone: list[float] = []
        self._began = time.monotonic()
        self._before = self._read()

    def _read(self) -> tuple[float, ...]:
        return (*self.load.reading(), *self.beside.reading())

    @property
    def over(self) -> bool:
        """Whether the last turn, a rest, has ended."""
        return len(self.ratio) >= self.turns

    def working(self) -> bool:
        """Return whether this is a turn of work; closes turns that have ended."""
        turn = int((time.monotonic() - self._began) / SLICE_S)
        if turn > len(self.ratio) and not self.over:
            after = self._read()
            done, cpu_s, _, other, other_cpu_s, _ = (
                b - a for a, b in zip(self._before, after, strict=True)
            )
            self._before = after
            self.ratio.append(done / cpu_s / (other / other_cpu_s))
            self.alone.append(done / cpu_s)
        return len(self.ratio) % 2 == 1 and not self.over

    def loss(self) -> tuple[float, float]:
        """Return the median loss of throughput, and its standard error."""
        ratio = np.array(self.ratio)
        lost = 1 - ratio[1:-1:2] / ((ratio[:-2:2] + ratio[2::2]) / 2)
        low, high = np.percentile(lost, [25, 75])
        error = 1.253 * (high - low) / 1.349 / np.sqrt(len(lost))
        return float(np.median(lost)), float(error)


class Spent:
    """CPU time of the loop's thread, by what it was spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what a block takes."""
        began = time.thread_time()
        try:
            yield
        finally:
            took = time.thread_time() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took

    def watch(self, loop: Loop) -> None:
        """Count what the parts of a loop take."""
        source = loop.sources[0]
        for owner, method, name in (
            (loop.machine, "refresh", "mappings and placement"),
            (source, "look", "putting samples out"),
            (source, "drain", "reading samples"),
            (loop.policy, "decide", "deciding"),
        ):
            setattr(owner, method, self._counted(getattr(owner, method), name))

    def _counted(self, call: Any, name: str) -> Any:
        def counted(*given: Any) -> Any:
            with self.of(name):
                return call(*given)

        return counted

    def parts(self, whole_s: float) -> dict[str, float]:
        """Return seconds by part: what ran beside the loop put pages out."""
        found = dict(self.seconds)
        loop_s = found.pop("loop", 0.0)
        rest_s = loop_s - sum(found.values())
        return {**found, "the rest of an epoch": rest_s, "moves": whole_s - loop_s}


def run_isotherm(load: Workload, slices: Slices, arm: Arm) -> None:
    """Let the loop put cold pages out: machine, source, policy, engine."""
    began_cpu = time.process_time()
    spent = Spent()
    sampled = np.zeros(load.pages, np.bool_)
    moved_hot, moved = 0, 0
    with LinuxMachine(Follower((load.pid,))) as machine:
        epoch_ns = int(EPOCH_S * 1e9)
        source = PageOutSource(
            machine.space_map,
            machine.clock,
            sample_blocks=round(64 * EPOCH_S),
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
            index = 0
            latest = begin = time.monotonic()
            spent.watch(loop)
            arm.start_cpu_s = time.process_time() - began_cpu
            began_cpu = time.process_time()
            own_cpu = 0.0  # of what the benchmark itself looks at
            while not slices.over:
                time.sleep(EPOCH_S)
                if not slices.working():
                    continue
                now = time.monotonic()
                with spent.of("loop"):
                    step = run_epoch(loop, index, round((now - latest) * 1e9))
                latest = now
                looked = time.thread_time()
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
                    arm.over_time.append((now - begin, out))
                own_cpu += time.thread_time() - looked
            cpu_s = time.process_time() - began_cpu - own_cpu
    arm.hot_moved = moved_hot / max(moved, 1)
    arm.hot_sampled = float(sampled[load.classes == zw.HOT].mean())
    worked_s = index * EPOCH_S
    arm.daemon_cpu = cpu_s / worked_s
    arm.cpu_of = {name: s / worked_s for name, s in spent.parts(cpu_s).items()}


def run_limit(load: Workload, slices: Slices, cgroup: Path) -> None:
    """Step the limit down while major faults are few, and up where they are not.

    A limit below what can be reclaimed at all would have the process killed: the
    killer is kept off, and the limit raised where the process waits for it.
    """
    oom = cgroup / "memory.oom_control"
    oom.write_text("1")
    whole = int((cgroup / "memory.usage_in_bytes").read_text())
    now, faults = whole, load.major_faults()
    while not slices.over:
        time.sleep(STEP_S)
        if not slices.working() and "under_oom 1" not in oom.read_text():
            faults = load.major_faults()
            continue
        latest = load.major_faults()
        waited = (latest - faults) * STALL_S / STEP_S
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
    arms: list[Arm] = []
    alone: list[float] = []
    with (
        zram_swap((mib * 5 // 4) << 20) as swap,
        memory_cgroup() as cgroup,
        workload(pages, cgroup, seed) as load,
        workload(pages, None, seed) as beside,
    ):
        time.sleep(1.0)
        times = load.times()
        time.sleep(4.0)
        idle_kernel = kernel_share(times, load.times())
        for name in ways:
            if name == "limit" and cgroup is None:
                continue
            arm = Arm(name)
            faults, times = load.major_faults(), load.times()
            slices = Slices(load, beside, seconds)
            if name == "isotherm":
                run_isotherm(load, slices, arm)
            elif cgroup is not None:
                run_limit(load, slices, cgroup)
            arm.loss, arm.loss_error = slices.loss()
            arm.kernel = kernel_share(times, load.times()) - idle_kernel
            arm.major_faults = load.major_faults() - faults
            measure(load, swap, arm)
            alone += slices.alone[::2]
            if cgroup is not None:
                set_limit(cgroup, -1)
            load.bring_back()
            arms.append(arm)
    return {
        "mib": mib,
        "seconds": seconds,
        "never_touched_again": zw.SHARES[zw.NEVER],
        "accesses_per_cpu_s": float(np.median(alone)),
        "arms": [asdict(arm) for arm in arms],
    }


def kernel_share(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the share of CPU time in the kernel between two readings of times."""
    kernel, user = (b - a for a, b in zip(before, after, strict=True))
    return kernel / max(kernel + user, 1e-9)


def render(result: dict[str, Any]) -> str:
    """Return the figures as a table."""
    alone = result["accesses_per_cpu_s"] / 1e6
    first = f"{result['mib']} MiB, {result['never_touched_again']:.0%} of it never "
    first += f"touched again, {result['seconds']:.0f} s each; {alone:.1f} M accesses "
    first += "per CPU second"
    head = f"{'':10} {'saved':>7} {'out':>7} {'ratio':>6} {'loss':>16} "
    head += f"{'kernel':>7} {'hot out':>8} {'hot moved':>10} {'sampled':>8} "
    head += f"{'faults':>8} {'CPU':>6}"
    lines = [first, "", head]
    lines += [
        f"{arm['name']:10} {arm['saved']:7.1%} {arm['out_never']:7.1%} "
        f"{arm['ratio']:6.2f} {arm['loss']:7.2%} ± {arm['loss_error']:6.2%} "
        f"{arm['kernel']:7.2%} {arm['hot_out']:8.3%} {arm['hot_moved']:10.3%} "
        f"{arm['hot_sampled']:8.2%} "
        f"{arm['major_faults']:8d} {arm['daemon_cpu']:6.2%}"
        for arm in result["arms"]
    ]
    for arm in result["arms"]:
        if arm["cpu_of"]:
            parts = sorted(arm["cpu_of"].items(), key=lambda part: -part[1])
            said = ", ".join(f"{name} {share:.2%}" for name, share in parts)
            lines += ["", f"CPU of {arm['name']}: {said};"]
            lines += [f"before the first epoch once {arm['start_cpu_s']:.2f} s"]
    return "\n".join(lines)


def published(result: dict[str, Any]) -> str:
    """Return what stands in docs/reference/compressed-tier.md."""
    names = {
        "isotherm": "isotherm",
        "limit": "`memory.limit_in_bytes`, stepped",
    }
    rows = [
        [
            names[arm["name"]],
            f"{arm['saved']:.1%}",
            f"{arm['out_never']:.0%}",
            f"{arm['ratio']:.2f}",
            f"{arm['loss']:.1%} ± {arm['loss_error']:.1%}",
            f"{arm['kernel']:.1%}",
            f"{arm['hot_moved']:.2%}",
            f"{arm['hot_sampled']:.0%}",
            f"{arm['major_faults']:,}",
            f"{arm['daemon_cpu']:.1%}" if arm["cpu_of"] else "",
        ]
        for arm in result["arms"]
    ]
    head = ["", "saved, net of zram's own memory", "of it out", "ratio"]
    head += ["loss of throughput", "in the kernel", "moves of hot pages"]
    head += ["hot pages sampled", "major faults", "CPU of who does it, of a core"]
    text = markdown(head, rows)
    for arm in result["arms"]:
        if arm["cpu_of"]:
            parts = sorted(arm["cpu_of"].items(), key=lambda part: -part[1])
            said = ", ".join(f"{name} {share:.2%}" for name, share in parts)
            text += f"\n\nWhere the CPU time of {arm['name']} goes, of a core: {said}. "
            text += f"Before the first epoch, once: {arm['start_cpu_s']:.2f} s."
    load = os.getloadavg()[0]
    return f"{text}\n\nLinux {os.uname().release}, {processor()}, load {load:.0f}."


def main() -> int:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    why = missing()
    if why:
        print(f"skipped: {why}", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    result = run(given.mib, given.seconds, given.seed)
    print(json.dumps(result, indent=1) if given.json else render(result))
    if given.publish:
        publish("zram", published(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
