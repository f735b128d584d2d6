"""Targets that are there, and targets that are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.core.errors import TargetGoneError, UnsupportedError, UsageError
from isotherm.daemon.rundir import RunDirectory
from isotherm.daemon.targets import Claims, check_processes, find_cgroup, memcg_path


def test_a_process_that_is_there_is_fine():
    """This very process passes."""
    check_processes([os.getpid()])


def test_a_process_that_is_not_there():
    """A pid that nobody has ends with exit code 5."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(TargetGoneError) as error:
        check_processes([os.getpid(), child.pid])
    assert f"pid {child.pid}: no such process" == error.value.message
    assert 5 == error.value.exit_code


def test_a_zombie_has_ended():
    """A process that nobody has waited for has no memory any more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(TargetGoneError, match="it has ended"):
        check_processes([child.pid])
    child.wait()


def test_kernel_threads_are_refused(tmp_path):
    """A kernel thread has no memory to manage."""
    (tmp_path / "proc/2").mkdir(parents=True)
    (tmp_path / "proc/2/stat").write_text("2 (kthreadd) S 0 0 0\n")
    (tmp_path / "proc/2/statm").write_text("0 0 0 0 0 0 0\n")
    with pytest.raises(UsageError, match="pid 2: a kernel thread"):
        check_processes([2], tmp_path)


def test_a_cgroup_by_directory_or_below_the_mount(tmp_path):
    """Both ways of naming a cgroup find the same directory."""
    group = tmp_path / "sys/fs/cgroup/unified/a/b"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("")
    assert group == find_cgroup(str(group))
    assert group == find_cgroup("a/b", tmp_path)
    assert group == find_cgroup("/a/b", tmp_path)


def test_a_cgroups_path_is_below_its_mount(tmp_path):
    """Wherever the hierarchy is mounted, and in a container below its root."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "35 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "36 31 0:33 /pod /sys/fs/cgroup/unified rw shared:4 - cgroup2 none rw\n"
        "37 23 0:34 / /mnt/groups rw - cgroup2 none rw\n"
    )
    base = Path("/sys/fs/cgroup")
    assert "/db" == memcg_path(base / "memory/db", tmp_path)
    assert "/pod/db/one" == memcg_path(base / "unified/db/one", tmp_path)
    assert "/db" == memcg_path(Path("/mnt/groups/db"), tmp_path)
    with pytest.raises(UnsupportedError, match="pids/db: in no cgroup hierarchy"):
        memcg_path(base / "pids/db", tmp_path)


def test_a_cgroup_that_is_not_there(tmp_path):
    """The message says where it was looked for; exit code 2."""
    with pytest.raises(UsageError, match="looked in") as error:
        find_cgroup("missing", tmp_path)
    assert str(tmp_path / "sys/fs/cgroup/missing") in error.value.message


HOLDER = """
import sys, time
from pathlib import Path
from isotherm.daemon.rundir import RunDirectory
RunDirectory(Path(sys.argv[1])).lock([int(sys.argv[2])])
print("locked", flush=True)
time.sleep(1000)
"""


def test_what_another_isotherm_has_is_left_alone(tmp_path):
    """It is named; who does not insist goes on; given up, it can be had."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path), "4242"]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE)
    runs = RunDirectory(tmp_path)
    try:
        assert b"locked\n" == holder.stdout.readline()
        insisting = Claims(runs, insist=True)
        named = f"isotherm, pid {holder.pid}, manages pid 4242"
        assert (named, None) == (insisting.claim(4242), insisting.claim(4243))
        assert Claims(runs, insist=False).claim(4242) is None
    finally:
        holder.kill()
        holder.communicate()
    assert insisting.claim(4242) is None
    insisting.release(4242)
    runs.close()
    assert not tmp_path.exists()
