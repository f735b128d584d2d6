"""``python -m isotherm.workloads.native``: the workload without the command line.

For guests and scripts where start-up counts: numpy and msgspec are all that is
imported (and numba, unless ``ISOTHERM_KERNELS=numpy``).
"""

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from isotherm.core.errors import IsothermError, UsageError


def parser() -> argparse.ArgumentParser:
    """Return the options; they are those of ``isotherm workload run``."""
    made = argparse.ArgumentParser(prog="isotherm.workloads.native")
    made.add_argument("kind")
    made.add_argument("--pages", type=int, default=32768)
    made.add_argument("--rate", type=float, default=10.0)
    made.add_argument("--duration", type=float, default=60.0)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("--truth", type=Path)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--huge", default="default")
    made.add_argument("--place", default="")
    made.add_argument("--place-stays", action="store_true")
    made.add_argument("--json", action="store_true")
    return made


def parse_options(words: list[str]) -> dict[str, object]:
    """Return a generator's parameters from ``NAME=VALUE`` words.

    Raises:
        UsageError: A word has no equals sign.
    """
    pairs: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UsageError(f"set: expected NAME=VALUE, got {word!r}")
        pairs[name] = value
    return pairs


def run(asked: Any) -> int:
    """Run a workload as parsed options say; return the exit code.

    SIGINT and SIGTERM end it early, with its memory verified.

    Raises:
        IsothermError: An option is wrong, or data was damaged.
    """
    # Imported late: wrong options are told at once, not after numba.
    from isotherm.workloads.native import process  # noqa: PLC0415
    from isotherm.workloads.native.memory import parse_placing  # noqa: PLC0415

    plan = process.Plan(
        kind=asked.kind,
        pages=asked.pages,
        rate=asked.rate,
        duration_s=asked.duration or None,
        seed=asked.seed,
        options=parse_options(asked.set),
        truth=asked.truth,
        threads=asked.threads,
        huge=asked.huge,
        placing=parse_placing(asked.place) if asked.place else None,
        placing_stays=asked.place_stays,
    )
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        result = process.Native(plan, stop).run(None if asked.json else _say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.json:
        import msgspec  # noqa: PLC0415  # only here

        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        sys.stdout.write(
            f"{result.accesses:,} accesses, {result.writes:,} writes in "
            f"{result.duration_s:.1f} s: {result.accesses_per_s:,.0f} a second; "
            f"{result.damaged_lines} damaged lines\n"
        )
    trouble = process.complaint(result)
    if trouble is not None:
        raise trouble
    return 0


def _say(second: Any) -> None:
    sys.stdout.write(
        f"{second.time_s:8.1f} s  phase {second.phase}  "
        f"{second.accesses_per_s:14,.0f} accesses/s  {second.errors} errors\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Run and print errors as ``isotherm`` does."""
    try:
        return run(parser().parse_args())
    except IsothermError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  hint: {error.hint}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
