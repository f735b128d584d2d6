"""Memory controllers, GPU drivers, promoting kernel threads: in made-up trees."""

import struct
from pathlib import Path

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.doctor.report import examine
from isotherm.daemon.movers import find_movers, refuse

SIDE_CACHE = "sys/devices/system/node/node1/memory_side_cache/index1"
UVM = "sys/module/nvidia_uvm/parameters/uvm_perf_access_counter_migration_enable"
NUMA_STATUS = "proc/driver/nvidia/gpus/0009:01:00.0/numa_status"


def write(root: Path, files: dict[str, object]) -> None:
    """Make files of a tree."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(f"{value}\n")


def names(root: Path, pids: tuple[int, ...] | None = None) -> list[str]:
    """Return names of movers, refusing ones marked."""
    return [
        mover.name + ("!" if mover.refuses else "") for mover in find_movers(root, pids)
    ]


def hmat(mode: int) -> bytes:
    """Return a table with one side cache of 128 GiB."""
    cache = struct.pack("<HHIIIQIHH", 2, 0, 32, 1, 0, 128 << 30, 0, mode, 0)
    return struct.pack("<4sIB27x4x", b"HMAT", 40 + len(cache), 2) + cache


# ---- memory controllers


@pytest.mark.parametrize(
    ("files", "found", "why"),
    [
        (
            {f"{SIDE_CACHE}/size": 128 << 30, f"{SIDE_CACHE}/address_mode": 1},
            ["flat-memory-mode!"],
            f"/{SIDE_CACHE}/address_mode is 1 (extended-linear, 128 GiB)",
        ),
        (
            {"sys/bus/cxl/devices/region0/extended_linear_cache_size": hex(1 << 30)},
            ["flat-memory-mode!"],
            "/sys/bus/cxl/devices/region0/extended_linear_cache_size is 1.00 GiB",
        ),
        (
            {"sys/firmware/acpi/tables/HMAT": hmat(1)},
            ["flat-memory-mode!"],
            "HMAT: proximity domain 1 is extended-linear with 128 GiB",
        ),
        (
            {f"{SIDE_CACHE}/size": 16 << 30, f"{SIDE_CACHE}/address_mode": 0},
            ["memory-side-cache"],
            "node 1 behind 16.0 GiB",
        ),
        ({f"{SIDE_CACHE}/size": 16 << 30}, ["memory-side-cache"], "node 1 behind"),
        ({f"{SIDE_CACHE}/size": 0}, [], ""),
        ({"sys/firmware/acpi/tables/HMAT": hmat(0)}, [], ""),
        ({"sys/firmware/acpi/tables/HMAT": b"HMAT, broken"}, [], ""),
        (
            {"sys/bus/cxl/devices/region0/extended_linear_cache_size": "0x0"},
            [],
            "",
        ),
    ],
)
def test_side_caches(
    tmp_path: Path, files: dict[str, object], found: list[str], why: str
) -> None:
    """An extended-linear cache is Flat Memory Mode; others are only told."""
    write(tmp_path, files)
    assert found == names(tmp_path)
    assert all(why in mover.why for mover in find_movers(tmp_path))


def test_a_run_beside_flat_memory_mode_is_refused_by_name(tmp_path: Path) -> None:
    """Hardware knows no command that stops it: only --with-other-movers helps."""
    write(tmp_path, {f"{SIDE_CACHE}/size": 1 << 30, f"{SIDE_CACHE}/address_mode": 1})
    with pytest.raises(UnsupportedError, match="flat-memory-mode: ") as error:
        refuse(find_movers(tmp_path, (42,)))
    assert "--with-other-movers runs beside it" == error.value.hint


# ---- the GPU's driver


@pytest.mark.parametrize(
    ("value", "coherent", "found"),
    [
        (-1, True, ["gpu-access-counters!"]),
        (1, True, ["gpu-access-counters!"]),
        (0, True, []),
        (-1, False, []),
        (1, False, ["gpu-access-counters"]),
        (0, False, []),
        ("Y", True, []),
    ],
)
def test_access_counters(
    tmp_path: Path, value: object, coherent: bool, found: list[str]
) -> None:
    """On, or by the driver's choice, where GPU memory is a node: refused."""
    write(tmp_path, {UVM: value})
    if coherent:
        write(tmp_path, {NUMA_STATUS: "Node: 1\nStatus: online"})
    assert found == names(tmp_path)


def test_the_driver_s_choice_is_told_with_the_node(tmp_path: Path) -> None:
    """Words say what was seen, and the command reloads the driver without it."""
    write(tmp_path, {UVM: -1, NUMA_STATUS: "Node: 1\nStatus: online"})
    (mover,) = find_movers(tmp_path)
    assert f"/{UVM} is -1 (the driver's choice), and GPU memory is node 1" in mover.why
    assert mover.command is not None
    assert mover.command.endswith("uvm_perf_access_counter_migration_enable=0")


def test_older_drivers_call_it_otherwise(tmp_path: Path) -> None:
    """The parameter had another name before."""
    old = UVM.replace("counter_migration", "counter_mimc_migration")
    write(tmp_path, {old: 1, NUMA_STATUS: "Node: 1\nStatus: online"})
    assert ["gpu-access-counters!"] == names(tmp_path)


def test_only_processes_that_use_the_gpu_count(tmp_path: Path) -> None:
    """Its memory is meant, nobody else's; who may not look takes it for one."""
    write(tmp_path, {UVM: 1, NUMA_STATUS: "Node: 1\nStatus: online"})
    for pid, target in ((42, "/dev/nvidia-uvm"), (43, "/dev/null")):
        descriptors = tmp_path / f"proc/{pid}/fd"
        descriptors.mkdir(parents=True)
        (descriptors / "3").symlink_to(target)
    assert ["gpu-access-counters!"] == names(tmp_path, (42,))
    assert [] == names(tmp_path, (43,))
    assert ["gpu-access-counters!"] == names(tmp_path, (43, 42))
    assert ["gpu-access-counters!"] == names(tmp_path, (44,))


# ---- kernel threads


PGHOT = "proc/sys/vm/pghot_enabled_sources"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({PGHOT: 0, "proc/9/comm": "kmigrated1"}, []),
        ({PGHOT: 1, "proc/9/comm": "kmigrated1"}, ["pghot!"]),
        ({PGHOT: 3}, ["pghot!"]),
        ({"proc/9/comm": "kmigrated1", "proc/8/comm": "kmigrated0"}, ["kmigrated!"]),
        ({"proc/9/comm": "kpromoted2"}, ["kpromoted!"]),
        ({"proc/9/comm": "kmmscand"}, ["kmmscand!"]),
        ({"proc/9/comm": "kmigrated1", "proc/9/cmdline": "./kmigrated1"}, []),
        ({"proc/9/comm": "kmigratedx"}, []),
    ],
)
def test_promoting_threads(
    tmp_path: Path, files: dict[str, object], found: list[str]
) -> None:
    """The kernel's, while they have something to do; a program may be called so."""
    write(tmp_path, files)
    assert found == names(tmp_path)


def test_pghot_is_named_with_its_threads_and_its_switch(tmp_path: Path) -> None:
    """Both nodes' threads, and the command that stops them."""
    write(
        tmp_path, {PGHOT: 1, "proc/9/comm": "kmigrated2", "proc/8/comm": "kmigrated1"}
    )
    (mover,) = find_movers(tmp_path)
    assert f"/{PGHOT} is 1: kmigrated1, kmigrated2 promotes" in mover.why
    assert "sysctl vm.pghot_enabled_sources=0" == mover.command


@pytest.mark.parametrize("file", ["enabled", "enable"])
def test_damon_s_sample_modules(tmp_path: Path, file: str) -> None:
    """The sample mtier promotes and demotes; its switch has had two names."""
    write(tmp_path, {f"sys/module/mtier/parameters/{file}": "Y"})
    assert ["mtier!"] == names(tmp_path)
    (mover,) = find_movers(tmp_path)
    assert f"echo N > /sys/module/mtier/parameters/{file}" == mover.command


def test_doctor_reports_them(tmp_path: Path) -> None:
    """Active where they are, absent by name where they are not."""
    known = {"pghot", "flat-memory-mode", "gpu-access-counters"}
    facts = {fact.name: fact for fact in examine(tmp_path).of("mover")}
    assert dict.fromkeys(known, False) == {name: facts[name].present for name in known}
    write(tmp_path, {PGHOT: 1, f"{SIDE_CACHE}/address_mode": 1})
    report = examine(tmp_path)
    active = {fact.name for fact in report.of("mover") if fact.present}
    assert {"pghot", "flat-memory-mode"} <= active
    assert "meets other movers: pghot, flat-memory-mode" in report.verdict
