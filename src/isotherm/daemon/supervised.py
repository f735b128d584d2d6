"""A run as a service: its manager is told how it is, its configuration read again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from isotherm.core.errors import IsothermError
from isotherm.core.units import PAGE_BYTES, render_bytes
from isotherm.daemon.config import Config
from isotherm.daemon.config_check import read_checked
from isotherm.daemon.notify import Notifier
from isotherm.loop.epoch import Step

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

#: Keys that change under a running daemon; of the others it says that they do not.
LIVE: Final = frozenset(
    {
        "loop.epoch_s",
        "loop.longest_epoch_s",
        "migration.limit_mib_s",
        "budget.cpu_percent",
        "brake.psi_some_percent",
        "brake.refaults_per_s",
        "brake.failure_percent",
        "brake.react_s",
        "brake.recover_s",
    }
)

log = structlog.get_logger()


class Supervised:
    """Tells the service manager after every epoch; reads the configuration again.

    An observer of the service.

    Args:
        notifier: To the service manager.
        path: The file of the configuration; None: there is none to read again.
        asked: Whether somebody asked for it (SIGHUP) since the last call.
        overrides: What the command line says, put over what the file says.
        changed: Told of the new configuration.
    """

    def __init__(
        self,
        notifier: Notifier,
        path: Path | None,
        asked: Callable[[], bool],
        overrides: Callable[[Config], Config] = lambda config: config,
        changed: Callable[[Config], None] = lambda config: None,
    ) -> None:
        self._notifier, self._path, self._asked = notifier, path, asked
        self._overrides, self._changed = overrides, changed

    def __call__(self, service: "Service", step: Step) -> None:
        """Tell how it is; read the configuration again where that is asked for."""
        if self._asked():
            self.reload(service)
        managed = render_bytes(service.managed_pages * PAGE_BYTES)
        share = service.fast_share
        known = "" if share is None else f", {share:.0%} of accesses in fast memory"
        self._notifier.alive(f"{managed} managed{known}")

    def reload(self, service: "Service") -> None:
        """Read the configuration again; one that is wrong changes nothing."""
        self._notifier.reloading()
        try:
            if self._path is None:
                log.warning("reload", why="there is no configuration file")
            else:
                self._take(service, self._overrides(read_checked(self._path)))
        except IsothermError as error:
            log.error("reload", why=error.message, kept="the configuration of before")  # noqa: TRY400  # no traceback for people
        self._notifier.ready()

    def _take(self, service: "Service", wanted: Config) -> None:
        before = service.config
        new = dict(_leaves(msgspec.to_builtins(wanted)))
        old = dict(_leaves(msgspec.to_builtins(before)))
        differ = sorted(key for key in new if new[key] != old[key])
        taken = [key for key in differ if key in LIVE]
        fields = msgspec.to_builtins(before)
        for key in taken:
            section, name = key.split(".")
            fields[section][name] = new[key]
        config = msgspec.convert(fields, Config)
        service.reconfigure(config)
        self._changed(config)
        log.info("reload", taken={key: new[key] for key in taken})
        if late := [key for key in differ if key not in LIVE]:
            log.warning("reload", needs_restart=late)


def _leaves(fields: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
