"""The doctor as a whole, on this machine and on a made-up one."""

import gzip
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isotherm.daemon.doctor.kernel import module_known, read_kernel
from isotherm.daemon.doctor.report import KNOWN_MOVERS, examine
from isotherm.daemon.doctor.sources import find_sources


def test_options_are_read_from_what_the_kernel_says(tmp_path: Path) -> None:
    """Y and m as written, n where not set, unknown where nobody says."""
    assert read_kernel(tmp_path, "6.12").options["ZRAM"] is None
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/config-6.12").write_text("CONFIG_ZRAM=m\nCONFIG_NUMA=y\n")
    kernel = read_kernel(tmp_path, "6.12")
    assert ("m", "y") == (kernel.options["ZRAM"], kernel.options["NUMA"])
    assert kernel.lacks("PSI")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_PSI=y\n"))
    kernel = read_kernel(tmp_path, "6.12")
    assert ("/proc/config.gz", "y") == (kernel.config_source, kernel.options["PSI"])


def test_modules_are_known_loaded_or_not(tmp_path: Path) -> None:
    """A module counts when it is loaded, built in, or on the disk."""
    assert not module_known(tmp_path, "6.12", "zram")
    (tmp_path / "sys/module/zram").mkdir(parents=True)
    assert module_known(tmp_path, "6.12", "zram")


def test_every_driver_is_asked_once() -> None:
    """Each source has one name, and says why."""
    facts = find_sources(read_kernel())
    names = [fact.name for fact in facts]
    assert len(set(names)) == len(names)
    assert {"hardware-samples", "pressure"} <= set(names)
    assert all(fact.why and fact.kind == "source" for fact in facts)


def test_present_things_need_no_command() -> None:
    """A command enables what is missing, or stops a mover; never the reverse.

    Sources may name one even where they are there: some want an option.
    """
    for fact in examine().facts:
        if fact.kind == "mover":
            assert fact.present or fact.command is None
        elif fact.kind != "source":
            assert not (fact.present and fact.command)


def test_movers_are_told_present_or_absent(tmp_path: Path) -> None:
    """An idle machine lists every mover that is known, none active."""
    movers = examine(tmp_path).of("mover")
    assert set(KNOWN_MOVERS) <= {fact.name for fact in movers}
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/numa_balancing").write_text("2\n")
    active = {fact.name for fact in examine(tmp_path).of("mover") if fact.present}
    assert "numa-balancing-tiering" in active
    assert "numa-balancing-tiering" in examine(tmp_path).verdict


def verdict_of(root: Path, held: int) -> str:
    """Return the verdict on a host of one tier, for somebody with capabilities."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/status").write_text(f"CapEff:\t{held:016x}\n")
    report = examine(root)
    facts = [fact for fact in report.facts if fact.kind != "actuator"]
    return replace(report, facts=tuple(facts)).verdict


def test_one_tier_is_said_first(tmp_path: Path) -> None:
    """What decides stands before what would be used if it were otherwise."""
    said = verdict_of(tmp_path, (1 << 41) - 1)
    assert said.startswith("isotherm run ends with 3: one memory tier; ")


def test_who_may_not_run_it_is_told_so_first(tmp_path: Path) -> None:
    """A run asks for its rights before it looks for tiers, and ends with 4."""
    said = verdict_of(tmp_path, 1 << 21)
    assert said.startswith(
        "isotherm run ends with 4: this user lacks CAP_SYS_NICE, CAP_SYS_PTRACE;"
        " as root it ends with 3: one memory tier; "
    )


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``isotherm doctor``."""
    return subprocess.run(
        [sys.executable, "-m", "isotherm", "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_doctor_prints_one_document() -> None:
    """--json has the facts with their kinds, and the exit code is 0."""
    done = run("--json")
    assert (0, "") == (done.returncode, done.stderr)
    document = json.loads(done.stdout)
    kinds = {fact["kind"] for fact in document["facts"]}
    assert {"source", "actuator", "mover", "permission"} == kinds
    assert document["kernel"]["release"] == os.uname().release


@pytest.mark.slow
def test_doctor_is_quick() -> None:
    """It takes less than a second of CPU time, which is its time on an idle host."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    assert run().returncode == 0
    assert spent() - before < 1.0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become another user")
def test_doctor_works_for_nobody() -> None:
    """An unprivileged user gets a report that says what is missing."""
    script = """
import json, os
from isotherm.daemon.doctor.report import examine
examine()  # loads what may lie where the other user cannot read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps(examine().to_json()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    facts = {fact["name"]: fact for fact in json.loads(done.stdout)["facts"]}
    assert facts["cap-sys-nice"]["present"] is False
    assert "sudo setpriv" in facts["cap-sys-nice"]["command"]
    assert facts["frame-numbers"]["present"] is False
