"""Placement on a real kernel: isotherm against the movers that Linux ships.

The same native workload (``isotherm.workloads.native``: gups whose hot set moves
after a third of the time) runs in the same emulated two-tier guest under one mover
after another, each in a guest of its own, and counts its accesses per page. So the
share that the fast node served is known, not estimated.

    python benchmarks/guest_quality.py                       # all runs, then the table
    python benchmarks/guest_quality.py --only isotherm --runs 1
    python benchmarks/guest_quality.py --table               # from what is there

Every run leaves one JSON file; those that exist are not run again. Movers:

none      nothing moves
kernel    numa_balancing=2 and demotion, everything else as the kernel has it
steered   ``isotherm run --mover kernel``: the same, within isotherm's limit
damo      DAMON's migrate_hot and migrate_cold by damo's own tiering preset
          (scripts/mem_tier.sh of damo; needs Linux 6.16): node_mem_used_bp goals
isotherm  ``isotherm run --cgroup``, its own memory on the slow node

Each mover is at work before the workload's first access; then the workload joins
the cgroup that isotherm manages. Emulated tiers are equally fast: this judges
placement, not speed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ("isotherm", "kernel", "steered", "damo", "none")
DAMO = "damo==3.4.3"
WINDOW_S = 2.0
#: A placement is reached when it serves this share of the best one's accesses.
REACHED = 0.95
#: And held for so many windows.
HELD = 2

MEMORY_MIB = "512,1024"
#: Emulated code takes some 20 to 50 times as long (benchmarks/bench_vmtest.py): so
#: do the latencies that the firmware claims, 2.5 and 10 us for 100 and 400 ns.
SLOW_MOTION = 25
#: What is left free of node 0 before the workload starts, by reserving huge pages
#: there. The best placement is given all of it, though the interpreter that runs the
#: workload has pages, too: as many, on the fast node at first, most of them cold.
NODE0_FREE_MIB = 60
#: What the kernel keeps free is 0.7 % of so small a node, and more than the goals of
#: damo's preset ask for: neither of its schemes would ever act. On a large machine it
#: is 0.1 %; so it is here for damo. The kernel's own mover gets stuck sooner with it.
DAMO_MIN_FREE_KIB = "1024"
#: And the quotas of its schemes grow from one byte on, by as much as a goal is from
#: being met: on a node that is all but full, by 0.2 % a second, for ever too little.
#: So damo begins while the node is half empty, this long before the rest is taken.
DAMO_SETTLES_S = 40.0
WARM_UP_S = 60.0
WORKLOAD = {
    "pages": 40_000,
    "rate": 10.0,
    "hot_pages": 0.15,
    "hot_share": 0.9,
    "contiguity": 64,
    "shift_s": 30.0,
    "duration_s": 90.0,
}
#: Emulated code takes so much longer that 2 % of a core is no budget to speak of, and
#: a busy host's other work counts as the daemon's: it may take what it needs.
ISOTHERM_CONFIG = """\
[budget]
cpu_percent = 400.0
"""
#: As damo's scripts/mem_tier.sh has them, in its order.
DAMO_START = (
    "start --numa_node 0 --monitoring_intervals_goal 4% 3 5ms 10s"
    " --damos_action migrate_cold 1 --damos_access_rate 0% 0%"
    " --damos_apply_interval 1s --damos_quota_interval 1s --damos_quota_space 200MB"
    " --damos_quota_goal node_mem_free_bp 0.5% 0 --damos_filter reject young"
    " --numa_node 1 --monitoring_intervals_goal 4% 3 5ms 10s"
    " --damos_action migrate_hot 0 --damos_access_rate 5% max"
    " --damos_apply_interval 1s --damos_quota_interval 1s --damos_quota_space 200MB"
    " --damos_quota_goal node_mem_used_bp 99.7% 0 --damos_filter allow young"
    " --damos_nr_quota_goals 1 1 --damos_nr_filters 1 1"
    " --nr_targets 1 1 --nr_schemes 1 1 --nr_ctxs 1 1"
)
CGROUP = Path("/sys/fs/cgroup/bench")
SHM = Path("/dev/shm")  # noqa: S108  # the guest is ours alone
SET_MEMPOLICY = 238  # x86-64


# -- in the guest ----------------------------------------------------------


def inside(policy: str, run: int, out: Path, damo: Path) -> None:
    """Run one mover once and write what was measured."""
    kernels = os.environ.get("ISOTHERM_KERNELS", "numba")
    os.environ["ISOTHERM_KERNELS"] = "numpy"  # in this process: numba starts slowly
    from isotherm.workloads.native.truth import TruthReader  # noqa: PLC0415

    for name, value in (
        ("/proc/sys/kernel/numa_balancing", "0"),
        ("/sys/kernel/mm/numa/demotion_enabled", "false"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
        ("/sys/module/damon_stat/parameters/enabled", "N"),
        *((("/proc/sys/vm/min_free_kbytes", DAMO_MIN_FREE_KIB),) * (policy == "damo")),
    ):
        if Path(name).exists():
            Path(name).write_text(value)
    CGROUP.mkdir()
    mover = _start(policy, out, damo, kernels)
    _reserve()
    print(f"{policy} {run}: ready", flush=True)
    truth_path = SHM / "truth"
    with _workload(truth_path, run, kernels) as workload:
        _await(truth_path.exists, "the workload's truth file")
        reader = TruthReader(truth_path)
        reader.wait_until_running(300)
        (CGROUP / "cgroup.procs").write_text(str(workload.pid))
        settings = _settings()
        windows, counters = _follow(reader)
        after = _settings()
        _stop(policy, mover, damo)
        text, _ = workload.communicate(timeout=300)
    document = {
        "policy": policy,
        "run": run,
        "kernel": os.uname().release,
        "workload": WORKLOAD,
        "memory_mib": MEMORY_MIB,
        "node0_free_mib": NODE0_FREE_MIB,
        "slow_motion": SLOW_MOTION,
        "settings": settings,
        "settings_after": after,
        "workload_result": json.loads(text),
        "windows": windows,
        "vmstat": counters,
    }
    result = out / f"{policy}-{run}.json"
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.rename(result)


def _reserve() -> None:
    """Reserve huge pages on node 0, which no mover moves, until little is free."""
    node = Path("/sys/devices/system/node/node0")
    for name in ("drop_caches", "compact_memory"):
        Path("/proc/sys/vm", name).write_text("1")
    for line in (node / "meminfo").read_text().splitlines():
        if "MemFree:" in line:
            spare_mib = int(line.split()[3]) // 1024 - NODE0_FREE_MIB
    (node / "hugepages/hugepages-2048kB/nr_hugepages").write_text(
        str(max(0, spare_mib // 2))
    )


def _workload(truth: Path, run: int, kernels: str) -> "subprocess.Popen[str]":
    words = [f"{name}={WORKLOAD[name]}" for name in ("hot_pages", "hot_share")]
    words += [f"{name}={WORKLOAD[name]}" for name in ("contiguity", "shift_s")]
    return subprocess.Popen(
        [
            sys.executable,
            *("-m", "isotherm.workloads.native", "gups-shift"),
            *("--pages", str(WORKLOAD["pages"]), "--rate", str(WORKLOAD["rate"])),
            *("--duration", str(WORKLOAD["duration_s"]), "--seed", str(run)),
            *(part for word in words for part in ("--set", word)),
            *("--truth", str(truth), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ISOTHERM_KERNELS": kernels},
    )


def _start(
    policy: str, out: Path, damo: Path, kernels: str
) -> "subprocess.Popen[bytes] | None":
    """Start a mover and return when it is at work, before there is a workload."""
    if policy == "kernel":
        Path("/proc/sys/kernel/numa_balancing").write_text("2")
        Path("/sys/kernel/mm/numa/demotion_enabled").write_text("true")
    elif policy == "damo":
        _damo(damo, *DAMO_START.split())
        time.sleep(DAMO_SETTLES_S)
    elif policy in {"isotherm", "steered"}:
        config = SHM / "isotherm.toml"
        config.write_text(ISOTHERM_CONFIG)
        log = (out / "isotherm.log").open("ab")
        mover = subprocess.Popen(
            [
                sys.executable,
                *("-m", "isotherm", "run", "--cgroup", str(CGROUP), "--json"),
                *("--config", str(config)),
                *(("--mover", "kernel") if policy == "steered" else ()),
            ],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "ISOTHERM_KERNELS": kernels,
                "ISOTHERM_DEBUG": "1",
            },
            preexec_fn=_prefer_slow,  # noqa: PLW1509  # one thread
        )

        # The kernel's movers answer nothing, so there is no socket.
        pattern = "run-*.sock" if policy == "isotherm" else "run-*.json"

        def ready() -> bool:
            if mover.poll() is not None:
                sys.exit(f"isotherm run ended: {(out / 'isotherm.log').read_text()}")
            return any(Path("/run/isotherm").glob(pattern))

        _await(ready, "isotherm run is at work")
        return mover
    return None


def _prefer_slow() -> None:
    """Have this process's memory on node 1: a daemon need not sit in fast memory."""
    import ctypes  # noqa: PLC0415  # in the child only

    mask = ctypes.c_ulong(1 << 1)
    ctypes.CDLL(None).syscall(SET_MEMPOLICY, 1, ctypes.byref(mask), 64)


def _stop(policy: str, mover: "subprocess.Popen[bytes] | None", damo: Path) -> None:
    if mover is not None:
        if mover.poll() is not None:
            sys.exit(f"isotherm run ended by itself with {mover.returncode}")
        mover.terminate()
        mover.wait(120)
    if policy == "damo":
        _damo(damo, "stop")


def _damo(damo: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from damo.damo import main; main()", *words],
        env={**os.environ, "PYTHONPATH": str(damo)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"damo {words[0]}: {done.stdout}{done.stderr}")


def _follow(reader: Any) -> tuple[list[dict[str, Any]], list[dict[str, int]]]:
    """Return every window until the workload ends, with the kernel's counters."""
    from dataclasses import asdict  # noqa: PLC0415

    from isotherm.core.errors import TargetGoneError  # noqa: PLC0415

    windows, counters = [], [_vmstat()]
    before = reader.snapshot()
    end = WORKLOAD["duration_s"]
    while True:
        time.sleep(WINDOW_S)
        try:
            after = reader.snapshot()
        except TargetGoneError:
            break
        window = reader.window(before, after, NODE0_FREE_MIB << 8)
        windows.append(asdict(window))
        counters.append(_vmstat())
        before = after
        if len(windows) % 10 == 0:
            print(
                f"{window.to_s:6.1f} s  phase {window.phase}"
                f"  fast {window.fast_share:.3f}  best {window.best_share:.3f}"
                f"  {window.accesses_per_s:,.0f}/s"
                f"  {_migrated(counters[0], counters[-1])} moved",
                flush=True,
            )
        if window.to_s >= end - WINDOW_S:
            break
    return windows, counters


def _vmstat() -> dict[str, int]:
    names = ("pgmigrate", "pgpromote", "pgdemote", "numa_", "pswp", "thp_migr")
    rows = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in rows if name.startswith(names)}


def _migrated(first: dict[str, int], last: dict[str, int]) -> int:
    return last["pgmigrate_success"] - first["pgmigrate_success"]


def _settings() -> dict[str, str]:
    """Return what decides how memory is moved, as files say it."""
    found = {}
    for name in (
        "/proc/sys/kernel/numa_balancing",
        "/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps",
        "/sys/kernel/mm/numa/demotion_enabled",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/sys/vm/watermark_scale_factor",
        "/proc/sys/vm/min_free_kbytes",
        "/sys/kernel/debug/sched/numa_balancing/hot_threshold_ms",
        "/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms",
        "/sys/kernel/debug/sched/numa_balancing/scan_size_mb",
    ):
        if Path(name).exists():
            found[name] = Path(name).read_text().strip()
    top = Path("/sys/kernel/mm/damon/admin/kdamonds")
    for state in top.glob("*/state"):
        if state.read_text().strip() == "on":
            state.write_text("update_schemes_stats")
    for pattern in (
        "*/state",
        "*/contexts/*/operations",
        "*/contexts/*/monitoring_attrs/intervals/*_us",
        "*/contexts/*/monitoring_attrs/nr_regions/*",
        "*/contexts/*/schemes/*/action",
        "*/contexts/*/schemes/*/target_nid",
        "*/contexts/*/schemes/*/stats/*",
    ):
        for path in sorted(top.glob(pattern)):
            found[str(path)] = path.read_text().strip()
    return found


def _await(ready: Any, what: str, limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > end:
            sys.exit(f"not within {limit_s:g} s: {what}")
        time.sleep(0.1)


# -- outside ---------------------------------------------------------------


def run_all(args: argparse.Namespace) -> None:
    """Run what is not there yet, one guest after another."""
    args.out.mkdir(parents=True, exist_ok=True)
    damo = args.out / "damo"
    if "damo" in args.policies and not damo.is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", damo, DAMO],
            check=True,
        )
    warm_up = args.out / "warm-up"
    if "isotherm" in args.policies and args.kernels == "numba" and not warm_up.exists():
        # Emulated code compiles for half a minute, once: not what is measured.
        warm_up.mkdir()
        _run_guest(args, "isotherm", 0, warm_up, WARM_UP_S)
    for run in range(1, args.runs + 1):
        for policy in args.policies:
            if not (args.out / f"{policy}-{run}.json").exists():
                _run_guest(args, policy, run, args.out, args.duration)


def _run_guest(
    args: argparse.Namespace, policy: str, run: int, out: Path, duration_s: float
) -> None:
    """Boot a guest and run one mover in it once."""
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "vmtest", "--kernel", args.kernel, "--layout", "two-tier"),
            *("--memory", MEMORY_MIB, "--slow-motion", str(SLOW_MOTION)),
            *("--share", str(args.out), "--limit", str(args.limit)),
            *("--env", f"ISOTHERM_KERNELS={args.kernels}"),
            *("--", sys.executable, str(Path(__file__).resolve())),
            *("--inside", policy, str(run), "--out", str(out)),
            *("--duration", str(duration_s)),
        ],
        cwd=ROOT,
        check=False,
    )
    took = time.monotonic() - began
    print(f"{policy} {run}: exit {done.returncode}, {took:.0f} s", flush=True)


def measure(document: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures of one run.

    ``steady``: share of the best placement's accesses that the last third of the
    time before the shift served. ``reach_s`` and ``recover_s``: seconds from the
    start and from the shift until 0.95 of the best placement is served, and held;
    None: not before the phase ended. ``moved_per_point``: pages migrated in the
    first phase by anybody, per percentage point of fast share gained.
    """
    windows = document["windows"]
    first = [w for w in windows if w["phase"] == 0]
    second = [w for w in windows if w["phase"] == 1]
    best = [first[-1]["best_share"], second[-1]["best_share"]]
    late = first[-len(first) // 3 :]
    steady = statistics.fmean(w["fast_share"] for w in late)
    late = second[-len(second) // 3 :]
    again = statistics.fmean(w["fast_share"] for w in late)
    counters = document["vmstat"]
    moved = _migrated(counters[0], counters[len(first)])
    gained = 100 * (steady - first[0]["fast_share"])
    shift = document["workload"]["shift_s"]
    return {
        "start": first[0]["fast_share"] / best[0],
        "steady": steady / best[0],
        "steady_after": again / best[1],
        "best": best[0],
        "reach_s": _reached(first, best[0], windows[0]["from_s"]),
        "recover_s": _reached(second, best[1], shift),
        "moved": float(moved),
        "moved_all": float(_migrated(counters[0], counters[-1])),
        "moved_per_point": moved / gained if gained > 1 else None,
        "accesses_per_s": statistics.fmean(w["accesses_per_s"] for w in windows),
    }


def _reached(windows: list[dict[str, Any]], best: float, since: float) -> float | None:
    good = [w["fast_share"] >= REACHED * best for w in windows]
    for at in range(len(good) - HELD + 1):
        if all(good[at : at + HELD]):
            return float(windows[at]["to_s"] - since)
    return None


EXPLAINED = (
    "Shares are of what the best placement that never changes would have served, with"
    " all that was left of the fast node, counted by the workload itself. *Steady*:"
    " the last third before the shift; *after*: the last third of the time after it."
    " *Reached* and *recovered*: seconds from the start and from the shift until 0.95"
    " of the best placement is served, and held. *Moved*: every page that the kernel"
    " migrated (pgmigrate_success), for anybody; per point: before the shift, for each"
    " point of fast share gained since the first window of two seconds. *Accesses*:"
    " the workload asks for {asked:,.0f} a second and gets fewer where a mover takes"
    " its CPU time. Median, and in brackets the least and the most, of the runs."
    " Emulated tiers are equally fast: placement is judged, not speed. The firmware"
    " claims latencies of 100 and 400 ns times {slow}, as emulated code takes longer."
)


def write_table(out: Path, target: Path) -> None:
    """Write the table of the medians, with spread and settings."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*-*.json")):
        document = json.loads(path.read_text())
        runs.setdefault(document["policy"], []).append(document)
    if not runs:
        sys.exit(f"{out}: no runs")
    some = next(iter(runs.values()))[0]
    work = some["workload"]
    mib = work["pages"] // 256
    capacity = some["windows"][0]["capacity_pages"]
    what = (
        f"Linux {some['kernel']} in an emulated guest, nodes of"
        f" {some['memory_mib'].replace(',', ' and ')} MiB, all but"
        f" {some['node0_free_mib']} MiB of the fast one taken; gups on {mib} MiB, of"
        f" which {capacity / work['pages']:.0%} fit into the fast node;"
        f" {work['hot_share']:.0%} of the accesses go to"
        f" {work['hot_pages']:.0%} of the pages in chunks of {work['contiguity']};"
        f" {work['rate']:g} accesses a page and second; the hot set moves at"
        f" {work['shift_s']:g} s of {work['duration_s']:g}. Pages of 4 KiB only."
    )
    columns = ["mover", "runs", "steady", "after the shift", "reached", "recovered"]
    columns += ["moved per point", "moved in all", "accesses/s"]
    explained = EXPLAINED.format(
        asked=work["pages"] * work["rate"], slow=some.get("slow_motion", SLOW_MOTION)
    )
    lines = ["# Placement on a real kernel", "", what, "", explained, ""]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for policy in (name for name in POLICIES if name in runs):
        found = [measure(document) for document in runs[policy]]
        cells = [
            _cell(found, "steady", "{:.3f}"),
            _cell(found, "steady_after", "{:.3f}"),
            _cell(found, "reach_s", "{:.0f} s", work["shift_s"]),
            _cell(found, "recover_s", "{:.0f} s", work["duration_s"] - work["shift_s"]),
            _cell(found, "moved_per_point", "{:.0f}"),
            _cell(found, "moved_all", "{:.0f}"),
            _cell(found, "accesses_per_s", "{:,.0f}"),
        ]
        lines.append(f"| {policy} | {len(found)} | {' | '.join(cells)} |")
    lines += ["", "## Settings", ""]
    for policy in (name for name in POLICIES if name in runs):
        lines += [f"**{policy}**", "", "```text"]
        if policy == "isotherm":
            lines += ISOTHERM_CONFIG.splitlines()
        if policy == "damo":
            lines.append(f"damo {DAMO_START}")
        said = runs[policy][0]["settings_after" if policy == "damo" else "settings"]
        lines += [f"{name}: {value}" for name, value in said.items()]
        lines += ["```", ""]
    lines.append(
        "Made by `python benchmarks/guest_quality.py`. isotherm's CPU budget is as good"
        " as off: emulation makes code 20 to 50 times slower, and counts other work of"
        " the host as the daemon's. All else of it is as it comes, the brake included."
        f" For damo min_free_kbytes is {DAMO_MIN_FREE_KIB}, and it has run for"
        f" {DAMO_SETTLES_S:g} s before the fast node is filled: with what the kernel"
        " keeps free of so small a node its goals are met from the beginning, and its"
        " quotas, which grow from one byte, stay at that; it would move nothing."
    )
    target.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:20]))


def _cell(
    found: list[dict[str, float | None]], name: str, form: str, within_s: float = 0
) -> str:
    """Return the median of the runs with least and most, or that most have none."""
    values = sorted(v for row in found if (v := row[name]) is not None)
    missing = len(found) - len(values)
    if missing > len(found) // 2:
        how_often = f" in {missing} of {len(found)}" if values else ""
        return f"not within {within_s:.0f} s{how_often}" if within_s else "-"
    most = form.format(values[-1])
    if missing and within_s:  # later than all that were reached
        values += [values[-1]] * missing
        most = f"not within {within_s:.0f} s"
    middle = form.format(statistics.median(values))
    if len(found) == 1:
        return middle
    return f"{middle} ({form.format(values[0])} to {most})"


def main() -> None:
    """Run, or make the table, as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(POLICIES), help="movers, by comma")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kernel", default="newer", help="vmtest's --kernel")
    parser.add_argument("--kernels", default="numba", help="ISOTHERM_KERNELS there")
    parser.add_argument("--out", type=Path, default=ROOT / "out/guest-quality")
    parser.add_argument("--limit", type=int, default=900, help="seconds a guest")
    parser.add_argument(
        "--duration", type=float, default=WORKLOAD["duration_s"], help="seconds a run"
    )
    parser.add_argument("--table", action="store_true", help="only make the table")
    parser.add_argument("--inside", nargs=2, metavar=("MOVER", "RUN"))
    args = parser.parse_args()
    args.out = args.out.resolve()
    WORKLOAD.update(duration_s=args.duration, shift_s=args.duration / 3)
    if args.inside:
        inside(args.inside[0], int(args.inside[1]), args.out, args.out / "damo")
        return
    args.policies = args.only.split(",")
    if not args.table:
        run_all(args)
    write_table(args.out, ROOT / "docs/results/guest-quality.md")


if __name__ == "__main__":
    main()
