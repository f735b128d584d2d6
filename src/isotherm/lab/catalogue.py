"""The names that ``--policy``, ``--workload`` and ``--machine`` know.

A wrong name, and ``--list``, are answered without importing a single kernel.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.hints.batch import Mechanism
from isotherm.policy import registry
from isotherm.workloads import registry as workload_registry

POLICIES: Final[Mapping[str, str]] = {
    name: line
    for name, line in registry.POLICIES.items()
    if name not in registry.BOUNDS
}

#: In the order in which tables show them.
BOUNDS: Final[Mapping[str, str]] = {
    name: line for name, line in registry.POLICIES.items() if name in registry.BOUNDS
}

#: Those that look at nothing: no setting of hints makes a difference to them.
WITHOUT_HINTS: Final = frozenset({"first-touch", "lru", *registry.AT_BIRTH, *BOUNDS})

WORKLOADS: Final[Mapping[str, str]] = workload_registry.WORKLOADS

#: Judged by moves and by slowdown against first-touch: there is nothing to gain.
FLAT_WORKLOADS: Final = frozenset({"uniform", "stream"})

PLACEMENTS: Final[Mapping[str, str]] = {
    "random": "a host that has run for weeks",
    "first-access": "in order of first touch, fast tier first",
    "slowest": "all in the slowest tier: a host that has pushed its memory out",
}

HINTS: Final[Mapping[str, str]] = {
    Mechanism.SAMPLING: "every n-th access with its address (PEBS, IBS, SPE)",
    Mechanism.ACCESSED_BIT: "accessed bits of page-table entries, read by scan",
    Mechanism.HINT_FAULT: "poisoned entries: how soon a page is touched",
    Mechanism.REGION: "region sampling as DAMON does it",
    Mechanism.CHMU: "hot lists of a CXL device's hotness unit (machines with one)",
}


FAULTS: Final[Mapping[str, str]] = {
    "busy": "share of tries that fail with EBUSY",
    "no_memory": "share of tries that fail with ENOMEM although there is room",
    "vanished": "share of pages whose owner unmapped them: ENOENT for good",
    "pinned": "share of pages that can never move: EBUSY for good",
}


def machines() -> Mapping[str, str]:
    """Return the built-in machines with a line on each."""
    from isotherm.machine.sim.spec import BUILT_IN  # noqa: PLC0415  # keep this light

    return BUILT_IN


def traces() -> Mapping[str, str]:
    """Return the recordings that came with isotherm with a line on each."""
    try:
        from isotherm.data import describe_trace, list_traces  # noqa: PLC0415  # may be left out of a package
    except ImportError:
        return {}
    return {name: describe_trace(name) for name in list_traces()}


def check_policy(name: str) -> str:
    """Return the name of a known policy or bound.

    Raises:
        UsageError: Nobody knows it.
    """
    known = (*POLICIES, *BOUNDS)
    if name not in known:
        raise UsageError(
            f"policy {name!r}: not known{did_you_mean(name, known)}",
            hint="isotherm simulate --list",
        )
    return name


def check_workload(name: str) -> str:
    """Return the name of a known generator or of a file that exists.

    Raises:
        UsageError: Neither.
    """
    if name in traces():
        return name
    return _name_or_file("workload", name, WORKLOADS, "a trace or a TOML file")


def check_machine(name: str) -> str:
    """Return the name of a known machine or of a file or directory that exists.

    Raises:
        UsageError: Neither.
    """
    return _name_or_file("machine", name, machines(), "a TOML file or a topology")


def check_placement(name: str) -> str:
    """Return the name of a known placement.

    Raises:
        UsageError: Nobody knows it.
    """
    if name not in PLACEMENTS:
        raise UsageError(
            f"placement {name!r}: expected {' or '.join(PLACEMENTS)}"
            f"{did_you_mean(name, PLACEMENTS)}"
        )
    return name


def check_hint(name: str) -> str:
    """Return the name of a known mechanism.

    Raises:
        UsageError: Nobody knows it.
    """
    if name not in HINTS:
        known = [str(hint) for hint in HINTS]
        raise UsageError(
            f"hint {name!r}: expected {', '.join(known)}{did_you_mean(name, known)}"
        )
    return name


def check_fault(name: str) -> str:
    """Return the name of a kind of trouble that a machine can be given.

    Raises:
        UsageError: Nobody knows it.
    """
    if name not in FAULTS:
        raise UsageError(
            f"fault {name!r}: expected {', '.join(FAULTS)}{did_you_mean(name, FAULTS)}"
        )
    return name


def is_generator(workload: str) -> bool:
    """Return whether a workload is a built-in generator or a TOML one."""
    return workload in WORKLOADS or workload.endswith(".toml")


def _name_or_file(kind: str, name: str, known: Mapping[str, str], files: str) -> str:
    if name in known:
        return name
    if Path(name).exists():
        return name
    looks_like_file = "/" in name or "." in name
    if looks_like_file:
        raise UsageError(f"{name}: no such file, expected {files}")
    raise UsageError(
        f"{kind} {name!r}: not known, and no file{did_you_mean(name, known)}",
        hint="isotherm simulate --list",
    )
