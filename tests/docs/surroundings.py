"""What the pages' commands find around them: a workspace, small files, programs.

A page speaks of files of its reader: a trace, a recording, a machine. Here they are
small, so that the commands run as they stand and end soon.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from tests.docs.blocks import ROOT, blocks_of
from tests.records.perf_files_many import many_samples, recording

#: Those whose commands are typed in a checkout.
IN_A_CHECKOUT: Final = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/tutorial.md",
    "docs/reference/vmtest.md",
    "docs/reference/gpu.md",
)
MACHINE: Final = """\
name = "mine"
description = "DRAM and a slow expander"
[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [90.0]
[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [400.0]
"""
MIX: Final = """\
[[part]]
name = "db"
kind = "btree"
[[part]]
name = "scan"
kind = "stream"
"""
PROGRAMS: Final = """\
[[part]]
name = "left"
kind = "zipf"
pages = 1
threads = [0, 1]
[[part]]
name = "right"
kind = "zipf"
pages = 1
threads = [0, 1]
"""
TENANTS: Final = """\
[[tenant]]
name = "db"
workload = "db"
guarantee = "50%"
[[tenant]]
name = "scan"
workload = "scan"
"""
#: Programs that are not everywhere, and what stands in their place.
PROGRAMS_BESIDE: Final = {"sudo": 'exec "$@"\n'}


def _traces(place: Path) -> None:
    lines = [
        f"{'sl'[i % 5 > 0]} {hex(0x1F000000 + i * i % 997 * 4096)} 8\n"
        for i in range(20_000)
    ]
    (place / "spec2000-gcc.trace.gz").write_bytes(
        gzip.compress("".join(lines).encode())
    )


def _samples(place: Path) -> None:
    """Write a recording of perf, and the trace that the same run left."""
    rng = np.random.default_rng(1)
    time_ns = np.sort(rng.integers(0, 20 * 10**9, 20_000)) + 10**9
    samples = many_samples(time_ns, 0x55500 + rng.integers(0, 500, len(time_ns)))
    (place / "perf.data").write_bytes(recording(samples))
    _isotherm(place, "trace", "import", "perf.data", "trace.parquet")


def _hotness(place: Path) -> None:
    """Write a trace with times, as the recording of a process would be."""
    _samples(place)
    (place / "trace.parquet").rename(place / "db.parquet")


def _recording(place: Path) -> None:
    simulate = ["simulate", "--workload", "gups", "--pages", "2048", "--accesses"]
    _isotherm(place, *simulate, "200000", "--record", "run")


def _machines(place: Path) -> None:
    (place / "mine.toml").write_text(MACHINE)
    with tarfile.open(place / "host.tar.gz", "w:gz") as archive:
        archive.add(_two_nodes(place / "tree"), arcname=".")
    shutil.rmtree(place / "tree")


def _two_nodes(root: Path) -> Path:
    """Write a host of DRAM and CXL memory whose firmware tells latencies."""
    nodes = root / "sys/devices/system/node"
    for node, cpus, latency in ((0, "0-3", 90), (1, "", 250)):
        place = nodes / f"node{node}"
        access = place / "access0/initiators"
        access.mkdir(parents=True)
        for name in ("read", "write"):
            (access / f"{name}_latency").write_text(f"{latency}\n")
            (access / f"{name}_bandwidth").write_text("20000\n")
        (access / "node0").symlink_to("../../../node0")
        (place / "cpulist").write_text(f"{cpus}\n")
        (place / "distance").write_text("10 20\n" if node == 0 else "20 10\n")
        (place / "meminfo").write_text(f"Node {node} MemTotal: 16777216 kB\n")
    for name, nodes_of in (("has_cpu", "0"), ("has_memory", "0-1"), ("online", "0-1")):
        (nodes / name).write_text(f"{nodes_of}\n")
    tiers = root / "sys/devices/virtual/memory_tiering"
    for tier, node in ((4, 0), (22, 1)):
        (tiers / f"memory_tier{tier}").mkdir(parents=True)
        (tiers / f"memory_tier{tier}/nodelist").write_text(f"{node}\n")
    return root


def _correction(place: Path) -> None:
    _machines(place)
    page = ROOT / "docs/reference/topology.md"
    whole = [b.text for b in blocks_of(page) if b.text.startswith('mode = "replace"')]
    (place / "correction.toml").write_text(whole[0])


def _tenants(place: Path) -> None:
    (place / "mix.toml").write_text(MIX)
    (place / "tenants.toml").write_text(TENANTS)


def _programs(place: Path) -> None:
    (place / "programs.toml").write_text(PROGRAMS)


#: By page: what is there before its first command.
FILES: Final[dict[str, Callable[[Path], None]]] = {
    "docs/reference/cpus.md": _programs,
    "docs/reference/hints.md": _samples,
    "docs/reference/machines.md": _machines,
    "docs/reference/recording.md": _hotness,
    "docs/reference/serve.md": _recording,
    "docs/reference/tenants.md": _tenants,
    "docs/reference/top.md": _recording,
    "docs/reference/topology.md": _correction,
    "docs/reference/traces.md": _traces,
}


def _isotherm(place: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "isotherm", *words],
        cwd=place,
        check=True,
        capture_output=True,
    )


@contextmanager
def surroundings(page: Path, place: Path) -> Iterator[dict[str, str]]:
    """Furnish an empty folder for a page's commands; hand out their environment."""
    name = str(page.relative_to(ROOT))
    (place / ".venv").symlink_to(Path(sys.prefix))
    if name in IN_A_CHECKOUT:
        for entry in ROOT.iterdir():
            if entry.name not in (".git", ".venv", "out"):
                (place / entry.name).symlink_to(entry)
        (place / "out").mkdir()
    if name in FILES:
        FILES[name](place)
    programs = place / ".programs"
    programs.mkdir()
    for program, script in PROGRAMS_BESIDE.items():
        (programs / program).write_text(f"#!/bin/sh\n{script}")
        (programs / program).chmod(0o755)
    path = [Path(sys.prefix) / "bin", programs, os.environ["PATH"]]
    yield {
        **os.environ,
        "PATH": ":".join(map(str, path)),
        "COLUMNS": "100",
        "ISOTHERM_NO_APT": "1",
    }
    Path("/dev/shm/gups").unlink(missing_ok=True)  # noqa: S108  # the page's own name
