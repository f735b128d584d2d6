"""Devices for the tests of the accelerator tier."""

import importlib.util
import os

import pytest

from tests.gpu.devices import DEVICES, Maker

# Triton reads it when it is imported first. With a GPU the kernels are compiled.
if not os.path.exists("/dev/nvidia0"):  # noqa: PTH110  # nothing to open
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What torch runs belongs to `make gpu`, whose environment has it; elsewhere hundreds
# of tests would be skipped for one reason.
TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if TORCH else ["test_torch*.py", "test_triton*.py"]


@pytest.fixture(params=sorted(DEVICES) if TORCH else ["numpy"])
def make_device(request: pytest.FixtureRequest) -> Maker:
    """Return what makes a device, one kind after the other."""
    return DEVICES[request.param]
