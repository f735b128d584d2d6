"""The kernel switch: compiled loops by default, plain numpy on request."""

import os
import subprocess
import sys

import numpy as np
import pytest

from isotherm.core.kernels import BACKEND, TWINS, compiled, kernel, prefetch


def run(code: str, backend: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a backend."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ISOTHERM_KERNELS": backend},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: no compiler")
def test_a_kernel_is_compiled_and_kept_beside_its_twin() -> None:
    """The decorated loop runs compiled; tests find both by name."""

    def twin(a: np.ndarray) -> None:
        a += 1

    @kernel(twin=twin)
    def loop(a: np.ndarray) -> None:
        for i in range(a.size):
            prefetch(a, i)
            a[i] += 1

    name = f"{__name__}.{loop.__qualname__}"
    assert (loop, twin) == TWINS.pop(name)
    a, b = np.zeros(3), np.zeros(3)
    loop(a)
    twin(b)
    assert [1, 1, 1] == a.tolist() == b.tolist()


@pytest.mark.skipif(BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: no compiler")
def test_a_helper_is_compiled() -> None:
    """Scalar helpers answer as the Python function does."""

    def double(x: int) -> int:
        return 2 * x

    assert double(23) == compiled(double)(23)


@pytest.mark.slow
def test_without_numba() -> None:
    """The numpy backend never imports numba, and has nothing to compare."""
    code = (
        "import sys, isotherm.core.kernels as k, isotherm.machine.sim.play as p;"
        "assert 'numba' not in sys.modules and not k.TWINS;"
        "assert p.play_plain is p.play_plain_twin; k.prefetch(None, 0)"
    )
    assert (0, "") == (run(code, "numpy").returncode, run(code, "numpy").stderr)


def test_an_unknown_backend_is_refused() -> None:
    """The variable's name and what it may be are in the message."""
    done = run("import isotherm.core.kernels", "cuda")
    assert 1 == done.returncode
    assert "ISOTHERM_KERNELS: expected numba or numpy, got 'cuda'" in done.stderr
