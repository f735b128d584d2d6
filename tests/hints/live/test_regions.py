"""Ranges of many mappings as few, and regions as ranges of flat pages."""

import numpy as np

from isotherm.hints.live.regions import coarsened, to_flat


def test_small_gaps_close_first() -> None:
    """Of many ranges the largest gaps stay; few ranges stay as they are."""
    ranges = np.array([[0, 1], [3, 4], [5, 6], [50, 60]])
    assert [[0, 6], [50, 60]] == coarsened(ranges, 2).tolist()
    assert ranges.tolist() == coarsened(ranges, 4).tolist()
    assert [[0, 60]] == coarsened(ranges, 1).tolist()


def test_regions_are_cut_at_spaces() -> None:
    """What lies between spaces is nobody's."""
    extents = np.array([[100, 200, 0], [300, 400, 612]])
    region, first, last = to_flat(
        extents, np.array([50, 150, 210, 390]), np.array([150, 210, 390, 500])
    )
    assert [0, 1, 2, 3] == region.tolist()
    assert [(0, 50), (50, 100), (612, 702), (702, 712)] == list(
        zip(first.tolist(), last.tolist(), strict=True)
    )
