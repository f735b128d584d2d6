"""What can be set, in one TOML file: every key with its default and its meaning."""

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from isotherm.core.errors import ConfigError
from isotherm.core.suggest import did_you_mean

#: Read by ``isotherm run`` where no file is named, if it is there.
SYSTEM_FILE: Final = Path("/etc/isotherm.toml")


class LoopConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pace of the loop, and who decides."""

    epoch_s: Annotated[
        float, Meta(gt=0, le=60, description="seconds between decisions")
    ] = 1.0
    longest_epoch_s: Annotated[
        float,
        Meta(gt=0, le=120, description="epochs grow up to this to keep the CPU budget"),
    ] = 60.0
    policy: Annotated[
        str, Meta(description="who decides; isotherm simulate --list")
    ] = "isotherm"
    seed: Annotated[int, Meta(ge=0, description="for every random choice")] = 1
    headroom: Annotated[
        bool, Meta(description="keep fast memory free for what is born, by its price")
    ] = True


class MigrationConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast pages may move."""

    limit_mib_s: Annotated[
        float, Meta(gt=0, description="most memory to move, MiB per second")
    ] = 200.0
    batch_pages: Annotated[
        int, Meta(ge=1, le=1 << 16, description="most pages in one system call")
    ] = 512
    tries: Annotated[
        int, Meta(ge=1, le=16, description="tries of a page that is busy")
    ] = 4


class BudgetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon itself may cost."""

    cpu_percent: Annotated[
        float, Meta(gt=0, le=6400, description="of one core; longer epochs keep it")
    ] = 2.0
    memory_permille: Annotated[
        float,
        Meta(gt=0, le=1000, description="of managed memory; larger units keep it"),
    ] = 1.0
    memory_floor_mib: Annotated[
        float,
        Meta(ge=0, description="state below this is never coarsened, MiB"),
    ] = 64.0


class BrakeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When movement is halved and then stopped."""

    enabled: Annotated[bool, Meta(description="false: move whatever happens")] = True
    psi_some_percent: Annotated[
        float,
        Meta(gt=0, le=100, description="time that some task waits for memory"),
    ] = 10.0
    refaults_per_s: Annotated[
        float, Meta(gt=0, description="pages that come back after reclaim, a second")
    ] = 1000.0
    failure_percent: Annotated[
        float, Meta(gt=0, le=100, description="tries of moves that fail")
    ] = 50.0
    hold_back_percent: Annotated[
        float,
        Meta(
            ge=0, le=50, description="moves held back at random, to measure the rest by"
        ),
    ] = 1.0
    react_s: Annotated[
        float, Meta(ge=0, description="a sign must last so long to count, seconds")
    ] = 3.0
    recover_s: Annotated[
        float, Meta(gt=0, description="a good sign must last so long, seconds")
    ] = 30.0


class SourcesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How accesses are seen."""

    use: Annotated[
        tuple[str, ...],
        Meta(
            description='names from isotherm doctor; ["auto"]: the best that is there'
        ),
    ] = ("auto",)


class MoversConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Others who move the same memory."""

    tolerate: Annotated[
        bool, Meta(description="run beside them, as --with-other-movers")
    ] = False


class KernelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``--mover kernel`` sets."""

    use: Annotated[
        str, Meta(description="numa-balancing, damon, or auto: what is there")
    ] = "auto"
    demotion: Annotated[bool, Meta(description="demote at reclaim")] = True
    damon_quota_ms: Annotated[
        int, Meta(ge=1, le=1000, description="time a second for each scheme, ms")
    ] = 100
    fast_used_percent: Annotated[
        float,
        Meta(gt=0, lt=100, description="fast memory in use that the schemes aim at"),
    ] = 99.0
    host_wide: Annotated[
        bool,
        Meta(
            description="where schemes do not apply to the processes' own memory, have"
            " them move that of all processes"
        ),
    ] = False


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose memory, where the command line names nobody."""

    cgroup: Annotated[
        str, Meta(description='all processes of this cgroup, as --cgroup; "": none')
    ] = ""
    tenants: Annotated[
        str, Meta(description='those of this file, as --tenants; "": none')
    ] = ""
    pods: Annotated[
        str, Meta(description='pods of this node, by this file, as --pods; "": none')
    ] = ""
    canary_percent: Annotated[
        float,
        Meta(gt=0, le=100, description="of a cgroup's processes; others are left"),
    ] = 100.0


class PodsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pods may ask for by annotation, where ``target.pods`` names them."""

    guarantees_percent: Annotated[
        float,
        Meta(
            ge=0, le=100, description="of the fastest tier, for all fast-min together"
        ),
    ] = 50.0
    most_weight: Annotated[
        float, Meta(gt=0, le=1000, description="that a pod may ask for")
    ] = 10.0
    only_annotated: Annotated[
        bool, Meta(description="leave pods alone that say nothing")
    ] = False


class MemoryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which memory of the processes is managed, beside what is theirs alone."""

    shared: Annotated[
        bool,
        Meta(description="shared memory too, once, and moved for all who map it"),
    ] = False
    files: Annotated[bool, Meta(description="mapped pages of files too, likewise")] = (
        False
    )


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures for Prometheus."""

    listen: Annotated[
        str,
        Meta(description='HOST:PORT to serve them on; "": nowhere'),
    ] = ""


class PrivilegesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a run is, once what needs rights has a process of its own."""

    user: Annotated[
        str, Meta(description='as run --user; "": one process that keeps its rights')
    ] = ""


class HugePagesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Collapsing and splitting huge pages, and the TLB that makes them pay."""

    use: Annotated[bool, Meta(description="as run --huge-pages")] = False
    tlb_entries: Annotated[
        int, Meta(ge=1, description="translations that the second-level TLB holds")
    ] = 1536
    walk_ns: Annotated[
        float, Meta(ge=0, description="what a TLB miss of a 4 KiB page costs, ns")
    ] = 53.0
    huge_walk_ns: Annotated[
        float, Meta(ge=0, description="what one of a 2 MiB page costs, ns")
    ] = 5.0


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it, by section."""

    loop: LoopConfig = LoopConfig()
    migration: MigrationConfig = MigrationConfig()
    budget: BudgetConfig = BudgetConfig()
    brake: BrakeConfig = BrakeConfig()
    sources: SourcesConfig = SourcesConfig()
    movers: MoversConfig = MoversConfig()
    kernel: KernelConfig = KernelConfig()
    memory: MemoryConfig = MemoryConfig()
    huge_pages: HugePagesConfig = HugePagesConfig()
    metrics: MetricsConfig = MetricsConfig()
    target: TargetConfig = TargetConfig()
    pods: PodsConfig = PodsConfig()
    privileges: PrivilegesConfig = PrivilegesConfig()


_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")


def parse_config(text: str, name: str) -> Config:
    """Return the configuration that a TOML text holds.

    Args:
        text: TOML.
        name: Of the file, for messages.

    Raises:
        ConfigError: It is no TOML, or a key or value is not in the schema.
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected TOML: {error}") from error
    _check_finite(fields, name)
    try:
        return msgspec.convert(fields, Config)
    except msgspec.ValidationError as error:
        found = _WHERE.match(str(error))
        what, where = (found["what"], found["where"]) if found else (str(error), None)
        what = what[:1].lower() + what[1:]
        unknown = _UNKNOWN.search(what)
        if unknown:
            what += did_you_mean(unknown[1], _keys(where or ""))
        place = f"{name}: {where}: " if where else f"{name}: "
        raise ConfigError(
            f"{place}{what}", hint="isotherm config show lists every key"
        ) from error


def _check_finite(fields: dict[str, Any], name: str, before: str = "") -> None:
    for key, value in fields.items():
        if isinstance(value, dict):
            _check_finite(value, name, f"{before}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(
                f"{name}: {before}{key}: expected a number, got {value}",
                hint="isotherm config show lists every key",
            )


def read_config(path: Path | None) -> Config:
    """Return the configuration of a file; the defaults for None.

    Raises:
        ConfigError: The file cannot be read, or is wrong.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}") from error
    return parse_config(text, str(path))


def render_config(config: Config) -> str:
    """Return the configuration as TOML, every key with its meaning.

    >>> parse_config(render_config(Config()), "shown") == Config()
    True
    """
    lines: list[str] = []
    for section, value in _sections(config):
        doc = (type(value).__doc__ or "").strip().splitlines()[0].replace("``", "")
        lines += ["", f"[{section}]  # {doc[:1].lower()}{doc[1:].rstrip('.')}"]
        for name, kind in get_type_hints(type(value), include_extras=True).items():
            lines.append(f"# {_meaning(kind)}")
            lines.append(f"{name} = {_toml(getattr(value, name))}")
    return "\n".join(lines[1:]) + "\n"


def _sections(config: Config) -> Iterator[tuple[str, Struct]]:
    for name in config.__struct_fields__:
        yield name, getattr(config, name)


def _meaning(kind: Any) -> str:  # a type with its Meta
    meta = next(arg for arg in get_args(kind) if isinstance(arg, Meta))
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            (">", meta.gt),
            (">=", meta.ge),
            ("<", meta.lt),
            ("<=", meta.le),
        )
        if bound is not None
    ]
    return f"{meta.description}" + (f" ({', '.join(bounds)})" if bounds else "")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _keys(section: str) -> tuple[str, ...]:
    if not section:
        return Config.__struct_fields__
    value = getattr(Config(), section.split(".", maxsplit=1)[0], None)
    return value.__struct_fields__ if isinstance(value, Struct) else ()
