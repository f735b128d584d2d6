"""The fenced blocks of the pages, and what is done with those that hold commands.

A block of ``sh`` is a script, one of ``console`` a session: commands after ``$``, what
they print below. Both are run, in the order of the page, unless a comment stands in
the line before the fence, seen in the source alone::

    <!-- long: four minutes -->          only `make docs-commands` runs it
    <!-- guest: needs two tiers -->      tests/vm/test_docs_commands.py runs it
    <!-- gpu: eight minutes of one -->   tests/gpu/test_docs_commands.py runs it
    <!-- elsewhere: .ci/run -->          what is named runs it
    <!-- never: perf of another host --> nothing can
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)
KINDS: Final = ("long", "guest", "gpu", "elsewhere", "never")
#: What a fence may be called; commands hide in nothing that has no name.
LANGUAGES: Final = (
    ("sh", "console"),  # commands
    ("text", "python", "pycon", "toml", "json", "yaml", "sql"),
)
_MARK: Final = re.compile(rf"<!-- ({'|'.join(KINDS)}): (.+) -->")
_FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it is, what it is, what is done with it."""

    page: Path
    line: int
    language: str
    text: str
    kind: str = ""  # of KINDS; empty: run at once
    reason: str = ""

    @property
    def name(self) -> str:
        """Return page and line, such as ``README.md:11``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def has_commands(self) -> bool:
        """Return whether it is for a shell."""
        return self.language in LANGUAGES[0]


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed at once, and the lines that it is said to print, if any."""

    text: str
    shown: tuple[str, ...] = ()


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    text = page.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()].rstrip("\n").rpartition("\n")[2]
        mark = _MARK.fullmatch(before)
        kind, reason = mark.groups() if mark else ("", "")
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, fence[1], fence[2], kind, reason))
    return found


def command_blocks(kind: str | None = None) -> list[Block]:
    """Return the blocks of commands of all pages; of one kind where it is named."""
    return [
        block
        for page in PAGES
        for block in blocks_of(page)
        if block.has_commands and kind in (None, block.kind)
    ]


def commands_of(block: Block) -> list[Command]:
    r"""Return the commands of a block.

    >>> text = "$ echo 1 \\\n    2\n1 2\n$ true\n"
    >>> for one in commands_of(Block(ROOT, 1, "console", text)):
    ...     print(repr(one.text), one.shown)
    'echo 1 \\\n    2' ('1 2',)
    'true' ()
    >>> [one.text for one in commands_of(Block(ROOT, 1, "sh", "a \\\n  b\nc &\n"))]
    ['a \\\n  b', 'c &']
    """
    found: list[tuple[list[str], list[str]]] = []
    going_on = False
    for line in block.text.splitlines():
        if going_on:
            found[-1][0].append(line)
        elif block.language == "console" and not line.startswith("$ "):
            found[-1][1].append(line)
            continue
        elif line.strip():
            found.append(([line.removeprefix("$ ")], []))
        going_on = line.endswith("\\")
    return [Command("\n".join(typed), tuple(shown)) for typed, shown in found]


def shape(line: str) -> str:
    """Return a line of output without its figures, units and widths.

    >>> shape(" slowdown           1.504   1 is all memory fast")
    'slowdown # # is all memory fast'
    >>> shape("moved  73.8 MiB"), shape("moved 1,024 KiB")
    ('moved #', 'moved #')
    """
    unit = r"(?:[KMGTP]i?B|[munµ]?s|min|[kMG])\b"
    line = re.sub(rf"\d[\d.,:]*(?:\s?{unit})?", "#", line)
    return " ".join(line.split())


def missing_lines(shown: tuple[str, ...], printed: str) -> list[str]:
    """Return the shown lines that are not printed, in order; ``...`` is any."""
    lines = [shape(line) for line in printed.splitlines()]
    missing = []
    for line in shown:
        if line.strip() in ("", "...", "…"):
            continue
        if shape(line) in lines:
            lines = lines[lines.index(shape(line)) + 1 :]
        else:
            missing.append(line)
    return missing
