"""What is built of the project: the wheel, the sdist, and what stands in them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import isotherm

ROOT = Path(__file__).resolve().parents[2]
DATA = f"isotherm-{isotherm.__version__}.data/data/share"
#: Hosts of packages; where to get one is its user's affair.
REGISTRIES = re.compile(
    r"pypi|pythonhosted|anaconda|artifactory|/simple\b", re.IGNORECASE
)

pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is missing")
pytestmark = pytest.mark.slow


def build(source: Path, out: Path, kind: str) -> Path:
    """Return a wheel or an sdist of a tree; nothing is fetched."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the wheel of the checkout."""
    return zipfile.ZipFile(build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree that the sdist holds."""
    place = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, place, "sdist")) as archive:
        archive.extractall(place, filter="data")
    return place / f"isotherm-{isotherm.__version__}"


def source_files() -> set[str]:
    """Return the files of the package, as the wheel names them."""
    return {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src/isotherm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_every_file(wheel: zipfile.ZipFile) -> None:
    """Traces, machines, the page, templates, the unit; the manual, Grafana's page."""
    names = set(wheel.namelist())
    ours = {name for name in names if name.startswith("isotherm/")}
    assert source_files() == ours
    for name in ("traces/redis.parquet", "isotherm.service"):
        if (ROOT / "src/isotherm/data" / name).exists():
            assert f"isotherm/data/{name}" in ours
    assert {"isotherm/dashboard/static/page.js", "isotherm/py.typed"} <= ours
    assert {
        f"{DATA}/man/man1/isotherm.1",
        f"{DATA}/isotherm/grafana/isotherm.json",
        f"{DATA}/isotherm/prometheus/isotherm.yml",
        f"{DATA}/isotherm/kubernetes/isotherm.yaml",
    } <= names


def test_the_sdist_makes_the_same_wheel(
    wheel: zipfile.ZipFile, unpacked: Path, tmp_path: Path
) -> None:
    """File by file and byte by byte."""
    again = zipfile.ZipFile(build(unpacked, tmp_path, "wheel"))
    assert sorted(wheel.namelist()) == sorted(again.namelist())
    differing = [n for n in wheel.namelist() if wheel.read(n) != again.read(n)]
    assert [] == differing


def test_the_sdist_has_what_tests_and_pages_want(unpacked: Path) -> None:
    """A packager can run make lint, the tests and make docs from it."""
    for name in (
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "docs/site/conf.py",
        "docs/images/demo.png",
        "deploy/systemd/isotherm.service",
        "benchmarks/quality.py",
        "requirements/test.txt",
        "tests/conftest.py",
        "vmtest/__main__.py",
        ".ci/run",
    ):
        assert (unpacked / name).is_file(), name
    assert not list(unpacked.rglob("*.pyc"))


def test_the_metadata_are_valid(wheel: zipfile.ZipFile) -> None:
    """As an index checks them: fields, licence, classifiers; no index is named."""
    metadata = pytest.importorskip("packaging.metadata", reason="packaging is missing")
    trove = pytest.importorskip("trove_classifiers", reason="its list is missing")
    base = f"isotherm-{isotherm.__version__}.dist-info"
    text = wheel.read(f"{base}/METADATA").decode()
    checked = metadata.Metadata.from_email(text, validate=True)
    assert isotherm.__version__ == str(checked.version)
    assert "Apache-2.0" == checked.license_expression
    assert f"{base}/licenses/LICENSE" in wheel.namelist()
    assert set() == set(checked.classifiers) - trove.classifiers
    assert {"cluster", "gpu", "lab", "service"} <= set(checked.provides_extra)
    headers = Parser().parsestr(text)
    said = [f"{key}: {value}" for key, value in headers.items()]
    assert [] == [line for line in said if REGISTRIES.search(line)]
    assert "text/markdown" == checked.description_content_type
    assert (ROOT / "README.md").read_text().strip() == checked.description.strip()


def test_the_version_stands_in_one_place() -> None:
    """The command, the package and the manual page say what the module says."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"^version = ", pyproject, re.MULTILINE)
    said = subprocess.run(
        [sys.executable, "-m", "isotherm", "--version"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert isotherm.__version__ == said.strip()
    assert (
        f'"isotherm {isotherm.__version__}"'
        in (ROOT / "docs/man/isotherm.1").read_text()
    )
    assert f"\n## {isotherm.__version__}, " in (ROOT / "CHANGELOG.md").read_text()
