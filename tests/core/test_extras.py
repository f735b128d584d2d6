"""Packages that not every installation has: which extra brings each."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.core.extras import PACKAGES, not_installed, require

ROOT = Path(__file__).resolve().parents[2]


def test_the_extra_that_is_named_brings_the_package() -> None:
    """The table agrees with the project's metadata; the tests' own are left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for package, extra in PACKAGES.values():
        names = [re.match(r"[\w-]+", line)[0] for line in extras[extra]]
        assert package in names
    brought = {
        re.match(r"[\w-]+", line)[0]
        for extra, lines in extras.items()
        if extra not in ("all", "docs", "test")
        for line in lines
    }
    assert brought - {"isotherm"} == {package for package, _ in PACKAGES.values()}


def test_what_is_not_there_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error says what to install; what is there is not asked for."""
    require("numpy", "msgspec")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match="pyarrow is not installed") as caught:
        require("numpy", "pyarrow")
    assert "pip install 'isotherm[trace]'" == caught.value.hint


def test_an_unknown_module_is_no_extra() -> None:
    """A fault of ours stays one."""
    assert None is not_installed("isotherm.nothing")
    assert None is not_installed(None)
