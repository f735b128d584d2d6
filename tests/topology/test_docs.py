"""The reference page and the docstrings say what the code does."""

import doctest
import re
from pathlib import Path

import pytest

from isotherm.topology import adistance, parse
from isotherm.topology.override import apply_overrides, read_overrides
from isotherm.topology.render import render_topology

PAGE = Path(__file__).parents[2] / "docs/reference/topology.md"


@pytest.mark.parametrize("module", [adistance, parse])
def test_examples_in_docstrings(module) -> None:
    """Every >>> gives what stands below it."""
    result = doctest.testmod(module)
    assert (0, True) == (result.failed, result.attempted > 0)


def test_the_text_on_the_page(dram_cxl) -> None:
    """The machine on the page prints as the page shows."""
    assert render_topology(dram_cxl().read()) in PAGE.read_text()


def test_the_overrides_on_the_page(tmp_path: Path, dram_cxl) -> None:
    """Each TOML block is accepted and gives two tiers."""
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert 3 == len(blocks)
    for block in blocks:
        path = tmp_path / "block.toml"
        path.write_text(block)
        topology = apply_overrides(dram_cxl().read(), read_overrides(path), path)
        assert [(0,), (1,)] == [tier.nodes for tier in topology.tiers]
