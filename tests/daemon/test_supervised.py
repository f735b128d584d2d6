"""A service under a manager: states, and its configuration read again."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from isotherm.daemon.config import Config, LoopConfig, MigrationConfig, parse_config
from isotherm.daemon.notify import Notifier
from isotherm.daemon.supervised import LIVE, Supervised
from isotherm.daemon.waiting import Waiter
from isotherm.migration.background import BackgroundEngine

pytestmark = pytest.mark.slow


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return the socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)  # its name
        yield server


def states(manager: socket.socket) -> list[str]:
    """Return what was sent, the first line of each."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode().split("\n")[0])
        except BlockingIOError:
            return found


def test_every_epoch_keeps_the_watchdog_quiet(playing, manager) -> None:
    """And says how the run goes."""
    played = playing()
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    played.service.observers.append(Supervised(notifier, None, lambda: False))
    played.service.run(played.wait, 5.0)
    assert ["WATCHDOG=1"] * 5 == states(manager)


def test_a_reload_takes_what_can_change(playing, manager, tmp_path, capsys) -> None:
    """Pace, budget, quota and brake; what needs a restart is named."""
    path = tmp_path / "isotherm.toml"
    path.write_text(
        "[loop]\nepoch_s = 2.0\nseed = 9\n[brake]\npsi_some_percent = 3\n"
        "[sources]\nuse = ['damon']\n"
    )
    played = playing()
    asked = iter([True] + 100 * [False])
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    told: list[Config] = []
    played.service.observers.append(
        Supervised(notifier, path, lambda: next(asked), changed=told.append)
    )
    played.service.run(played.wait, 20.0)
    service = played.service
    assert 2.0 == service.pacer.epoch_s
    assert 11 == service.epochs  # the first of a second
    assert 0.03 == service.brake.limits.pressure
    assert 1 == service.config.loop.seed
    assert ("auto",) == service.config.sources.use
    assert [service.config] == told
    found = states(manager)
    assert ["RELOADING=1", "READY=1"] == found[:2]
    said = capsys.readouterr()
    assert "loop.seed" in said.out + said.err
    assert "sources.use" in said.out + said.err


@pytest.mark.parametrize("text", ["[loop]\nepoch_s = -1\n", "nonsense", None])
def test_a_wrong_file_changes_nothing(playing, manager, tmp_path, text) -> None:
    """The run goes on as it was, and is ready again."""
    path = tmp_path / "isotherm.toml"
    if text is not None:
        path.write_text(text)
    played = playing()
    before = played.service.config
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    Supervised(notifier, path, lambda: True).reload(played.service)
    assert before == played.service.config
    assert ["RELOADING=1", "READY=1"] == states(manager)


def test_the_command_line_stays_over_the_file(playing, tmp_path) -> None:
    """What was said at the start rules after a reload, too."""
    path = tmp_path / "isotherm.toml"
    path.write_text("[loop]\nepoch_s = 2.0\n")

    def override(config: Config) -> Config:
        return msgspec.structs.replace(config, loop=LoopConfig(epoch_s=4.0))

    played = playing(override(Config()))
    Supervised(Notifier({}), path, lambda: True, override).reload(played.service)
    assert 4.0 == played.service.pacer.epoch_s


def test_live_keys_are_keys() -> None:
    """And have other defaults than nothing: a typing error would never be taken."""
    fields = msgspec.to_builtins(Config())
    for key in LIVE:
        section, name = key.split(".")
        assert name in fields[section]


def test_a_running_engine_takes_another_quota(playing) -> None:
    """Of the configuration, in its units; promises about the quota hold."""
    played = playing()
    service = played.service
    engine = BackgroundEngine(
        played.machine, epoch_ns=10**9, quota_pages_per_s=256.0, validate=True
    )
    service.engine = service.loop.engine = engine
    try:
        before = engine.move_limit_pages()
        config = Config(migration=MigrationConfig(limit_mib_s=2.0))
        service.reconfigure(config)
        after = engine.move_limit_pages()
        assert 2 * (1 << 20) / 4096 == after - (before - 256)
        with pytest.raises(ValueError, match="expected > 0"):
            engine.limit(0.0)
    finally:
        engine.close()


def test_a_hangup_reloads_only_where_that_was_asked_for() -> None:
    """Else it ends the run, as ever."""
    with Waiter(reloads=True) as waiter:
        signal.raise_signal(signal.SIGHUP)
        assert not waiter.wait(0.0)
        assert waiter.take_reload()
        assert not waiter.take_reload()
    with Waiter() as waiter:
        signal.raise_signal(signal.SIGHUP)
        assert waiter.wait(0.0)
        assert signal.SIGHUP == waiter.signal


def test_a_target_in_the_configuration() -> None:
    """A cgroup and a share of its processes; more than all is refused."""
    config = parse_config('[target]\ncgroup = "a.slice"\ncanary_percent = 5\n', "t")
    assert ("a.slice", 5.0) == (config.target.cgroup, config.target.canary_percent)
    with pytest.raises(Exception, match="canary_percent"):
        parse_config("[target]\ncanary_percent = 101\n", "t")
