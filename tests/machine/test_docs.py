"""docs/reference/machines.md says what the built-in machines are."""

import re
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.sim.queueing import LOAD_CAP, latency_factor
from isotherm.machine.sim.spec import BUILT_IN, CostSpec, load_machine, parse_machine

PAGE = (Path(__file__).parents[2] / "docs/reference/machines.md").read_text()


def cells(line: str) -> list[str]:
    """Return the cells of a table's row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_table_of_machines(name: str) -> None:
    """Every machine has its row, with its own figures."""
    spec = load_machine(name)
    (row,) = re.findall(rf"^\| `{name}` \|.*\|.*\|.*\|.*\|.*\|$", PAGE, re.MULTILINE)
    _, kinds, latency, bandwidth, parallelism, reference = cells(row)
    assert kinds == ", ".join(node.kind for node in spec.nodes)
    assert latency == ", ".join(f"{n.read_latency_ns[0]:g}" for n in spec.nodes)
    assert bandwidth == ", ".join(
        "-" if n.read_bandwidth_gb_s is None else f"{n.read_bandwidth_gb_s:g}"
        for n in spec.nodes
    )
    each = spec.initiator_parallelism or [spec.parallelism]
    assert parallelism == " and ".join(f"{one:g}" for one in each)
    if "-" not in bandwidth:
        assert reference == f"{spec.reference_gib:g} GiB"


def test_the_example_is_a_machine() -> None:
    """The schema shown is accepted, and its costs name every field."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    spec = parse_machine(text, "example")
    assert 2 == len(spec.nodes)
    for field in (*CostSpec.__struct_fields__, *spec.nodes[0].__struct_fields__):
        assert f"\n{field} = " in text
    for field in spec.__struct_fields__:
        assert field in text


def test_the_curve_on_the_page() -> None:
    """The points of the table are those of the formula."""
    (loads,) = re.findall(r"^\| load . \|(.*)$", PAGE, re.MULTILINE)
    (factors,) = re.findall(r"^\| factor \|(.*)$", PAGE, re.MULTILINE)
    assert LOAD_CAP == float(cells(loads)[-1].split()[0])
    for load, factor in zip(cells(loads), cells(factors), strict=True):
        one, none = np.ones(1), np.zeros(1)
        got = latency_factor(one * float(load.split()[0]), none, one, one)[0]
        assert float(factor) == pytest.approx(got, rel=1e-3)
