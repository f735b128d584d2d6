"""A recording that screens are shown."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recorded run of ten simulated seconds."""
    from isotherm.lab.simulate import SimulationSpec, simulate
    from isotherm.observability.recorder import Recorder

    directory = tmp_path_factory.mktemp("recording") / "run"
    spec = SimulationSpec("isotherm", "gups-shift", pages=4096, accesses=400_000)
    with Recorder(directory) as recorder:
        simulate(spec, recorder=recorder)
    return directory
