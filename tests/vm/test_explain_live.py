"""A daemon asked why, on a kernel with two tiers."""

import json
import subprocess
import sys

import pytest

from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.asking import ask_about, list_managed
from isotherm.workloads.native.truth import TruthReader

PAGES = 8192


@pytest.fixture
def workload(tmp_path, start, await_true, quiet_kernel):
    """Return a native workload on the slow node, a tenth of it hot."""
    path = tmp_path / "truth"
    start(
        [
            sys.executable,
            *("-m", "isotherm.workloads.native", "gups", "--pages", str(PAGES)),
            *("--rate", "15", "--duration", "0", "--place", "bind:1"),
            *("--set", "hot_pages=0.1", "--huge", "never", "--truth", str(path)),
            "--json",
        ]
    )
    await_true(path.exists, "the workload makes its truth file")
    reader = TruthReader(path)
    reader.wait_until_running(240)
    return reader


@pytest.mark.slow
def test_a_running_daemon_says_why(workload, tmp_path, monkeypatch, await_true):
    """Ranges, moves and placement in the answer are those of the process."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    config = tmp_path / "isotherm.toml"
    # Emulated, the daemon takes 20 to 50 times as long as on a processor.
    config.write_text("[budget]\ncpu_percent = 100.0\n")
    daemon = subprocess.Popen(
        [
            sys.executable,
            *("-m", "isotherm", "run", "--pid", str(workload.pid), "--json"),
            *("--config", str(config)),
        ],
        stdout=subprocess.PIPE,
    )
    found: dict = {}

    def moved() -> bool:
        assert daemon.poll() is None
        try:
            found.update(ask_about(workload.pid))
        except IsothermError:
            return False
        return sum(move["errno"] == 0 for move in found["moves"]) > 100

    try:
        await_true(moved, "the daemon moves pages and says so", 270)
        first = workload.address // PAGE_BYTES
        promoted = {
            move["page"] - first
            for move in found["moves"]
            if move["errno"] == 0 and move["dst"] == 0
        }
        node = workload.snapshot().node
        ours = [page for page in promoted if 0 <= page < PAGES]
        assert len(ours) > 50
        assert (node[ours] == 0).mean() > 0.7  # some may have gone back since
        assert any(
            run["start"] < workload.address + PAGES * PAGE_BYTES
            and run["end"] > workload.address
            for run in found["ranges"]
        )
        page = workload.address + PAGE_BYTES * ours[0]
        one = ask_about(workload.pid, (page, page + PAGE_BYTES))
        assert 1 == one["nr_pages"]
        assert 1 == sum(group["nr_pages"] for group in one["why"])
        managed = list_managed()
        assert [daemon.pid] == [run["pid"] for run in managed]
        said = subprocess.run(
            [sys.executable, "-m", "isotherm", "explain", "--pid", str(workload.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"pid {workload.pid}: " in said.stdout
        assert "promoted" in said.stdout
    finally:
        daemon.terminate()
        out, _ = daemon.communicate(timeout=240)
    assert json.loads(out)["promoted_pages"] >= len(ours)
    assert [] == list((tmp_path).glob("run/*.sock"))
