"""What a configuration's schema cannot say: names that exist, files that read."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.daemon.config import (
    SYSTEM_FILE,
    Config,
    PrivilegesConfig,
    TargetConfig,
    read_config,
)
from isotherm.daemon.kernel_mover import WAYS
from isotherm.daemon.tenant_members import check_members, check_policy
from isotherm.observability.metrics import PORT, parse_listen
from isotherm.policy.registry import BOUNDS, LIVE, POLICIES
from isotherm.policy.tenant_file import read_tenants


def read_checked(path: Path | None) -> Config:
    """Return the configuration of a file, checked; the defaults for None.

    Raises:
        ConfigError: The file cannot be read, is wrong, or could not be used anywhere.
    """
    config = read_config(path)
    if path is not None:
        check_config(config, str(path))
    return config


def find_host_file(
    say: Callable[[str], None], path: Path = SYSTEM_FILE, uid: int | None = None
) -> Path | None:
    """Return the host's own configuration; None where there is none for who asks.

    Args:
        say: Called where it is there, and not for this user to read.
        path: Where it is.
        uid: Who asks; None: who runs this. For root it is always there.
    """
    if not path.is_file():
        return None
    if (os.geteuid() if uid is None else uid) != 0 and not os.access(path, os.R_OK):
        say(f"{path}: not for this user to read: defaults are used")
        return None
    return path


def read_host_config(
    say: Callable[[str], None], path: Path = SYSTEM_FILE, uid: int | None = None
) -> Config:
    """Return the host's own configuration, as far as it is for who asks.

    It is that of a service of root's. Another user goes without where it is not to be
    read, and stays who they are where it names a user to become.

    Args:
        say: Called at most once, with what is left out.
        path: Where it is; defaults where it is not.
        uid: Who asks; None: who runs this.

    Raises:
        ConfigError: It is wrong; for root: it cannot be read.
    """
    found = find_host_file(say, path, uid)
    if found is None or (os.geteuid() if uid is None else uid) == 0:
        return read_checked(found)
    config = read_config(found)
    # What it has the service manage may be nobody else's to read.
    check_config(msgspec.structs.replace(config, target=TargetConfig()), str(found))
    if config.privileges.user:
        say(f"{found}: privileges.user: only root becomes another user: left out")
        config = msgspec.structs.replace(config, privileges=PrivilegesConfig())
    return config


def check_config(config: Config, name: str) -> None:
    """Check what does not depend on the host that it is read on.

    Args:
        config: Settings.
        name: Of the file, for messages.

    Raises:
        ConfigError: A name is not known, two keys contradict each other, or a file
            that is named cannot be read.
    """
    for key, check in _CHECKS:
        for what in check(config):
            raise ConfigError(
                f"{name}: {key}: {what}", hint="isotherm config show lists every key"
            )


def _policy(config: Config) -> Iterator[str]:
    policy = config.loop.policy
    online = [known for known in (*POLICIES, *LIVE) if known not in BOUNDS]
    if policy in BOUNDS:
        yield f"{policy} knows the future: no host can run it"
    elif policy not in online:
        yield (
            f"expected one of {', '.join(online)}, got {policy!r}"
            f"{did_you_mean(policy, online)}"
        )


def _pace(config: Config) -> Iterator[str]:
    loop = config.loop
    if loop.longest_epoch_s < loop.epoch_s:
        at_least, found = loop.epoch_s, loop.longest_epoch_s
        yield f"expected at least epoch_s, {at_least:g}, got {found:g}"


def check_words(config: Config, *, intrusive: bool) -> None:
    """Check what a command line has put over a file, before the host is asked.

    Raises:
        UsageError: A source is not known or needs ``intrusive``, the metrics are to
            be served at what is no address.
    """
    for option, check in (("metrics", _metrics), ("hints", _sources)):
        for what in check(config):
            raise UsageError(f"{option}: {what}", hint=_HINTS[option])
    if config.sources.use != ("auto",):
        from isotherm.daemon.sources import check_intrusive  # noqa: PLC0415  # numba

        check_intrusive(config.sources.use, intrusive=intrusive)


_HINTS = {
    "metrics": f"127.0.0.1:{PORT}",
    "hints": "isotherm doctor lists what is there",
}


def _sources(config: Config) -> Iterator[str]:
    if config.sources.use == ("auto",):
        return
    from isotherm.daemon.sources import KINDS  # noqa: PLC0415  # numba

    names = config.sources.use
    known = [kind.name for kind in KINDS]
    if not names:
        yield 'expected names, or ["auto"], got none'
    if "auto" in names and len(names) > 1:
        yield '"auto" stands alone'
    for word in names:
        if word not in (*known, "auto"):
            yield (
                f"expected {', '.join(known)} or auto, got {word!r}"
                f"{did_you_mean(word, known)}"
            )


def _kernel(config: Config) -> Iterator[str]:
    way = config.kernel.use
    if way not in WAYS:
        yield f"expected one of {', '.join(WAYS)}, got {way!r}{did_you_mean(way, WAYS)}"


def _metrics(config: Config) -> Iterator[str]:
    if config.metrics.listen:
        yield from _refusal(lambda: parse_listen(config.metrics.listen))


def _target(config: Config) -> Iterator[str]:
    target = config.target
    named = [name for name in ("cgroup", "tenants", "pods") if getattr(target, name)]
    if len(named) > 1:
        yield f"expected one of cgroup, tenants and pods, got {' and '.join(named)}"


def _tenants(config: Config) -> Iterator[str]:
    path = config.target.tenants
    if path:
        yield from _refusal(lambda: _check_tenants(Path(path), config.loop.policy))


def _check_tenants(path: Path, policy: str) -> None:
    file = read_tenants(path)
    check_members(file)
    check_policy(file, policy)


def _refusal(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except UsageError as error:
        yield error.message.removeprefix("metrics: ")


_CHECKS = (
    ("loop.policy", _policy),
    ("loop.longest_epoch_s", _pace),
    ("sources.use", _sources),
    ("kernel.use", _kernel),
    ("metrics.listen", _metrics),
    ("target", _target),
    ("target.tenants", _tenants),
)
