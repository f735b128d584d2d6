"""A process that grows: every second new memory, the newest hot, the rest cold.

Started by tests as ``python growing.py COLD_MIB BLOCKS PAGES``. It fills COLD_MIB and
says ``ready``. After a line on its standard input it takes so many blocks, one a
second, writes every page of each, asks the kernel at once on which node each page was
born, and says ``born K FAST``: of block K so many pages on node 0. The newest blocks
are touched all the time. Nothing beyond the standard library.
"""

import ctypes
import mmap
import sys
import time
from collections import deque

PAGE = 4096
MOVE_PAGES = 279  # x86-64
TOUCHED = 6
libc = ctypes.CDLL(None, use_errno=True)


def take(pages: int) -> mmap.mmap:
    """Return new memory, every page written once."""
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(pages):
        memory[page * PAGE] = 1
    return memory


def born_fast(memory: mmap.mmap) -> int:
    """Return the pages that the kernel says are on node 0."""
    count = len(memory) // PAGE
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages = (ctypes.c_void_p * count)(*(start + i * PAGE for i in range(count)))
    status = (ctypes.c_int * count)()
    assert libc.syscall(MOVE_PAGES, 0, count, pages, None, status, 0) == 0
    return sum(where == 0 for where in status)


def main() -> None:
    """Grow."""
    cold_mib, blocks, pages = map(int, sys.argv[1:4])
    kept = [take(cold_mib * 256)]
    newest: deque[mmap.mmap] = deque(maxlen=TOUCHED)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for block in range(blocks):
        memory = take(pages)
        sys.stdout.write(f"born {block} {born_fast(memory)}\n")
        sys.stdout.flush()
        kept.append(memory)
        newest.append(memory)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for young in newest:
                young[0 : len(young) : PAGE]
            time.sleep(0.02)
    sys.stdin.readline()


main()
