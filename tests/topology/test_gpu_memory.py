"""Where a GPU's memory is: a node, hidden by its driver, or across a bus."""

import json
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from isotherm.cli.main import main
from isotherm.daemon.doctor.gpus import find_gpu_facts
from isotherm.topology.gpu_memory import (
    Addressing,
    GpuAnswers,
    as_json,
    parse_mode,
    read_answers,
    render_gpu,
)
from isotherm.topology.nvidia import CUDA, NVML, ask, find_gpus
from isotherm.topology.record import record_tree
from isotherm.topology.sysfs import read_topology

EXAMPLES = sorted((Path(__file__).parent / "gpus").glob("*.toml"))


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what one machine's drivers say, and what it is to mean."""
    return tomllib.loads(request.param.read_text())


def tree_of(example: dict[str, Any], root: Path) -> Path:
    """Write the driver's files, and two nodes, below a directory."""
    files = dict(example["files"])
    base = "sys/devices/system/node"
    files[f"{base}/online"] = "0-1,255\n"
    files[f"{base}/has_cpu"] = "0\n"
    for node, cpus in ((0, "0-7"), (1, ""), (255, "")):
        files[f"{base}/node{node}/cpulist"] = f"{cpus}\n"
        files[f"{base}/node{node}/meminfo"] = f"Node {node} MemTotal: 1024000 kB\n"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text.lstrip("\n"))
    return root


# ---- libraries that answer as an example says


def in_c(rows: list[dict[str, Any]], key: str, default: Any) -> str:
    """Return a column as the initialiser of an array in C."""
    values = [row.get(key, default) for row in rows]
    return ", ".join(json.dumps(value) for value in values) or json.dumps(default)


def nvml_source(rows: list[dict[str, Any]]) -> str:
    """Return NVML's functions with the prototypes of nvml.h; -99: not supported."""
    return f"""
#include <string.h>
typedef struct {{ char legacy[16]; unsigned domain, bus, device, id, sub;
                 char bus_id[32]; }} pci_t;
typedef struct {{ unsigned long long total, free, used; }} memory_t;
typedef struct {{ unsigned version, value; }} mode_t_;
static const char *bus_id[] = {{ {in_c(rows, "bus_id", "")} }};
static const char *name[] = {{ {in_c(rows, "name", "")} }};
static const long long mib[] = {{ {in_c(rows, "memory_mib", -99)} }};
static const int mode[] = {{ {in_c(rows, "addressing_mode", -99)} }};
static const int node[] = {{ {in_c(rows, "numa_node", -99)} }};
static int opened;
int nvmlInit_v2(void) {{ opened++; return 0; }}
int nvmlShutdown(void) {{ opened--; return opened == 0 ? 0 : 1; }}
int isotherm_test_opened(void) {{ return opened; }}
int nvmlDeviceGetCount_v2(unsigned *count) {{ *count = {len(rows)}; return 0; }}
int nvmlDeviceGetHandleByIndex_v2(unsigned at, void **device) {{
    if (at >= {len(rows)}) return 2;
    *device = (void *)(unsigned long)(at + 1); return 0; }}
#define AT ((unsigned long)device - 1)
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {{
    memset(pci, 0, sizeof *pci); strcpy(pci->bus_id, bus_id[AT]); return 0; }}
int nvmlDeviceGetName(void *device, char *out, unsigned length) {{
    if (strlen(name[AT]) >= length) return 7;
    strcpy(out, name[AT]); return 0; }}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {{
    if (mib[AT] < 0) return 3;
    memory->total = (unsigned long long)mib[AT] << 20; return 0; }}
int nvmlDeviceGetAddressingMode(void *device, mode_t_ *out) {{
    if (out->version != 0x1000008) return 25;  /* argument version mismatch */
    if (mode[AT] < 0) return 3;
    out->value = mode[AT]; return 0; }}
int nvmlDeviceGetNumaNodeId(void *device, unsigned *out) {{
    if (node[AT] < 0) return 3;
    *out = node[AT]; return 0; }}
"""


def cuda_source(rows: list[dict[str, Any]]) -> str:
    """Return functions of CUDA's driver library with the prototypes of cuda.h."""
    return f"""
#include <string.h>
static const char *bus_id[] = {{ {in_c(rows, "bus_id", "")} }};
static const int config[] = {{ {in_c(rows, "numa_config", 0)} }};
static const int id[] = {{ {in_c(rows, "numa_id", -1)} }};
static const int host[] = {{ {in_c(rows, "host_numa_id", -1)} }};
static const int tables[] = {{ {in_c(rows, "host_page_tables", 0)} }};
int cuInit(unsigned flags) {{ return flags; }}
int cuDeviceGetCount(int *count) {{ *count = {len(rows)}; return 0; }}
int cuDeviceGet(int *device, int at) {{ *device = at; return 0; }}
int cuDeviceGetPCIBusId(char *out, int length, int device) {{
    if ((int)strlen(bus_id[device]) >= length) return 1;
    strcpy(out, bus_id[device]); return 0; }}
int cuDeviceGetAttribute(int *value, int attribute, int device) {{
    switch (attribute) {{
    case 100: *value = tables[device]; return 0;
    case 130: *value = config[device]; return 0;
    case 131: *value = id[device]; return 0;
    case 134: *value = host[device]; return 0; }}
    return 1; }}
"""


@pytest.fixture
def libraries(tmp_path: Path):
    """Return a maker of loaders: libraries that answer as an example says."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): nothing to build the stand-in libraries with")

    def make(example: dict[str, Any]):
        import ctypes

        built = {}
        for name, rows, source in (
            (NVML, example.get("nvml"), nvml_source),
            (CUDA, example.get("cuda"), cuda_source),
        ):
            if rows is None:
                continue
            out = tmp_path / name
            text = source(rows)
            subprocess.run(
                [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(out)],
                input=text.encode(),
                check=True,
            )
            built[name] = ctypes.CDLL(str(out))

        def load(name: str):
            if name not in built:
                raise OSError(f"{name}: cannot open shared object file")
            return built[name]

        load.built = built
        return load

    return make


@pytest.mark.slow
def test_examples(example, libraries, tmp_path: Path) -> None:
    """Every machine is told for what it is, through the libraries' own prototypes."""
    root = tree_of(example, tmp_path / "root")
    load = libraries(example)
    found = [as_json(gpu) for gpu in find_gpus(root, load)]
    for gpu, expected in zip(found, example["expect"], strict=True):
        for key in ("address", "memory", "nodes", "host_node", "path"):
            assert expected.get(key) == gpu[key], key
    if "nvml" in example:
        assert 0 == load.built[NVML].isotherm_test_opened(), "NVML was left open"
        names = [row["name"] for row in example["nvml"]]
        assert names == [gpu["name"] for gpu in found]
        sizes = [row["memory_mib"] << 20 for row in example["nvml"]]
        assert sizes == [gpu["memory_bytes"] for gpu in found]


@pytest.mark.slow
def test_what_doctor_says(example, libraries, tmp_path: Path) -> None:
    """Whether pages can move there, and who else moves them; each with a command."""
    root = tree_of(example, tmp_path / "root")
    before = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    facts = {fact.name: fact for fact in find_gpu_facts(root, libraries(example))}
    expected = example["expect"][0]["facts"]
    assert expected == {name: fact.present for name, fact in facts.items()}
    assert {"gpu"} == {fact.kind for fact in facts.values()}
    for name, fact in facts.items():
        if name in ("gpu-numa-balancing", "gpu-access-counting"):
            assert (fact.command is None) == fact.present
    after = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    assert before == after, "something was changed"


def test_no_library_no_answer() -> None:
    """Without the driver nobody is asked, and there is no GPU."""

    def load(name: str):
        raise OSError(name)

    assert [] == ask(load)


def test_a_library_without_the_functions() -> None:
    """One that is too old for a question answers none of it."""
    assert [] == ask(lambda _: object())


def test_a_parameter_for_a_whole_fleet_hides_no_bus() -> None:
    """CDMM is of coherent GPUs: one on PCIe stays what it is."""
    for addressing in (Addressing.HMM, Addressing.NONE):
        told = GpuAnswers("0000:17:00.0", addressing=addressing)
        assert "discrete" == read_answers([], "driver", [told])[0].kind.value
    told = GpuAnswers("0000:17:00.0", addressing=Addressing.ATS)
    assert "hidden" == read_answers([], "driver", [told])[0].kind.value


def test_what_cuda_says_of_a_node_wins_over_nvml() -> None:
    """NVML may name the nearest node; CUDA says whether it is the GPU's memory."""
    told = GpuAnswers("0:1", nvml_node=0, has_node=False, addressing=Addressing.HMM)
    assert "discrete" == read_answers([], None, [told])[0].kind.value


def test_modes() -> None:
    """The parameter is quoted, may be unset, and older drivers have none."""
    assert "numa" == parse_mode('A: 1\nCoherentGPUMemoryMode: "numa"\nB: ""\n')
    assert "" == parse_mode('CoherentGPUMemoryMode: ""\n')
    assert "driver" == parse_mode("CoherentGPUMemoryMode: DRIVER\n")
    assert parse_mode("EnableMSI: 1\n") is None


def test_topology_tells_it(tmp_path: Path, capsys) -> None:
    """The verb names each GPU and the path to its memory; JSON has the same."""
    example = tomllib.loads((EXAMPLES[0].parent / "gh200-node.toml").read_text())
    root = tree_of(example, tmp_path)
    assert 0 == main(["topology", "--root", str(root)])
    text = capsys.readouterr().out
    assert "GPUs and their memory" in text
    assert "memory is node 1: pages move there" in " ".join(text.split())
    assert 0 == main(["topology", "--root", str(root), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert ["move-pages"] == [gpu["path"] for gpu in document["gpus"]]
    kinds = {node["id"]: node["kind"] for node in document["nodes"]}
    assert "gpu" == kinds[1]


def test_hidden_memory_is_noted_and_recorded(tmp_path: Path) -> None:
    """A recorded tree keeps the parameter, and nothing else says why a node lacks."""
    example = tomllib.loads((EXAMPLES[0].parent / "gh200-cdmm.toml").read_text())
    root = tree_of(example, tmp_path / "root")
    assert any("CoherentGPUMemoryMode" in n for n in read_topology(root).notes)
    out = tmp_path / "machine.tar.gz"
    record_tree(root, out)
    with tarfile.open(out) as tar:
        assert "proc/driver/nvidia/params" in tar.getnames()
    again = find_gpus(out)
    assert ["0009:01:00.0"] == [gpu.address for gpu in again]
    assert "driver" in render_gpu(again[0])
