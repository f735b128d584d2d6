"""The report of the accelerator tier's benchmark: rows, facts, verdict."""

import argparse
import json
import math
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_data import Rig
from isotherm.core.kernels import BACKEND

#: Ours where epochs end between batches, and where the engine's thread ends them.
OURS = ("ours", "ours, thread")
CACHES = ("lru-32", "lfu-32", "FBGEMM")


@dataclass(frozen=True)
class Bar:
    """What the tier is held to, and what it reached."""

    name: str
    reached: float
    bar: float
    at_most: bool = False

    @property
    def is_missed(self) -> bool:
        """Whether it was not reached."""
        if self.at_most:
            return not self.reached <= self.bar
        return not self.reached >= self.bar


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """Return the bars, each at its worst row; NaN, and missed, without any."""
    found: list[Bar] = []

    def hold(name: str, values: Iterable[float], bar: float, *, most: bool) -> None:
        known = list(values)
        worst = math.nan if not known else max(known) if most else min(known)
        found.append(Bar(name, worst, bar, most))

    def pick(section: str, **like: Any) -> list[dict[str, Any]]:
        return [
            row
            for row in rows
            if row["section"] == section
            and all(row.get(k) == v for k, v in like.items())
        ]

    for size, bar in ((512, 0.90), (4096, 0.90), (64, 0.80)):
        ours = pick("mechanism", contender="ours", row_bytes=size)
        values = [r["f_mech"] for r in ours if r["zipf"]]
        hold(f"mechanism, rows of {size} B", values, bar, most=False)
        costs = []
        for row in ours:
            like = {"row_bytes": size, "zipf": row["zipf"]}
            bare = pick("mechanism", contender="ours, not counting", **like)
            costs += [row["p50_us"] / one["p50_us"] - 1 for one in bare]
        hold(f"cost of counting, {size} B", costs, 0.03, most=True)
    for name in OURS:
        ours = pick("policy", contender=name)
        still = [r for r in ours if r["workload"] == "stationary"]
        values = [r["of_oracle"] for r in still]
        hold(f"{name}: throughput over the oracle's", values, 0.95, most=False)
        full = [r for r in ours if r["workload"] == "full"]
        back = [math.inf if (b := r["batches_to_95"]) is None else b for r in full]
        hold(f"{name}: batches to 95 % after a full change", back, 30, most=True)
        ahead = []
        for row in ours:
            like = {k: row[k] for k in ("workload", "zipf", "share")}
            others = pick("policy", **like)
            others = [r for r in others if r["contender"].startswith(CACHES)]
            ahead += [row["gb_s"] / r["gb_s"] for r in others]
        hold(f"{name}: GB/s over the best cache's", ahead, 1.0, most=False)
    slower = [r["slower"] for r in pick("uniform")]
    hold("uniform, slower than zero-copy", slower, 0.05, most=True)
    beside = [r["matmul_slowdown"] for r in pick("beside", contender="ours, split")]
    hold("a product beside a split gather, slower", beside, 0.10, most=True)
    return found


class Report:
    """Rows, kept on disk as they come.

    Args:
        path: JSON file.
        facts: About the machine.
        deadline: When time is up, of ``time.monotonic``.
        only: Sections to run; empty: all.
    """

    def __init__(
        self, path: Path, facts: dict[str, Any], deadline: float, only: set[str]
    ) -> None:
        self.path, self.facts, self._deadline, self._only = path, facts, deadline, only
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self._longest: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, section: str, **row: Any) -> None:
        """Keep a row and show it."""
        known = {k: _plain(v) for k, v in row.items()}
        self.rows.append({"section": section, **known})
        self._write()
        print(f"{section:9} " + "  ".join(f"{k}={_short(v)}" for k, v in known.items()))

    def _write(self) -> None:
        document = {**self.facts, "skipped": self.skipped, "rows": self.rows}
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(document, indent=1) + "\n")
        other.replace(self.path)

    def may(self, what: str, expected_s: float = 5.0) -> bool:
        """Return whether there is time for something; note it where not."""
        if time.monotonic() + expected_s <= self._deadline:
            return True
        self.skip(f"{what}: no time left")
        return False

    def skip(self, why: str) -> None:
        """Note what is left out."""
        self.skipped.append(why)
        print(f"skipped   {why}")
        self._write()

    def section(self, name: str, run: Callable[[], None], expected_s: float) -> None:
        """Run a section, if it is asked for and there is time; errors end it alone."""
        if self._only and name not in self._only:
            return
        if not self.may(name, expected_s):
            return
        began = time.monotonic()
        self.attempt(name, run)
        print(f"-- {name}: {time.monotonic() - began:.1f} s")

    def attempt(self, what: str, run: Callable[[], None]) -> None:
        """Run something; an error of it is noted, and costs no other row."""
        try:
            run()
        except Exception as error:  # noqa: BLE001  # a device is lent for minutes
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self.skip(f"{what}: {type(error).__name__} at {place}: {error}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _short(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- facts -----------------------------------------------------------------------


def facts_of(rig: Rig, args: argparse.Namespace) -> dict[str, Any]:
    """Return device, driver, link, memory, versions."""
    facts: dict[str, Any] = {
        "benchmark": "gpu_tier",
        "date": time.strftime("%Y-%m-%d"),
        "device": rig.where,
        "is_device": rig.cuda,
        "tiny": bool(args.tiny),
        "backend": args.backend,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "kernels": BACKEND,
        "versions": {},
    }
    for name in ("torch", "triton", "numpy", "fbgemm-gpu"):
        try:
            facts["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(("MemTotal", "HugePages_Total", "AnonHugePages")):
            facts[line.split(":")[0]] = line.split(":")[1].strip()
    if rig.cuda:
        asked = (
            "name,driver_version,pcie.link.gen.current,pcie.link.width.current,"
            "pcie.link.gen.max,pcie.link.width.max,memory.total"
        )
        try:
            facts["nvidia_smi"] = subprocess.run(
                ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            facts["nvidia_smi"] = str(error)
    return facts


# -- the end -----------------------------------------------------------------------


def verdict(report: Report, *, on_device: bool) -> int:
    """Print a short table, what was left out, and the bars; return the exit code."""
    columns = ("contender", "workload", "row_bytes", "zipf", "share", "hit_rate")
    columns += ("gb_s", "f_mech", "of_oracle", "batches_to_95", "wrong_words")  # type: ignore[assignment]  # more of them
    shown = [r for r in report.rows if r["section"] not in ("ceiling", "torn")]
    print()
    print("  ".join(f"{c:>13}" for c in columns))
    for row in shown:
        print("  ".join(f"{_short(row.get(c, '')):>13.26}" for c in columns))
    bad = [r for r in report.rows if r.get("wrong_words")]
    for row in bad:
        print(f"WRONG     {row}")
    for row in (r for r in report.rows if r["section"] == "torn"):
        seen = row["torn"] + row["lost"]
        safe = row["rules"] == "safe"
        good = seen == 0 < row["reads"] if safe else seen > 0
        print(
            f"torn      {row['rules']}: {row['torn']} torn, {row['lost']} lost of"
            f" {row['reads']} reads, {row['writes']} writes"
            f"{'' if good else ': WRONG' if safe else ': this control proves nothing'}"
        )
        if not good:
            bad.append(row)
    missed = 0
    for bar in bars(report.rows) if on_device else ():
        limit = f"at {'most' if bar.at_most else 'least'} {bar.bar}"
        reached = "not measured" if math.isnan(bar.reached) else f"{bar.reached:.3f}"
        told = f"bar       {bar.name}: {reached} ({limit})"
        print(told + (": MISSED" if bar.is_missed else ""))
        missed += bar.is_missed
    for why in report.skipped:
        print(f"skipped   {why}")
    if not on_device:
        print("No GPU was used: these figures say that the benchmark runs, no more.")
    print(f"rows in {report.path}")
    return int(bool(bad) or missed > 0)
