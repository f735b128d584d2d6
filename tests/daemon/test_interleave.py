"""Weights of weighted interleaving, set for a run and put back."""

import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError
from isotherm.daemon.interleave import claim_weights, set_weights
from isotherm.daemon.rundir import RunDirectory
from isotherm.machine.sim.spec import load_machine
from isotherm.topology.interleave import FOLDER, read_auto, read_weights
from isotherm.topology.model import Topology


@pytest.fixture
def topology() -> Topology:
    """Return a machine of two nodes, 218 and 26 GB/s."""
    return load_machine("dram-cxl-fast").topology([100, 100])


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return a root with the kernel's table as 6.16 has it."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for node, weight in ((0, 9), (1, 2)):
        (folder / f"node{node}").write_text(f"{weight}\n")
    (folder / "auto").write_text("true\n")
    return tmp_path


def test_weights_are_set_and_put_back(host: Path, topology: Topology) -> None:
    """By bandwidth, through the journal; the kernel's own hand is taken off first."""
    changes = HostChanges(None)
    document = set_weights(topology, changes, host, dry_run=False)
    assert {"0": 9, "1": 2} == document["before"]
    assert {"0": 28, "1": 3} == document["weights"]
    assert {0: 28, 1: 3} == read_weights(host)
    assert read_auto(host) is False
    said = changes.restore()
    assert said[-1].startswith(f"{host / FOLDER / 'auto'}")  # last: it sets the rest
    assert {0: 9, 1: 2} == read_weights(host)
    assert read_auto(host) is True


def test_a_dry_run_writes_nothing(host: Path, topology: Topology) -> None:
    """It says what it would set."""
    document = set_weights(topology, HostChanges(None), host, dry_run=True)
    assert not document["set"]
    assert {0: 9, 1: 2} == read_weights(host)


def test_what_cannot_be_set_is_refused(
    host: Path, topology: Topology, tmp_path: Path
) -> None:
    """No table in the kernel, or nobody who says what bandwidth a node has."""
    with pytest.raises(UnsupportedError, match=r"expected Linux 6\.9"):
        set_weights(topology, HostChanges(None), tmp_path / "no", dry_run=False)
    unknown = Topology(topology.nodes, topology.tiers, topology.initiators, (), {})
    with pytest.raises(UnsupportedError, match="bandwidth of node 0, 1: unknown"):
        set_weights(unknown, HostChanges(None), host, dry_run=False)
    assert {0: 9, 1: 2} == read_weights(host)


HOLDER = """
import sys
from pathlib import Path
from isotherm.daemon.interleave import claim_weights
from isotherm.daemon.rundir import RunDirectory
runs = RunDirectory(Path(sys.argv[1]))
claim_weights(runs)
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_runs_do_not_set_them_both(tmp_path: Path) -> None:
    """The second is refused while the first lasts, and named the way out."""
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert "ready\n" == holder.stdout.readline()
        runs = RunDirectory(folder)
        said = f"isotherm, pid {holder.pid}, manages the interleave weights"
        with pytest.raises(UnsupportedError, match=said) as refused:
            claim_weights(runs)
        assert refused.value.hint is not None
        assert refused.value.hint.startswith(f"isotherm stop {holder.pid}, or leave")
        holder.kill()
    claim_weights(runs)
    runs.close()
