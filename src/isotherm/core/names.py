"""Names of files as people read them: without the endings that say only a format."""

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
