"""Settings for a kernel as it is."""

import subprocess
import sys

import numpy as np
import pytest

from isotherm.hints.batch import Mechanism
from isotherm.lab.advice import (
    Candidate,
    advice_of,
    best_settings,
    candidates,
    damo_arguments,
    numa_balancing_commands,
    pays,
)
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.plan import Setup
from isotherm.policy.registry import make_policy

TOPOLOGY = load_machine("dram-cxl-fast").topology([1000, 4000])


def rows(*slowdowns):
    """Return results."""
    return [{"slowdown": slowdown} for slowdown in slowdowns]


def test_every_candidate_is_a_policy_with_its_options():
    """Names and options that the peers know; the kernel as it is comes first."""
    tried = candidates()
    assert "first-touch" == tried[0].policy
    for candidate in tried:
        setup = Setup(
            5000,
            TOPOLOGY,
            np.array([1000, 4000]),
            500_000_000,
            1,
            frozenset(Mechanism),
            options=candidate.options,
        )
        assert candidate.policy == make_policy(candidate.policy, setup).name


def test_the_best_of_each_mechanism_best_first():
    """One setting a mechanism."""
    tried = [
        Candidate("first-touch"),
        Candidate("damon", {"promote_mb": 50.0}),
        Candidate("damon", {"promote_mb": 200.0}),
    ]
    found = best_settings(tried, rows(2.0, 1.9, 1.5), TOPOLOGY)
    assert [("damon", 1.5), ("first-touch", 2.0)] == [
        (s.candidate.policy, s.slowdown) for s in found
    ]
    assert 200.0 == found[0].candidate.options["promote_mb"]
    assert "Use damon: 33%" in advice_of(found)
    assert pays(found)


def test_nothing_gained_nothing_set():
    """Less than one per cent is no reason."""
    tried = [Candidate("first-touch"), Candidate("interleave")]
    found = best_settings(tried, rows(1.0, 0.995), TOPOLOGY)
    assert advice_of(found).startswith("Leave the kernel as it is")
    assert not pays(found)


def test_numa_balancing_is_switched_on_last():
    """Thresholds first: it starts with what was asked for."""
    options = {
        "promote_rate_limit_mb_s": 30.0,
        "hot_threshold_ms": 125.0,
        "scan_size_mb": 1024.0,
    }
    lines = numa_balancing_commands(options)
    assert "echo 2 > /proc/sys/kernel/numa_balancing" == lines[-1]
    assert "echo 30 > /proc/sys/kernel/numa_balancing_promote_rate_limit_MBps" in lines
    assert any(line.startswith("echo 125 ") for line in lines)


def test_weights_are_those_of_the_machine():
    """28 to 3 for 218 and 26 GB/s."""
    tried = [Candidate("first-touch"), Candidate("weighted-interleave")]
    found = best_settings(tried, rows(2.0, 1.0), TOPOLOGY)
    base = "/sys/kernel/mm/mempolicy/weighted_interleave"
    assert [f"echo 28 > {base}/node0", f"echo 3 > {base}/node1"] == found[0].commands[
        :2
    ]


def test_damo_understands_its_arguments():
    """Damo itself reads them and writes the file that we name."""
    pytest.importorskip("damo", reason="damo is not installed: pip install damo")
    arguments = damo_arguments({"promote_mb": 300.0, "promote_min_access": 0.25}, 0, 0)
    code = (
        "import sys; from importlib.util import find_spec\n"
        "sys.path.insert(0, find_spec('damo').submodule_search_locations[0])\n"
        f"sys.argv = ['damo', 'args', 'damon', *{arguments.split()!r},"
        " '--format', 'json']\n"
        "import damo; damo.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if "permission" in done.stdout + done.stderr:
        pytest.skip("damo wants root even to print its arguments")
    assert 0 == done.returncode, done.stderr
    assert '"action": "migrate_hot"' in done.stdout
    assert '"sz_bytes": "300.000 MiB"' in done.stdout
    assert '"min": "25 %"' in done.stdout
