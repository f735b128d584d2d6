"""Pods as the tenants of a run: they come and go while it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from isotherm.daemon.pods.roster import Roster
from isotherm.daemon.tenants import LiveTenants, fast_capacity
from isotherm.loop.epoch import Step
from isotherm.machine.protocol import Machine

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

log = structlog.get_logger()


class LivePods:
    """Renews the tenants of a run as pods do; an observer of its service.

    Args:
        roster: Which pods there are.
        machine: The host, in pages.
        follow: Told of the control groups whose processes are to be managed.

    Attributes:
        tenants: What the service is given.
    """

    def __init__(
        self,
        roster: Roster,
        machine: Machine,
        follow: Callable[[tuple[Path, ...]], None],
    ) -> None:
        self._roster, self._follow = roster, follow
        capacity = fast_capacity(machine)
        roster.take_capacity(capacity)
        self.tenants = LiveTenants(
            roster.found(), machine.topology, capacity, lenient=True
        )

    def observe(self, service: "Service", step: Step) -> None:
        """See after an epoch whether other pods are there, or say something else."""
        if not self._roster.look():
            return
        found = self._roster.found()
        self.tenants.renew(found, service)
        self._follow(found.directories)
        log.info("pods", **self._roster.counts())
