"""Whether this user may run the daemon at all; cheap, and asked before all else."""

import os
from pathlib import Path
from typing import Final

from isotherm.core.errors import NotPermittedError

#: What moving other processes' pages, seeing frames and steering DAMON, and reading
#: page tables need: name and bit (include/uapi/linux/capability.h).
NEEDED: Final = {"CAP_SYS_NICE": 23, "CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19}


def check_permitted(root: Path = Path("/")) -> None:
    """Check that memory of other processes may be seen and moved.

    Args:
        root: Where /proc is.

    Raises:
        NotPermittedError: A capability is missing.
    """
    held = 0
    for line in (root / "proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
    missing = [name for name, bit in NEEDED.items() if not held >> bit & 1]
    if missing:
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        raise NotPermittedError(
            f"isotherm run: {who} lacks {', '.join(missing)}",
            hint="run it as root; isotherm doctor lists what is missing",
        )
