"""Workloads described in TOML files."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import ConfigError
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload

PACE = Pace(rate=10.0, accesses=20_000)


def write(directory: Path, text: str) -> str:
    """Write a workload file and return its path."""
    path = directory / "w.toml"
    path.write_text(text)
    return str(path)


def pages_of(spec: str, pages: int = 1000, options: dict | None = None) -> list[int]:
    """Return the page column of a run."""
    chunks = make_workload(spec, pages, 1, options).epochs(PACE)
    return np.concatenate([chunk.page.copy() for chunk in chunks]).tolist()


def test_one_generator(tmp_path: Path) -> None:
    """A file with a kind is that generator with those parameters."""
    path = write(tmp_path, 'name = "steep"\nkind = "zipf"\nexponent = 1.3\n')
    assert make_workload(path).name == "steep"
    assert pages_of(path) == pages_of("zipf", options={"exponent": 1.3})


def test_the_file_names_the_workload(tmp_path: Path) -> None:
    """Without a name the file's own is used."""
    assert make_workload(write(tmp_path, 'kind = "uniform"')).name == "w"


def test_options_go_before_the_file(tmp_path: Path) -> None:
    """An option overrides what the file says."""
    path = write(tmp_path, 'kind = "zipf"\nexponent = 1.3\n')
    changed = pages_of(path, options={"exponent": "0.5"})
    assert changed == pages_of("zipf", options={"exponent": 0.5})


MIX = """
[[part]]
kind = "gups"
pages = 3
accesses = 0.7

[[part]]
kind = "stream"
accesses = 0.2
burst = 4

[[part]]
kind = "uniform"
accesses = 0.1
"""


def test_a_mixture_keeps_shares_and_pages_apart(tmp_path: Path) -> None:
    """Parts lie side by side, each with its share of pages and of accesses."""
    page = np.array(pages_of(write(tmp_path, MIX), 1000))
    bounds = [0, 599, 799, 1000]
    shares = np.histogram(page, bins=bounds)[0] / len(page)
    assert np.abs(shares - [0.7, 0.2, 0.1]).max() < 0.01
    sweep = page[(page >= 599) & (page < 799)] - 599
    assert sweep.tolist() == [i // 4 % 200 for i in range(len(sweep))]


def test_a_mixture_knows_writes(tmp_path: Path) -> None:
    """Where one part says what writes, the others' accesses are reads."""
    workload = make_workload(write(tmp_path, MIX), 1000)
    chunk = next(workload.epochs(PACE))
    assert chunk.write is not None
    assert chunk.write[chunk.page >= 599].sum() == 0
    assert abs(chunk.write[chunk.page < 599].mean() - 0.5) < 0.03


def test_a_mixture_reproduces_and_ignores_epochs(tmp_path: Path) -> None:
    """The same mixture gives the same accesses, however it is cut."""
    path = write(tmp_path, MIX)
    chunks = make_workload(path, 1000).epochs(Pace(130_000_000, 10.0, 20_000))
    cut = np.concatenate([chunk.page.copy() for chunk in chunks]).tolist()
    assert cut == pages_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", ": expected TOML: "),
        ("exponent = 1", ": kind: missing"),
        ('kind = "zip"', ": kind: no generator is called 'zip'; did you mean 'zipf'?"),
        (
            'kind = "zipf"\nexponnt = 1',
            ": exponnt: zipf has no such parameter; did you",
        ),
        ('kind = "zipf"\nexponent = "1"', ": exponent: expected `float`, got `str`"),
        ('kind = "zipf"\nexponent = -1', ": exponent: expected `float` >= 0"),
        ('kind = "btree"\nfanout = 1', ": fanout: expected `int` >= 2"),
        ("name = 3\nkind = 'zipf'", ": name: expected text, got 3"),
        ("part = 3", ": part: expected [[part]] tables"),
        ("part = []", ": part: expected 1 to 255 parts, got 0"),
        ("seed = 1\n[[part]]\nkind = 'zipf'", ": seed: a mixture has only name"),
        ("[[part]]\nkind = 'zipf'\nburst = 1", ": part[0]: burst: zipf has no such"),
        (
            "[[part]]\nkind = 'zipf'\npages = 0",
            ": part[0].pages: expected a number > 0",
        ),
        ("[[part]]\nkind = 'zipf'\naccesses = nan", ": part[0].accesses: expected a"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file, the field, what was found and expected."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        make_workload(path)
    assert caught.value.message.startswith(path + message)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error with its name."""
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        make_workload(str(path))
    assert caught.value.message.startswith(f"{path}: cannot read it: ")


def test_a_mixture_takes_no_options(tmp_path: Path) -> None:
    """Options of a mixture would be anybody's: they are refused."""
    with pytest.raises(ConfigError):
        make_workload(write(tmp_path, MIX), 1000, 1, {"exponent": 1})


def test_parts_need_pages(tmp_path: Path) -> None:
    """Every part gets a page; fewer pages than parts are refused."""
    path = write(tmp_path, MIX)
    assert max(pages_of(path, 3)) == 2
    with pytest.raises(ConfigError):
        make_workload(path, 2)


def test_the_examples_in_the_reference_page_work(tmp_path: Path) -> None:
    """Every TOML block of docs/reference/workloads.md describes a workload."""
    page = Path(__file__).parents[2] / "docs/reference/workloads.md"
    blocks = [part.split("```")[0] for part in page.read_text().split("```toml\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        assert len(pages_of(write(tmp_path, block))) == 20_000
