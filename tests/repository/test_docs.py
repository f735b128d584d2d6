"""What the pages and docstrings say is so: links lead somewhere, examples run."""

import doctest
import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import isotherm

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "changelog.d/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(isotherm.__path__, "isotherm.")
    if not m.name.endswith("__main__")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    """Every relative link of a page names a file or folder of the repository."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [t for t in targets if "://" not in t and not t.startswith("mailto:")]
    missing = [t for t in local if not (page.parent / t).exists()]
    assert [] == missing


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    """Every ``>>>`` of a module gives what stands below it."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "triton"):
            raise
        pytest.skip(f"{error.name} is not installed; make gpu has it")
    failed, _ = doctest.testmod(module)
    assert 0 == failed


@pytest.mark.parametrize("name", ["lab.txt", "test.txt"])
def test_locked_requirements_are_plain_and_complete(name):
    """Name and version a line, no address, and every dependency is among them."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert [] == [p for p in pinned if not re.fullmatch(r"[a-z0-9.-]+==[\w.+]+", p)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["trace"], *extras["lab"]]
    if name == "test.txt":
        wanted += extras["test"]
    names = {re.split(r"[\[<>=]", w)[0].lower() for w in wanted} - {"isotherm"}
    assert set() == names - {p.split("==")[0] for p in pinned}
