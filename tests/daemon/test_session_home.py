"""What a session has left in its directory, and root removing it."""

import importlib.resources
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.daemon.session_home import clear_homes

UID = "4000001"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the directory of a session that has ended."""
    made = tmp_path / "run" / UID
    made.mkdir(parents=True)
    return made


def test_compiled_kernels_are_removed_and_links_are_not_followed(
    home: Path, tmp_path: Path
) -> None:
    """The cache goes with all that is in it, and nothing that it points to."""
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").touch()
    (home / "numba" / "core_1a").mkdir(parents=True)
    (home / "numba" / "core_1a" / "kernel.nbi").touch()
    (home / "numba" / "link").symlink_to(outside)
    (home / "numba" / "core_1a" / "dangling").symlink_to("nowhere")
    clear_homes(home.parent, ())

    assert not home.exists()
    assert (outside / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give rights up")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing")
def test_the_services_rights_are_enough(tmp_path: Path) -> None:
    """What a killed session has left goes at once: no CAP_DAC_OVERRIDE is needed."""
    home = tmp_path / UID
    (home / "numba" / "core_1a").mkdir(parents=True)
    (home / "numba" / "core_1a" / "kernel.nbi").touch()
    (home / "run-4190001.json").touch()
    (home / "run-4190001.sock").touch()
    for path in (home, *home.rglob("*")):
        os.chown(path, int(UID), int(UID))
    for folder in (home / "numba" / "core_1a", home / "numba", home):
        folder.chmod(0o700)
    unit = importlib.resources.files("isotherm.data") / "isotherm.service"
    lines = unit.read_text().splitlines()
    kept = [line.split("=")[1] for line in lines if line.startswith("CapabilityBound")]
    names = [f"+{word.removeprefix('CAP_').lower()}" for word in " ".join(kept).split()]
    assert "+dac_override" not in names
    words = ["setpriv", f"--bounding-set=-all,{','.join(names)}", sys.executable, "-c"]
    code = (
        "import sys; from pathlib import Path;"
        "from isotherm.daemon.session_home import clear_homes;"
        "clear_homes(Path(sys.argv[1]), ())"
    )
    subprocess.run([*words, code, str(tmp_path)], check=True)

    assert not home.exists()


@pytest.mark.slow
def test_folders_without_end_stop_nobody(home: Path) -> None:
    """A cache as deep as its user likes stays; who clears up goes on."""
    other = home.parent / "4000002"
    other.mkdir()
    at = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    name = "numba"
    for _ in range(1500):  # more than Python calls, and more than a path may name
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at, name = below, "a"
    os.close(at)
    clear_homes(home.parent, ())

    assert home.exists()
    assert not other.exists()
    _dig_up(home / "numba")


def _dig_up(folder: Path) -> None:
    """Remove a folder of folders from the top: the inner ones are moved up."""
    top = folder.parent
    while folder.exists():
        inner = folder / "a"
        if inner.exists():
            inner.rename(top / "next")
        folder.rmdir()
        if (top / "next").exists():
            (top / "next").rename(folder)
