"""DAMON's control files: taken, marked, given back, and left alone if another's."""

import errno
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.hints.live.damon_admin import (
    DamonAdmin,
    Intervals,
    Target,
    in_use,
    probe,
)
from tests.hints.live.fake_damon import (
    FakeDamon,
    admin_of,
    nr_kdamonds,
)


def test_all_kdamonds_are_made_at_once_and_marked(damon: FakeDamon) -> None:
    """Two users get one each; a third is told; the mark is the same odd number."""
    admin = admin_of(damon, HostChanges(None))
    first, second = admin.take("a"), admin.take("b")
    assert first is not second
    assert first is admin.take("a")
    assert 2 == nr_kdamonds(damon)
    marks = {
        path.read_text()
        for path in damon.admin.glob("kdamonds/*/contexts/0/*/*/update_us")
    }
    assert 1 == len(marks)
    with pytest.raises(UnsupportedError, match="all are taken"):
        admin.take("c")


def test_the_last_user_takes_the_tree_down(damon: FakeDamon, tmp_path: Path) -> None:
    """A user that goes stops its own; with the last all are gone, and the journal."""
    changes = HostChanges(tmp_path / "journal")
    admin = admin_of(damon, changes)
    kdamond = admin.take("a")
    admin.take("b")
    kdamond.set_targets([Target(1, np.array([[0, 4096]]))])
    kdamond.start()
    admin.give_back("a")
    assert [(0, "on"), (0, "off")] == damon.commands
    assert (2, 1) == (nr_kdamonds(damon), changes.pending)
    admin.give_back("b")
    assert (0, 0) == (nr_kdamonds(damon), changes.pending)
    assert [] == admin.give_back("b")
    changes.close()
    assert not (tmp_path / "journal").exists()


def test_what_a_kill_leaves_is_removed(damon: FakeDamon, tmp_path: Path) -> None:
    """The journal alone suffices to stop and remove what is marked as ours."""
    changes = HostChanges(tmp_path / "journal")
    kdamond = admin_of(damon, changes).take("a")
    kdamond.set_targets([Target(1, np.array([[0, 4096]]))])
    kdamond.start()
    changes.close()  # what a kill does to the lock
    assert ["damon: 2 kdamonds stopped and removed"] == HostChanges.recover(
        tmp_path / "journal"
    )
    assert 0 == nr_kdamonds(damon)
    assert "off" == (damon.admin / "kdamonds/0/state").read_text()[:3]


@pytest.mark.parametrize("marked", [True, False])
def test_recovery_leaves_others_alone(
    damon: FakeDamon, tmp_path: Path, marked: bool
) -> None:
    """Kdamonds with another mark are somebody's who came after the kill."""
    changes = HostChanges(tmp_path / "journal")
    admin_of(damon, changes).take("a")
    changes.close()
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "0")
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "2")
    if marked:
        for i in range(2):
            damon.write(damon.admin / f"kdamonds/{i}/contexts/nr_contexts", "1")
    else:
        (damon.admin / "kdamonds/1/state").write_text("on\n")
    said = HostChanges.recover(tmp_path / "journal")
    assert ["damon: left alone, these kdamonds are somebody else's"] == said
    assert 2 == nr_kdamonds(damon)


def test_other_users_are_named(damon: FakeDamon) -> None:
    """The message has state and pid, the hint what would end it; nothing is made."""
    damon.write(damon.admin / "kdamonds/nr_kdamonds", "1")
    (damon.admin / "kdamonds/0/state").write_text("on\n")
    (damon.admin / "kdamonds/0/pid").write_text("77\n")
    base = damon.admin / "kdamonds"
    with pytest.raises(UnsupportedError) as caught:
        admin_of(damon, HostChanges(None)).take("a")
    assert "damon: somebody else has made kdamond 0 on (pid 77)" == caught.value.message
    assert f"echo off > {base}/0/state; echo 0 > {base}/nr_kdamonds" == (
        caught.value.hint
    )
    found = probe(damon.admin, damon.modules)
    assert (False, caught.value.hint) == (found.present, found.command)
    assert [] == damon.commands


def test_an_exclusive_module_is_named(damon: FakeDamon) -> None:
    """A module that is on has DAMON alone; one that is off has not."""
    enabled = damon.modules / "damon_stat/parameters/enabled"
    enabled.parent.mkdir(parents=True)
    enabled.write_text("N\n")
    assert in_use(damon.admin, damon.modules) is None
    assert probe(damon.admin, damon.modules).present
    enabled.write_text("Y\n")
    assert (
        "damon_stat is on and has DAMON alone",
        f"echo N > {enabled}",
    ) == in_use(damon.admin, damon.modules)


def test_a_kernel_without_damon_is_named(tmp_path: Path) -> None:
    """The file that was looked for is in the message."""
    found = probe(tmp_path / "none", tmp_path)
    assert not found.present
    assert str(tmp_path / "none/kdamonds/nr_kdamonds") in found.why
    assert found.why.endswith("a kernel with CONFIG_DAMON_SYSFS (and VADDR, PADDR)")
    assert found.command is None


def test_what_the_kernel_refuses_is_an_error(damon: FakeDamon) -> None:
    """A sampling interval above the aggregation's ends with the errno's name."""
    kdamond = admin_of(damon, HostChanges(None), 1).take("a")
    kdamond.set_intervals(Intervals(sample_us=10, aggregate_us=5))
    with pytest.raises(IsothermError, match="damon: on: EINVAL"):
        kdamond.start()


def test_a_busy_lock_is_waited_for(damon: FakeDamon) -> None:
    """EBUSY while somebody else has DAMON's lock is tried again."""
    refused = []

    def write(path: Path, value: str) -> None:
        if len(refused) < 2:
            refused.append(path)
            raise OSError(errno.EBUSY, "Device or resource busy")
        damon.write(path, value)

    admin = DamonAdmin(
        HostChanges(None), 1, admin=damon.admin, modules=damon.modules, write=write
    )
    admin.take("a")
    assert (2, 1) == (len(refused), nr_kdamonds(damon))
