"""Memory that a driver moves by itself is never used."""

import re
from pathlib import Path

import isotherm

MANAGED = re.compile(
    r"cudaMallocManaged|cuMemAllocManaged|cudaMemPrefetch|cudaMemAdvise|malloc_managed"
    r"|managed_memory|MallocManaged|use_managed|cudaMemAttachGlobal",
    re.IGNORECASE,
)


def test_no_source_asks_for_managed_memory() -> None:
    """No file of the package, nor of the benchmarks, names it."""
    package = Path(isotherm.__file__).parent
    benchmarks = package.parent.parent / "benchmarks"
    files = [*package.rglob("*.py"), *benchmarks.rglob("*.py")]
    assert any(path.name == "torch_device.py" for path in files)
    found = [str(p) for p in files if MANAGED.search(p.read_text(encoding="utf-8"))]
    assert [] == found
