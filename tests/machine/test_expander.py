"""The compressing expander: stored sizes, block cache, room, failed writes."""

from importlib import resources

import msgspec
import numpy as np
import pytest

from isotherm.core.errors import ConfigError, UnsupportedError
from isotherm.machine.sim.expander import Expander
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import load_machine, parse_machine
from isotherm.topology.model import MemoryKind
from isotherm.trace.compressibility import Compressibility
from isotherm.trace.stream import AccessChunk

DT_NS = 500_000_000
ENOMEM = 12
PAGES = 4096


def machine_of(
    compressibility: Compressibility | None = None,
    pages: int = PAGES,
    **changes: object,
) -> tuple[SimMachine, Expander]:
    """Return the built-in machine, every page in the compressed region."""
    spec = load_machine("ocp-expander")
    assert spec.expander is not None
    device = msgspec.structs.replace(spec.expander, **changes)
    spec = msgspec.structs.replace(spec, expander=device)
    machine = SimMachine(spec, pages, 0.2)
    assert machine.expander is not None
    machine.expander.state(compressibility or Compressibility())
    machine.place(np.full(pages, 2, np.uint8))
    return machine, machine.expander


def chunk(page: object, write: int = 0) -> AccessChunk:
    """Return accesses, all reads or all writes."""
    pages = np.asarray(page, np.uint32)
    return AccessChunk(pages, np.full(len(pages), write, np.uint8))


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 3.0, 8.0])
def test_pages_take_what_the_workload_states(ratio: float) -> None:
    """All pages together compress at the stated ratio, within the draw's noise."""
    _, device = machine_of(Compressibility(ratio))
    assert device.report()["ratio"] == pytest.approx(ratio, rel=0.05)
    assert device.fill == pytest.approx(2 / ratio, rel=0.05)


def test_incompressible_pages_take_their_full_size() -> None:
    """At 2:1 a quarter of the pages take 64 lines, none takes more or none."""
    _, device = machine_of(Compressibility(2.0))
    lines = device._lines
    assert np.mean(lines == 64) == pytest.approx(0.25, abs=0.03)
    assert (int(lines.min()) >= 1, int(lines.max())) == (True, 64)


def test_the_same_seed_stores_the_same_sizes() -> None:
    """And another one others."""
    first, again = machine_of()[1], machine_of()[1]
    assert first._lines.tolist() == again._lines.tolist()
    other = Expander(first.spec, PAGES, 1.0, 2, 3)
    other.place(np.full(PAGES, 2, np.uint8))
    assert first._lines.tolist() != other._lines.tolist()


# ---- the block cache


def test_a_hit_costs_no_decompression() -> None:
    """The first read of a block pays for it, those that follow do not."""
    machine, device = machine_of(media_bandwidth_gb_s=None)
    costs = machine.advance(chunk([7] * 10), DT_NS)
    miss, hit = 391.0, 391.0 - 120.0
    expected = (miss + 9 * hit) / machine.parallelism
    assert expected == pytest.approx(costs.access_ns, rel=1e-4)
    assert 0.9 == device.report()["block_cache_hit_share"]
    assert machine.latency_ns()[0, 2] == pytest.approx(miss - 0.9 * 120, rel=1e-4)


def test_a_page_that_leaves_leaves_the_cache() -> None:
    """Promoted and demoted again, it is read as for the first time."""
    machine, device = machine_of(Compressibility(4.0))
    machine.advance(chunk([7, 7]), DT_NS)
    there = np.array([7], np.uint32)
    assert [0] == machine.move(there, np.array([0], np.uint8)).errno.tolist()
    assert [0] == machine.move(there, np.array([2], np.uint8)).errno.tolist()
    machine.advance(chunk([7]), DT_NS)
    assert device.report()["block_cache_hit_share"] == pytest.approx(1 / 3)


def test_a_miss_reads_the_whole_block_from_the_media() -> None:
    """So many misses that the media's bandwidth is short make each wait."""
    plenty, _ = machine_of(media_bandwidth_gb_s=None)
    short, _ = machine_of(media_bandwidth_gb_s=102)
    page = np.random.default_rng(1).permutation(PAGES)
    free = plenty.advance(chunk(page), DT_NS)
    waits = short.advance(chunk(page), DT_NS)
    assert waits.access_ns > 1.5 * free.access_ns


def test_both_regions_share_the_link() -> None:
    """What the compressed region carries slows the uncompressed one down."""
    machine, _ = machine_of()
    node = np.full(PAGES, 2, np.uint8)
    node[:10] = 1
    machine.place(node)
    machine.advance(chunk([0]), DT_NS)
    idle = machine.latency_ns()[0, 1]
    many = np.tile(np.arange(10, PAGES), 20)
    machine.advance(chunk(many), DT_NS)
    assert machine.latency_ns()[0, 1] > 1.3 * idle


# ---- room


def test_capacity_is_what_fits_at_the_ratio_of_what_is_stored() -> None:
    """At 2:1 the advertised size less the margin, at 4:1 all that is addressable."""
    machine, device = machine_of(Compressibility(2.0))
    usage = machine.usage()
    assert usage.fill is not None
    assert np.isnan(usage.fill[:2]).all()
    assert device.fill == usage.fill[2]
    assert int(usage.capacity_pages[2]) == pytest.approx(0.97 * PAGES, rel=0.05)
    assert usage.free_pages[2] <= 0
    machine, _ = machine_of(Compressibility(4.0))
    assert PAGES == machine.usage().capacity_pages[2]


def test_other_machines_have_no_fill() -> None:
    """Their usage is as it was."""
    assert SimMachine(load_machine("dram-zram"), 100, 0.2).usage().fill is None


def test_a_full_device_refuses_pages() -> None:
    """ENOMEM for each, and nothing is stored; what leaves makes room again."""
    machine, device = machine_of(Compressibility(1.94))
    up = np.arange(400, dtype=np.uint32)
    machine.move(up, np.zeros(400, np.uint8))
    stored = device.report()["stored_pages"]
    device.state(Compressibility(1.0))
    back = machine.move(up, np.full(400, 2, np.uint8))
    refused = int(np.count_nonzero(back.errno == ENOMEM))
    assert 0 < refused < 400
    assert refused == device.report()["refused_pages"]
    assert stored + 400 - refused == device.report()["stored_pages"]
    assert device.fill <= 0.97
    assert machine.usage().free_pages[2] <= 1  # of the mean size; these are larger
    gone = np.flatnonzero(machine.placement() == 2)[:64].astype(np.uint32)
    assert not machine.move(gone, np.ones(64, np.uint8)).errno.any()
    again = machine.move(up[back.errno != 0][:8], np.full(8, 2, np.uint8))
    assert not again.errno.any()


def test_moves_pay_for_compression() -> None:
    """A page in costs 150 ns more than between plain nodes, a page out 120 ns."""
    machine, _ = machine_of(Compressibility(4.0))
    page = np.arange(10, dtype=np.uint32)
    costs = machine.spec.costs
    plain = costs.move_fixed_ns + 10 * (costs.move_page_ns + 4096 * costs.move_byte_ns)
    assert plain + 1200 == pytest.approx(machine.move(page, np.zeros(10)).cost_ns)
    two = np.full(10, 2, np.uint8)
    assert plain + 1500 == pytest.approx(machine.move(page, two).cost_ns)


# ---- writes


def test_rewritten_blocks_grow() -> None:
    """When the data have come to compress worse; reads change nothing."""
    machine, device = machine_of(Compressibility(3.0, 1.5, 10.0))
    before = device.fill
    for _ in range(20):
        machine.advance(chunk([]), DT_NS)
    machine.advance(chunk(np.arange(PAGES)), DT_NS)
    assert before == device.fill
    machine.advance(chunk(np.arange(PAGES // 2), write=1), DT_NS)
    report = device.report()
    # Half of the pages take twice as much; the last few still wait in the cache.
    assert device.fill == pytest.approx(1.5 * before, rel=0.05)
    assert report["grown_blocks"] > PAGES // 4
    assert 0 == report["failed_writes"]


def test_a_device_without_room_fails_writes() -> None:
    """Blocks that no longer fit are counted; no more is stored than there is."""
    machine, device = machine_of(Compressibility(2.05, 1.0, 0.1))
    machine.advance(chunk([]), DT_NS)
    machine.advance(chunk(np.arange(PAGES), write=1), DT_NS)
    assert device.report()["failed_writes"] > PAGES // 4
    assert device.fill <= 1.0
    assert device.report()["peak_fill"] <= 1.0


def test_lru_is_refused() -> None:
    """A miss would have to put a page out, and the device may not take it."""
    with pytest.raises(UnsupportedError, match="may refuse a page"):
        machine_of()[0].fill_on_demand()


# ---- as data


def test_the_built_in_machine() -> None:
    """One device, two nodes: plain CXL and compressed, behind DRAM."""
    spec = load_machine("ocp-expander")
    kinds = [MemoryKind.DRAM, MemoryKind.CXL, MemoryKind.COMPRESSED]
    assert kinds == [node.kind for node in spec.nodes]
    assert spec.expander is not None
    assert 90 <= spec.expander.decompress_ns <= 150
    assert 90 <= spec.expander.compress_ns <= 150
    plain, packed = spec.nodes[1].read_latency_ns[0], spec.nodes[2].read_latency_ns[0]
    assert spec.expander.decompress_ns == packed - plain


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("compressed", 0, "a node of the last tier, got 0"),
        ("compressed", 9, "a node of the last tier, got 9"),
        ("uncompressed", 2, "another node, 0 to 2, got 2"),
        ("uncompressed", -1, "another node, 0 to 2, got -1"),
        ("advertised_ratio", 0.5, "expected 1 to 255, got 0.5"),
        ("decompress_ns", 400, "expected 0 to 391, got 400"),
        ("compress_ns", -1, "expected 0 to inf, got -1"),
        ("refuse_above", 1.5, "expected 0 to 1, got 1.5"),
        ("media_bandwidth_gb_s", 0, "got 0"),
    ],
)
def test_figures_out_of_range(field: str, value: float, words: str) -> None:
    """The message names the field, what was found and what was expected."""
    spec = load_machine("ocp-expander")
    device = msgspec.structs.replace(spec.expander, **{field: value})
    with pytest.raises(ConfigError, match=f"mine: expander.{field}") as error:
        msgspec.structs.replace(spec, expander=device).check("mine")
    assert words in str(error.value)


def test_an_unknown_field_is_named() -> None:
    """As everywhere in a machine's file."""
    file = resources.files("isotherm.machine.sim") / "machines/ocp-expander.toml"
    text = file.read_text(encoding="utf-8").replace("compress_ns", "zip_ns")
    with pytest.raises(ConfigError, match=r"mine: expander: .*unknown field"):
        parse_machine(text, "mine")
