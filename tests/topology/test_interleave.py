"""Weights of weighted interleaving: from bandwidth, and as the kernel has them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isotherm.cli.main import main
from isotherm.topology.interleave import (
    FOLDER,
    commands,
    derive_weights,
    read_auto,
    read_weights,
)
from isotherm.topology.model import AccessPerformance, Figure, Source, Topology


def machine(*rows: tuple[int, int, float | None, float | None]) -> Topology:
    """Return rows of initiator, node, read and write bandwidth."""

    def figure(value: float | None) -> Figure | None:
        return None if value is None else Figure(value, Source.FIRMWARE)

    return Topology(
        (),
        (),
        (),
        tuple(
            AccessPerformance(
                who,
                node,
                read_bandwidth_mib_s=figure(read),
                write_bandwidth_mib_s=figure(write),
            )
            for who, node, read, write in rows
        ),
        {},
    )


@pytest.mark.parametrize(
    ("mib_s", "weights"),
    [
        ([102_400, 30_720], [24, 7]),
        ([25_600, 6_400], [25, 6]),
        ([100, 100], [1, 1]),
        ([200, 100, 100], [2, 1, 1]),
        ([1_000_000, 1], [31, 1]),
    ],
)
def test_weights_are_the_kernels(mib_s: list[float], weights: list[int]) -> None:
    """Integers out of 32, at least 1, over their greatest common divisor."""
    topology = machine(*((0, n, value, value) for n, value in enumerate(mib_s)))
    found = derive_weights(topology, range(len(mib_s)))
    assert weights == [row.weight for row in found]


def test_a_bandwidth_is_the_lesser_of_reads_and_writes_of_the_best() -> None:
    """Memory that writes at a third is dealt a third; the nearest initiator counts."""
    topology = machine((0, 0, 300, 300), (0, 1, 300, 100), (1, 1, 90, 90))
    found = derive_weights(topology, [0, 1])
    assert [300, 100] == [row.bandwidth_mib_s for row in found]
    assert [3, 1] == [row.weight for row in found]


def test_unknown_bandwidth_makes_all_alike() -> None:
    """Not known is not 0: the others get no more for it."""
    found = derive_weights(machine((0, 0, 300, 300)), [0, 1])
    assert [1, 1] == [row.weight for row in found]
    assert [300, None] == [row.bandwidth_mib_s for row in found]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return a root with the kernel's table."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "node0").write_text("0\n")
    (folder / "node1").write_text("7\n")
    (folder / "nodex").write_text("7\n")
    return tmp_path


def test_the_kernels_table_is_read(host: Path) -> None:
    """0 stands for the default; before 6.16 there is no auto, before 6.9 no table."""
    assert {0: 1, 1: 7} == read_weights(host)
    assert read_auto(host) is None
    (host / FOLDER / "auto").write_text("true\n")
    assert read_auto(host) is True
    (host / FOLDER / "auto").write_text("false\n")
    assert read_auto(host) is False
    assert {} == read_weights(host / "nowhere")


def test_commands_write_them() -> None:
    """One line a node, as root."""
    found = derive_weights(machine((0, 0, 300, 300), (0, 3, 100, 100)), [0, 3])
    assert [
        f"echo 3 > /{FOLDER}/node0",
        f"echo 1 > /{FOLDER}/node3",
    ] == commands(found)


def test_the_verb_prints_what_to_do(
    dram_cxl: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, who said the bandwidth, and the lines that set them."""
    root = dram_cxl().write(tmp_path)
    assert 0 == main(["topology", "weights", "--root", str(root)])
    assert "this kernel has no weights" in capsys.readouterr().out
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for node in (0, 1):
        (folder / f"node{node}").write_text("1\n")
    assert 0 == main(["topology", "weights", "--root", str(root)])
    said = capsys.readouterr().out
    assert f"echo 24 > /{FOLDER}/node0" in said
    assert "numactl --weighted-interleave=0,1 COMMAND" in said
    assert 80 >= max(map(len, said.splitlines()))
    assert 0 == main(["topology", "weights", "--root", str(root), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [(0, 24, 1), (1, 7, 1)] == [
        (row["node"], row["weight"], row["now"]) for row in document["weights"]
    ]
    assert "firmware" == document["weights"][0]["source"]
