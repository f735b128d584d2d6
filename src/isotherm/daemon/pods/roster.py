"""The pods of this node as tenants that come and go."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGE_BYTES, render_bytes
from isotherm.daemon.config import PodsConfig
from isotherm.daemon.pods.book import Pod, read_book
from isotherm.daemon.pods.cgroups import PodGroup, find_roots, list_pods
from isotherm.daemon.pods.terms import Said, read_terms
from isotherm.daemon.tenant_members import Found
from isotherm.policy.tenant_file import Member, TenantFile
from isotherm.policy.tenants import MOST_TENANTS, Amount, Tenancy, Tenant

#: What messages call the terms that annotations make.
NAME: Final = "pods"
#: Of a pod that has a control group and is not in the file.
UNKNOWN: Final = "the API server has not said anything of it yet"
_NOTHING: Final = Amount(share=0.0)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod of this node, and what is made of it.

    Attributes:
        group: Its control group.
        pod: What the API server says of it; None: nothing yet.
        managed: Its memory may be moved.
        tenant: Its terms; None: it belongs to the rest.
        why: Why it has less than its annotations say; None: it has not.
    """

    group: PodGroup
    pod: Pod | None
    managed: bool
    tenant: Tenant | None
    why: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        tenant = self.tenant
        return {
            "uid": self.group.uid,
            "qos": self.group.qos.value,
            "cgroup": str(self.group.path),
            "namespace": None if self.pod is None else self.pod.namespace,
            "name": None if self.pod is None else self.pod.name,
            "managed": self.managed,
            "terms": None
            if tenant is None
            else {
                "profile": tenant.profile,
                "guarantee": str(tenant.guarantee),
                "maximum": str(tenant.maximum),
                "weight": tenant.weight,
                "lend": tenant.lend,
                "move_share": tenant.move_share,
                "keep_out": sorted(tenant.keep_out),
            },
            "why": self.why,
        }


def derive_states(
    groups: Iterable[PodGroup],
    pods: Iterable[Pod] | None,
    config: PodsConfig,
    fast_bytes: int | None = None,
) -> tuple[PodState, ...]:
    """Return what is made of the pods, by path of their groups.

    Older pods go first where not all can have what they ask for: at most
    ``MOST_TENANTS`` have terms of their own, and guarantees are given as long as they
    are within the share of the fastest tier that the operator sets aside for pods. Who
    comes too late belongs to the rest, or has no guarantee.

    Args:
        groups: Control groups.
        pods: From the API server; None: nobody asks it, all belong to the rest.
        config: What the operator allows.
        fast_bytes: Capacity of the fastest tier; None: guarantees are not added up.
    """
    groups = tuple(groups)
    if pods is None:
        return tuple(PodState(g, None, True, None, None) for g in groups)
    known = {pod.uid: pod for pod in pods}

    def age(group: PodGroup) -> tuple[str, str]:
        pod = known.get(group.uid)
        return ("~" if pod is None else pod.created, group.uid)

    left = math.inf
    if fast_bytes is not None:
        left = fast_bytes * config.guarantees_percent / 100
    slots, taken = (fast_bytes or 0) // PAGE_BYTES, 0
    found: dict[PodGroup, PodState] = {}
    for group in sorted(groups, key=age):
        pod = known.get(group.uid)
        if pod is None:
            found[group] = PodState(group, None, False, None, UNKNOWN)
            continue
        said = read_terms(pod, config.most_weight)
        tenant, why = said.tenant, said.wrong
        if tenant is not None and taken == MOST_TENANTS:
            tenant = None
            why = f"{MOST_TENANTS} older pods have terms of their own"
        if tenant is not None:
            taken += 1
            wanted = PAGE_BYTES * tenant.guarantee.pages(slots, 0, PAGE_BYTES)
            most = PAGE_BYTES * tenant.maximum.pages(slots, slots, PAGE_BYTES)
            if fast_bytes is not None and wanted > most:
                why = f"fast-min is {render_bytes(wanted)}, above its fast-max"
            elif wanted > left:
                why = (
                    f"fast-min is {render_bytes(wanted)}; of what this node sets aside"
                    f" for pods {render_bytes(max(0, round(left)))} is left"
                )
            else:
                left -= wanted
            if why is not None:
                tenant = replace(tenant, guarantee=_NOTHING)
        managed = _is_managed(said, config)
        if not managed:
            tenant = None
        found[group] = PodState(group, pod, managed, tenant, why)
    return tuple(found[group] for group in groups)


def _is_managed(said: Said, config: PodsConfig) -> bool:
    if config.only_annotated and said.tenant is None:
        return False
    return said.managed


class Roster:
    """Follows the pods of this node.

    Args:
        path: The file that ``isotherm pods watch`` keeps; None: all pods are the
            rest, nobody asks what they say.
        config: What the operator allows.
        root: Where /sys is.

    Raises:
        UnsupportedError: There are no pods' control groups here.
    """

    def __init__(
        self, path: Path | None, config: PodsConfig, root: Path = Path("/")
    ) -> None:
        self._path, self._config = path, config
        self._roots = find_roots(root)
        self._groups: tuple[PodGroup, ...] = ()
        self._book: tuple[Pod, ...] | None = None if path is None else ()
        self._mark: tuple[int, ...] = ()
        self._said: dict[str, str] = {}
        self.fast_bytes: int | None = None
        self.states: tuple[PodState, ...] = ()
        self.look()

    def look(self) -> bool:
        """See which pods there are, and what is said of them; return whether it is new.

        A file that is missing or wrong leaves what was known.
        """
        groups = list_pods(self._roots)
        changed = self._read() or groups != self._groups
        if changed:
            self._groups = groups
            self._settle()
        return changed

    def take_capacity(self, fast_bytes: int) -> None:
        """Take in what the fastest tier holds: guarantees are given within it."""
        if fast_bytes != self.fast_bytes:
            self.fast_bytes = fast_bytes
            self._settle()

    def _settle(self) -> None:
        self.states = derive_states(
            self._groups, self._book, self._config, self.fast_bytes
        )
        for state in self.states:
            uid, pod = state.group.uid, state.pod
            if pod is not None and state.why != self._said.get(uid):
                if state.why is not None:
                    log.warning("pod", pod=pod.full_name, why=state.why)
                    self._said[uid] = state.why
                else:
                    del self._said[uid]
        there = {state.group.uid for state in self.states}
        self._said = {uid: why for uid, why in self._said.items() if uid in there}

    def _read(self) -> bool:
        """Read the file where it has changed; return whether it has."""
        if self._path is None:
            return False
        try:
            stat = self._path.stat()
            mark: tuple[int, ...] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            mark = (-1,)
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            self._book = read_book(self._path)
        except IsothermError as error:
            log.warning("pods", why=error.message, kept="what was known before")
            return False
        return True

    def found(self) -> Found:
        """Return those with terms as tenants, and the groups of the others."""
        mine = [state for state in self.states if state.tenant is not None]
        tenants = tuple(state.tenant for state in mine if state.tenant is not None)
        members = tuple(Member(cgroup=str(state.group.path)) for state in mine)
        return Found(
            TenantFile(Tenancy(tenants), members, NAME),
            tuple(state.group.path for state in mine),
            tuple(
                state.group.path
                for state in self.states
                if state.managed and state.tenant is None
            ),
        )

    def counts(self) -> dict[str, int]:
        """Return how many have terms, are the rest, are left alone, are unknown."""
        count = {"terms": 0, "rest": 0, "left-alone": 0, "unknown": 0}
        for state in self.states:
            if state.tenant is not None:
                count["terms"] += 1
            elif state.managed:
                count["rest"] += 1
            elif state.pod is None:
                count["unknown"] += 1
            else:
                count["left-alone"] += 1
        return count

    def to_dict(self) -> list[dict[str, Any]]:
        """Return every pod as JSON values."""
        return [state.to_dict() for state in self.states]
