"""Other movers of the same memory, found by name in a recorded tree."""

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.movers import find_movers, refuse


def write(root, files):
    """Make files of a tree."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def damon(action, operations="vaddr", pid=42, state="on"):
    """Return the files of one kdamond with one scheme."""
    top = "sys/kernel/mm/damon/admin/kdamonds"
    return {
        f"{top}/nr_kdamonds": 1,
        f"{top}/0/state": state,
        f"{top}/0/contexts/nr_contexts": 1,
        f"{top}/0/contexts/0/operations": operations,
        f"{top}/0/contexts/0/targets/nr_targets": 1,
        f"{top}/0/contexts/0/targets/0/pid_target": pid,
        f"{top}/0/contexts/0/schemes/nr_schemes": 1,
        f"{top}/0/contexts/0/schemes/0/action": action,
    }


def names(root, pids=(42,)):
    """Return names of movers, refusing ones marked."""
    return [
        mover.name + ("!" if mover.refuses else "") for mover in find_movers(root, pids)
    ]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, []),
        (1, ["numa-balancing"]),
        (2, ["numa-balancing-tiering!"]),
        (3, ["numa-balancing-tiering!"]),
    ],
)
def test_numa_balancing(tmp_path, value, found):
    """Tiering is refused, plain balancing only told."""
    write(tmp_path, {"proc/sys/kernel/numa_balancing": value})
    assert found == names(tmp_path)


def test_hint_faults_without_promotion_are_told(tmp_path):
    """Tiering with a rate limit of 0 is what doctor names for hint faults."""
    sysctl = "proc/sys/kernel/numa_balancing"
    write(tmp_path, {sysctl: 2, f"{sysctl}_promote_rate_limit_MBps": 0})
    assert ["numa-balancing-hints"] == names(tmp_path)
    write(tmp_path, {f"{sysctl}_promote_rate_limit_MBps": 1})
    assert ["numa-balancing-tiering!"] == names(tmp_path)


def test_demotion_is_told(tmp_path):
    """Demotion at reclaim may go on beside us."""
    write(tmp_path, {"sys/kernel/mm/numa/demotion_enabled": "true"})
    assert ["demotion"] == names(tmp_path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (damon("migrate_hot"), ["damon-scheme!"]),
        (damon("pageout"), ["damon-scheme!"]),
        (damon("lru_deprio"), ["damon-scheme!"]),
        (damon("stat"), []),
        (damon("migrate_hot", state="off"), []),
        (damon("migrate_hot", pid=43), []),
        (damon("migrate_hot", "paddr", pid=0), ["damon-scheme!"]),
    ],
)
def test_damon_schemes(tmp_path, files, found):
    """A scheme that moves the target's memory is refused; others are not."""
    write(tmp_path, files)
    assert found == names(tmp_path)


def test_damon_modules(tmp_path):
    """DAMON's own modules count when they are enabled."""
    write(
        tmp_path,
        {
            "sys/module/damon_reclaim/parameters/enabled": "Y",
            "sys/module/damon_lru_sort/parameters/enabled": "N",
        },
    )
    assert ["damon-reclaim!"] == names(tmp_path)


def test_programs_by_name(tmp_path):
    """A daemon that moves memory is found by its name."""
    write(tmp_path, {"proc/7/comm": "numad", "proc/8/comm": "bash"})
    assert ["numad!"] == names(tmp_path)


def test_refusing_names_all_and_how_to_stop_them(tmp_path):
    """The message names every mover, the hint the commands that stop them."""
    write(tmp_path, {"proc/sys/kernel/numa_balancing": 2, "proc/7/comm": "memtierd"})
    with pytest.raises(UnsupportedError) as error:
        refuse(find_movers(tmp_path, (42,)))
    assert error.value.exit_code == 3
    assert "numa-balancing-tiering: /proc/sys/kernel/numa_balancing is 2" in str(
        error.value
    )
    assert "pid 7 is memtierd" in str(error.value)
    assert (
        "sysctl kernel.numa_balancing=0 && kill 7, or --with-other-movers"
        == error.value.hint
    )


def test_what_is_only_told_is_not_refused(tmp_path):
    """Nothing is raised for movers that may go on, or for none."""
    write(tmp_path, {"proc/sys/kernel/numa_balancing": 1})
    found = find_movers(tmp_path, (42,))
    refuse(found)
    assert ["numa-balancing"] == [mover.availability.name for mover in found]
    assert "mover" == found[0].availability.kind
