"""Layouts become QEMU's options."""

from itertools import pairwise
from pathlib import Path

import pytest

from vmtest.errors import GuestError
from vmtest.layout import LAYOUTS
from vmtest.qemu import (
    Share,
    layout_options,
    machine_options,
    port_options,
    share_options,
)


def values(options: list[str], option: str) -> list[str]:
    """Return the values of one option."""
    return [b for a, b in pairwise(options) if a == option]


def test_two_tiers_word_by_word() -> None:
    """All of the default layout's command line."""
    expected = """
        -M q35,hmat=on -smp 2,sockets=1 -m 1536M -cpu max,avx2=off
        -object memory-backend-ram,id=mem0,size=512M
        -numa node,nodeid=0,initiator=0,cpus=0-1,memdev=mem0
        -object memory-backend-ram,id=mem1,size=1024M
        -numa node,nodeid=1,initiator=0,memdev=mem1
        -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=100
        -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=25600M
        -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=400
        -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=6400M
        -numa dist,src=0,dst=1,val=40
    """  # noqa: E501  as QEMU has it
    assert expected.split() == layout_options(LAYOUTS["two-tier"], 2)


def test_sockets_share_the_cpus() -> None:
    """Two sockets of two CPUs; the third node belongs to the nearer one."""
    options = layout_options(LAYOUTS["two-socket"], 4)
    assert ["4,sockets=2"] == values(options, "-smp")
    nodes = [word for word in values(options, "-numa") if word.startswith("node,")]
    assert [
        "node,nodeid=0,initiator=0,cpus=0-1,memdev=mem0",
        "node,nodeid=1,initiator=1,cpus=2-3,memdev=mem1",
        "node,nodeid=2,initiator=0,memdev=mem2",
    ] == nodes
    latency = "hmat-lb,initiator=1,target=2,hierarchy=memory,data-type=access-latency"
    assert f"{latency},latency=420" in values(options, "-numa")


def test_an_odd_number_of_cpus_leaves_sockets_to_qemu() -> None:
    """Three CPUs over two nodes: all are given away, none twice."""
    options = layout_options(LAYOUTS["two-socket"], 3)
    assert ["3"] == values(options, "-smp")
    ranges = [word.split("cpus=")[1] for word in options if "cpus=" in word]
    assert ["0-0,memdev=mem0", "1-2,memdev=mem1"] == ranges


def test_cxl_memory_is_a_device_and_not_there_at_boot() -> None:
    """Only node 0 counts as memory; the device has the rest."""
    layout = LAYOUTS["cxl"].with_memory((512, 5120))
    options = layout_options(layout, 2)
    assert ["512M"] == values(options, "-m")
    assert ["max,avx2=off,hypervisor=off"] == values(options, "-cpu")
    assert "node,nodeid=1,initiator=0" in values(options, "-numa")
    assert "memory-backend-ram,id=cxlmem,size=5120M" in values(options, "-object")
    # The window is a power of two that holds the device.
    assert "cxl-fmw.0.targets.0=cxlbus,cxl-fmw.0.size=8G" in values(options, "-M")


def test_too_few_cpus_are_refused() -> None:
    """A socket without a CPU is none."""
    with pytest.raises(GuestError, match="expected at least 2, found 1"):
        layout_options(LAYOUTS["two-socket"], 1)


def test_the_root_is_read_only_and_shares_are_not() -> None:
    """Only what is named may be written to."""
    options = share_options([Share(Path("/a/b"), Path("/run/c"))])
    root, share = values(options, "-fsdev")
    assert root.startswith("local,id=root,path=/,")
    assert root.endswith(",readonly=on")
    assert share.startswith("local,id=share0,path=/a/b,")
    assert "readonly" not in share


def test_ports_lead_to_the_descriptors() -> None:
    """Each port has a set of its own."""
    options = port_options({"stdout": 7, "control": 9})
    assert ["fd=7,set=0", "fd=9,set=1"] == values(options, "-add-fd")
    assert [
        "file,id=stdout,path=/dev/fdset/0,append=on",
        "file,id=control,path=/dev/fdset/1,append=on",
    ] == values(options, "-chardev")


def test_the_accelerator_is_named() -> None:
    """TCG uses a thread for each CPU."""
    assert ["tcg,thread=multi"] == values(machine_options("tcg"), "-accel")
    assert ["kvm"] == values(machine_options("kvm"), "-accel")
