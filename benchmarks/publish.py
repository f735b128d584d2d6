"""Put what was measured between its markers in docs/measurements.md or README.md."""

import argparse
import platform
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
MEASUREMENTS: Final = ROOT / "docs" / "measurements.md"
README: Final = ROOT / "README.md"


def publish(name: str, text: str, path: Path = MEASUREMENTS) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        SystemExit: The page has no such markers.
    """
    page = path.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise SystemExit(f"{path}: expected the markers {begin} and {end}")
    head, _, rest = page.partition(begin)
    tail = rest.partition(end)[2]
    path.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}")


def of_seeds(text: str, pages: int, seeds: str) -> argparse.Namespace:
    """Return the options of a benchmark of some pages and seeds.

    Args:
        text: Its docstring.
        pages: Unless said otherwise.
        seeds: Likewise, with commas.
    """
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--pages", type=int, default=pages)
    parser.add_argument("--seeds", default=seeds)
    args = parser.parse_args()
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    return args


def conclude(text: str, missed: list[str], name: str | None, page: Path) -> int:
    """Print a table and what misses its bars; return the exit code.

    Args:
        text: The table.
        missed: In words.
        name: Of the markers to publish between; None: it is not published.
        page: Where.
    """
    sys.stdout.write(f"{text}\n\n")
    lines = [f"FAIL: {line}" for line in missed] or ["pass"]
    sys.stdout.write("\n".join([*lines, ""]))
    if name is not None:
        publish(name, text, page)
    return 1 if missed else 0


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table; the first column is text, the others are right-aligned.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def processor() -> str:
    """Return the processor's name, as the kernel gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
