"""isotherm commands under way in a guest, and the process that they are tried on."""

import os
import re
import subprocess
import sys
from pathlib import Path

RUN = Path("/run/isotherm")
HOT_AND_COLD = Path(__file__).parent / "hot_and_cold.py"
#: The guest imports and starts slowly; a run that is not over by then hangs.
LIMIT_S = 400


class Isotherm:
    """One isotherm command under way."""

    def __init__(self, words: tuple[str, ...], prefix: tuple[str, ...], log: Path):
        self.log = log
        environment = os.environ | {"ISOTHERM_KERNELS": "numpy", "NO_COLOR": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "isotherm", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )

    @property
    def said(self) -> str:
        """What it said on stderr so far."""
        return self.log.read_text()

    def end(self) -> tuple[int, str]:
        """Wait for its end; return exit code and stdout."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out


def finish(child: subprocess.Popen[str]) -> str:
    """Let a hot-and-cold process end; return what it says of its memory."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline()


def pages_on(pid: int, address: int, node: int) -> int:
    """Return pages of the mapping at an address that are on a node."""
    text = Path(f"/proc/{pid}/numa_maps").read_text()
    # The kernel joins neighbours: the mapping that holds the address.
    starts = [(int(line.split()[0], 16), line) for line in text.splitlines()]
    line = max(entry for entry in starts if entry[0] <= address)[1]
    found = re.search(rf"\bN{node}=(\d+)", line)
    return int(found[1]) if found else 0
