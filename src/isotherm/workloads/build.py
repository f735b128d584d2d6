"""From a generator's description to its workload."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from isotherm.workloads import (
    btree,
    changing,
    embedding,
    inside,
    kv_cache,
    spec,
    steady,
)
from isotherm.workloads.stream import Generated

BUILDERS: dict[type, Callable[[Any, str, int, int], Generated]] = {
    spec.Zipf: steady.build_zipf,
    spec.Gups: steady.build_gups,
    spec.GupsShift: steady.build_gups,
    spec.ScanZipf: changing.build_scan_zipf,
    spec.Drift: changing.build_drift,
    spec.Uniform: steady.build_uniform,
    spec.Latest: changing.build_latest,
    spec.Phases: changing.build_phases,
    spec.Graph: changing.build_graph,
    spec.BTree: btree.build_btree,
    spec.Stream: steady.build_stream,
    spec.ColdOnDram: changing.build_cold_on_dram,
    spec.KvCache: kv_cache.build_kv_cache,
    spec.Embedding: embedding.build_embedding,
    spec.Silo: inside.build_silo,
    spec.Liblinear: inside.build_liblinear,
}


def build(own: spec.GeneratorSpec, name: str, pages: int, seed: int) -> Generated:
    """Return the workload of a generator's description.

    Args:
        own: Parameters.
        name: Name for tables.
        pages: Footprint, >= 1.
        seed: >= 0; same arguments, same accesses.
    """
    made = BUILDERS[type(own)](own, name, pages, seed)
    return replace(made, kind=str(own.__struct_config__.tag))
