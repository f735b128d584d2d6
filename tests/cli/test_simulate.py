"""simulate, compare and explain on small runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isotherm.cli.main import main
from isotherm.core.errors import IsothermError

pytest.importorskip("pyarrow")

#: Small enough for a test: 512 pages, 12 epochs.
SMALL = ("--pages", "512", "--accesses", "30720")

#: Keys of the contract of one simulation, and what they hold.
CONTRACT: dict[str, type | tuple[type, ...]] = {
    "policy": str,
    "workload": str,
    "machine": str,
    "fast_ratio": float,
    "seed": int,
    "rate": (float, type(None)),
    "placement": str,
    "hints": list,
    "sampling_period": int,
    "accesses": int,
    "pages": int,
    "simulated_s": float,
    "fast_share": float,
    "slowdown": float,
    "mean_latency_ns": float,
    "migrated_bytes": int,
    "promoted_pages": int,
    "demoted_pages": int,
    "ping_pong_pages": int,
    "migration_time_ns": (float, int),
    "hint_overhead_ns": (float, int),
    "tracker_bytes_per_page": float,
    "wall_s": float,
    "setup_s": float,
    "accesses_per_wall_s": (float, int),
}
#: Differ from run to run.
TIMINGS = ("wall_s", "setup_s", "accesses_per_wall_s")

MACHINE = """
name = "two-tier"
description = "a machine from a file"
[[nodes]]
kind = "dram"
tier = 0
read_latency_ns = [100.0]
[[nodes]]
kind = "cxl"
tier = 1
read_latency_ns = [400.0]
"""


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run a verb with --json and return what it printed."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_contract(result: dict[str, Any]) -> None:
    """Check keys and types of one result."""
    for key, kind in CONTRACT.items():
        assert key in result, key
        assert isinstance(result[key], kind), key


@pytest.mark.slow
def test_json_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """A simulation prints the documented keys, with the documented types."""
    result = run_json(capsys, "simulate", "--workload", "gups", *SMALL)
    check_contract(result)
    assert result["accesses"] == 30720
    assert result["pages"] == 512
    assert result["migrated_bytes"] == 4096 * (
        result["promoted_pages"] + result["demoted_pages"]
    )
    assert 0 <= result["fast_share"] <= 1
    assert result["slowdown"] >= 1


@pytest.mark.slow
def test_same_seed_same_result(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of one seed agree in everything but the clock on the wall."""
    words = ("simulate", "--workload", "drift", "--seed", "7", *SMALL)
    first, second = run_json(capsys, *words), run_json(capsys, *words)
    for key in TIMINGS:
        del first[key], second[key]
    assert first == second


@pytest.mark.slow
def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json a short table is printed, within 80 columns."""
    assert main(["simulate", "--policy", "first-touch", *SMALL]) == 0
    shown = capsys.readouterr()
    assert "slowdown" in shown.out
    assert "first-touch on zipf" in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    assert "\x1b" not in shown.out + shown.err


@pytest.mark.slow
def test_people_are_told_where_threads_had_better_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Advice that is only printed is printed; births are told where there are some."""
    path = tmp_path / "programs.toml"
    part = '[[part]]\nname = "{0}"\nkind = "zipf"\nthreads = [0, 1]\n'
    path.write_text('name = "programs"\n' + part.format("a") + part.format("b"))
    words = ("--machine", "two-socket-cxl", "--advise-cpus", "print")
    size = ("--pages", "2048", "--accesses", "1000000")
    assert 0 == main(["simulate", "--workload", str(path), *words, *size])
    shown = capsys.readouterr().out
    assert "better run" in shown
    assert "of what accesses cost" in shown
    path.write_text('kind = "latest"\nbirths = true\nadvance = 1.0\n')
    assert 0 == main(["simulate", "--workload", str(path), *size])
    assert "born fast" in capsys.readouterr().out


@pytest.mark.slow
def test_machine_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A TOML machine is simulated: all in its slow tier costs four times as much."""
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    result = run_json(
        capsys, "simulate", "--policy", "all-slow", "--machine", str(path), *SMALL
    )
    assert result["slowdown"] == pytest.approx(4.0)
    assert result["machine"] == "two-tier"


def test_broken_machine_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A TOML machine with an unknown field names the file and the field."""
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE.replace("tier = 1", "teir = 1"))
    assert main(["simulate", "--machine", str(path), *SMALL]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert "teir" in error


@pytest.mark.slow
def test_workload_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trace imported from CSV is simulated, with its own times and footprint."""
    lines = ["page,time_ns", *(f"{i % 40},{i * 1_000_000}" for i in range(4000))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    trace = str(tmp_path / "t.parquet")
    assert main(["trace", "import", str(tmp_path / "t.csv"), trace]) == 0
    result = run_json(capsys, "simulate", "--workload", trace, "--policy", "tpp")
    assert result["pages"] == 40
    assert result["accesses"] == 4000
    assert result["rate"] is None
    assert result["simulated_s"] == 4.0


@pytest.mark.slow
def test_recording_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What --record keeps, explain reads: heat, moves with reason, and why."""
    record = str(tmp_path / "run")
    words = ("simulate", "--workload", "drift", "--record", record)
    result = run_json(capsys, *words, "--pages", "512", "--accesses", "102400")
    found = run_json(capsys, "explain", record, "--pages", "0-511")
    done = [move for move in found["moves"] if move["errno"] == 0]
    up = sum(move["dst"] == 0 for move in done)
    assert up == result["promoted_pages"]
    assert len(done) - up == result["demoted_pages"]
    assert {move["reason"] for move in done} <= {"pays", "makes_room"}
    assert sum(found["end_pages_per_node"].values()) == 512
    assert sum(group["nr_pages"] for group in found["why"]) == 512
    assert found["heat"][-1]["to_s"] == result["simulated_s"]
    assert main(["explain", record, "--pages", "100-163"]) == 0
    shown = capsys.readouterr().out
    assert "pages 100-163 (256 KiB) of drift under isotherm" in shown
    assert "why" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert main(["explain", record, "--pages", "0-512"]) == 2
    assert "expected a range within 0-511" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_adds_bounds_and_regret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bounds and first-touch stand beside what was asked for; a report too."""
    report = tmp_path / "r.html"
    words = ("compare", "--policies", "isotherm", "--workloads", "gups", *SMALL)
    found = run_json(
        capsys,
        *words,
        "--fast-ratios",
        "1/2,0.2",
        "--jobs",
        "1",
        "--report",
        str(report),
    )
    results = found["results"]
    assert len(results) == 12
    for result in results:
        check_contract(result)
    of = {(row["policy"], row["fast_ratio"]): row for row in results}
    assert of["all-fast", 0.2]["slowdown"] == pytest.approx(1.0)
    assert of["first-touch", 0.2]["regret"] == pytest.approx(1.0)
    assert of["isotherm", 0.5]["regret"] is not None
    text = report.read_text()
    assert text.startswith("<!doctype html>")
    assert "vegaEmbed" in text


@pytest.mark.slow
def test_finished_runs_are_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second comparison into the same file makes only what is new."""
    out = ("--out", str(tmp_path / "grid.parquet"), "--jobs", "1")
    words = ("compare", "--workloads", "gups", *SMALL, *out)
    first = run_json(capsys, *words, "--policies", "first-touch")["results"]
    capsys.readouterr()
    assert main([*words, "--policies", "tpp", "--json"]) == 0
    shown = capsys.readouterr()
    assert "5 of 6 runs were finished before" in shown.err
    second = {row["policy"]: row for row in json.loads(shown.out)["results"]}
    for row in first:
        assert second[row["policy"]]["wall_s"] == row["wall_s"]


@pytest.mark.slow
def test_compare_says_how_well_data_compress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for simulate; a run with another figure is another run, also in a file."""
    out = ("--out", str(tmp_path / "grid.parquet"), "--jobs", "1")
    words = ("compare", "--policies", "tpp", "--machines", "ocp-expander", *SMALL, *out)
    for ratio in ("2", "4"):
        rows = run_json(capsys, *words, "--compressibility", ratio)["results"]
        said = {tuple(row["expander"]["compressibility"]) for row in rows}
        assert {(float(ratio), float(ratio))} == said


@pytest.mark.slow
def test_compare_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """People see one table per workload, who wins, and no line over 80 columns."""
    words = ("compare", "--policies", "isotherm,tpp", "--workloads", "gups,uniform")
    assert main([*words, *SMALL, "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "gups on dram-cxl" in shown
    assert "uniform on dram-cxl" in shown
    assert "clairvoyant" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_scheduler_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A scheduler that nobody is at, or no Dask at all, is one clear error."""
    words = ["compare", "--scheduler", "127.0.0.1:1", *SMALL]
    assert main(words) in (1, 3)
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_trouble_and_losses(capsys: pytest.CaptureFixture[str]) -> None:
    """Faults and lost samples reach the machine, from simulate and from compare."""
    words = ("--workload", "gups", "--fault", "busy=0.3", "--fault", "vanished=0.2")
    words += ("--sampling-loss", "0.25", *SMALL)
    result = run_json(capsys, "simulate", "--policy", "clairvoyant", *words)
    assert {"busy": 0.3, "vanished": 0.2} == result["faults"]
    assert 0.25 == result["sampling_loss"]
    assert {"2", "16"} == set(result["failed_moves"])
    rows = run_json(capsys, "compare", "--policies", "hemem", *words)["results"]
    assert all(row["faults"] == result["faults"] for row in rows)
    assert all(row["regret"] is not None for row in rows)
    losses = {row["policy"]: row["sampling_loss"] for row in rows}
    assert (0.25, 0.0) == (losses["hemem"], losses["clairvoyant"])


@pytest.mark.parametrize("verb", ["simulate", "compare"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fault", "busi=0.1"), "did you mean 'busy'"),
        (("--fault", "busy=2"), "expected a share in [0, 1], got 2"),
        (("--fault", "busy"), "expected name="),
        (("--sampling-loss", "1"), "expected a share in [0, 1)"),
    ],
)
def test_wrong_trouble(
    capsys: pytest.CaptureFixture[str], verb: str, words: tuple[str, str], said: str
) -> None:
    """A kind that nobody knows, and a share that is none, are refused."""
    assert main([verb, *words]) == 2
    assert said in capsys.readouterr().err


def test_pages_of_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace has its own: --pages beside one is refused, not passed over."""
    source, out = tmp_path / "a.csv", tmp_path / "a.parquet"
    source.write_text("page\n1\n2\n")
    assert 0 == main(["trace", "import", str(source), str(out)])
    assert 2 == main(["simulate", "--workload", str(out), "--pages", "100"])
    assert "--pages: " in capsys.readouterr().err


def test_terminated_recording_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends it with 143, and no part of a recording stays."""
    place = tmp_path / "run"
    command = [sys.executable, "-m", "isotherm", "simulate", "--pages", "20000"]
    command += ["--accesses", "2000000000", "--record", str(place)]
    run = subprocess.Popen(command)
    try:
        end = time.monotonic() + 120
        while not (place / "moves.parquet").exists():
            assert time.monotonic() < end
            assert run.poll() is None
            time.sleep(0.01)
        run.terminate()
        assert 143 == run.wait(60)
        assert [] == list(tmp_path.iterdir())
    finally:
        run.kill()
        run.wait()


def test_what_a_comparison_found_is_said_before_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that cannot be written takes nothing with it."""

    def full(*_: object, **__: object) -> None:
        raise IsothermError("the disk is full")

    monkeypatch.setattr("isotherm.lab.report.write_report", full)
    command = ["compare", "--policies", "isotherm", "--workloads", "gups", "--jobs"]
    command += ["1", *SMALL, "--report", str(tmp_path / "x.html"), "--json"]
    assert 1 == main(command)
    said = capsys.readouterr()
    assert 6 == len(json.loads(said.out)["results"])
    assert "the disk is full" in said.err


def test_a_report_goes_to_no_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all that writes files: refused before any work, and the pipe stays."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for command in (
        ["compare", "--report", str(pipe)],
        ["compare", "--out", str(pipe)],
        ["demo", "--report", str(pipe)],
        ["plan", "--out", str(pipe)],
    ):
        assert 2 == main(command)
        assert "is a device, pipe or socket" in capsys.readouterr().err
    assert pipe.is_fifo()
