"""The regret of every policy in every cell."""

import re
from importlib import resources
from types import ModuleType

import pytest

from isotherm.lab.matrix import (
    COLOURS,
    INKS,
    STEPS,
    matrices,
    matrix_chart,
    matrix_html,
    step_of,
)
from isotherm.lab.regret import judge


def test_means_over_cells(samples: ModuleType) -> None:
    """A figure is the mean over the cells of its column, with the worst of them."""
    rows = judge(samples.grid())
    matrix = matrices(rows)[0]
    mine = [
        row["regret"]
        for row in rows
        if row["policy"] == "tpp" and row["workload"] == "gups"
    ]
    assert len(mine) == 2
    assert matrix.values["tpp", "gups"] == (sum(mine) / 2, max(mine))
    assert matrix.policies[0] == "isotherm"
    assert "static-oracle" not in matrix.policies


def test_an_axis_that_varies_has_a_matrix(samples: ModuleType) -> None:
    """Two ratios make a matrix by fast memory, the larger first; one makes none."""
    found = matrices(judge(samples.grid()))
    assert [matrix.axis for matrix in found] == ["workload", "fast_ratio"]
    assert list(found[1].columns) == [0.5, 0.2]
    one = matrices(judge(samples.grid(("gups",), (0.2,))))
    assert [matrix.axis for matrix in one] == ["workload"]


def test_flat_workloads_have_none(samples: ModuleType) -> None:
    """Where nothing is to be gained there is a dash, and no cell to click."""
    rows = judge(
        [*samples.grid(("gups",), (0.2,)), *samples.grid(("uniform",), (0.2,))]
    )
    matrix = matrices(rows)[0]
    assert matrix.values["isotherm", "uniform"] is None
    html = matrix_html(matrix)
    assert 'data-workload="uniform"' not in html
    assert html.count("class=none") == len(matrix.policies)
    values = matrix_chart(matrix)["data"]["values"]
    assert {value["column"] for value in values} == {"gups"}


def test_without_bounds_there_is_no_matrix(samples: ModuleType) -> None:
    """No regret, no matrix."""
    assert matrices(judge([samples.result("isotherm")])) == []


def test_colours_change_at_never_moving() -> None:
    """Up to 1 blue, beyond orange; every step has a colour and an ink."""
    assert len(COLOURS) == len(INKS) == len(STEPS) + 1
    assert step_of(1.0) + 1 == step_of(1.01)
    assert step_of(1.0) == step_of(1.001)  # both are written as 1.00

    def blue(colour: str) -> bool:
        return int(colour[5:7], 16) > int(colour[1:3], 16)

    assert [blue(colour) for colour in COLOURS] == [
        step < step_of(1.01) for step in range(len(COLOURS))
    ]


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.1."""
    text = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(text[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def page_colours(name: str) -> list[list[str]]:
    """Return the page's colours of one kind, light ones and dark ones."""
    css = resources.files("isotherm.lab").joinpath("templates", "report.css")
    found = re.findall(rf"--{name}[0-7]:(#[0-9a-f]+)", css.read_text())
    return [found[:8], found[8:]]


def test_page_and_chart_have_the_same_colours() -> None:
    """The table on the page and the exported chart look alike."""
    assert list(COLOURS) == page_colours("g")[0]
    assert list(INKS) == page_colours("i")[0]


@pytest.mark.parametrize("paper", [0, 1], ids=["light", "dark"])
def test_ink_can_be_read(paper: int) -> None:
    """The contrast of a figure on its colour is at least 4.5 (WCAG 2.1, 1.4.3)."""
    pairs = zip(page_colours("g")[paper], page_colours("i")[paper], strict=True)
    for colour, ink in pairs:
        low, high = sorted((luminance(colour), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour
