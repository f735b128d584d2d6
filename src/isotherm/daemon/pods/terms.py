"""What a pod's annotations say: the terms of a tenant, or what is wrong with them.

::

    metadata:
      annotations:
        isotherm.io/profile: latency-critical
        isotherm.io/fast-min: 2GiB
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from isotherm.core.errors import ConfigError
from isotherm.core.suggest import did_you_mean
from isotherm.daemon.pods.book import PREFIX, Pod
from isotherm.policy.tenant_file import PROFILES, Entry, make_tenant, parse_amount
from isotherm.policy.tenants import Tenant
from isotherm.topology.model import MemoryKind

#: Annotation, and the field of a tenant's terms that it is.
FIELDS: Final[Mapping[str, str]] = {
    "profile": "profile",
    "fast-min": "guarantee",
    "fast-max": "maximum",
    "weight": "weight",
    "lend": "lend",
    "move-share": "move_share",
    "keep-out": "keep_out",
}
#: Annotation that says whether the pod's memory is managed at all.
MANAGE: Final = "manage"
#: Numbers, and what they may be.
_NUMBERS: Final[Mapping[str, str]] = {
    "weight": "a number above 0 to 1000",
    "lend": "a number from 0 to 1",
    "move-share": "a number above 0 to 1",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What the annotations of a pod say.

    Attributes:
        managed: Its memory may be moved.
        tenant: Its terms; None: nothing is said, it belongs to the rest.
        wrong: Why what is said does not count; None: nothing is wrong.
    """

    managed: bool = True
    tenant: Tenant | None = None
    wrong: str | None = None


def read_terms(pod: Pod, most_weight: float = 1000.0) -> Said:
    """Return what a pod's annotations say; never raises.

    Wrong ones do not count, all of them: the pod belongs to the rest. It is left alone
    where ``manage`` is not ``true``, whatever that was to mean.

    Args:
        pod: The pod.
        most_weight: What the operator lets a pod's gain count at most.

    >>> pod = Pod(uid="0", namespace="a", name="b", annotations={
    ...     "isotherm.io/profile": "latency-critial"})
    >>> read_terms(pod).wrong
    "pod a/b: isotherm.io/profile: no profile is called 'latency-critial'; did you \
mean 'latency-critical'?"
    """
    said = {
        name.removeprefix(PREFIX): text.strip()
        for name, text in pod.annotations.items()
        if name.startswith(PREFIX)
    }
    where = f"pod {pod.full_name}: {PREFIX}"
    managed = said.pop(MANAGE, "true")
    if managed not in ("true", "false"):
        why = f"{where}{MANAGE}: expected true or false, got {managed!r}"
        return Said(managed=False, wrong=why)
    if managed == "false" or not said:
        return Said(managed == "true")
    try:
        return Said(tenant=_parse(pod, said, where, most_weight))
    except ConfigError as error:
        return Said(wrong=error.message)


def _parse(pod: Pod, said: Mapping[str, str], where: str, most_weight: float) -> Tenant:
    fields: dict[str, Any] = {"name": pod.full_name}
    for name, text in said.items():
        if name not in FIELDS:
            known = (*FIELDS, MANAGE)
            raise ConfigError(
                f"{where}{name}: no such annotation{did_you_mean(name, known)}"
            )
        fields[FIELDS[name]] = _parse_value(name, text, f"{where}{name}")
    try:
        entry = msgspec.convert(fields, Entry)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`").partition("[")[0]
        name = next((n for n, f in FIELDS.items() if f == field), field)
        wanted = _NUMBERS.get(name, what[:1].lower() + what[1:])
        raise ConfigError(
            f"{where}{name}: expected {wanted}, got {said.get(name)!r}"
        ) from None
    tenant = make_tenant(entry, {}, f"pod {pod.full_name}", f"pod {pod.full_name}")
    if tenant.weight > most_weight:
        raise ConfigError(
            f"{where}weight: {tenant.weight:g} is above what this node allows"
            f" (pods.most_weight = {most_weight:g})"
        )
    return tenant


def _parse_value(name: str, text: str, where: str) -> object:
    """Return a value as the field wants it.

    Raises:
        ConfigError: It is none, or one that a pod may not ask for.
    """
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            raise ConfigError(
                f"{where}: expected {_NUMBERS[name]}, got {text!r}"
            ) from None
    if name == "profile":
        if text not in PROFILES:
            raise ConfigError(
                f"{where}: no profile is called {text!r}{did_you_mean(text, PROFILES)}"
            )
    elif name == "keep-out":
        kinds = [word.strip() for word in text.split(",")]
        for kind in kinds:
            if kind not in list(MemoryKind):
                raise ConfigError(
                    f"{where}: expected kinds of memory ({', '.join(MemoryKind)}),"
                    f" got {kind!r}{did_you_mean(kind, MemoryKind)}"
                )
        return kinds
    elif parse_amount(text, where).everything and name == "fast-min":
        raise ConfigError(
            f"{where}: expected a share of the fastest tier (40%) or a size (2GiB),"
            " got 'all': what a pod may grow to nobody has set aside"
        )
    return text
