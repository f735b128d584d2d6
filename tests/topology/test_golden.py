"""Recorded machines: each gives the JSON that is kept; --update-golden rewrites it.

The recordings are from hwloc's test suite; tests/topology/golden holds ours of them.
"""

import json
from pathlib import Path

import pytest

from isotherm.topology.model import InitiatorKind, MemoryKind, Topology
from isotherm.topology.render import as_json, render_topology
from isotherm.topology.sysfs import read_topology

GOLDEN = Path(__file__).parent / "golden"
MACHINES = {
    "fakeheteromemtiers": "fakeheteromemtiers",
    "nvidiagpunumanodes": "nvidiagpunumanodes",
    "dax": "32em64t-2n8c+dax+nvme+mic+dimms",
    "memorysidecaches": "memorysidecaches",
}


@pytest.fixture(scope="module")
def recorded(shared_dir: Path) -> dict[str, Topology]:
    """Return the recorded machines by short name."""
    found: dict[str, Topology] = {}
    for name, file in MACHINES.items():
        path = shared_dir / "topologies" / f"{file}.tar.bz2"
        if not path.exists():
            pytest.skip(f"no recorded machine at {path}")
        found[name] = read_topology(path)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_golden(recorded, update_golden: bool, name: str) -> None:
    """The machine's JSON is what was kept."""
    path = GOLDEN / f"{name}.json"
    text = json.dumps(as_json(recorded[name]), indent=1) + "\n"
    if update_golden:
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.slow
def test_hbm_dram_and_nvm(recorded) -> None:
    """Three packages: HBM on 2 and 4, DRAM on 0 and 1, NVM on 6, 8 and 9."""
    topology = recorded["fakeheteromemtiers"]
    assert [(2, 4), (0, 1), (6, 8, 9)] == [tier.nodes for tier in topology.tiers]
    kinds = {node.id: node.kind for node in topology.nodes}
    assert [MemoryKind.HBM] * 2 == [kinds[n] for n in (2, 4)]
    assert [MemoryKind.DRAM] * 2 == [kinds[n] for n in (0, 1)]
    assert [MemoryKind.PMEM] * 3 == [kinds[n] for n in (6, 8, 9)]


@pytest.mark.slow
def test_gpu_memory_nodes(recorded) -> None:
    """Six GPUs, each an initiator with its own memory as a node."""
    topology = recorded["nvidiagpunumanodes"]
    gpus = [i for i in topology.initiators if i.kind is InitiatorKind.GPU]
    assert [255, 254, 253, 252, 251, 250] == [gpu.node for gpu in gpus]
    assert [(0, 8), (250, 251, 252, 253, 254, 255)] == [t.nodes for t in topology.tiers]


@pytest.mark.slow
def test_dax_devices(recorded) -> None:
    """Three namespaces of persistent memory, none of them a node that is online."""
    topology = recorded["dax"]
    assert [MemoryKind.PMEM] * 3 == [device.kind for device in topology.devices]
    assert [0, 1] == [node.id for node in topology.nodes]


@pytest.mark.slow
def test_side_caches(recorded) -> None:
    """96 GiB of cache before each of four nodes."""
    nodes = recorded["memorysidecaches"].nodes
    assert [96 << 30] * 4 == [node.side_cache_bytes for node in nodes]


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_text_fits_a_terminal(recorded, name: str) -> None:
    """No line of the text is wider than 80 columns."""
    text = render_topology(recorded[name])
    assert [] == [line for line in text.split("\n") if len(line) > 80]
