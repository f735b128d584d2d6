"""A process with a hot and a cold mapping, both born on one node.

Started by tests as ``python hot_and_cold.py NODE HOT_MIB COLD_MIB [may-be-huge]``.
Without the last word the kernel is told to make no huge pages of it. It says
``ready HOT_ADDRESS COLD_ADDRESS``, then touches one byte of every hot page, over
and over, until something comes on its standard input; last it checks that every
page still says what was written there. Nothing beyond the standard library: it
starts quickly where code runs slowly.
"""

import ctypes
import mmap
import select
import sys

PAGE = 4096
SET_MEMPOLICY = 238  # x86-64
MPOL_DEFAULT, MPOL_BIND = 0, 2


def allocate(mib: int, first: int, *, may_be_huge: bool) -> mmap.mmap:
    """Return anonymous memory, a mark written to every page."""
    memory = mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Neighbouring mappings of one kind are one to the kernel: keep them apart.
    if not may_be_huge:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range((mib << 20) // PAGE):
        memory[page * PAGE] = (first + page) % 251
    return memory


def is_intact(memory: mmap.mmap, first: int) -> bool:
    """Return whether every page still holds its mark."""
    return all(
        memory[page * PAGE] == (first + page) % 251
        for page in range(len(memory) // PAGE)
    )


def address(memory: mmap.mmap) -> int:
    """Return where memory begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def main() -> None:
    """Touch until nobody reads on."""
    node, hot_mib, cold_mib = map(int, sys.argv[1:4])
    may_be_huge = sys.argv[4:] == ["may-be-huge"]
    libc = ctypes.CDLL(None)
    mask = ctypes.c_ulong(1 << node)
    libc.syscall(SET_MEMPOLICY, MPOL_BIND, ctypes.byref(mask), 64)
    hot = allocate(hot_mib, 1, may_be_huge=may_be_huge)
    between = mmap.mmap(-1, PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    cold = allocate(cold_mib, 2, may_be_huge=may_be_huge)
    libc.syscall(SET_MEMPOLICY, MPOL_DEFAULT, None, 0)
    sys.stdout.write(f"ready {address(hot)} {address(cold)}\n")
    sys.stdout.flush()
    step = slice(0, len(hot), PAGE)
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        hot[step]
    whole = is_intact(hot, 1) and is_intact(cold, 2)
    sys.stdout.write("intact\n" if whole else "broken\n")
    between.close()


main()
