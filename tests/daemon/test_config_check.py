"""What a schema cannot say of a configuration is said before anything runs."""

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from isotherm.core.errors import ConfigError
from isotherm.daemon.config import Config
from isotherm.daemon.config_check import (
    check_config,
    find_host_file,
    read_checked,
    read_host_config,
)

TENANTS = '[[tenant]]\nname = "db"\ncgroup = "db.slice"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[loop]\npolicy = "isoterm"', "loop.policy: expected one of isotherm, "),
        ('[loop]\npolicy = "isoterm"', "got 'isoterm'; did you mean 'isotherm'?"),
        ('[loop]\npolicy = "clairvoyant"', "loop.policy: clairvoyant knows the future"),
        ("[loop]\nepoch_s = 9\nlongest_epoch_s = 3", "expected at least epoch_s, 9"),
        ("[sources]\nuse = []", "sources.use: expected names"),
        ('[sources]\nuse = ["auto", "ibs"]', '"auto" stands alone'),
        ('[sources]\nuse = ["damom"]', "got 'damom'; did you mean 'damon'?"),
        ('[kernel]\nuse = "tpp"', "kernel.use: expected one of auto, numa-balancing"),
        ('[metrics]\nlisten = "host:port"', "metrics.listen: expected HOST:PORT"),
        (
            '[target]\ncgroup = "a"\ntenants = "b"',
            "target: expected one of cgroup, tenants and pods, got cgroup and tenants",
        ),
        ('[target]\ntenants = "/none.toml"', "target.tenants: /none.toml"),
    ],
)
def test_what_could_be_used_nowhere_is_named(
    tmp_path: Path, text: str, says: str
) -> None:
    """One error: the file, the key, what is expected, what is there."""
    path = tmp_path / "isotherm.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_checked(path)
    assert error.value.message.startswith(f"{path}: ")
    assert says in error.value.message
    assert "isotherm config show lists every key" == error.value.hint


def test_tenants_need_a_policy_that_knows_them(tmp_path: Path) -> None:
    """Not only at the start of a run; with the right one the file is fine."""
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(TENANTS)
    path = tmp_path / "isotherm.toml"
    path.write_text(f'[target]\ntenants = "{tenants}"\n')
    assert str(tenants) == read_checked(path).target.tenants
    path.write_text(f'[loop]\npolicy = "tpp"\n[target]\ntenants = "{tenants}"\n')
    with pytest.raises(ConfigError, match=r"policy 'tpp' knows no tenants"):
        read_checked(path)


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ('workload = "db"', "expected a cgroup or pids, got parts of a workload"),
        ('pids = 1\nguarantee = "50%"\nmaximum = "20%"', "above its maximum of 20%"),
    ],
)
def test_tenants_that_no_run_takes_are_refused(
    tmp_path: Path, terms: str, says: str
) -> None:
    """What ``run --tenants`` refuses on every host, the check does too."""
    tenants, path = tmp_path / "tenants.toml", tmp_path / "isotherm.toml"
    tenants.write_text(f'[[tenant]]\nname = "db"\n{terms}\n')
    path.write_text(f'[target]\ntenants = "{tenants}"\n')
    with pytest.raises(ConfigError) as error:
        read_checked(path)
    assert says in error.value.message


def test_the_defaults_are_fine(tmp_path: Path) -> None:
    """As are files that name nothing, and no file."""
    check_config(read_checked(None), "defaults")
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert read_checked(None) == read_checked(path)


SERVICE = (
    '[loop]\nepoch_s = 2\n[target]\ntenants = "/root/none.toml"\n'
    '[privileges]\nuser = "isotherm"\n'
)


def test_a_plain_user_stays_who_they_are(tmp_path: Path) -> None:
    """The service's user and tenants stop nobody else; one sentence says so."""
    path, said = tmp_path / "isotherm.toml", list[str]()
    path.write_text(SERVICE)
    config = read_host_config(said.append, path, uid=1000)
    assert (2.0, "") == (config.loop.epoch_s, config.privileges.user)
    assert [
        f"{path}: privileges.user: only root becomes another user: left out"
    ] == said
    with pytest.raises(ConfigError, match=r"target\.tenants"):
        read_host_config(said.append, path, uid=0)
    path.write_text('[privileges]\nuser = "isotherm"\n')
    kept = read_host_config(said.append, path, uid=0)
    assert ("isotherm", 1) == (kept.privileges.user, len(said))


def test_a_wrong_file_is_told_a_plain_user_too(tmp_path: Path) -> None:
    """It is no right that is missing."""
    path = tmp_path / "isotherm.toml"
    path.write_text("[loop]\nepoch_s = -1\n")
    with pytest.raises(ConfigError, match=r"loop\.epoch_s"):
        read_host_config(lambda said: None, path, uid=1000)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    """Defaults, for everybody."""
    said = list[str]()
    for uid in (0, 1000):
        assert Config() == read_host_config(said.append, tmp_path / "no", uid)
        assert find_host_file(said.append, tmp_path / "no", uid) is None
    assert [] == said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a plain user")
def test_a_file_of_roots_alone_is_left_out() -> None:
    """Who may not read it has defaults, and is told once; no error."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "isotherm.toml"
        path.write_text(SERVICE)
        path.chmod(0o600)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:  # real and effective: access(2) asks for the real one
            try:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                said = list[str]()
                same = read_host_config(said.append, path) == Config()
                os.write(tell, msgspec.json.encode([same, said]))
            finally:
                os._exit(0)
        os.close(tell)
        os.waitpid(child, 0)
        with open(told, "rb") as file:  # noqa: PTH123  # a descriptor
            same, said = msgspec.json.decode(file.read())
    assert same
    assert [f"{path}: not for this user to read: defaults are used"] == said
