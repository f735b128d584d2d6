"""A run as a service of systemd: what is written to the host, and taken back."""

import grp
import importlib.resources
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import isotherm
from isotherm.core.errors import IsothermError, NotPermittedError, UsageError
from isotherm.daemon.config import SYSTEM_FILE, parse_config
from isotherm.daemon.config_check import check_config
from isotherm.daemon.rundir import RunDirectory

UNIT: Final = Path("/etc/systemd/system/isotherm.service")
USERS: Final = Path("/etc/sysusers.d/isotherm.conf")
#: Of the unit's CacheDirectory: compiled kernels.
CACHE: Final = Path("/var/cache/isotherm")
COMMAND: Final = Path("/usr/local/bin/isotherm")
USER: Final = "isotherm"
_USERS_TEXT: Final = f'u {USER} - "isotherm memory tiering"\n'
#: Places that a service does not see: ProtectHome and PrivateTmp of the unit.
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # not used
#: Debian's group staff may write /usr/local (Debian policy, 9.1.2); elsewhere its
#: number is of others, and its name of people.
_STAFF: Final = ("staff", 50)
#: Of a path that a unit names as it is: no space parts it, nothing is expanded.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+@,=-]+")
#: Links that opening a path goes through at most: path_resolution(7).
_MOST_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, or would be.

    Attributes:
        what: In words: ``write``, ``keep``, ``link``, ``remove``, ``run``.
        subject: A path or a command.
    """

    what: str
    subject: str

    def __str__(self) -> str:
        """Return it as a line."""
        return f"{self.what} {self.subject}"


def render_unit(program: Path = COMMAND) -> str:
    """Return the unit that starts a program."""
    text = importlib.resources.files("isotherm.data").joinpath("isotherm.service")
    return text.read_text().replace(str(COMMAND), str(program))


def render_settings(cgroup: str, canary_percent: float, listen: str) -> str:
    """Return the configuration of a new service.

    Raises:
        ConfigError: A value is none.
    """
    # A string of JSON is one of TOML.
    text = (
        "# What isotherm.service manages: isotherm config show lists every key,\n"
        "# systemctl reload isotherm has it read again.\n"
        f"[target]\ncgroup = {json.dumps(cgroup)}\n"
        f"canary_percent = {canary_percent:g}\n\n"
        f'[metrics]\nlisten = {json.dumps(listen)}\n\n[privileges]\nuser = "{USER}"\n'
    )
    check_config(parse_config(text, str(SYSTEM_FILE)), str(SYSTEM_FILE))
    return text


class Installer:
    """Writes to the host, or says what would be written.

    Args:
        dry_run: Do nothing, only say.
        root: Where the host's files are; elsewhere no command is run.
        does: What is asked of it, for the message to who may not.
    """

    def __init__(
        self, *, dry_run: bool = False, root: Path = Path("/"), does: str = "install"
    ) -> None:
        self._dry_run, self._root = dry_run, root
        self.steps: list[Step] = []
        #: Why what a dry run shows would be refused.
        self.refusals: list[UsageError] = []
        if not dry_run and root == Path("/") and os.geteuid() != 0:
            raise NotPermittedError(
                f"user {os.geteuid()} cannot {does} a service",
                hint="run it as root, or with --dry-run",
            )

    def install(self, settings: str, program: Path | None = None) -> None:
        """Write unit, configuration and user; a configuration that is there stays.

        Raises:
            UsageError: The program, or the Python that runs it, is where a service does
                not see it, or has a name that a unit cannot hold. A dry run keeps this
                in ``refusals``.
            NotPermittedError: A file cannot be written, or others than root can
                change the program.
            IsothermError: A command of systemd failed.
        """
        program = find_program() if program is None else program
        parts = (program, *_find_interpreter(program))
        for part in parts:
            try:
                _check_place(part)
            except UsageError as error:
                if not self._dry_run:
                    raise
                self.refusals.append(error)
        if self._root == Path("/") and not self._dry_run:
            for part in (*parts, Path(isotherm.__file__).absolute()):
                check_owner(part)
        if self._at(SYSTEM_FILE).exists():
            self.steps.append(Step("keep", str(SYSTEM_FILE)))
        else:
            self._write(SYSTEM_FILE, settings)
        self._write(USERS, _USERS_TEXT)
        self._write(UNIT, render_unit(program))
        if program != COMMAND and not os.path.lexists(self._at(COMMAND)):
            self.steps.append(Step("link", f"{COMMAND} -> {program}"))
            if not self._dry_run:
                self._at(COMMAND).parent.mkdir(parents=True, exist_ok=True)
                self._at(COMMAND).symlink_to(program)
        self._run("systemd-sysusers", str(USERS))
        self._run("systemctl", "daemon-reload")

    def uninstall(self, directory: RunDirectory, *, purge: bool = False) -> None:
        """Stop the service and remove what ``install`` wrote.

        Args:
            directory: Where killed daemons have left journals: they are undone.
            purge: The configuration, too.
        """
        unit = self._at(UNIT)
        if unit.exists():
            self._run("systemctl", "disable", "--now", "isotherm.service")
        if not self._dry_run and self._root == Path("/"):
            for line in directory.recover():
                self.steps.append(Step("undo", line))
        program = _program_of(unit)
        link = self._at(COMMAND)
        if link.is_symlink() and str(link.readlink()) == program:
            self._remove(COMMAND)
        has_user = self._at(USERS).exists()
        self._forget_cache()
        for path in (UNIT, USERS, *((SYSTEM_FILE,) if purge else ())):
            if self._at(path).exists():
                self._remove(path)
        if has_user:
            self._run("userdel", USER)
        self._run("systemctl", "daemon-reload")

    # -- steps -------------------------------------------------------------

    def _at(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def _write(self, path: Path, text: str) -> None:
        self.steps.append(Step("write", str(path)))
        if self._dry_run:
            return
        target = self._at(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            target.chmod(0o644)
        except OSError as error:
            raise NotPermittedError(f"{target}: {error.strerror}") from None

    def _remove(self, path: Path) -> None:
        self.steps.append(Step("remove", str(path)))
        if not self._dry_run:
            self._at(path).unlink()

    def _forget_cache(self) -> None:
        cache = self._at(CACHE)
        if cache.exists():
            self.steps.append(Step("remove", str(CACHE)))
            if not self._dry_run:
                shutil.rmtree(cache)

    def _run(self, *words: str) -> None:
        self.steps.append(Step("run", " ".join(words)))
        if self._dry_run or self._root != Path("/"):
            return
        if shutil.which(words[0]) is None:
            raise IsothermError(
                f"{words[0]}: not found: this host has no systemd",
                hint="isotherm run --config /etc/isotherm.toml, under what it has",
            )
        done = subprocess.run(
            words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise IsothermError(f"{' '.join(words)}: {done.stderr.strip()}")


def find_program(words: Sequence[str] | None = None) -> Path:
    """Return the path of the ``isotherm`` command that runs.

    Raises:
        UsageError: It was not started as a command.
    """
    started = Path((sys.argv if words is None else words)[0])
    for path in (started, Path(sys.executable).with_name("isotherm")):
        if path.name == "isotherm" and path.is_file():
            return path.absolute()
    raise UsageError(
        f"{started}: expected to be started as isotherm",
        hint="pip installs that command beside its Python",
    )


def _find_interpreter(program: Path) -> tuple[Path, ...]:
    """Return what runs a script, by its first line; nothing for other programs."""
    try:
        with program.open("rb") as file:
            line = file.readline(4096)
    except OSError:
        return ()
    words = os.fsdecode(line).removeprefix("#!").split()
    is_script = line.startswith(b"#!") and words and words[0].startswith("/")
    return (Path(words[0]),) if is_script else ()


def _check_place(program: Path) -> None:
    if not _PLAIN.fullmatch(str(program)):
        raise UsageError(
            f"{program}: expected a path without spaces and signs of its own",
            hint="python3 -m venv /opt/isotherm, and install it there",
        )
    for place in (program, program.resolve()):
        for hidden in _HIDDEN:
            if place.is_relative_to(hidden):
                raise UsageError(
                    f"{place}: a service does not see {hidden}",
                    hint="python3 -m venv /opt/isotherm, and install it there",
                )


def check_owner(program: Path) -> None:
    """Check that nobody but root can change what a service of root would run.

    In a folder that others may write, its sticky bit keeps them from what is root's.

    Raises:
        NotPermittedError: Somebody can.
    """
    for path in _met(program):
        about = path.lstat()
        shared = stat.S_IWOTH
        if about.st_gid != 0 and not _is_staff(about.st_gid):
            shared |= stat.S_IWGRP
        if stat.S_ISLNK(about.st_mode):
            shared = 0  # a link's own mode says nothing
        elif stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX:
            shared = 0
        if about.st_uid != 0 or about.st_mode & shared:
            raise NotPermittedError(
                f"{path}: user {about.st_uid}, mode"
                f" {stat.S_IMODE(about.st_mode):o}: others than root can change"
                " what the service would run as root",
                hint="python3 -m venv /opt/isotherm, as root",
            )


def _is_staff(gid: int) -> bool:
    name, number = _STAFF
    try:
        return gid == number and grp.getgrgid(gid).gr_name == name
    except KeyError:
        return False


def _met(path: Path) -> Iterator[Path]:
    """Yield every folder, link and file that opening an absolute path goes through.

    Raises:
        UsageError: It goes in circles.
    """
    here, todo, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield here
    while todo:
        part = todo.pop()
        here = here.parent if part == ".." else here / part
        yield here
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise UsageError(f"{path}: more than {_MOST_LINKS} links lead to it")
            there = here.readlink()
            here = Path("/") if there.is_absolute() else here.parent
            todo.extend(reversed(there.relative_to(there.anchor).parts))


def _program_of(unit: Path) -> str | None:
    if not unit.exists():
        return None
    lines = unit.read_text().splitlines()
    found = [line for line in lines if line.startswith("ExecStart=")]
    return found[0].removeprefix("ExecStart=").split()[0] if found else None
