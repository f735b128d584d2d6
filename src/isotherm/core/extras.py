"""Packages that not every installation has, and which extra brings them.

The core depends on few packages. A part that needs another imports it late; where
it is not installed, the person is told what to install rather than where Python
failed. ``isotherm.cli.main`` does so for every import that fails; who works for
long before it imports asks with `require` first.
"""

from importlib.util import find_spec
from typing import Final

from isotherm.core.errors import UnsupportedError

#: Module as imported: (package as installed, extra of ``pyproject.toml``). The
#: smallest extra that has it.
PACKAGES: Final = {
    "altair": ("altair", "lab"),
    "distributed": ("distributed", "cluster"),
    "duckdb": ("duckdb", "lab"),
    "httpx": ("httpx", "kubernetes"),
    "numba": ("numba", "lab"),
    "prometheus_client": ("prometheus-client", "service"),
    "pyarrow": ("pyarrow", "trace"),
    "scipy": ("scipy", "lab"),
    "starlette": ("starlette", "service"),
    "textual": ("textual", "service"),
    "torch": ("torch", "gpu"),
    "triton": ("triton", "gpu"),
    "uvicorn": ("uvicorn", "service"),
    "vl_convert": ("vl-convert-python", "lab"),
    "zstandard": ("zstandard", "trace"),
}


def not_installed(module: str | None) -> UnsupportedError | None:
    """Return the error of a module that could not be imported; None of an unknown one.

    Args:
        module: Its name, with those of packages around it: ``pyarrow.parquet``.

    >>> not_installed("pyarrow.parquet").hint
    "pip install 'isotherm[trace]'"
    """
    found = PACKAGES.get((module or "").partition(".")[0])
    if found is None:
        return None
    package, extra = found
    return UnsupportedError(
        f"{package} is not installed", hint=f"pip install 'isotherm[{extra}]'"
    )


def require(*modules: str) -> None:
    """Check that modules of `PACKAGES` can be imported; none of them is.

    Raises:
        UnsupportedError: One is not installed.
    """
    for module in modules:
        error = None if find_spec(module) is not None else not_installed(module)
        if error is not None:
            raise error
