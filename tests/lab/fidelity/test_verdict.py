"""Published beside ours: errors, order, and the files themselves."""

import math

import pytest

from isotherm.core.errors import ConfigError, UsageError
from isotherm.lab.fidelity.published import parse_published, read_published
from isotherm.lab.fidelity.runner import EXPERIMENTS, check_names
from isotherm.lab.fidelity.verdict import judge, right_share

TEXT = """
title = "two systems"
source = "nobody"
scale = "none"
calibration = "the old one"

[[tables]]
name = "speed"
better = "higher"
systems = ["old", "new", "newest"]
calibrates = ["*|old"]
median = 0.1
worst = 0.3

[tables.rows]
"a" = [1.0, 2.0, 2.01]
"b" = [1.0, nan, 0.5]

[[misses]]
cells = "speed|b|*"
why = "the model knows no b"
"""


def played(**ours):
    """Return the verdict of figures given as row_system."""
    measured = {("speed", *name.split("_")): value for name, value in ours.items()}
    return judge("test", parse_published(TEXT, "test"), measured, 0.0)


def test_errors_are_of_unseen_figures_alone() -> None:
    """The calibrated figure is far off, and counts for nothing."""
    table = played(a_old=7.0, a_new=2.2, a_newest=2.01).tables[0]
    assert pytest.approx(0.05) == table.median
    assert pytest.approx(0.1) == table.worst
    assert table.holds


def test_a_miss_has_its_documented_reason() -> None:
    """Beyond the claimed worst error, where the file says why."""
    verdict = played(b_old=1.0, b_newest=0.9)
    assert ["the model knows no b"] == [f.why for f in verdict.misses]
    assert not verdict.tables[0].holds


def test_pairs_are_of_one_row_and_not_ties() -> None:
    """2.00 and 2.01 have no order; nan has none; b is in the wrong one."""
    verdict = played(a_old=1.0, a_new=2.0, a_newest=1.9, b_old=1.0, b_newest=1.5)
    found = [(p.better, p.worse, p.right) for p in verdict.pairs]
    expected = [
        ("a: new", "a: old", True),
        ("a: newest", "a: old", True),
        ("b: old", "b: newest", False),
    ]
    assert expected == found
    assert pytest.approx(2 / 3) == right_share([verdict])


def test_gains_are_pairs_with_and_without() -> None:
    """A gain below one says that the thing harms; one of one says nothing."""
    text = TEXT.replace('better = "higher"', 'better = "higher"\npairs = "one"')
    measured = {("speed", "a", "new"): 0.9, ("speed", "b", "newest"): 0.7}
    verdict = judge("test", parse_published(text, "test"), measured, 0.0)
    assert [False, True] == [p.right for p in verdict.pairs]
    assert "b: newest without" == verdict.pairs[1].better


def test_without_pairs_there_is_no_share() -> None:
    """No orders: not a number, rather than all right."""
    assert math.isnan(right_share([]))


def test_a_row_has_a_figure_for_each_system() -> None:
    """The message names file, table, row and counts."""
    text = TEXT.replace("[1.0, 2.0, 2.01]", "[1.0]")
    with pytest.raises(ConfigError, match=r"own.toml: speed: a: expected 3.*got 1"):
        parse_published(text, "own.toml")


def test_unknown_fields_are_refused() -> None:
    """A misspelt field is an error."""
    with pytest.raises(ConfigError, match="sauce"):
        parse_published(TEXT.replace("source", "sauce"), "own.toml")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shipped_files_are_whole(name: str) -> None:
    """Each has a source, says what was calibrated, and leaves something unseen."""
    published = read_published(name)
    cells = [cell for table in published.tables for cell in table.cells()]
    assert published.source
    assert published.calibration
    assert any(not cell.seen for cell in cells)


def test_colloids_constants_come_from_one_unloaded_column() -> None:
    """Of 48 figures 4 are seen: HeMem's without an antagonist."""
    cells = list(read_published("colloid").tables[0].cells())
    seen = [(c.system, c.row[-2:]) for c in cells if c.seen]
    assert 48 == len(cells)
    assert [("hemem", "0x")] * 4 == seen


def test_colloids_constants_follow_from_the_text() -> None:
    """Updates per second and inflation, as stated, give the constants that are used."""
    from isotherm.lab.fidelity.colloid import calibrate

    constants = read_published("colloid").constants
    expected = constants["parallelism"], constants["antagonist_lines"]
    assert pytest.approx(expected, rel=0.01) == calibrate(6.07e8, 5.0)


def test_an_unknown_experiment() -> None:
    """The message has what was meant."""
    with pytest.raises(UsageError, match="did you mean 'colloid'"):
        check_names(["coloid"])
