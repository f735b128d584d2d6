"""Run a command on a real Linux kernel that sees several memory tiers.

A Debian kernel boots under QEMU with the memory layout asked for. Its root is
this machine's own, read-only below an overlay in guest memory: the same Python
environment and sources under the same paths. ``python -m vmtest --help`` says
the rest; ``docs/reference/vmtest.md`` documents it.
"""

from vmtest.cache import Cache
from vmtest.errors import FetchError, GuestError
from vmtest.layout import LAYOUTS, Access, Layout, Node
from vmtest.request import Request
from vmtest.run import run

__all__ = [
    "LAYOUTS",
    "Access",
    "Cache",
    "FetchError",
    "GuestError",
    "Layout",
    "Node",
    "Request",
    "run",
]
