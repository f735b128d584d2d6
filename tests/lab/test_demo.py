"""The demo's runs; the demo itself is run by ``make demo``."""

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.data import trace_path
from isotherm.lab import demo
from isotherm.lab.catalogue import BOUNDS, POLICIES
from isotherm.workloads.recorded import open_recorded


def test_every_trace_meets_a_policy_of_each_kind() -> None:
    """Each shipped trace is run under all but variants, and every bound."""
    left_out = {"pghot-hw", "hmsdk", "colloid-hemem", "soar"}
    left_out |= {"interleave", "weighted-interleave"}
    assert set(POLICIES) - left_out == set(demo.DEMO_POLICIES)
    pytest.importorskip("pyarrow")
    names = list(demo.traces())
    if not names:
        pytest.skip("this checkout holds no recorded traces")
    specs = demo.demo_specs()
    assert len(specs) == len(names) * 2 * (len(demo.DEMO_POLICIES) + len(BOUNDS))
    assert {spec.workload for spec in specs} == set(names)
    assert all(spec.rate in (None, 10.0) for spec in specs)


def test_the_traces_of_the_demo_are_there() -> None:
    """Every run of the demo finds its trace, and the trace says how long it is."""
    pytest.importorskip("pyarrow")
    if not demo.traces():
        pytest.skip("this checkout holds no recorded traces")
    for name in {spec.workload for spec in demo.demo_specs()}:
        path = trace_path(name)
        assert path.is_file(), name
        assert open_recorded(path).info.accesses > 0, name


def test_without_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without the traces says so, and what to do instead."""
    monkeypatch.setattr(demo, "traces", dict)
    with pytest.raises(UnsupportedError, match="without the recorded traces") as error:
        demo.demo_specs()
    assert "isotherm compare" in str(error.value.hint)
