"""The report of the accelerator tier's benchmark: rows, facts, verdict."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_data import Rig
from isotherm.core.errors import IsothermError

#: What the tier is held to: name, how a row is found, its figure, the bar.
BARS: tuple[tuple[str, dict[str, Any], str, float], ...] = (
    (
        "mechanism, rows of 512 B",
        {"contender": "ours", "row_bytes": 512},
        "f_mech",
        0.9,
    ),
    (
        "mechanism, rows of 4 KiB",
        {"contender": "ours", "row_bytes": 4096},
        "f_mech",
        0.9,
    ),
    ("mechanism, rows of 64 B", {"contender": "ours", "row_bytes": 64}, "f_mech", 0.8),
    (
        "policy, stationary",
        {"contender": "ours", "workload": "stationary", "row_bytes": 512},
        "of_oracle",
        0.95,
    ),
)


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
        known = {k: _plain(v) for k, v in row.items() if v is not None}
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
        try:
            run()
        except (ImportError, RuntimeError, MemoryError, IsothermError) as error:
            # One contender that a machine cannot run must not cost the other rows.
            self.skip(f"{name}: {type(error).__name__}: {error}")
        print(f"-- {name}: {time.monotonic() - began:.1f} s")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _short(value: Any) -> str:
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
        good = seen == 0 if safe else seen > 0
        print(
            f"torn      {row['rules']}: {row['torn']} torn, {row['lost']} lost of"
            f" {row['reads']} reads, {row['writes']} writes"
            f"{'' if good else ': WRONG' if safe else ': this control proves nothing'}"
        )
        if not good:
            bad.append(row)
    missed = 0
    for name, find, figure, bar in BARS:
        found = [
            r[figure]
            for r in report.rows
            if figure in r and all(r.get(k) == v for k, v in find.items())
        ]
        if found and on_device:
            print(f"bar       {name}: {min(found):.3f} (bar {bar})")
            missed += min(found) < bar
    for why in report.skipped:
        print(f"skipped   {why}")
    if not on_device:
        print("No GPU was used: these figures say that the benchmark runs, no more.")
    print(f"rows in {report.path}")
    return int(bool(bad) or missed > 0)
