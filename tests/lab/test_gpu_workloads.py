"""Embedding tables and key-value caches on machines with a GPU, as the lab has them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from isotherm.cli.main import main
from isotherm.trace.importing import import_trace
from isotherm.workloads.embedding import ACCESS_SHARE, LOOKUPS_PER_ROW, ROW_SHARE

BOUNDS = {"first-touch", "all-fast", "all-slow", "static-oracle", "clairvoyant"}


def compare(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    """Return the slowdown of each policy."""
    assert 0 == main(["compare", *words, "--jobs", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)["results"]
    return {row["policy"]: row["slowdown"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["gpu-host", "gpu-coherent"])
@pytest.mark.parametrize("workload", ["embedding", "kv-cache"])
def test_compare_on_a_gpu(workload: str, machine: str, capsys) -> None:
    """Isotherm beats leaving pages alone; no bound is beaten by what it bounds."""
    found = compare(
        capsys,
        *("--policies", "isotherm,memtis", "--workload", workload),
        *("--machine", machine, "--fast-ratio", "1/5", "--pages", "4096"),
    )
    assert BOUNDS | {"isotherm", "memtis"} == set(found)
    assert 1.0 == pytest.approx(found["all-fast"])
    assert found["isotherm"] < found["first-touch"] < found["all-slow"]
    assert found["isotherm"] >= min(found["static-oracle"], found["clairvoyant"])


@pytest.mark.slow
def test_mooncake_on_a_gpu(tmp_path: Path, shared_dir: Path, capsys) -> None:
    """The conversation trace as a server plays it, with every bound."""
    source = shared_dir / "traces/mooncake-conversation.jsonl.gz"
    if not source.exists():
        pytest.skip(f"no recorded trace {source}")
    out = tmp_path / "mooncake.trace"
    import_trace(source, out, form="mooncake-serving")
    found = compare(
        capsys,
        *("--policies", "isotherm", "--workload", str(out), "--machine", "gpu-host"),
        *("--fast-ratio", "1/10", "--rates", "trace", "--epoch", "5"),
        *("--accesses", "4000000"),
    )
    assert BOUNDS | {"isotherm"} == set(found)
    assert found["isotherm"] < found["first-touch"]


def test_the_reuse_is_that_of_dlrm(shared_dir: Path) -> None:
    """Shares of rows and of look-ups by how often a row is used, as published."""
    path = shared_dir / "traces/dlrm-2021-locality_stats.txt"
    if not path.exists():
        pytest.skip(f"no recorded reuse profile {path}")
    first = path.read_text().split("\n\n")[0]
    rows, _, lookups = first.partition("Ratio of index distribution")
    bins = re.compile(r"^\((?:\d+, \d+\]|\d+\+): ([\d.]+)$", re.MULTILINE)
    share = [float(s) for s in bins.findall(rows)]
    assert share[: len(ROW_SHARE)] == list(ROW_SHARE)
    assert [float(s) for s in bins.findall(lookups)] == list(ACCESS_SHARE)
    indices, unique = (
        int(n) for n in re.findall(r"Avg # of \S+(?: cols)?: (\d+)", rows)
    )
    assert np.isclose(indices / unique, LOOKUPS_PER_ROW)
