"""A Debian system made of packages: what is in it, and that systemd boots it."""

import importlib.util
import io
import marshal
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vmtest.compiled import compile_python
from vmtest.debian import ARCHIVE, BASE, image_name, write_system
from vmtest.qemu import share_options

ROOT = Path(__file__).resolve().parents[2]


def make_package(
    folder: Path, name: str, files: dict[str, str], more: str = ""
) -> Path:
    """Return a package with files, as dpkg-deb builds it; skip where that is not."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on the path")
    tree = folder / name
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <n@n>\n"
        f"{more}Description: a test\n"
    )
    (tree / "DEBIAN/postinst").write_text("#!/bin/sh\nexit 0\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    deb = folder / f"{name}_1_amd64.deb"
    words = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)]
    subprocess.run(words, check=True, capture_output=True)
    return deb


@pytest.fixture
def system(tmp_path: Path) -> tarfile.TarFile:
    """Return the archive of a small system, and of one package on offer."""
    users = "root:*:0:0:root:/root:/bin/bash\n"
    base = make_package(
        tmp_path,
        "base-passwd",
        {
            "usr/share/base-passwd/passwd.master": users,
            "usr/share/base-passwd/group.master": "root:*:0:\n",
            "lib/a": "below /usr",
            "usr/share/doc/base-passwd/copyright": "left out",
        },
        "Multi-Arch: same\n",
    )
    offer = make_package(tmp_path, "more", {"usr/bin/more": "later"})
    with tarfile.open(tmp_path / "system.tar", "w") as out:
        write_system(out, [base], [offer])
    return tarfile.open(fileobj=io.BytesIO((tmp_path / "system.tar").read_bytes()))


def read(archive: tarfile.TarFile, name: str) -> str:
    """Return a file's text."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read().decode()


def test_packages_count_as_installed(system: tarfile.TarFile) -> None:
    """By dpkg's list, with their scripts and files, /lib being /usr/lib."""
    assert "below /usr" == read(system, "usr/lib/a")
    assert "usr/lib" == system.getmember("lib").linkname
    status = read(system, "var/lib/dpkg/status")
    assert "Package: base-passwd\nStatus: install ok installed\n" in status
    assert "/lib/a\n" in read(system, "var/lib/dpkg/info/base-passwd:amd64.list")
    script = system.getmember("var/lib/dpkg/info/base-passwd:amd64.postinst")
    assert 0o755 == script.mode
    assert not [name for name in system.getnames() if "/doc/" in name]


def test_there_are_users(system: tarfile.TarFile) -> None:
    """Those of base-passwd, without a password that fits."""
    assert "root:x:0:0:root:/root:/bin/bash\n" == read(system, "etc/passwd")
    assert read(system, "etc/shadow").startswith("root:*:")


def test_what_is_on_offer_is_not_installed(system: tarfile.TarFile) -> None:
    """It lies where apt looks, with a list that names its size and contents."""
    assert "usr/bin/more" not in system.getnames()
    listed = read(system, f"{ARCHIVE}/Packages")
    size = system.getmember(f"{ARCHIVE}/more_1_amd64.deb").size
    assert f"Filename: ./more_1_amd64.deb\nSize: {size}\n" in listed
    assert f"file:/{ARCHIVE} ./" in read(system, "etc/apt/sources.list")


def test_an_image_is_named_by_its_contents() -> None:
    """In whatever order packages are named; another offer is another image."""
    assert image_name(["a", "b"]) == image_name(["b", "a"])
    assert image_name(["a"]) != image_name([])
    assert sorted(BASE) == sorted(set(BASE))


def test_the_library_is_compiled_for_this_python_alone() -> None:
    """What Python loads without a look at the source's time; others compile."""
    version = ".".join(platform.python_version_tuple()[:2])
    name, source = f"usr/lib/python{version}/one.py", b"x = 23\n"
    sources = {name: source, "usr/lib/python3.2/two.py": b"", "usr/lib/three.py": b""}
    ((found, data),) = compile_python(sources)
    assert importlib.util.cache_from_source(name) == found
    assert importlib.util.MAGIC_NUMBER == data[:4]
    names: dict[str, int] = {}
    exec(marshal.loads(data[16:]), names)  # noqa: S102, S302  # compiled above
    assert 23 == names["x"]


def test_an_image_is_the_root_in_place_of_ours() -> None:
    """As a disk that cannot be written to; this machine's files are not shared."""
    options = share_options([], Path("/cache/image"))
    assert "file=/cache/image,format=raw,if=none,id=root,readonly=on" in options
    assert not [word for word in options if "path=/" in word]


@pytest.mark.slow
def test_systemd_boots_it(tmp_path: Path) -> None:
    """PID 1 is systemd, nothing failed, two tiers; files have owners and modes."""
    from tests.vmtest.conftest import fetch_or_skip

    fetch_or_skip(system="debian", offered=("python3-venv",))
    script = (
        'cat /proc/1/comm; while [ "$(systemctl is-system-running)" = starting ];'
        "do sleep 1; done; systemctl is-system-running;"
        "cat /sys/devices/virtual/memory_tiering/memory_tier*/nodelist | wc -l;"
        "stat -c %U:%a /usr/bin/passwd;"
        "echo out >$VMTEST_OUT/file; exit 7"
    )
    words = [sys.executable, "-m", "vmtest", "--system", "debian", "--tick", "0"]
    words += ["--offer", "python3-venv", "--limit", "240", "--out", str(tmp_path)]
    done = subprocess.run(
        [*words, "--", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    expected = ["systemd", "running", "2", "root:4755"]
    assert (7, expected) == (done.returncode, done.stdout.splitlines()), done.stderr
    assert "out\n" == (tmp_path / "file").read_text()
