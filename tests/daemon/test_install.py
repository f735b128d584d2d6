"""A run as a service: what is written, kept, refused and taken back."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.core.errors import ConfigError, NotPermittedError, UsageError
from isotherm.daemon.config import SYSTEM_FILE, parse_config, read_config
from isotherm.daemon.install import (
    COMMAND,
    UNIT,
    USER,
    USERS,
    Installer,
    check_owner,
    find_program,
    render_settings,
    render_unit,
)
from isotherm.daemon.rundir import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path("/opt/isotherm/bin/isotherm")
SETTINGS = render_settings("system.slice", 5, "127.0.0.1:9977")


def at(root: Path, path: Path) -> Path:
    """Return where a host's file is below a root."""
    return root / path.relative_to("/")


def install(root: Path, settings: str = SETTINGS) -> Installer:
    """Install below a root."""
    installer = Installer(root=root)
    installer.install(settings, PROGRAM)
    return installer


def test_what_is_published_is_what_is_installed() -> None:
    """The unit in deploy/ is that of the package."""
    assert render_unit() == (ROOT / "deploy/systemd/isotherm.service").read_text()


def test_the_unit_starts_the_program_that_wrote_it(tmp_path: Path) -> None:
    """In every line; the link on the path leads there, too."""
    install(tmp_path)
    text = at(tmp_path, UNIT).read_text()
    assert f"ExecStart={PROGRAM} run --config {SYSTEM_FILE}\n" in text
    assert str(COMMAND) not in text
    assert PROGRAM == at(tmp_path, COMMAND).readlink()
    assert at(tmp_path, USERS).read_text().startswith(f"u {USER} ")


def test_the_configuration_is_one(tmp_path: Path) -> None:
    """The daemon reads it: the cgroup, the share, the address and who decides."""
    install(tmp_path)
    config = read_config(at(tmp_path, SYSTEM_FILE))
    assert ("system.slice", 5.0) == (config.target.cgroup, config.target.canary_percent)
    assert ("127.0.0.1:9977", USER) == (config.metrics.listen, config.privileges.user)


def test_a_share_that_is_none_is_refused() -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match=r"target\.canary_percent"):
        render_settings("system.slice", 0, "")


def test_an_address_that_is_none_is_refused() -> None:
    """The unit's own check would refuse the file, and the service never start."""
    with pytest.raises(ConfigError, match=r"metrics\.listen: expected HOST:PORT"):
        render_settings("system.slice", 5, "foo:bar")


def test_a_name_cannot_end_its_string() -> None:
    """A quote in a cgroup's name is part of it, and no other key."""
    name = 'a"\n[budget]\ncpu_percent = 100\nx = "\\'
    config = parse_config(render_settings(name, 5, ""), "test")
    assert (name, 2.0) == (config.target.cgroup, config.budget.cpu_percent)


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    """A configuration of before, and a command that is somebody else's."""
    at(tmp_path, SYSTEM_FILE).parent.mkdir(parents=True)
    at(tmp_path, SYSTEM_FILE).write_text("# mine\n")
    at(tmp_path, COMMAND).parent.mkdir(parents=True)
    at(tmp_path, COMMAND).write_text("another program\n")
    installer = install(tmp_path)
    assert f"keep {SYSTEM_FILE}" in map(str, installer.steps)
    again = Installer(root=tmp_path)
    again.uninstall(RunDirectory(tmp_path / "run"))
    assert "# mine\n" == at(tmp_path, SYSTEM_FILE).read_text()
    assert "another program\n" == at(tmp_path, COMMAND).read_text()
    assert not at(tmp_path, UNIT).exists()


def test_all_is_taken_back(tmp_path: Path) -> None:
    """With --purge no file is left; twice does no harm."""
    install(tmp_path)
    for _ in range(2):
        Installer(root=tmp_path).uninstall(RunDirectory(tmp_path / "run"), purge=True)
        left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
        assert [] == left


def test_a_dry_run_says_and_does_nothing(tmp_path: Path) -> None:
    """The same steps, and an empty folder."""
    installer = Installer(root=tmp_path, dry_run=True)
    installer.install(SETTINGS, PROGRAM)
    assert [] == list(tmp_path.iterdir())
    assert list(map(str, install(tmp_path).steps)) == list(map(str, installer.steps))


def test_a_program_that_a_service_cannot_see_is_refused(tmp_path: Path) -> None:
    """As pipx puts it by default; nothing is written."""
    with pytest.raises(UsageError, match="does not see /root"):
        Installer(root=tmp_path).install(SETTINGS, Path("/root/.local/bin/isotherm"))
    assert [] == list(tmp_path.iterdir())


def test_a_dry_run_shows_what_would_be_refused(tmp_path: Path) -> None:
    """The plan, and why it would not be followed."""
    installer = Installer(root=tmp_path, dry_run=True)
    installer.install(SETTINGS, Path("/root/.local/bin/isotherm"))
    assert f"write {UNIT}" in map(str, installer.steps)
    said = [error.message for error in installer.refusals]
    assert ["/root/.local/bin/isotherm: a service does not see /root"] == said
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/opt/my apps/isotherm", "/opt/50%/isotherm"])
def test_a_path_that_a_unit_would_read_as_another(tmp_path: Path, name: str) -> None:
    """A space parts words there, a percent sign is expanded."""
    with pytest.raises(UsageError, match="expected a path without spaces"):
        Installer(root=tmp_path).install(SETTINGS, Path(name))


def test_the_python_that_runs_it_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script that root owns is run by what its first line names."""
    monkeypatch.setattr("isotherm.daemon.install._HIDDEN", ("/root",))
    program = tmp_path / "isotherm"
    program.write_text("#!/root/.venv/bin/python3 -I\nprint()\n")
    with pytest.raises(UsageError, match=r"/root/\.venv/bin/python3: a service does"):
        Installer(root=tmp_path / "host").install(SETTINGS, program)


def test_the_program_is_the_command(tmp_path: Path) -> None:
    """As it was started, or the one beside its Python."""
    program = tmp_path / "isotherm"
    program.touch()
    assert program == find_program([str(program), "service", "install"])
    beside = Path(sys.executable).with_name("isotherm")
    if not beside.exists():
        pytest.skip("isotherm is not installed beside this Python")
    assert beside == find_program(["/usr/lib/isotherm/__main__.py"])


def test_it_takes_root() -> None:
    """Anybody else gets one message and exit code 4."""
    if os.geteuid() == 0:
        pytest.skip("this is root")
    for does in ("install", "remove"):
        with pytest.raises(NotPermittedError, match=f"cannot {does} a service"):
            Installer(does=does)


@pytest.mark.slow
def test_without_numba_its_twins_run() -> None:
    """An installation without numba decides in numpy, and says so nowhere else."""
    program = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'numba' else find(n, *a);"
        "from isotherm.core.kernels import BACKEND; print(BACKEND)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ISOTHERM_KERNELS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "numpy\n" == done.stdout
    assert importlib.util.find_spec("numpy") is not None


def test_a_program_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Root would run what they put there: its file, a folder above, a link's end."""
    check_owner(Path("/usr/bin/env"))
    if os.geteuid() != 0:
        with pytest.raises(NotPermittedError, match="others than root"):
            check_owner(tmp_path)
        return
    theirs = tmp_path / "bin"
    theirs.mkdir()
    program = theirs / "isotherm"
    program.write_text("")
    link, further = tmp_path / "isotherm", tmp_path / "further"
    link.symlink_to(program)
    further.symlink_to("isotherm")
    for path, mode in ((program, 0o666), (theirs, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        for named in (program, link, further):
            with pytest.raises(NotPermittedError, match=rf"{path}: user 0, mode "):
                check_owner(named)
        path.chmod(before)
    os.chown(program, 0, 12345)
    program.chmod(0o664)
    with pytest.raises(NotPermittedError, match=rf"{program}: user 0, mode 664"):
        check_owner(program)
    os.chown(program, 0, 0)
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(UsageError, match="more than 40 links"):
        check_owner(circle)
    theirs.chmod(0o1777)  # nobody renames or removes what is root's there
    check_owner(further)
    os.chown(theirs, 65534, -1)
    with pytest.raises(NotPermittedError, match=rf"{theirs}: user 65534"):
        check_owner(link)
    os.chown(theirs, 0, -1)
    os.chown(link, 65534, -1, follow_symlinks=False)
    with pytest.raises(NotPermittedError, match=rf"{link}: user 65534"):
        check_owner(further)
