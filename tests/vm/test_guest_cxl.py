"""The CXL device arrives and leaves while a program runs."""

import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.layout("cxl")

PAGES = 1009

# Puts pages on node 1 (MPOL_BIND 2 by mbind, syscall 237), then on each line of
# input says how many of them are where (move_pages, syscall 279, without nodes)
# and whether what they hold is as it was.
HOLDER = f"""
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
pages = {PAGES}
area = mmap.mmap(-1, pages * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
node = ctypes.c_ulong(2)
long = ctypes.c_long
assert libc.syscall(long(237), ctypes.c_void_p(base), ctypes.c_ulong(pages * 4096),
                    long(1), ctypes.byref(node), ctypes.c_ulong(64), long(0)) == 0
for page in range(pages):
    area[page * 4096:page * 4096 + 4] = page.to_bytes(4, "little")
addresses = (ctypes.c_void_p * pages)(*range(base, base + pages * 4096, 4096))
status = (ctypes.c_int * pages)()
for line in sys.stdin:
    assert libc.syscall(long(279), long(0), ctypes.c_ulong(pages), addresses, None,
                        status, long(0)) == 0
    intact = all(int.from_bytes(area[p * 4096:p * 4096 + 4], "little") == p
                 for p in range(pages))
    found = list(status)
    print(found.count(0), found.count(1), intact, flush=True)
"""


def cxl(verb: str) -> str:
    """Run vmtest-cxl and return what it says."""
    done = subprocess.run(
        ["vmtest-cxl", verb], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


def test_the_device_leaves_and_returns_under_a_program(
    quiet_kernel: None,
    start: Callable[[str], "subprocess.Popen[str]"],
    tiers: list[list[int]],
) -> None:
    """Pages in use move to node 0 and keep their contents; the node goes."""
    assert [[0], [1]] == tiers
    holder = start(HOLDER)
    assert holder.stdin is not None
    assert holder.stdout is not None

    def ask() -> str:
        holder.stdin.write("\n")
        holder.stdin.flush()
        return str(holder.stdout.readline().strip())

    assert f"0 {PAGES} True" == ask()
    cxl("leave")
    assert "absent" == cxl("state")
    assert "0" == read_nodes()
    assert f"{PAGES} 0 True" == ask()
    cxl("arrive")
    assert "online" == cxl("state")
    assert "0-1" == read_nodes()
    assert f"{PAGES} 0 True" == ask()


def test_memory_goes_off_line_and_on_again() -> None:
    """The device stays, its memory does not."""
    cxl("offline")
    assert "offline" == cxl("state")
    assert "0" == read_nodes()
    cxl("online")
    assert "online" == cxl("state")
    assert "0-1" == read_nodes()


def test_arriving_twice_is_no_error() -> None:
    """Nor is leaving twice."""
    cxl("arrive")
    assert "online" == cxl("state")
    cxl("leave")
    cxl("leave")
    assert "absent" == cxl("state")
    cxl("arrive")


def read_nodes() -> str:
    """Return the nodes that have memory."""
    with open("/sys/devices/system/node/has_memory") as file:  # noqa: PTH123
        return file.read().strip()
