"""Descriptors: as many as are allowed, and who finds room."""

import os
import resource

import pytest

from isotherm.core.descriptors import as_many_as_allowed, fits


def test_the_soft_limit_is_the_hard_one_meanwhile():
    """Inside it is raised, afterwards it is as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (before[1] // 2, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        with as_many_as_allowed() as most:
            assert before[1] == most
            assert (most, most) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert low == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("share", "expected"), [(1.0, True), (0.25, False)])
def test_who_comes_late_finds_no_room(share, expected):
    """The number of the newest tells how many are open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    file = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * (file + 1), before[1]))
    try:
        assert expected == fits(file, share)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(file)
