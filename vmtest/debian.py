"""A Debian system of its own for the guest, made of packages without root.

Packages are unpacked into one archive with the owners and modes that they name,
entered into dpkg's list as installed, and packed as a read-only image. Their
scripts have not run; what of them a system cannot do without is written here, and
systemd makes users and folders at the first boot. apt in the guest installs further
packages for real, scripts and all, from a folder that comes with the image.
"""

import hashlib
import io
import platform
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vmtest.compiled import compile_python
from vmtest.errors import FetchError
from vmtest.packages import Apt, unpack
from vmtest.qemu import loader_words

BASE = (
    *("apt", "base-files", "base-passwd", "bash", "bsdutils", "ca-certificates"),
    *(
        "coreutils",
        "dash",
        "dbus",
        "debconf",
        "debianutils",
        "diffutils",
        "dpkg",
        "findutils",
        "grep",
    ),
    *("gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk"),
    *("ncurses-base", "passwd", "perl-base", "procps", "python3", "sed"),
    *("systemd", "systemd-sysv", "sysvinit-utils", "tar", "usr-is-merged"),
    "util-linux",
)
"""What a small installed Debian has: the essential packages, systemd, Python."""

ARCHIVE = "var/lib/vmtest/archive"
"""Where packages lie that apt in the guest can install."""

_MERGED = re.compile(r"^\./(bin|sbin|lib|lib64)(?=/|$)")
_LEFT_OUT = re.compile(r"^\./usr/share/(doc|man|locale|i18n|info|lintian|perl)/")
_FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n::1 localhost\n",
    "etc/fstab": "",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    # A machine that has booted before: no questions at the first boot.
    "etc/machine-id": "76d7e57000000000000000000000d0de\n",
    # Emulated, some of the instructions that it finds are none (SIGILL in apt).
    "etc/gcrypt/hwf.deny": "all\n",
    "etc/apt/sources.list": f"deb [trusted=yes] file:/{ARCHIVE} ./\n",
    "var/lib/dpkg/info/format": "1\n",
    "var/lib/dpkg/available": "",
}
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/bin/awk": "mawk",
    # There is no udev to say that a terminal has come, and no one to log in.
    "etc/systemd/system/getty.target": "/dev/null",
}
_FOLDERS = ("proc", "sys", "dev", "run", "root", "tmp", "mnt", "srv", ARCHIVE)


def image_name(offered: Sequence[str]) -> str:
    """Return what an image is called in the cache: it differs with its contents."""
    text = repr((BASE, sorted(offered), _FILES, _LINKS, platform.python_version()))
    return f"debian-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def make_image(suites: Sequence[str], offered: Sequence[str], tree: Path) -> None:
    """Write ``image`` into a folder: a squashfs of a Debian system.

    Args:
        suites: Of the archive; none: the system's own sources.
        offered: Packages that apt in the guest can install.
        tree: Where ``image`` is written.

    Raises:
        FetchError: Packages cannot be fetched, or not be packed.
    """
    with Apt(suites) as apt, tempfile.TemporaryDirectory(dir=tree) as folder:
        tools = Path(folder) / "tools"
        unpack(apt.fetch_closure("squashfs-tools"), tools)
        apt.forget()
        base = apt.fetch_closure(*BASE)
        names = {deb.name for deb in base}
        more = []
        if offered:
            every = apt.fetch_closure(*BASE, *offered)
            more = [deb for deb in every if deb.name not in names]
        archive = Path(folder) / "system.tar"
        with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as out:
            write_system(out, base, more)
        _pack(tools, archive, tree / "image")


def write_system(
    out: tarfile.TarFile, base: Sequence[Path], offered: Sequence[Path]
) -> None:
    """Put packages together into the archive of a system.

    Args:
        out: Written to.
        base: Packages that are installed; base-passwd is one of them.
        offered: Packages that lie where apt finds them.
    """
    _Builder(out).build(base, offered)


def _pack(tools: Path, archive: Path, image: Path) -> None:
    words = [
        *loader_words(tools),
        str(tools / "usr/bin/mksquashfs"),
        *("-", str(image), "-tar", "-quiet", "-no-progress"),
        # Emulated, unpacking takes longer than reading.
        *("-noI", "-noD", "-noF", "-noX"),
    ]
    with archive.open("rb") as file:
        done = subprocess.run(
            words, stdin=file, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise FetchError(f"{image}: mksquashfs: {done.stderr.strip()[-500:]}")


class _Builder:
    """Puts packages together into one archive."""

    def __init__(self, out: tarfile.TarFile) -> None:
        self._out = out
        self._seen: set[str] = set()
        self._status: list[str] = []
        self._kept: dict[str, bytes] = {}

    def build(self, base: Sequence[Path], offered: Sequence[Path]) -> None:
        """Add all that the system is made of."""
        for name in _FOLDERS:
            self._add_folder(name, 0o1777 if name == "tmp" else 0o755)
        for name, target in _LINKS.items():
            self._add_link(name, target)
        for deb in base:
            self._add_package(deb)
        for name, text in _FILES.items():
            self._add_file(name, text.encode())
        self._add_file("var/lib/dpkg/status", "\n".join(self._status).encode())
        self._add_users()
        for name, data in compile_python(self._kept):
            self._add_file(name, data)
        entries = []
        for deb in offered:
            data = deb.read_bytes()
            self._add_file(f"{ARCHIVE}/{deb.name}", data)
            entries.append(
                f"{_control(deb)}Filename: ./{deb.name}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
        self._add_file(f"{ARCHIVE}/Packages", "\n".join(entries).encode())

    def _add_package(self, deb: Path) -> None:
        listed = ["/."]
        for entry, data in _members(deb, "--fsys-tarfile"):
            listed.append(entry.name[1:].rstrip("/") or "/.")
            entry.name = _merged(entry.name)
            if entry.islnk():
                entry.linkname = _merged(entry.linkname).removeprefix("./")
            name = entry.name.removeprefix("./").rstrip("/")
            if name in ("", ".") or _LEFT_OUT.match(entry.name) or name in self._seen:
                continue
            if data is not None and name.endswith(
                (".py", "passwd.master", "group.master")
            ):
                self._kept[name] = data
            entry.name = name
            self._seen.add(name)
            self._out.addfile(entry, None if data is None else io.BytesIO(data))
        text = _control(deb)
        found = dict(
            re.findall(r"^(Package|Architecture|Multi-Arch): (.*)$", text, re.MULTILINE)
        )
        name = found["Package"]
        if found.get("Multi-Arch") == "same":
            name += f":{found['Architecture']}"
        head, _, rest = text.partition("\n")
        self._status.append(f"{head}\nStatus: install ok installed\n{rest}")
        info = f"var/lib/dpkg/info/{name}"
        self._add_file(f"{info}.list", "".join(f"{x}\n" for x in listed).encode())
        for entry, data in _members(deb, "--ctrl-tarfile"):
            if data is not None and Path(entry.name).name != "control":
                self._add_file(f"{info}.{Path(entry.name).name}", data, entry.mode)

    def _add_users(self) -> None:
        """Add the users that base-passwd's script would."""
        users = self._kept["usr/share/base-passwd/passwd.master"].decode()
        groups = self._kept["usr/share/base-passwd/group.master"].decode()
        names = [line.partition(":")[0] for line in users.splitlines()]
        shadow = "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names)
        self._add_file("etc/passwd", users.replace(":*:", ":x:").encode())
        self._add_file("etc/group", groups.replace(":*:", ":x:").encode())
        self._add_file("etc/shadow", shadow.encode(), 0o640)

    def _add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        if name in self._seen:
            return
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), mode
        self._put(entry, data)

    def _add_folder(self, name: str, mode: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._put(entry)

    def _add_link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        self._put(entry)

    def _put(self, entry: tarfile.TarInfo, data: bytes | None = None) -> None:
        self._seen.add(entry.name)
        self._out.addfile(entry, None if data is None else io.BytesIO(data))


def _merged(name: str) -> str:
    """Return where a path is on a system whose /bin is /usr/bin."""
    return _MERGED.sub(r"./usr/\1", name)


def _control(deb: Path) -> str:
    """Return a package's entry, which ends with a line break."""
    done = _ask(["dpkg-deb", "--field", str(deb)])
    return done.decode(errors="replace").rstrip("\n") + "\n"


def _members(deb: Path, part: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Give each member of a part of a package, and its contents if it is a file."""
    data = _ask(["dpkg-deb", part, str(deb)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            file = archive.extractfile(entry) if entry.isreg() else None
            yield entry, None if file is None else file.read()


def _ask(words: list[str]) -> bytes:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise FetchError(f"{' '.join(words)}: {said}")
    return done.stdout
