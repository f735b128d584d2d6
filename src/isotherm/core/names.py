"""Names as people read them: of files without the endings that say only a format.

Processes, cgroups and files are named by anybody: a terminal must not obey a name.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: Endings of the formats that are read; no other part of a name is dropped.
ENDINGS: Final = frozenset(
    {
        ".arrow",
        ".bz2",
        ".csv",
        ".gz",
        ".parquet",
        ".tar",
        ".toml",
        ".trace",
        ".xz",
        ".zst",
    }
)


#: What a terminal may obey: C0 but for tab and newline, DEL, C1; and the marks that
#: turn the direction of writing.
_OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return text with a question mark for each character that a terminal obeys.

    >>> printable("redis\x1b[2J\n")
    'redis?[2J\n'
    """
    return _OBEYED.sub("?", text)


def without_endings(name: str) -> str:
    """Return a file's name without the endings in ``ENDINGS``, never empty.

    >>> without_endings("redis.7.2.parquet"), without_endings("gcc.csv.zst")
    ('redis.7.2', 'gcc')
    """
    while "." in name.lstrip("."):
        head, dot, end = name.rpartition(".")
        if not head or (dot + end).lower() not in ENDINGS:
            break
        name = head
    return name


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Return names of different files, with as many folders as tell them apart.

    >>> distinct_names(["old/gcc.parquet", "/new/gcc.parquet"])
    ['old/gcc', 'new/gcc']
    >>> distinct_names(["gcc.csv", "gcc.parquet"])
    ['gcc.csv', 'gcc.parquet']
    """
    parts = [[part for part in Path(path).parts if part != "/"] for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        short = [without_endings(name) for name in names]
        for found in (short, names):
            if len(set(found)) == len(set(paths)):
                return found
    return list(paths)
