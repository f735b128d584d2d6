"""Changes: a file each, which a release makes a section of."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAGMENTS = ROOT / "changelog.d"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|removed|fixed)\.md")
NO_FRAGMENTS = {"README.md", "template.jinja"}


def test_every_change_has_a_name_and_words() -> None:
    """Of a kind that a release knows; a sentence at least, no heading."""
    files = [path for path in FRAGMENTS.iterdir() if path.name not in NO_FRAGMENTS]
    assert [] == [path.name for path in files if not NAME.fullmatch(path.name)]
    for path in files:
        text = path.read_text().strip()
        assert len(text.split()) > 3, path.name
        assert not re.search(r"^#", text, re.MULTILINE), path.name


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a repository with what a release touches, and two changes."""
    for name in (".ci/changelog", "docs/man/build.py", "src/isotherm/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    place = tmp_path / "changelog.d"
    place.mkdir()
    for name in NO_FRAGMENTS:
        shutil.copy(FRAGMENTS / name, place / name)
    (place / "one-thing.added.md").write_text("`isotherm one` counts to one.\n")
    (place / "others.fixed.md").write_text("- Two is two.\n- Three is - three.\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def release(project: Path, version: str) -> subprocess.CompletedProcess[str]:
    """Run what ``make changelog`` runs."""
    return subprocess.run(
        ["sh", ".ci/changelog"],
        cwd=project,
        env={
            **os.environ,
            "VERSION": version,
            "DATE": "2031-02-03",
            "PYTHON": sys.executable,
        },
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_release_gathers_them(project: Path) -> None:
    """Above the releases before, by kind, an item each; the files go, once."""
    pytest.importorskip("towncrier", reason="towncrier, which releases, is missing")
    before = (project / "CHANGELOG.md").read_text()
    done = release(project, "7.1.0")
    assert 0 == done.returncode, done.stderr
    expected = (
        "## 7.1.0, 2031-02-03\n\n### Added\n\n- `isotherm one` counts to one.\n\n"
        "### Fixed\n\n- Two is two.\n- Three is - three.\n"
    )
    head, mark, old = before.partition("<!-- releases -->\n")
    text = (project / "CHANGELOG.md").read_text()
    assert text.startswith(f"{head}{mark}\n{expected}")
    assert text.endswith(old.strip() + "\n")
    assert NO_FRAGMENTS == {path.name for path in (project / "changelog.d").iterdir()}
    assert '__version__ = "7.1.0"' in (project / "src/isotherm/__init__.py").read_text()
    again = release(project, "7.2.0")
    assert (1, "make: changelog.d/ has no change to release\n") == (
        again.returncode,
        again.stderr,
    )


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3rc1"])
def test_a_version_is_three_numbers(project: Path, version: str) -> None:
    """Anything else ends it before anything is written."""
    done = release(project, version)
    assert 2 == done.returncode
    assert "expected three numbers" in done.stderr
    assert (ROOT / "CHANGELOG.md").read_text() == (project / "CHANGELOG.md").read_text()
