"""Run a program that dies with the process that started it.

    python leash.py PARENT PROGRAM [ARGUMENT...]

A small process of its own: PR_SET_PDEATHSIG outlives exec, and setting it
between fork and exec is unsafe where there are threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def main() -> None:
    """Become the program."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it died before the call
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  no shell is the point


if __name__ == "__main__":
    main()
