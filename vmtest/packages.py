"""Debian packages, fetched and unpacked without root and without installing.

apt-get works with lists, caches and a status of its own in a temporary
directory. To it nothing is installed, so it brings all that a package needs,
the C library included: what is unpacked runs on any release.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vmtest.errors import FetchError

_LIMIT_S = 900
"""One apt-get call; a slow line brings 100 MB in this time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A package, and where to look for it.

    Attributes:
        package: Its name.
        suites: Suites of the Debian archive; none: the system's own sources.
    """

    package: str
    suites: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as a message has it."""
        where = " and ".join(self.suites) or "the system's own apt sources"
        return f"{self.package} from {where}"


class Apt:
    """apt-get with a home of its own, gone on exit.

    Raises:
        FetchError: A tool or a source is missing.
    """

    def __init__(self, suites: Sequence[str], etc_apt: Path = Path("/etc/apt")) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(
                    f"{tool}: not found; the guest is made of Debian packages",
                    "use a Debian or Ubuntu machine, or copy a filled cache here "
                    "and name it in VMTEST_CACHE",
                )
        self._suites = tuple(suites)
        self._etc_apt = etc_apt
        self._home = Path()
        self._options: list[str] = []
        self._update_said = ""

    def __enter__(self) -> Self:
        """Set up the private home and fetch the package lists."""
        self._home = Path(tempfile.mkdtemp(prefix="vmtest-apt-"))
        try:
            self._prepare()
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Remove the private home."""
        shutil.rmtree(self._home, ignore_errors=True)

    def _prepare(self) -> None:
        home = self._home
        for folder in ("sources", "lists/partial", "cache/archives/partial", "debs"):
            (home / folder).mkdir(parents=True)
        (home / "status").touch()  # as if nothing were installed
        settings = [
            "Dir::Etc::sourcelist=/dev/null",
            f"Dir::Etc::sourceparts={home}/sources",
            f"Dir::State::lists={home}/lists",
            f"Dir::State::status={home}/status",
            f"Dir::Cache={home}/cache",
            "APT::Sandbox::User=",
            "APT::Install-Recommends=false",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=30",
            "Acquire::https::Timeout=30",
        ]
        self._options = [word for setting in settings for word in ("-o", setting)]
        if self._suites:
            source = _newer_source(self._etc_apt, self._suites)
            (home / "sources" / "newer.sources").write_text(source)
            self._options += ["-t", self._suites[-1]]
        else:
            for path in source_files(self._etc_apt):
                shutil.copy(path, home / "sources")
        # A source that does not answer is a warning here; should a package
        # then be missing, the warning is what people need to see.
        self._update_said = self._run("apt-get", "-qq", "update")

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        words = [tool, *self._options, *arguments]
        try:
            done = subprocess.run(
                words,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_LIMIT_S,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise FetchError(
                f"{tool} {' '.join(arguments)}: no end after {_LIMIT_S} s"
            ) from None
        if done.returncode:
            said = (self._update_said + done.stdout).strip()
            raise FetchError(
                f"{tool} {' '.join(arguments)} failed:\n{said[-2000:]}",
                "is there a network, and does apt-get update work?",
            )
        return done.stdout

    def fetch_closure(self, *packages: str) -> list[Path]:
        """Return the packages and all that they depend on."""
        self._run("apt-get", "-qq", "-y", "--download-only", "install", *packages)
        return sorted((self._home / "cache" / "archives").glob("*.deb"))

    def forget(self) -> None:
        """Remove what was fetched: the next closure is of its packages alone."""
        for deb in (self._home / "cache" / "archives").glob("*.deb"):
            deb.unlink()

    def fetch_kernel(self, package: str) -> list[Path]:
        """Return what a kernel's meta-package stands for: image and modules."""
        found: set[str] = set()
        todo = [package]
        while todo:
            said = self._run("apt-cache", "depends", "--important", todo.pop())
            new = set(_KERNEL_DEPENDS.findall(said)) - found
            found |= new
            todo += new
        if not found:
            raise FetchError(f"{package}: no kernel package behind it")
        debs = self._home / "debs"
        self._run("apt-get", "-qq", "download", *sorted(found), cwd=debs)
        return sorted(debs.glob("*.deb"))


_KERNEL_DEPENDS = re.compile(
    r"^ *\|?Depends: (linux-(?:image|modules|binary)-\d\S+)", re.MULTILINE
)


def unpack(debs: Iterable[Path], tree: Path) -> None:
    """Unpack packages into a tree and list them in its file ``packages``.

    Raises:
        FetchError: dpkg-deb fails, on a full disk for one.
    """
    names = []
    for deb in debs:
        done = subprocess.run(
            ["dpkg-deb", "-x", str(deb), str(tree)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise FetchError(
                f"cannot unpack {deb.name} into {tree}: {done.stderr.strip()}",
                "is the disk full? VMTEST_CACHE names another place",
            )
        names.append(deb.name)
    (tree / "packages").write_text("".join(f"{name}\n" for name in sorted(names)))


def source_files(etc_apt: Path) -> list[Path]:
    """Return the files that name the system's own apt sources."""
    folder = etc_apt / "sources.list.d"
    parts = [*sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    return [path for path in (etc_apt / "sources.list", *parts) if path.is_file()]


_ARCHIVE = re.compile(
    r"^(?:URIs:|deb(?:\s+\[.*?\])?)\s+(\S+/debian/?)(?:\s|$)", re.MULTILINE
)


def find_archive(etc_apt: Path) -> str:
    """Return the address of a Debian archive: VMTEST_ARCHIVE, or apt's own.

    Raises:
        FetchError: None is known.
    """
    given = os.environ.get("VMTEST_ARCHIVE")
    if given:
        return given
    for path in source_files(etc_apt):
        found = _ARCHIVE.search(path.read_text(errors="replace"))
        if found:
            return found[1]
    raise FetchError(
        f"{etc_apt}: no Debian archive among the apt sources",
        "name one in VMTEST_ARCHIVE",
    )


def _newer_source(etc_apt: Path, suites: Sequence[str]) -> str:
    return (
        "Types: deb\n"
        f"URIs: {find_archive(etc_apt)}\n"
        f"Suites: {' '.join(suites)}\n"
        "Components: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
