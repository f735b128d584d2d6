"""kill -9 at random moments: the workload, the host's settings, no orphan."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import isotherm as isotherm_package
from tests.vm.kills import STAGES, Account, Killer, end_workload
from tests.vm.runs import Isotherm

#: In ``make vm`` eight kills of a seed that draws every way to run, and the one in two
#: processes while it manages and is cleared up after; KILLS asks for more.
KILLS: Final = int(os.environ.get("KILLS") or 8)
SEED: Final = int(os.environ.get("KILLS_SEED") or 4)
PAGES: Final = 4000
#: MiB a second: all memory takes half a minute, so that moves wait for each other.
SLOWLY: Final = ("--epoch", "0.2", "--limit", "0.5")
WAYS: Final = (
    ("--interleave-weights", *SLOWLY),
    ("--mover", "kernel"),
    ("--hints", "damon", *SLOWLY),
    ("--user", "nobody", "--interleave-weights", *SLOWLY),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600 + 120 * KILLS),
    pytest.mark.usefixtures("quiet_kernel"),
]


@pytest.fixture
def readable() -> None:
    """Let everybody read this Python, wherever it is: the guest forgets it."""
    for path in (Path(sys.base_prefix), Path(isotherm_package.__file__)):
        for folder in path.parents:
            folder.chmod(folder.stat().st_mode | 0o055)


def test_kills_at_random_points(
    readable: None,
    isotherm: Callable[..., Isotherm],
    await_true: Callable[..., None],
    tmp_path: Path,
) -> None:
    """Any process, in any stage: all is put back, nobody is left, memory is whole."""
    truth = tmp_path / "truth"
    words = ["gups-shift", "--set", "shift_s=5", "--pages", str(PAGES), "--rate", "10"]
    words += ["--duration", "0", "--place", "bind:1", "--huge", "never"]
    workload = subprocess.Popen(
        [
            *(sys.executable, "-m", "isotherm.workloads.native"),
            *(*words, "--truth", str(truth), "--json"),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "ISOTHERM_KERNELS": "numpy"},
    )
    try:
        await_true(truth.exists, "the workload runs")
        killer = Killer(isotherm, workload.pid, SEED, WAYS)
        killer.measure()
        for number in range(KILLS + KILLS // 2):  # a few end before they are killed
            killer.strike(number)
            keep(killer.account)
            if KILLS == killer.account.kills:
                break
        killer.finish()
        assert 0 == end_workload(workload)
    finally:
        workload.kill()
        workload.communicate()
    account = killer.account
    assert KILLS == account.kills
    assert set(STAGES) - {"stop"} <= set(account.stages)
    assert account.had_changed > 0
    assert account.had_moved >= KILLS // 4
    assert account.restored["the next start"] > 0


def keep(account: Account) -> None:
    """Write down what has happened so far, where files come back from the guest."""
    out = os.environ.get("VMTEST_OUT")
    if out:
        text = json.dumps(account.describe(), indent=1)
        Path(out, f"kills-{KILLS}-{SEED}.json").write_text(text + "\n")
