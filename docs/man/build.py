"""Write the manual page: ``python docs/man/build.py > docs/man/isotherm.1``."""

import sys
from typing import Final

from isotherm import __version__
from isotherm.cli.main import VERBS
from isotherm.daemon.config import SYSTEM_FILE

INTRODUCTION: Final = """\
isotherm keeps the hot memory of processes in the fast tier of a host that has several
kinds of memory (DRAM, CXL, HBM, compressed), moves a page only when the move pays for
itself, and says why. The same policies run in a simulator on recorded workloads.
Each verb has its own help: isotherm VERB --help."""

EXITS: Final = (
    (0, "done"),
    (1, "failed"),
    (2, "usage: what was asked for is not clear or not right"),
    (3, "unsupported here, or another mover is active"),
    (4, "not permitted"),
    (5, "the target has gone, or nothing runs that could be shown"),
    (130, "interrupted"),
    (143, "terminated"),
)
FILES: Final = (
    (str(SYSTEM_FILE), "the configuration that isotherm run reads"),
    ("/run/isotherm", "where daemons of root leave word; private"),
)
ENVIRONMENT: Final = (
    ("ISOTHERM_RUN_DIRECTORY", "another place than /run/isotherm"),
    ("ISOTHERM_KERNELS", "numpy: run without compiled kernels"),
    ("ISOTHERM_DEBUG", "1: show the traceback of an unexpected error"),
)
EXAMPLES: Final = (
    ("what this host offers", "isotherm doctor"),
    ("a cgroup's hot memory", "isotherm run --cgroup system.slice/db.service"),
    ("look, move nothing", "isotherm run --pid 4242 --dry-run --duration 60"),
    ("watch it", "isotherm top"),
    ("stop, put all back", "isotherm stop --all"),
    ("policies on a workload", "isotherm compare --workloads gups"),
)


def page() -> str:
    """Return the page in man(7)."""
    lines = [
        f'.TH ISOTHERM 1 "" "isotherm {__version__}" "User Commands"',
        ".SH NAME",
        r"isotherm \- memory tiering: move a page only when the move pays",
        ".SH SYNOPSIS",
        ".B isotherm",
        ".I VERB",
        r"[\fIOPTION\fR ...]",
        ".SH DESCRIPTION",
        _plain(INTRODUCTION),
        ".SH VERBS",
    ]
    for name, _, text in VERBS:
        lines += [".TP", f".B {name}", _plain(text)]
    for title, rows in (
        ("EXIT STATUS", EXITS),
        ("FILES", FILES),
        ("ENVIRONMENT", ENVIRONMENT),
    ):
        lines.append(f".SH {title}")
        for key, text in rows:
            lines += [".TP", f".B {_plain(str(key))}", _plain(text)]
    lines.append(".SH EXAMPLES")
    for text, command in EXAMPLES:
        lines += [".TP", _plain(text), f".B {_plain(command)}"]
    lines += [".SH SEE ALSO", ".BR numactl (8),", ".BR move_pages (2),", ".BR numa (7)"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    r"""Return text as troff shows it; ``-`` as it is typed.

    >>> _plain("a -b"), _plain(".x")
    ('a \\-b', '\\&.x')
    """
    shown = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(
        rf"\&{line}" if line[:1] in (".", "'") else line for line in shown.split("\n")
    )


if __name__ == "__main__":
    sys.stdout.write(page())
