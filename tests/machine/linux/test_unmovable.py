"""Pages that will not move are set aside, counted, and tried again one day."""

import errno

import numpy as np

from isotherm.core.units import NS_PER_S
from isotherm.machine.linux.intervals import EMPTY
from isotherm.machine.linux.unmovable import ERRNO, Reason, Unmovable


def pages(*values: int) -> np.ndarray:
    """Return flat pages, uint32."""
    return np.array(values, np.uint32)


def test_reasons_are_kept_per_page() -> None:
    """The latest reason counts; other pages may be tried."""
    aside = Unmovable()
    aside.set_aside(pages(9, 3, 3), Reason.SHARED, 0)
    aside.set_aside(pages(9), Reason.POISONED, 0)
    assert [1, 255, 2] == aside.reasons(pages(3, 4, 9)).tolist()
    assert {"pinned": 0, "shared": 1, "poisoned": 1} == aside.counts()
    assert 2 == len(aside)
    assert errno.EACCES == ERRNO[Reason.SHARED]
    assert 0 == len(aside.reasons(pages()))


def test_three_failures_apart_make_a_pin() -> None:
    """Failures in quick succession count once."""
    aside = Unmovable()
    step = NS_PER_S // 5
    assert [False, False] == aside.strike(pages(7, 5), 0).tolist()
    assert [False] == aside.strike(pages(5), 1).tolist()
    assert [False] == aside.strike(pages(5), step).tolist()
    assert [False, True] == aside.strike(pages(7, 5), 2 * step).tolist()
    assert [255, 0] == aside.reasons(pages(7, 5)).tolist()
    assert [True] == aside.strike(pages(7), 3 * step).tolist()
    assert 2 == aside.counts()["pinned"]


def test_pages_rest_and_are_tried_again() -> None:
    """What is shared soon, what is pinned later, what is broken never."""
    aside = Unmovable()
    for page, reason in enumerate(Reason):
        aside.set_aside(pages(page), reason, 0)
    aside.refresh(EMPTY, 29 * NS_PER_S)
    assert 3 == len(aside)
    aside.refresh(EMPTY, 31 * NS_PER_S)
    assert [0, 255, 2] == aside.reasons(pages(0, 1, 2)).tolist()
    aside.refresh(EMPTY, 10**6 * NS_PER_S)
    assert [255, 255, 2] == aside.reasons(pages(0, 1, 2)).tolist()


def test_a_new_owner_starts_afresh() -> None:
    """Neither reasons nor failures are inherited."""
    aside = Unmovable()
    aside.set_aside(pages(10, 20), Reason.POISONED, 0)
    aside.strike(pages(11), 0)
    aside.strike(pages(11), NS_PER_S)
    aside.refresh(np.array([[8, 16]]), 2 * NS_PER_S)
    assert [255, 2] == aside.reasons(pages(10, 20)).tolist()
    assert [False] == aside.strike(pages(11), 3 * NS_PER_S).tolist()
