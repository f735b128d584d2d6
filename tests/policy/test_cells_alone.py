"""Cells by a page's own rate alone, for pages whose neighbours say nothing."""

import numpy as np

from isotherm.hints.batch import Mechanism
from isotherm.hotness import arithmetic as ar
from isotherm.policy import cells as cm
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Setup
from isotherm.policy.rates import CellRates
from tests.policy.conftest import topology


def test_steps_are_an_eighth_of_an_octave() -> None:
    """A rate eight steps up is twice as high; the mean page is in the middle."""
    rate = ar.decode_array(np.arange(ar.RATE_CODES), ar.RATE_SHIFT, ar.RATE_OFFSET)
    step = cm.alone_table(1.0)
    assert cm.ALONE_LEVELS // 2 == int(step[np.searchsorted(rate, 1.0)])
    for times in (0.25, 2.0, 64.0):
        expected = cm.ALONE_LEVELS // 2 + 8 * int(np.log2(times))
        assert expected == int(step[np.searchsorted(rate, times)])
    assert (0, cm.ALONE_LEVELS - 1) == (int(step.min()), int(step.max()))


def test_steps_fill_the_cells_of_a_history() -> None:
    """No two of them, with any history, are one cell; none is ahead of a front."""
    steps = np.unique(cm.alone_table(1.0))
    levels = np.unique(cm.history_table())
    cell = (steps[:, None] + levels).ravel()
    assert len(cell) == len(np.unique(cell))
    assert cell.max() < cm.AHEAD


def test_features_follow_the_steps() -> None:
    """The column of the own rate is its logarithm over the mean; the region's is 0."""
    z = cm.alone_features()
    cell = cm.alone_table(1.0)[[300, 500, 700]] + cm.history_table()[3]
    octaves = z[cell, cm.HISTORY_LEVELS] / np.log(2.0)
    expected = (cell % cm.ALONE_LEVELS - cm.ALONE_LEVELS / 2) / cm.ALONE_STEPS
    np.testing.assert_allclose(expected, octaves)
    assert not z[:, cm.HISTORY_LEVELS + 1].any()
    assert (cm.features()[:, : cm.HISTORY_LEVELS] == z[:, : cm.HISTORY_LEVELS]).all()


def test_the_option_chooses_them() -> None:
    """Neighbours 0 regresses over the fine steps; by default over the coarse ones."""
    found = {}
    for value in (0.0, 1.0):
        policy = Isotherm(
            Setup(
                64,
                topology(((0,), (1,))),
                np.array([8, 64]),
                500_000_000,
                1,
                frozenset({Mechanism.SAMPLING}),
                options={"neighbours": value},
            )
        )
        found[value] = policy._rates._z
    np.testing.assert_array_equal(CellRates(has_samples=True, alone=True)._z, found[0])
    np.testing.assert_array_equal(CellRates(has_samples=True)._z, found[1])
