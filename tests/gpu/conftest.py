"""Devices for the tests of the accelerator tier."""

import os

import pytest

from tests.gpu.devices import DEVICES, Maker

# Triton reads it when it is imported first. With a GPU the kernels are compiled.
if not os.path.exists("/dev/nvidia0"):  # noqa: PTH110  # nothing to open
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(params=sorted(DEVICES))
def make_device(request: pytest.FixtureRequest) -> Maker:
    """Return what makes a device, one kind after the other."""
    return DEVICES[request.param]
