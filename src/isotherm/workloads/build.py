"""From a generator's description to its workload."""

from collections.abc import Callable
from typing import Any

from isotherm.workloads import spec, steady
from isotherm.workloads.stream import Generated

BUILDERS: dict[type, Callable[[Any, str, int, int], Generated]] = {
    spec.Zipf: steady.build_zipf,
    spec.Gups: steady.build_gups,
    spec.GupsShift: steady.build_gups,
    spec.Uniform: steady.build_uniform,
    spec.Stream: steady.build_stream,
}


def build(own: spec.GeneratorSpec, name: str, pages: int, seed: int) -> Generated:
    """Return the workload of a generator's description.

    Args:
        own: Parameters.
        name: Name for tables.
        pages: Footprint, >= 1.
        seed: >= 0; same arguments, same accesses.
    """
    return BUILDERS[type(own)](own, name, pages, seed)
