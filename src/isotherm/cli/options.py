"""Parsing what verbs share: comma lists, ratios, name=value pairs."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from isotherm.core.errors import UsageError
from isotherm.lab.catalogue import check_fault, check_hint

T = TypeVar("T")

#: Begins a hint that is a recording of perf.
RECORDING = "perf.data:"

#: What Dask takes for the address of a scheduler.
_ADDRESS = re.compile(r"((tcp|tls)://)?([\w.-]+|\[[0-9a-fA-F:.%]+\]):\d{1,5}(/\S*)?")


def parse_ratio(
    text: str, what: str = "fast ratio", *, beyond_all: bool = False
) -> float:
    """Return a share in (0, 1], written as 0.2, 1/5 or 20%.

    Args:
        text: What a person wrote.
        what: What it is of, for the message.
        beyond_all: It may be more than 1, as a slowdown may.

    Raises:
        UsageError: It is none.

    >>> parse_ratio("1/5"), parse_ratio("0.2"), parse_ratio("20%")
    (0.2, 0.2, 0.2)
    """
    try:
        if text.endswith("%"):
            value = float(Fraction(text[:-1]) / 100)
        else:
            value = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 < value <= (1e6 if beyond_all else 1):
        which = "> 0" if beyond_all else "in (0, 1]"
        raise UsageError(
            f"{what}: expected a share {which}, got {text!r}",
            hint="fast memory over footprint: 0.2, 1/5 or 20%"
            if what == "fast ratio"
            else "try 0.2, 1/5 or 20%",
        )
    return value


def parse_rate(text: str) -> float | None:
    """Return accesses per page per second; None for ``trace``: its own times.

    Raises:
        UsageError: It is neither.
    """
    if text == "trace":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"rate: expected accesses per page per second > 0, or trace, got {text!r}"
        )
    return value


def parse_list(text: str, parse: Callable[[str], T], what: str) -> list[T]:
    """Return the items of a comma list, none twice, each parsed.

    Raises:
        UsageError: The list is empty or an item is wrong.

    >>> parse_list("1,2,1", int, "seeds")
    [1, 2]
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{what}: expected a comma-separated list, got {text!r}")
    items = []
    for word in words:
        try:
            items.append(parse(word))
        except ValueError:
            raise UsageError(f"{what}: expected a number, got {word!r}") from None
    return list(dict.fromkeys(items))


def parse_hints(text: str | None) -> tuple[str, ...] | None:
    """Return mechanisms; None: all of the machine that the policy uses.

    Raises:
        UsageError: A mechanism is not known.

    >>> parse_hints("sampling,accessed-bit")
    ('sampling', 'accessed-bit')
    >>> parse_hints("none")
    ()
    """
    if text is None:
        return None
    if text == "none":
        return ()
    return tuple(parse_list(text, check_hint, "hints"))


def split_recording(text: str | None) -> tuple[str | None, str | None]:
    """Return ``--hints`` without ``perf.data:FILE``, and that file.

    Its samples stand for the machine's, so that ``sampling`` takes its place.

    Raises:
        UsageError: Two files, or none behind the colon.

    >>> split_recording("accessed-bit,perf.data:run/perf.data")
    ('accessed-bit,sampling', 'run/perf.data')
    >>> split_recording("sampling")
    ('sampling', None)
    """
    words = [] if text is None else text.split(",")
    files = [word for word in words if word.strip().startswith(RECORDING)]
    if not files:
        return text, None
    path = files[0].strip().removeprefix(RECORDING)
    if len(files) > 1 or not path:
        raise UsageError(
            f"hints: expected {RECORDING}FILE once, got {','.join(files)}",
            hint="perf record -d or perf mem record writes such a file",
        )
    rest = [word for word in words if word not in files]
    return ",".join([*rest, "sampling"]), path


def parse_faults(words: Iterable[str]) -> dict[str, float]:
    """Return injected trouble, ``name=share`` words, as a mapping.

    Raises:
        UsageError: A kind is not known, or its share is none in [0, 1].

    >>> parse_faults(["busy=0.01", "pinned=0.1"])
    {'busy': 0.01, 'pinned': 0.1}
    """
    faults = parse_pairs(words, "fault")
    for name, share in faults.items():
        check_fault(name)
        if not 0 <= share <= 1:
            raise UsageError(f"fault {name}: expected a share in [0, 1], got {share}")
    return faults


def check_loss(share: float) -> float:
    """Return a share of samples to lose.

    Raises:
        UsageError: It is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UsageError(f"sampling loss: expected a share in [0, 1), got {share}")
    return share


def parse_pairs(words: Iterable[str], what: str) -> dict[str, float]:
    """Return ``name=value`` words as a mapping.

    Raises:
        UsageError: A word is no such pair, or a name comes twice.

    >>> parse_pairs(["half_life=60", "ridge=4"], "option")
    {'half_life': 60.0, 'ridge': 4.0}
    """
    pairs: dict[str, float] = {}
    for word in words:
        name, sign, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not sign or math.isnan(number):
            raise UsageError(f"{what}: expected name=number, got {word!r}")
        if name in pairs:
            raise UsageError(f"{what}: {name} is given twice")
        pairs[name] = number
    return pairs


def parse_settings(words: Iterable[str], what: str) -> dict[str, float | str]:
    """Return ``name=value`` words as a mapping; what is no number stays text.

    Raises:
        UsageError: A word is no such pair, or a name comes twice.

    >>> parse_settings(["exponent=1.2", "contiguity=ragged"], "workload option")
    {'exponent': 1.2, 'contiguity': 'ragged'}
    """
    settings: dict[str, float | str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name or not sign or not value:
            raise UsageError(f"{what}: expected name=value, got {word!r}")
        if name in settings:
            raise UsageError(f"{what}: {name} is given twice")
        try:
            settings[name] = float(value)
        except ValueError:
            settings[name] = value
    return settings


def at_least(what: str, value: float | None, least: float) -> None:
    """Check that a number is not too small.

    Raises:
        UsageError: It is.
    """
    if value is not None and not value >= least:
        raise UsageError(f"{what}: expected at least {least:g}, got {value:g}")


def check_all(check: Callable[[str], str], names: Sequence[str]) -> Sequence[str]:
    """Return the names when every one of them passes ``check``."""
    return [check(name) for name in names]


def check_scheduler(address: str | None) -> None:
    """See that an address is one of a Dask scheduler: ``HOST:PORT``, before any wait.

    Raises:
        UsageError: It is none.
    """
    if address is not None and not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"scheduler: expected HOST:PORT, such as 10.0.0.1:8786, got {address!r}",
            hint="dask scheduler prints its address when it starts",
        )


def check_parquet(path: Path | None) -> None:
    """See that the file of finished runs is called what it is.

    Raises:
        UsageError: Its name says that it is something else.
    """
    if path is not None and path.suffix != ".parquet":
        raise UsageError(
            f"out: finished runs are kept as Parquet, expected a name that ends in"
            f" .parquet, got {str(path)!r}",
            hint=f"--out {path.with_suffix('.parquet')}; --json prints JSON",
        )
