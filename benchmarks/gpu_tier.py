"""The accelerator tier on a GPU: what it reaches of what the device can do.

    make gpu && .venv-gpu/bin/python benchmarks/gpu_tier.py [--out FILE] [--budget S]
    .venv/bin/python benchmarks/gpu_tier.py --tiny --backend numpy    (no GPU, no torch)

One run on one GPU, at most eight minutes. It measures the device's and the bus'
ceilings first and judges everything by them, compares our gather with what else reads
such a table, our policy with an oracle, with 32-way LRU and LFU caches and with FBGEMM
where that can be imported, through stationary and changing workloads, KV blocks, and
beside a product; and looks for torn reads with the rules on and off. Some batches of
every row are compared with the table, word by word.

Each row is written to FILE as soon as it is known. A wall-clock guard leaves out what
does not fit into the budget, and the end says what. ``--tiny`` runs all of it on a
small table, on the CPU too; rows then say so and are no measurements of a device.
Exit code 1: wrong words, torn reads, or a control that saw nothing; on a GPU also a
missed bar.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from gpu_ceilings import Ceilings, fill
from gpu_contenders import (
    Contender,
    CpuGather,
    Fbgemm,
    Ours,
    SetCache,
    Static,
    UvaSelect,
)
from gpu_data import (
    TINY,
    Rig,
    Scale,
    Table,
    Zipf,
    hit_rate,
    installed,
    rows_geometry,
)
from gpu_report import Report, facts_of, verdict
from gpu_workloads import (
    read_all,
    run_beside_matmul,
    run_blocks,
    run_policy,
)
from isotherm.gpu.backend import Geometry, Launch

# -- sections --------------------------------------------------------------------


class Benchmark:
    """The sections over one table."""

    def __init__(self, rig: Rig, table: Table, report: Report) -> None:
        self.rig, self.table, self.report = rig, table, report
        self.scale = rig.scale
        self.ceilings = Ceilings(rig, table, report.add)
        self.fbgemm: str | None = None if installed("fbgemm_gpu") else "not installed"
        if not rig.cuda:
            self.fbgemm = "needs CUDA"
        elif rig.refused is not None:
            self.report.skip(f"zero-copy: {rig.refused}: all is staged by the CPU")

    def ceilings_section(self) -> None:
        """Copies, programs, gathers."""
        self.ceilings.copies()
        self.ceilings.programs()
        for i, row_bytes in enumerate(self.scale.row_bytes):
            if self.report.may(f"ceilings of rows of {row_bytes} B"):
                self.ceilings.gathers(row_bytes, short=i > 0)

    def _geometry(self, row_bytes: int, share: float, rows: int = 0) -> Geometry:
        size = self.scale.narrow_bytes if row_bytes < 512 else len(self.table.bytes)
        rows = rows or size // row_bytes
        all_pages = rows_geometry(row_bytes, rows, 0).pages
        return rows_geometry(row_bytes, rows, max(1, int(all_pages * share)))

    def mechanism_section(self) -> None:
        """The same rows in the same places, read by whoever can."""
        for row_bytes in self.scale.row_bytes:
            if row_bytes in self.ceilings.hbm_row_s:
                self._mechanism(row_bytes, self.scale.skews[0])

    def _mechanism(self, row_bytes: int, skew: float) -> None:
        rig, table = self.rig, self.table
        geometry = self._geometry(row_bytes, self.scale.shares[0])
        size = self.ceilings.batch(row_bytes)
        zipf = Zipf(rig, geometry.rows, skew, seed=11)
        batches = zipf.batches(self.scale.rotation, size)
        hot, nothing = zipf.hottest(geometry), np.empty(0, np.uint32)

        def static(name: str, pages: Any, **options: Any) -> Callable[[], Contender]:
            return lambda: Static(name, rig, table, geometry, pages, **options)

        makers = [static("ours", hot)]
        if rig.name == "triton":
            makers += [
                static("ours, not counting", hot, count=False),
                static("ours, look apart", hot, apart_bytes=1),
                static("ours, one kernel", hot, apart_bytes=1 << 30),
                static("ours, split", hot, mode="split"),
                static("ours, split and sorted", hot, mode="split-sorted"),
                static("torch", hot, plain=True),
            ]
        makers.append(static("all zero-copy", nothing))
        if rig.torch is not None:
            makers += [
                lambda: UvaSelect(rig, table, geometry),
                lambda: CpuGather(rig, table, geometry, size, ahead=False),
                lambda: CpuGather(rig, table, geometry, size, ahead=True),
            ]
        for make in makers:
            if not self.report.may(f"mechanism of rows of {row_bytes} B"):
                return
            self.report.attempt(
                f"mechanism of rows of {row_bytes} B",
                partial(self._measure_one, make, geometry, batches, skew),
            )

    def _measure_one(
        self,
        make: Callable[[], Contender],
        geometry: Geometry,
        batches: list[Any],
        skew: float,
    ) -> None:
        """Make a contender, measure it, close it."""
        contender = make()
        self._measure(contender, geometry, batches, skew)
        contender.close()

    def _measure(
        self, contender: Contender, geometry: Geometry, batches: list[Any], skew: float
    ) -> None:
        """Warm up, read, and say how near to the ideal that was."""
        rig = self.rig
        some = (batches[i % len(batches)] for i in range(self.scale.timed))
        read_all(rig, self.table, geometry, contender, iter(batches[:2]), check=False)
        contender.counted()
        seen = read_all(rig, self.table, geometry, contender, some)
        resident = getattr(getattr(contender, "device", None), "peek", None)
        rate = 0.0
        if resident is not None:
            pages = np.flatnonzero(contender.device.peek("loc") >= 0)  # type: ignore[attr-defined]
            rate = hit_rate(rig, geometry, pages, batches)
        p50, p99 = np.percentile(seen.device_s, (50, 99))
        rows = len(batches[0])
        footprint = geometry.pages * geometry.page_bytes
        overlap, serial = self.ceilings.ideal(geometry.row_bytes, footprint, rate)
        self.report.add(
            "mechanism",
            contender=contender.name,
            row_bytes=geometry.row_bytes,
            zipf=skew,
            share=round(geometry.slots / geometry.pages, 4),
            hit_rate=rate,
            gb_s=rows * geometry.row_bytes / p50 / 1e9,
            p50_us=p50 * 1e6,
            p99_us=p99 * 1e6,
            wall_us=seen.wall_s / max(1, len(seen.device_s)) * 1e6,
            ideal_us=overlap * rows * 1e6,
            f_mech=overlap * rows / p50,
            f_mech_serial=serial * rows / p50,
            **contender.facts(),
            wrong_words=seen.wrong_words,
        )

    def uniform_section(self) -> None:
        """Nothing is worth a slot: ours beside plain zero-copy."""
        rig, scale = self.rig, self.scale
        geometry = self._geometry(512, scale.shares[0], scale.policy_rows)
        zipf = Zipf(rig, geometry.rows, 0.0, seed=12)
        batches = zipf.batches(scale.rotation, scale.batch)
        nothing = np.empty(0, np.uint32)
        options = {"count": False} if rig.name == "triton" else {}
        plain = Static("all zero-copy", rig, self.table, geometry, nothing, **options)
        self._measure(plain, geometry, batches, 0.0)
        base = float(self.report.rows[-1]["p50_us"])
        plain.close()
        ours = Ours(rig, self.table, geometry, every=scale.every)
        for _ in range(2):  # first let it find out
            some = [batches[i % len(batches)] for i in range(scale.warm)]
            seen = read_all(rig, self.table, geometry, ours, iter(some))
        hits, misses = ours.counted()
        p50 = float(np.median(seen.device_s)) * 1e6
        self.report.add(
            "uniform",
            contender=ours.name,
            row_bytes=512,
            hit_rate=hits / max(1, hits + misses),
            p50_us=p50,
            zero_copy_us=base,
            slower=p50 / base - 1,
            **ours.facts(),
            wrong_words=seen.wrong_words,
        )
        ours.close()

    def policy_section(self, skew: float, change: str, share: float) -> None:
        """One workload under everybody's policy."""
        rig, scale, table = self.rig, self.scale, self.table
        geometry = self._geometry(512, share, scale.policy_rows)
        makers: list[Callable[[], Contender]] = []

        def named(name: str, make: Callable[[], Contender]) -> None:
            make.__name__ = name
            makers.append(make)

        named("ours", lambda: Ours(rig, table, geometry, every=scale.every))
        if rig.cuda:
            named("ours, thread", lambda: Ours(rig, table, geometry, every=0))
        if rig.torch is not None:
            named("lru", lambda: SetCache(rig, table, geometry, "lru"))
            named("lfu", lambda: SetCache(rig, table, geometry, "lfu"))
        if self.report.rows and change == "none" and rig.name == "triton":
            named(
                "copies",
                lambda: Ours(rig, table, geometry, every=scale.every, copies=True),
            )
        if self.fbgemm is None:
            for policy in ("lru", "lfu"):
                for ahead in (False, True):
                    named(
                        f"FBGEMM {policy}",
                        lambda p=policy, a=ahead: Fbgemm(rig, geometry, p, ahead=a),  # type: ignore[misc]
                    )
        run_policy(
            rig,
            table,
            self.ceilings,
            geometry,
            skew,
            change,
            makers,
            self.report.add,
            self.report.may,
            self.report.attempt,
        )

    def beside_section(self) -> None:
        """A product on another stream."""
        modes = ("fused", "split") if self.rig.name == "triton" else ()
        if not modes:
            self.report.skip("beside a product: Triton's kernels alone have the modes")
            return
        geometry = self._geometry(512, self.scale.shares[0])
        skew = self.scale.skews[0]
        run_beside_matmul(self.rig, self.table, geometry, skew, modes, self.report.add)

    def blocks_section(self) -> None:
        """KV blocks."""
        run_blocks(self.rig, self.table, self.report.add)

    def bags_section(self) -> None:
        """Sums of rows, beside EmbeddingBag on the CPU."""
        rig, scale = self.rig, self.scale
        if rig.torch is None:
            self.report.skip("bags: EmbeddingBag is torch's")
            return
        torch = rig.torch
        size = min(len(self.table.bytes) // 16, 2 << 30) // 128 * 128
        floats = Table.create(rig, size, floats=True)
        rows = size // 512
        geometry = Geometry(rows, 128, "float32", 1, max(1, rows // 10))
        zipf = Zipf(rig, rows, scale.skews[0], seed=13)
        ours = Static("ours", rig, floats, geometry, zipf.hottest(geometry))
        weight = torch.from_numpy(floats.arena(geometry).view(np.float32))
        for length in (1, 20):
            bags = max(1, scale.batch // 4 // length)
            index = zipf.batch(bags * length)
            offsets = rig.array(np.arange(bags, dtype=np.int64) * length)
            out = fill(rig, (bags, 128), ours.device)
            launch = Launch(1, hit_shift=4, deposit=False)
            read = partial(ours.device.gather_bag, index, offsets, out, launch)
            times = 2 + max(3, scale.timed // 6)
            took = rig.seconds(lambda _, r=read: r(), times)  # type: ignore[misc]
            here, there = index.cpu().long(), offsets.cpu()
            began = time.perf_counter()
            summed = torch.nn.functional.embedding_bag(here, weight, there, mode="sum")
            summed.to(out.device)
            rig.synchronise()
            cpu_s = time.perf_counter() - began
            ours_s = float(np.median(took[2:]))
            self.report.add(
                "bags",
                contender="ours",
                bag=length,
                row_bytes=512,
                gb_s=bags * length * 512 / ours_s / 1e9,
                p50_us=ours_s * 1e6,
                embedding_bag_cpu_us=cpu_s * 1e6,
                faster=cpu_s / ours_s,
                wrong_words=int((out.cpu() != summed).sum()),
            )
        ours.close()

    def torn_section(self) -> None:
        """Torn reads, in processes of their own: a control may end a context."""
        for rules, deposits in (
            ("safe", False),
            ("safe", True),
            ("no-grace", False),
            ("publish-first", False),
        ):
            command = [sys.executable, str(Path(__file__).parent / "gpu_torn.py")]
            backend = self.rig.name if self.rig.cuda else "numpy"
            command += ["--rules", rules, "--backend", backend]
            command += ["--seconds", str(self.scale.torn_s)]
            command += ["--deposits"] * deposits
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=self.scale.torn_s * 3 + 60,
                    check=False,
                )
                row = json.loads(done.stdout.splitlines()[-1])
            except (IndexError, ValueError):
                last = (done.stderr.splitlines() or ["no words"])[-1]
                row = unread(rules, f"exit {done.returncode}: {last}")
            except subprocess.TimeoutExpired as error:
                row = unread(rules, f"no end after {error.timeout:.0f} s")
            self.report.add("torn", **row)


def unread(rules: str, error: str) -> dict[str, Any]:
    """Return the row of a torn-read stress that told nothing: it proves nothing."""
    seen = dict.fromkeys(("torn", "lost", "reads", "writes"), 0)
    return {"rules": rules, "error": error, **seen}


def run(benchmark: Benchmark, report: Report, scale: Scale) -> None:
    """Run the sections, what matters most first."""
    main_skew, main_share = scale.skews[0], scale.shares[0]
    report.section("ceilings", benchmark.ceilings_section, 20)
    if 512 not in benchmark.ceilings.hbm_row_s:
        benchmark.ceilings.gathers(512, short=True)  # all else is judged by them
    report.section("mechanism", benchmark.mechanism_section, 10)
    report.section("torn", benchmark.torn_section, 2 * scale.torn_s)
    for change, skew in [
        ("none", main_skew),
        ("full", main_skew),
        *(("none", s) for s in scale.skews[1:]),
        *(("full", s) for s in scale.skews[1:]),
        ("quarter", main_skew),
        ("drift", main_skew),
        ("scan", main_skew),
    ]:
        report.section(
            "policy",
            lambda c=change, s=skew: benchmark.policy_section(s, c, main_share),  # type: ignore[misc]
            8,
        )
    report.section("uniform", benchmark.uniform_section, 8)
    report.section("beside", benchmark.beside_section, 8)
    report.section("blocks", benchmark.blocks_section, 15)
    report.section("bags", benchmark.bags_section, 10)
    for share in scale.shares[1:]:
        report.section(
            "policy",
            lambda s=share: benchmark.policy_section(main_skew, "none", s),  # type: ignore[misc]
            8,
        )


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu-tier.json"))
    parser.add_argument("--budget", type=float, default=420.0, help="seconds")
    parser.add_argument("--tiny", action="store_true", help="a small table")
    parser.add_argument(
        "--backend", choices=("numpy", "torch", "triton"), default="triton"
    )
    parser.add_argument("--table-gib", type=float, help="host table; default 32")
    parser.add_argument("--only", default="", help="sections, comma-separated")
    args = parser.parse_args()
    deadline = time.monotonic() + args.budget
    if args.tiny and not Path("/dev/nvidia0").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    scale = TINY if args.tiny else Scale()
    if args.table_gib:
        size = int(args.table_gib * (1 << 30))
        scale = Scale(table_bytes=size, narrow_bytes=min(size, scale.narrow_bytes))
    rig = Rig(args.backend, scale)
    if not rig.cuda and not args.tiny:
        print("gpu_tier: no CUDA device; --tiny runs on the CPU", file=sys.stderr)
        return 3
    only = set(args.only.split(",")) - {""}
    report = Report(args.out, facts_of(rig, args), deadline, only)
    print(json.dumps(report.facts))
    try:
        table = Table.create(rig, scale.table_bytes)
    except MemoryError:
        report.skip(
            f"a table of {scale.table_bytes >> 30} GiB: a quarter of it instead"
        )
        scale = Scale(table_bytes=scale.table_bytes // 4)
        rig.scale = scale
        table = Table.create(rig, scale.table_bytes)
    report.facts["table"] = {"bytes": len(table.bytes), "seconds": table.seconds}
    report.facts["zero_copy_refused"] = rig.refused
    run(Benchmark(rig, table, report), report, scale)
    rig.synchronise()
    rig.close()
    return verdict(report, on_device=rig.cuda)


if __name__ == "__main__":
    sys.exit(main())
