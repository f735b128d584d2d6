"""A workload in a TOML file: one generator, or a mixture of several.

One generator::

    kind = "zipf"
    exponent = 1.1

A mixture; each part has its share of the footprint and of the accesses (any
scale, 1 each unless it says otherwise)::

    name = "database"

    [[part]]
    kind = "btree"
    pages = 3
    accesses = 0.7

    [[part]]
    kind = "stream"
    pages = 1
    accesses = 0.3

Either may say how well its data compress, ``compressibility = "3-1.5/60"``: at 3:1,
drifting to 1.5:1 within 60 s (`isotherm.trace.compressibility`). Machines that
compress nothing take no notice.

A generator or a part may say who makes its accesses (``initiator``, its number on
the machine) and how many misses it has in flight (``parallelism``); a part may have
a ``name``. A part may have ``threads = [0, 1, 1]`` instead: three, which access its
pages alike and run on these initiators at first; then all parts have some, and
``stray = 0.05`` is the share of the accesses that any of all threads makes.
``[[background]]`` is traffic of others on a node
(`isotherm.trace.stream.Background`).
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.files import file_error
from isotherm.trace.compressibility import parse_compressibility
from isotherm.trace.stream import AccessStream, Background
from isotherm.workloads.build import build
from isotherm.workloads.mix import MixPart, build_mix
from isotherm.workloads.spec import parse_generator, render_error
from isotherm.workloads.stream import Generated

MAX_PARTS = 255
MAX_INITIATOR = 254  # 255 is "unknown"


def read_workload(
    path: Path, pages: int, seed: int, options: Mapping[str, object] | None = None
) -> Generated:
    """Return the workload that a TOML file describes.

    Args:
        path: The file.
        pages: Footprint.
        seed: >= 0; a part's is ``seed`` plus 1000 times its number from 0.
        options: Parameters of a single generator, numbers or text, that go
            before the file's.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or does not fit the
            schema; the message names the file and the field.
    """
    fields = _load(path)
    name = fields.pop("name", path.stem)
    if not isinstance(name, str):
        raise ConfigError(f"{path}: name: expected text, got {name!r}")
    stated = _compressibility(fields.pop("compressibility", None), path)
    background = _background(fields.pop("background", []), path)
    if "part" not in fields:
        alike = _alike(fields, str(path))
        own = parse_generator(fields, str(path))
        if options:
            merged = {**fields, **options}
            own = parse_generator(merged, f"{path} and options", from_text=True)
        return replace(
            _with_streams(build(own, name, pages, seed), *alike, str(path)),
            compressibility=stated,
            background=background,
        )
    if options:
        raise ConfigError(
            f"{path}: a mixture takes no options, got {', '.join(options)}",
            hint="set them in its parts",
        )
    parts = fields.pop("part")
    stray = _stray(fields.pop("stray", 0.0), path)
    for field in fields:
        raise ConfigError(
            f"{path}: {field}: a mixture has only name, compressibility, stray,"
            " [[background]] and [[part]] tables",
            hint="move it into a [[part]]",
        )
    if not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
        raise ConfigError(f"{path}: part: expected [[part]] tables")
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ConfigError(
            f"{path}: part: expected 1 to {MAX_PARTS} parts, got {len(parts)}"
        )
    mixed = _mix(path, name, parts, pages, seed, stray)
    return replace(mixed, compressibility=stated, background=background)


def _mix(
    path: Path,
    name: str,
    parts: list[dict[str, Any]],
    pages: int,
    seed: int,
    stray: float = 0.0,
) -> Generated:
    if pages < len(parts):
        raise ConfigError(
            f"{path}: {len(parts)} parts need as many pages, got {pages}",
            hint=f"try --pages {len(parts) * 1024}",
        )
    shares = [
        (_weight(part, "pages", path, k), _weight(part, "accesses", path, k))
        for k, part in enumerate(parts)
    ]
    footprint = sum(own for own, _ in shares)
    spare = pages - len(parts)  # every part gets at least one page
    built, before, given = [], 0.0, 0
    for k, (part, (own_pages, accesses)) in enumerate(zip(parts, shares, strict=True)):
        before += own_pages
        end = spare if k == len(parts) - 1 else int(spare * before / footprint)
        where = f"{path}: part[{k}]"
        own_name = part.pop("name", f"{name}.{k}")
        if not isinstance(own_name, str):
            raise ConfigError(f"{where}.name: expected text, got {own_name!r}")
        alike = _alike(part, where)
        threads = _threads(part, alike, where)
        workload = build(
            parse_generator(part, where),
            f"{name}.{k}",
            1 + end - given,
            seed + 1000 * k,
        )
        workload = _with_streams(workload, *alike, where)
        if threads and workload.streams:
            raise ConfigError(f"{where}.threads: it has streams of its own")
        built.append(MixPart(workload, accesses, own_name, threads))
        given = end
    if any(part.threads for part in built) and not all(p.threads for p in built):
        raise ConfigError(f"{path}: part: expected threads in every part or in none")
    names = [part.name for part in built]
    for part_name in names:
        if names.count(part_name) > 1:
            raise ConfigError(f"{path}: part: two are called {part_name!r}")
    mixed = build_mix(name, built, seed, stray)
    if len(mixed.streams) > MAX_PARTS:
        raise ConfigError(
            f"{path}: part: expected at most {MAX_PARTS} streams of accesses in all,"
            f" got {len(mixed.streams)}"
        )
    return mixed


def _alike(fields: dict[str, Any], where: str) -> tuple[int | None, float | None]:
    """Take out who makes the accesses, and how many misses are in flight."""
    who, parallelism = fields.pop("initiator", None), fields.pop("parallelism", None)
    if who is not None and (isinstance(who, bool) or not isinstance(who, int)):
        raise ConfigError(f"{where}.initiator: expected a number >= 0, got {who!r}")
    if who is not None and not 0 <= who <= MAX_INITIATOR:
        raise ConfigError(
            f"{where}.initiator: expected 0 to {MAX_INITIATOR}, got {who}"
        )
    if parallelism is None:
        return who, None
    known = isinstance(parallelism, int | float) and not isinstance(parallelism, bool)
    if not (known and 1 <= parallelism < math.inf):
        raise ConfigError(
            f"{where}.parallelism: expected a number >= 1, got {parallelism!r}"
        )
    return who, float(parallelism)


def _threads(
    fields: dict[str, Any], alike: tuple[int | None, float | None], where: str
) -> tuple[int, ...]:
    """Take out the initiators that a part's threads run on at first."""
    found = fields.pop("threads", None)
    if found is None:
        return ()
    if alike != (None, None):
        raise ConfigError(f"{where}.threads: expected no initiator or parallelism too")
    fine = isinstance(found, list) and all(
        isinstance(who, int) and not isinstance(who, bool) and 0 <= who <= MAX_INITIATOR
        for who in found
    )
    if not fine or not found:
        raise ConfigError(
            f"{where}.threads: expected initiators, 0 to {MAX_INITIATOR}, one a"
            f" thread, got {found!r}"
        )
    return tuple(found)


def _stray(value: object, path: Path) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not (known and 0 <= float(str(value)) < 1):
        raise ConfigError(f"{path}: stray: expected a share in [0, 1), got {value!r}")
    return float(str(value))


def _with_streams(
    workload: Generated, who: int | None, parallelism: float | None, where: str
) -> Generated:
    """Return a workload whose accesses are made so; as it is where nothing is said."""
    if who is None and parallelism is None:
        return workload
    if workload.streams and parallelism is not None:
        raise ConfigError(
            f"{where}.parallelism: its streams have their own",
            hint=", ".join(
                f"{s.name}: {s.parallelism:g}"
                for s in workload.streams
                if s.parallelism
            ),
        )
    streams = workload.streams or (AccessStream(workload.name, parallelism),)
    return replace(
        workload,
        streams=tuple(replace(stream, initiator=who) for stream in streams),
        stream_starts=workload.stream_starts or (0,),
    )


def _background(rows: object, path: Path) -> tuple[Background, ...]:
    """Return the traffic of others that a file states, checked."""
    try:
        found = msgspec.convert(rows, tuple[Background, ...])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: background: {render_error(error)}") from None
    for k, row in enumerate(found):
        row.check(f"{path}: background[{k}]")
    return found


def _weight(part: dict[str, Any], field: str, path: Path, k: int) -> float:
    value = part.pop(field, 1)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not (known and math.isfinite(value) and value > 0):
        raise ConfigError(
            f"{path}: part[{k}].{field}: expected a number > 0, got {value!r}"
        )
    return float(value)


def _compressibility(value: object, path: Path) -> str | None:
    """Return what a file states, checked; a plain number is a ratio that stays."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(
            f"{path}: compressibility: expected a ratio or text, got {value!r}"
        )
    try:
        parse_compressibility(str(value))
    except UsageError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from None
    return str(value)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise file_error(path, error, "cannot read it", ConfigError) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None
