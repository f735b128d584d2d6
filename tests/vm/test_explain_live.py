"""A daemon asked why, on a kernel with two tiers."""

import json
import subprocess
import sys
from contextlib import suppress

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
            *("--rate", "5", "--duration", "0", "--place", "bind:1"),
            *("--set", "hot_pages=0.1", "--huge", "never", "--truth", str(path)),
            "--json",
        ]
    )
    await_true(path.exists, "the workload makes its truth file")
    reader = TruthReader(path)
    reader.wait_until_running(240)
    return reader


def answered(question, await_true):
    """Return the answer to a question: a daemon that has to wait gives none in time."""
    found = []

    def ask() -> bool:
        with suppress(IsothermError):
            found.append(question())
        return bool(found and found[-1])

    await_true(ask, "an answer")
    return found[-1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_running_daemon_says_why(workload, tmp_path, monkeypatch, await_true):
    """Ranges, moves and placement in the answer are those of the process."""
    monkeypatch.setenv("ISOTHERM_RUN_DIRECTORY", str(tmp_path / "run"))
    config = tmp_path / "isotherm.toml"
    # Emulated, the daemon takes 20 to 50 times as long as on a processor, and moves
    # earn nothing: the brake would rightly stop them.
    config.write_text("[budget]\ncpu_percent = 6400.0\n[brake]\nenabled = false\n")
    daemon = subprocess.Popen(
        [
            sys.executable,
            *("-m", "isotherm", "run", "--pid", str(workload.pid), "--json"),
            *("--config", str(config)),
        ],
        stdout=subprocess.PIPE,
    )
    found: dict = {}
    first = workload.address // PAGE_BYTES

    def promoted() -> list[int]:
        """Return the workload's pages that the daemon says it has moved up."""
        assert daemon.poll() is None
        try:
            found.update(ask_about(workload.pid))
        except IsothermError:  # it does not answer yet, or not in time
            return []
        pages = {
            move["page"] - first
            for move in found["moves"]
            if move["errno"] == 0 and move["dst"] == 0
        }
        return [page for page in pages if 0 <= page < PAGES]

    try:
        await_true(lambda: len(promoted()) > 50, "it moves pages and says so", 400)
        ours = answered(promoted, await_true)
        node = workload.snapshot().node
        assert (node[ours] == 0).mean() > 0.7  # some may have gone back since
        assert any(
            run["start"] < workload.address + PAGES * PAGE_BYTES
            and run["end"] > workload.address
            for run in found["ranges"]
        )
        page = workload.address + PAGE_BYTES * ours[0]
        one = answered(
            lambda: ask_about(workload.pid, (page, page + PAGE_BYTES)), await_true
        )
        assert 1 == one["nr_pages"]
        assert 1 == sum(group["nr_pages"] for group in one["why"])
        managed = answered(list_managed, await_true)
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
