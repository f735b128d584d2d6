"""Charts as files: drawn without a browser, and drawn again from their JSON."""

import json
import struct
from pathlib import Path
from types import ModuleType

import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.export import export_charts
from isotherm.lab.palette import EXPORT_WIDTH

vl_convert = pytest.importorskip("vl_convert", reason="vl-convert-python is missing")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, samples: ModuleType) -> Path:
    """Return a directory of the charts of one workload with two ratios."""
    directory = tmp_path_factory.mktemp("charts") / "made"
    results, timelines = samples.report_input(samples.grid(("gups",)))
    files = export_charts(directory, results, timelines)
    assert sorted(files) == sorted(directory.iterdir())
    return directory


def test_every_chart_is_there(exported: Path) -> None:
    """Cost, regret, slowdown, both figures over time, and the subject's run."""
    assert sorted(path.name for path in exported.glob("*.vl.json")) == [
        "access-gups-0.2-fast.vl.json",
        "cost-gups-on-dram-cxl.vl.json",
        "heat-gups-0.2-fast-isotherm.vl.json",
        "latency-gups-0.2-fast-isotherm.vl.json",
        "moved-gups-0.2-fast.vl.json",
        "moves-gups-0.2-fast-isotherm.vl.json",
        "placement-gups-0.2-fast-isotherm.vl.json",
        "regret-by-fast-memory.vl.json",
        "regret-by-workload.vl.json",
        "slowdown-gups-on-dram-cxl.vl.json",
    ]
    assert len(list(exported.glob("*.png"))) == 10


def test_pictures_are_drawn(exported: Path) -> None:
    """Each PNG is a picture of its chart's width, twice over, and not blank."""
    for path in exported.glob("*.png"):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        least = 300 if path.name.startswith("regret") else 2 * EXPORT_WIDTH
        assert width >= least, path.name
        assert height > 200
        assert len(data) > 8000, path.name


def test_json_draws_the_same_anywhere(exported: Path) -> None:
    """A file needs no page around it: it compiles as Vega-Lite without a warning."""
    for path in exported.glob("*.vl.json"):
        spec = json.loads(path.read_text())
        assert spec["$schema"].endswith("v6.json")
        assert "container" not in (spec["width"], spec["height"])
        vega = vl_convert.vegalite_to_vega(spec)
        assert vega["marks"], path.name


def test_map_has_numbers(exported: Path) -> None:
    """The exported map is data: rate and share of every range over time."""
    text = (exported / "heat-gups-0.2-fast-isotherm.vl.json").read_text()
    values = json.loads(text)["data"]["values"]
    assert len(values) == 60 * 64
    assert max(value["end"] for value in values) == 4096
    assert {"from_s", "to_s", "first", "end", "rate", "fast"} == set(values[0])


def test_place_that_cannot_be_written(tmp_path: Path, samples: ModuleType) -> None:
    """A file where the directory should be is a usage error that names it."""
    (tmp_path / "taken").write_text("")
    results, _ = samples.report_input(samples.grid(("gups",), (0.2,)))
    with pytest.raises(UsageError, match="taken: cannot write"):
        export_charts(tmp_path / "taken", results)
