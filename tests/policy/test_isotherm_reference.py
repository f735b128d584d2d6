"""The reference pages name what the code has."""

import re
from pathlib import Path

import pytest

from isotherm.hotness import bursts, evidence, fronts, regions, single_pages, tracker
from isotherm.policy import (
    backpressure,
    balance,
    births,
    cells,
    coldest,
    hope,
    isotherm,
    ladder,
    loads,
    rates,
    sensing,
    switching,
)

ISOTHERM = (
    *(isotherm, cells, rates, sensing, switching, backpressure),
    *(balance, births, coldest, hope, ladder, loads),
)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("page", "modules"),
    [
        ("hotness.md", (tracker, single_pages, evidence, regions, fronts, bursts)),
        ("isotherm.md", ISOTHERM),
    ],
)
def test_every_constant_that_a_page_names_is_there(page, modules):
    """A constant that was renamed or dropped shows here."""
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", (DOCS / page).read_text()))
    known = {name for module in modules for name in vars(module)}
    assert len(named) > 10
    assert set() == named - known
