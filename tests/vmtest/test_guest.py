"""Guests that really boot: what goes in, what comes out, and that all of it ends."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Guest = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = pytest.mark.slow


def test_output_and_status_come_back(guest: Guest) -> None:
    """Both streams byte by byte, nothing added, and the command's status."""
    done = guest(command="echo said; echo complained >/dev/stderr; exit 7")
    assert (7, b"said\n", b"complained\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


def test_a_killed_command_has_its_signal_in_the_status(guest: Guest) -> None:
    """As a shell would say it: 128 and the signal."""
    assert 128 + signal.SIGSEGV == guest(command="kill -SEGV $$").returncode


def test_the_environment_is_this_one(guest: Guest, tmp_path: Path) -> None:
    """Same interpreter, same folder, same packages; layout and kernel are named."""
    done = guest(
        "--env",
        "MORE=a b",
        command="pwd; command -v python; python -c 'import sys; print(sys.prefix)';"
        'echo $VMTEST_LAYOUT $VMTEST_KERNEL "$MORE"; uname -r; id -u',
    )
    assert 0 == done.returncode, done.stderr
    here, python, prefix, names, release, user = done.stdout.decode().splitlines()
    assert (str(ROOT), sys.prefix) == (here, prefix)
    assert Path(sys.prefix) == Path(python).parents[1]
    assert "two-tier 6.12 a b" == names
    assert release.startswith("6.12.")
    assert "0" == user


def test_many_bytes_arrive_whole(guest: Guest) -> None:
    """Eight megabytes, every byte value, in order."""
    done = guest(
        command="""python -S -E -c '
import sys
block = bytes(range(256)) * 4096
for _ in range(8): sys.stdout.buffer.write(block)
'"""
    )
    expected = hashlib.sha256(bytes(range(256)) * 4096 * 8).hexdigest()
    assert expected == hashlib.sha256(done.stdout).hexdigest()


def test_files_come_back_from_shares_only(guest: Guest, tmp_path: Path) -> None:
    """--share and --out are written to; all else is gone with the guest."""
    shared, out, other = (tmp_path / name for name in ("shared", "out", "other"))
    shared.mkdir()
    other.mkdir()
    (shared / "in").write_text("from here")
    done = guest(
        *("--share", str(shared), "--out", str(out)),
        command=f"cd {shared} && cp in copy && mkdir d && echo deep >d/f;"
        f'echo result >"$VMTEST_OUT/r"; echo lost >{other}/f; cat {other}/f',
    )
    assert (0, b"lost\n") == (done.returncode, done.stdout)
    assert "from here" == (shared / "copy").read_text()
    assert "deep\n" == (shared / "d" / "f").read_text()
    assert "result\n" == (out / "r").read_text()
    assert [] == list(other.iterdir())


def test_a_command_without_end_is_ended(guest: Guest) -> None:
    """Status 124 soon after the limit; what was said before is there."""
    begun = time.monotonic()
    done = guest("--limit", "25", command="echo begun; sleep 1000")
    took = time.monotonic() - begun
    assert 124 == done.returncode
    assert b"no end within 25 s" in done.stderr
    # On a machine so busy that the boot took all the time nothing is said.
    assert (b"begun\n" == done.stdout) == (b"after the command" in done.stderr)
    assert 25 <= took < 60


def test_a_panic_is_told(guest: Guest, tmp_path: Path) -> None:
    """Status 125, the console's end in the message and all of it in the file."""
    console = tmp_path / "console"
    done = guest("--console", str(console), command="echo c >/proc/sysrq-trigger")
    assert 125 == done.returncode
    assert b"ended without an answer, after the command had started" in done.stderr
    assert b"sysrq triggered crash" in done.stderr
    assert "Linux version 6.12" in console.read_text(errors="replace")


def test_what_is_left_running_ends(guest: Guest) -> None:
    """A background process that holds the output open does not hold the guest."""
    done = guest(
        command="sleep 1000 & (trap '' TERM HUP; sleep 1000) & echo done; exit 3"
    )
    assert (3, b"done\n") == (done.returncode, done.stdout)


def test_options_reach_the_guest(guest: Guest) -> None:
    """Memory, CPUs, modules, kernel arguments, a control group."""
    done = guest(
        *("--memory", "400,96", "--cpus", "3", "--module", "zram"),
        *("--append", "made_up=1", "--cgroup", "--tick", "0"),
        command="""
            grep -c ^processor /proc/cpuinfo
            ls -d /sys/block/zram0
            grep -o made_up=1 /proc/cmdline
            cat /proc/self/cgroup $VMTEST_CGROUP/memory.max
            awk '/MemTotal/ { print ($4 > 80000 && $4 < 98400) }' \
                /sys/devices/system/node/node1/meminfo
        """,
    )
    expected = ["3", "/sys/block/zram0", "made_up=1", "0::/command", "max", "1"]
    assert expected == done.stdout.decode().splitlines()


def test_the_folder_must_be_there(guest: Guest) -> None:
    """A command that cannot even begin is no answer of the command's."""
    done = guest("--folder", "/nowhere", command="true")
    assert 125 == done.returncode
    assert b"/nowhere" in done.stderr


def read_parent(pid: int) -> int | None:
    """Return a process's parent, or None where there is none of that number."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def children_of(parent: int) -> list[int]:
    """Return the processes that one has started."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if parent == read_parent(pid)]


def is_alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def running(guest: Guest) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield a vmtest that sleeps in its guest, and the process of its QEMU."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vmtest", "--limit", "120", "--"),
            *("sh", "-c", "echo up; sleep 1000"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert b"up\n" == process.stdout.readline()
        (qemu,) = children_of(process.pid)
        yield process, qemu
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def await_end(pid: int) -> None:
    """Return when a process is gone; fail after 10 s."""
    end = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < end, f"{pid} is still there"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_qemu_is_left_behind(
    running: tuple[subprocess.Popen[bytes], int], number: signal.Signals
) -> None:
    """However vmtest ends, its guest ends with it."""
    process, qemu = running
    assert is_alive(qemu)
    process.send_signal(number)
    process.wait(10)
    await_end(qemu)
    expected = -number if number == signal.SIGKILL else 128 + number
    assert expected == process.returncode


def test_a_closed_output_ends_the_guest(
    running: tuple[subprocess.Popen[bytes], int],
) -> None:
    """Piped into head: the guest goes on only while somebody reads."""
    process, qemu = running
    assert process.stdout is not None
    process.stdout.close()
    # The guest's sleep says nothing more, so nothing breaks: it is still there.
    assert is_alive(qemu)
    process.terminate()
    await_end(qemu)


def test_an_unprivileged_user_boots_from_nothing(guest: Guest) -> None:
    """Another user fetches into a cache of their own, and boots."""
    python = "/usr/bin/python3"
    if os.geteuid():
        pytest.skip("needs root to become another user; the other tests ran without")
    if shutil.which("setpriv") is None or not Path(python).exists():
        pytest.skip("needs setpriv and the system's own python3")
    home = tempfile.mkdtemp(prefix="vmtest-nobody-")
    try:
        shutil.copytree(ROOT / "vmtest", f"{home}/vmtest")
        for path in [home, *Path(home).rglob("*")]:
            os.chown(path, 65534, 65534)
        done = subprocess.run(
            [
                *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
                *("env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}"),
                *(python, "-m", "vmtest", "--limit", "120", "--out", f"{home}/out"),
                *("--", "sh", "-c", "id -u; id -u >$VMTEST_OUT/f; exit 5"),
            ],
            cwd=home,
            capture_output=True,
            check=False,
            timeout=280,
        )
        if b"failed:" in done.stderr and b"apt-get" in done.stderr:
            pytest.skip(f"no packages for the guest: {done.stderr.decode()}")
        assert (5, b"0\n") == (done.returncode, done.stdout)
        written = Path(f"{home}/out/f")
        assert ("0\n", 65534) == (written.read_text(), written.stat().st_uid)
    finally:
        shutil.rmtree(home)


def test_numba_code_is_shared_between_guests(guest: Guest, tmp_path: Path) -> None:
    """What one guest compiled the next one loads, and so does this machine."""
    pytest.importorskip("numba", reason="needs numba")
    program = tmp_path / "program.py"
    program.write_text(
        "import numba\n"
        "@numba.njit(cache=True)\n"
        "def double(n):\n"
        "    return 2 * n\n"
        "print(double(21), sum(double.stats.cache_hits.values()))\n"
    )
    first = guest(command=f"python {program}")
    assert (0, b"42 0\n") == (first.returncode, first.stdout), first.stderr
    second = guest(command=f"python {program}; env | grep ^NUMBA_")
    answer, *settings = second.stdout.decode().splitlines()
    assert "42 1" == answer
    here = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, **dict(line.split("=", 1) for line in settings)},
        capture_output=True,
        check=True,
    )
    assert b"42 1\n" == here.stdout
