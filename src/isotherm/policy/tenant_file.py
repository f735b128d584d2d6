"""The file that says who the tenants are: TOML, profiles, and precise errors.

::

    sharing = "price"                # or "partition", "none"

    [[tenant]]
    name = "db"
    profile = "latency-critical"
    guarantee = "50%"                # of the fastest tier; or "2GiB", or "all"
    cgroup = "system.slice/db.service"

    [[tenant]]
    name = "scan"
    profile = "batch"
    maximum = "25%"
    pids = [4242]

    [profile.quiet]                  # a profile of your own
    base = "batch"
    move_share = 0.1
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.files import file_error
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import parse_size
from isotherm.policy.tenants import (
    MOST_TENANTS,
    PRICE,
    REST,
    SHARINGS,
    Amount,
    Tenancy,
    Tenant,
)
from isotherm.topology.model import MemoryKind

Weight = Annotated[float, Meta(gt=0, le=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
OpenShare = Annotated[float, Meta(gt=0, le=1)]


class Terms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant or a profile may say; unset: as the profile it stands on."""

    guarantee: str | UnsetType = UNSET
    maximum: str | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET
    lend: Share | UnsetType = UNSET
    move_share: OpenShare | UnsetType = UNSET
    keep_out: tuple[str, ...] | UnsetType = UNSET


class Profile(Terms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms with a name, that tenants can stand on."""

    base: str = "default"


class Entry(Terms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[tenant]]``."""

    name: str
    profile: str = "default"
    cgroup: str | None = None
    pids: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    workload: tuple[str, ...] = ()


class TenantDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    tenant: tuple[Entry, ...]
    profile: dict[str, Profile] = {}
    sharing: str = PRICE


#: What ships. Guarantees and maxima are the tenant's own to say; the rest of
#: what a profile is for is in docs/reference/tenants.md#profiles.
PROFILES: Final[Mapping[str, Terms]] = {
    "default": Terms(
        guarantee="0%",
        maximum="100%",
        weight=1.0,
        lend=0.03,
        move_share=1.0,
        keep_out=(),
    ),
    "latency-critical": Terms(weight=4.0, lend=0.01),
    "batch": Terms(weight=0.5, lend=0.05, move_share=0.25),
    "cache": Terms(weight=1.0, lend=0.05, move_share=0.5),
    "keep-out-of-cxl": Terms(keep_out=("cxl",), lend=0.0),
}


@dataclass(frozen=True, slots=True)
class Member:
    """Where a tenant's memory is: a cgroup, processes, parts of a workload."""

    cgroup: str | None = None
    pids: tuple[int, ...] = ()
    workload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantFile:
    """What a file says.

    Attributes:
        tenancy: The tenants, with no nodes barred yet.
        members: One for each.
        name: Of the file, for messages.
    """

    tenancy: Tenancy
    members: tuple[Member, ...]
    name: str

    def label(self, part: str) -> int:
        """Return whose a part of a workload is, by its name or the workload's.

        A part ``db.index`` belongs to whoever has ``db.index``, else ``db``.
        """
        for wanted in (part, part.partition(".")[0]):
            for place, member in enumerate(self.members):
                if wanted in member.workload:
                    return place
        return len(self.members)


def read_tenants(path: Path) -> TenantFile:
    """Return what a file says.

    Raises:
        ConfigError: It cannot be read, or is wrong: the field and what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise file_error(path, error, "cannot read it", ConfigError) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None
    return parse_tenants(text, str(path))


def parse_tenants(text: str, name: str) -> TenantFile:
    """Return what a TOML text says.

    Args:
        text: TOML.
        name: Of the file, for messages.

    Raises:
        ConfigError: The field and what was expected of it.
    """
    document = _decode(text, name)
    if document.sharing not in SHARINGS:
        raise ConfigError(
            f"{name}: sharing: expected {', '.join(SHARINGS)},"
            f" got {document.sharing!r}{did_you_mean(document.sharing, SHARINGS)}"
        )
    if not 1 <= len(document.tenant) <= MOST_TENANTS:
        raise ConfigError(
            f"{name}: tenant: expected 1 to {MOST_TENANTS} tenants,"
            f" got {len(document.tenant)}"
        )
    tenants: list[Tenant] = []
    members: list[Member] = []
    for place, entry in enumerate(document.tenant):
        where = f"{name}: tenant[{place}]"
        _check_entry(entry, document.tenant[:place], where)
        tenants.append(make_tenant(entry, document.profile, where, name))
        members.append(Member(entry.cgroup, entry.pids, entry.workload))
    _check_amounts(tenants, name)
    return TenantFile(Tenancy(tuple(tenants), document.sharing), tuple(members), name)


def _decode(text: str, name: str) -> TenantDocument:
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected TOML: {error}") from None
    for kind in ("workload", "pids"):  # one may stand without its brackets
        for entry in _tables(fields.get("tenant")):
            if isinstance(entry.get(kind), str | int):
                entry[kind] = [entry[kind]]
    try:
        return msgspec.convert(fields, TenantDocument)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").removeprefix(".")
        what = what[:1].lower() + what[1:]
        if "unknown field" in what:
            known = TenantDocument.__struct_fields__
            if place.startswith("tenant"):
                known = Entry.__struct_fields__
            elif place.startswith("profile"):
                known = Profile.__struct_fields__
            what += did_you_mean(what.split("`")[1], known)
        raise ConfigError(
            f"{name}: {place}: {what}" if place else f"{name}: {what}",
            hint="docs/reference/tenants.md lists every field",
        ) from None


def _tables(found: object) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        return []
    return [entry for entry in found if isinstance(entry, dict)]


def _check_entry(entry: Entry, before: tuple[Entry, ...], where: str) -> None:
    """Check what is between a tenant and those before it."""
    if not entry.name.strip() or entry.name == REST:
        raise ConfigError(f"{where}.name: expected a name, got {entry.name!r}")
    if entry.cgroup is None and not entry.pids and not entry.workload:
        raise ConfigError(
            f"{where} ({entry.name}): expected a cgroup, pids or workload: whose"
            " memory is it",
            hint='cgroup = "system.slice/db.service", or workload = ["db"] in the'
            " simulator",
        )
    for other in before:
        if other.name == entry.name:
            raise ConfigError(f"{where}.name: two tenants are called {entry.name!r}")
        if entry.cgroup is not None and other.cgroup is not None:
            mine, theirs = entry.cgroup.strip("/"), other.cgroup.strip("/")
            if f"{mine}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(
                f"{mine}/"
            ):
                raise ConfigError(
                    f"{where}.cgroup: {entry.cgroup} and {other.cgroup} of"
                    f" {other.name!r} hold the same processes",
                    hint="name cgroups of which none is within another",
                )
        for kind in ("pids", "workload"):
            both = set(getattr(entry, kind)) & set(getattr(other, kind))
            if both:
                raise ConfigError(
                    f"{where}.{kind}: {', '.join(map(repr, sorted(both)))} is"
                    f" {other.name!r}'s already"
                )


def _check_amounts(tenants: Sequence[Tenant], name: str) -> None:
    """Check what no fast tier can keep, whatever its size.

    A size beside a share needs a machine: ``Tenancy.check_capacity``.

    Raises:
        ConfigError: A guarantee is above its maximum, or all together are above 100 %.
    """
    for place, tenant in enumerate(tenants):
        least, most = tenant.guarantee, tenant.maximum
        if _exceeds(least.share, most.share) or _exceeds(
            least.size_bytes, most.size_bytes
        ):
            raise ConfigError(
                f"{name}: tenant[{place}].guarantee: {least} is above its maximum of"
                f" {most}",
                hint="raise maximum, or lower guarantee",
            )
    total = sum(tenant.guarantee.share or 0.0 for tenant in tenants)
    if _exceeds(total, 1.0):
        shares = [tenant for tenant in tenants if tenant.guarantee.share]
        parts = ", ".join(f"{tenant.name} {tenant.guarantee}" for tenant in shares)
        raise ConfigError(
            f"{name}: the guarantees are {100 * total:g}% of the fastest tier"
            f" ({parts})",
            hint="guarantees may be all of the tier together, not more",
        )


def _exceeds(one: float | None, other: float | None) -> bool:
    """Return whether an amount is more than one of its kind, but for rounding."""
    return one is not None and other is not None and one > other * (1 + 1e-9)


def make_tenant(
    entry: Entry, own: Mapping[str, Profile], where: str, name: str
) -> Tenant:
    """Return the tenant that an entry makes with the profiles it stands on.

    Args:
        entry: What it says itself.
        own: Profiles beside those that ship.
        where: The entry, for messages.
        name: Of the file, likewise.

    Raises:
        ConfigError: There is no such profile, or a value is none.
    """
    stack: list[Terms] = [entry]
    wanted, seen = entry.profile, [entry.profile]
    asked = f"{where}.profile"
    while True:
        if wanted in own:
            stack.append(own[wanted])
            asked = f"{name}: profile.{wanted}.base"
            wanted = own[wanted].base
            if wanted in seen:
                raise ConfigError(
                    f"{asked}: profiles stand on each other:"
                    f" {' -> '.join([*seen, wanted])}"
                )
            seen.append(wanted)
        elif wanted in PROFILES:
            stack += [PROFILES[wanted], PROFILES["default"]]
            break
        else:
            known = sorted({*PROFILES, *own})
            raise ConfigError(
                f"{asked}: no profile is called {wanted!r}"
                f"{did_you_mean(wanted, known)}",
                hint="profiles: " + ", ".join(known),
            )

    def said(field: str) -> Any:  # the fields have several types
        return next(v for terms in stack if (v := getattr(terms, field)) is not UNSET)

    return Tenant(
        name=entry.name,
        guarantee=parse_amount(said("guarantee"), f"{where}.guarantee"),
        maximum=parse_amount(said("maximum"), f"{where}.maximum"),
        weight=said("weight"),
        lend=said("lend"),
        move_share=said("move_share"),
        keep_out=frozenset(_kind(k, f"{where}.keep_out") for k in said("keep_out")),
        profile=entry.profile,
    )


def _kind(word: str, where: str) -> MemoryKind:
    try:
        return MemoryKind(word)
    except ValueError:
        raise ConfigError(
            f"{where}: expected kinds of memory ({', '.join(MemoryKind)}),"
            f" got {word!r}{did_you_mean(word, MemoryKind)}"
        ) from None


def parse_amount(text: str, where: str) -> Amount:
    """Return an amount of the fastest tier: ``40%``, ``2GiB`` or ``all``.

    Args:
        text: What stands in the file.
        where: The field, for messages.

    Raises:
        ConfigError: It is none.

    >>> parse_amount("40%", "x"), parse_amount("8KiB", "x").size_bytes
    (Amount(share=0.4, size_bytes=None, everything=False), 8192)
    """
    word = text.strip()
    if word == "all":
        return Amount(everything=True)
    try:
        if not word.endswith("%"):
            return Amount(size_bytes=parse_size(word))
        share = float(word[:-1]) / 100
    except (UsageError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            f"{where}: expected a share of the fastest tier (40%), a size (2GiB) or"
            f" all, got {text!r}"
        )
    return Amount(share=share)
