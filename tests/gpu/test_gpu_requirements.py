"""The lock of `make gpu`: plain, pinned, and agreeing with the other two."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pins(name: str) -> dict[str, str]:
    """Return versions by name."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert [] == [p for p in pinned if not re.fullmatch(r"[a-z0-9.-]+==[\w.]+", p)]
    return dict(p.split("==") for p in pinned)


def test_what_the_tests_need_is_as_elsewhere() -> None:
    """Pytest and its plugins are those of the ordinary environment."""
    ours, tests = pins("gpu.txt"), pins("test.txt")
    shared = {name: tests[name] for name in ours if name in tests}
    assert {"pytest", "hypothesis", "pytest-randomly", "pytest-timeout"} == set(shared)
    assert shared == {name: ours[name] for name in shared}
    assert {"torch", "triton"} == set(ours) - set(shared)


def test_the_pins_are_within_the_extra() -> None:
    """What `isotherm[gpu]` asks for allows what the tests run with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["gpu"]
    for name in ("torch", "triton"):
        (wanted,) = (line for line in extra if line.startswith(name))
        least = re.search(r">=([\d.]+)", wanted)
        assert least is not None
        numbers = [int(n) for n in least[1].split(".")]
        assert numbers <= [int(n) for n in pins("gpu.txt")[name].split(".")]
