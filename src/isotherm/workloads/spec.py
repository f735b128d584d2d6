"""What a workload may be told: one schema per generator, and their parsing.

The schemas are read from a TOML file, from ``KEY=VALUE`` options, or made in
Python. Shares are of accesses, pages are shares of the footprint, times are
seconds since the stream began.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
from msgspec import Meta

from isotherm.core.errors import ConfigError
from isotherm.core.suggest import did_you_mean

Share = Annotated[float, Meta(ge=0, le=1)]
OpenShare = Annotated[float, Meta(gt=0, le=1)]
Exponent = Annotated[float, Meta(ge=0, le=8)]
Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1, le=1 << 20)]
CONTIGUITY_WORDS = "expected pages >= 1 or 'ragged'"
ContiguityField = Annotated[int, Meta(ge=1, le=1 << 30)] | Literal["ragged"]


class Zipf(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="zipf",
):
    """Zipf over single pages in random order (YCSB's constant)."""

    exponent: Exponent = 0.99
    write_share: Share | None = None


class Gups(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="gups",
):
    """A hot set that stays: 90 % of the updates on 1/16 of the pages."""

    hot_pages: OpenShare = 1 / 16
    hot_share: Share = 0.9
    write_share: Share | None = 0.5
    contiguity: ContiguityField = 64


class GupsShift(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="gups-shift",
):
    """The same, whose hot set moves at once, half a period in."""

    hot_pages: OpenShare = 1 / 16
    hot_share: Share = 0.9
    shift_s: Seconds = 60.0
    write_share: Share | None = 0.5
    contiguity: ContiguityField = 64


class Uniform(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="uniform",
):
    """Every page alike."""

    write_share: Share | None = None


class Stream(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="stream",
):
    """A sequential sweep over all pages, again and again."""

    burst: Count = 64
    write_share: Share | None = None


class ScanZipf(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="scan-zipf",
):
    """Zipf, and a sweep over everything running through it."""

    exponent: Exponent = 0.9
    scan_share: Share = 0.4
    burst: Count = 64
    write_share: Share | None = None
    contiguity: ContiguityField = 64


class Drift(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="drift",
):
    """A bell-shaped hot set that wanders over the whole footprint."""

    hot_share: Share = 0.85
    sigma: OpenShare = 0.05
    period_s: Seconds = 120.0
    write_share: Share | None = None
    contiguity: ContiguityField = 64


class Latest(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="latest",
):
    """The newest pages are the hottest (YCSB D), and newer ones keep coming."""

    exponent: Exponent = 0.99
    advance: Annotated[float, Meta(gt=0, le=64)] = 0.25
    period_s: Seconds = 120.0
    write_share: Share | None = 0.05
    contiguity: ContiguityField = 64
    births: bool = False


class Phases(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="phases",
):
    """Two unrelated Zipf orders that take turns."""

    exponent: Exponent = 0.9
    phase_s: Annotated[float, Meta(ge=0.5)] = 10.0
    write_share: Share | None = None


class Graph(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="graph",
):
    """Skewed vertex data, and a frontier that jumps every few seconds."""

    exponent: Exponent = 0.75
    frontier_share: Share = 0.45
    frontier_pages: OpenShare = 0.05
    write_share: Share | None = None
    contiguity: ContiguityField = 64


class BTree(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="btree",
):
    """Look-ups in a B-tree of one node a page."""

    fanout: Annotated[int, Meta(ge=2, le=4096)] = 128
    exponent: Exponent = 0.99
    write_share: Share | None = None


class ColdOnDram(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="cold-on-dram",
):
    """A hot sweep that hides its latency, a colder pointer chase that cannot."""

    heat: Annotated[float, Meta(gt=0)] = 13.6
    burst: Count = 64
    sweep_parallelism: Annotated[float, Meta(ge=1)] = 7.0
    loads_per_line: Annotated[float, Meta(ge=1, le=64)] = 8.0
    write_share: Share | None = None


class KvCache(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="kv-cache",
):
    """The key-value cache of a language-model server."""

    live_share: OpenShare = 0.1
    contiguity: ContiguityField = 16


class Embedding(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="embedding",
):
    """Look-ups of embedding rows with the reuse of Meta's recommendation models."""

    rows_per_page: Annotated[int, Meta(ge=1, le=4096)] = 64
    drift: Annotated[float, Meta(ge=0)] = 0.0
    write_share: Share | None = None


class Silo(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="silo",
):
    """YCSB on an in-memory database: a dense index, and records anywhere."""

    exponent: Exponent = 0.99
    records_per_page: Annotated[int, Meta(ge=1, le=4096)] = 4
    index_pages: OpenShare = 0.05
    index_share: Annotated[float, Meta(ge=0, lt=1)] = 0.4
    write_share: Share | None = None


class Liblinear(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="liblinear",
):
    """Training over dense arrays: heat differs by huge page, not within one."""

    exponent: Exponent = 0.99
    write_share: Share | None = None


GeneratorSpec = (
    Zipf
    | Gups
    | GupsShift
    | ScanZipf
    | Drift
    | Uniform
    | Latest
    | Phases
    | Graph
    | BTree
    | Stream
    | ColdOnDram
    | KvCache
    | Embedding
    | Silo
    | Liblinear
)

SCHEMAS: dict[str, type[msgspec.Struct]] = {
    str(schema.__struct_config__.tag): schema for schema in get_args(GeneratorSpec)
}


def parse_generator(
    fields: Mapping[str, Any], where: str, *, from_text: bool = False
) -> GeneratorSpec:
    """Return the generator that the fields describe.

    Args:
        fields: ``kind`` and its parameters.
        where: File and place, for messages.
        from_text: Accept "0.5" for 0.5 (values from a command line).

    Raises:
        ConfigError: No such kind, an unknown field, or a value out of range.
    """
    kind = fields.get("kind")
    if kind is None:
        raise ConfigError(
            f"{where}: kind: missing", hint="kinds: " + ", ".join(SCHEMAS)
        )
    if kind not in SCHEMAS:
        raise ConfigError(
            f"{where}: kind: no generator is called {kind!r}"
            + did_you_mean(str(kind), SCHEMAS),
            hint="kinds: " + ", ".join(SCHEMAS),
        )
    names = list(SCHEMAS[kind].__struct_fields__)
    for name in fields:
        if name != "kind" and name not in names:
            raise ConfigError(
                f"{where}: {name}: {kind} has no such parameter"
                + did_you_mean(name, names),
                hint="parameters: " + ", ".join(names),
            )
    try:
        own = msgspec.convert(fields, GeneratorSpec, strict=not from_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {render_error(error)}") from None
    return cast("GeneratorSpec", own)


def render_error(error: msgspec.ValidationError) -> str:
    """Return msgspec's complaint with the field first, as our messages go.

    >>> render_error(msgspec.ValidationError("Expected `int` - at `$.burst`"))
    'burst: expected `int`'
    """
    text, _, path = str(error).partition(" - at `")
    if text.startswith("Invalid enum value"):  # the one field that takes a word
        text = f"got {text.removeprefix('Invalid enum value ')}, {CONTIGUITY_WORDS}"
    text = text[:1].lower() + text[1:]
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    return f"{path}: {text}" if path else text
