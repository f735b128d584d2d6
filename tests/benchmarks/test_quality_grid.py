"""The grid on which policies are judged."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import quality_grid as grid
from isotherm.hints.batch import Mechanism
from isotherm.policy import registry

ALL = grid.Selection()


def cells_of(name: str, selection: grid.Selection = ALL) -> set[tuple[object, ...]]:
    """Return the cells of a regime."""
    planned = grid.plan(grid.REGIMES[name], selection, {})
    return {entry.cell for entry in planned}


def test_main_has_every_cell():
    """Fourteen workloads, three ratios, three periods and three seeds."""
    assert 14 * 3 * 3 * 3 == len(cells_of("main"))


def test_bits_only_has_no_sampling_and_no_sampling_peers():
    """Accessed bits alone for isotherm, one period, no peer that lives on samples."""
    planned = list(grid.plan(grid.REGIMES["bits-only"], ALL, {}))
    ours = {e.spec.hints for e in planned if e.spec.policy == "isotherm"}
    assert {("accessed-bit",)} == ours
    policies = {e.spec.policy for e in planned}
    assert {"numab2", "tpp", "lru", "first-touch"} == policies - {
        "isotherm",
        *grid.BOUNDS,
    }
    assert 14 * 3 * 3 == len({e.cell for e in planned})


def test_ragged_takes_workloads_that_have_contiguity():
    """Every run of it is given ragged contiguity, and zipf, which has none, is out."""
    planned = list(grid.plan(grid.REGIMES["ragged"], ALL, {}))
    assert [{"contiguity": "ragged"}] == [
        dict(options)
        for options in {tuple(e.spec.workload_options.items()) for e in planned}
    ]
    names = {e.spec.workload for e in planned}
    assert "zipf" not in names
    assert {"gups", "drift", "kv-cache"} <= names


def test_traces_keep_their_own_times_and_footprint():
    """No rate and no number of pages is given to a recorded trace."""
    planned = list(grid.plan(grid.REGIMES["traces"], ALL, {}))
    assert {(None, None)} == {(e.spec.rate, e.spec.pages) for e in planned}


def test_recorded_graph_is_not_the_generated_one():
    """Two workloads of one name are told apart."""
    names = grid.workloads_of(grid.REGIMES["traces"], None)
    assert set() == set(names) & set(grid.workloads_of(grid.REGIMES["main"], None))


def test_what_sees_no_samples_runs_once_for_all_periods():
    """Three periods are three runs of memtis and one of tpp and of a bound."""
    part = grid.Selection(workloads=("zipf",), ratios=(0.2,), seeds=(1,))
    planned = list(grid.plan(grid.REGIMES["main"], part, {}))
    runs = {
        policy: len({e.key for e in planned if e.spec.policy == policy})
        for policy in ("isotherm", "memtis", "tpp", "clairvoyant")
    }
    assert {"isotherm": 3, "memtis": 3, "tpp": 1, "clairvoyant": 1} == runs


@pytest.mark.parametrize("policy", [grid.OURS, *grid.PEERS, *grid.BOUNDS])
def test_who_sees_samples_says_so(policy: str):
    """The list of those that the period matters to is what the policies want."""
    module, _, name = registry._CLASS[policy].partition(":")
    wants = getattr(import_module(module), name).wants
    assert (Mechanism.SAMPLING in wants) == (policy in grid.SAMPLED)


def test_tuned_entry_runs_beside_the_defaults():
    """A peer with a grid runs twice, one without once, first-touch always."""
    part = grid.Selection(
        workloads=("zipf",), ratios=(0.2,), seeds=(1,), periods=(2000,), peers=("tpp",)
    )
    planned = grid.plan(grid.REGIMES["main"], part, {"tpp": 2})
    told = {(e.spec.policy, e.variant): dict(e.spec.options) for e in planned}
    assert told["tpp", "default"] == {}
    assert told["tpp", "tuned"] == dict(registry.TUNING_GRID["tpp"][2])
    assert ("first-touch", "only") in told


def test_tuning_sees_the_workloads_for_tuning_alone():
    """Nothing but the marked workloads, rate 10, seed 1."""
    runs = [r for runs in grid.tuning_specs(ALL).values() for r in runs]
    assert set(grid.TUNING_WORKLOADS) == {r.workload for r in runs}
    assert {(10.0, 1)} == {(r.rate, r.seed) for r in runs}


def test_best_entry_is_that_of_lowest_mean_slowdown():
    """The geometric mean decides; of equals the earlier one stays."""
    specs = grid.tuning_specs(grid.Selection(peers=("tpp",)))
    slowdown = {0: 2.0, 1: 1.5, 2: 1.5, 3: 1.6}
    done = {
        grid.spec_key(run): {"slowdown": slowdown[entry]}
        for (_, entry), runs in specs.items()
        for run in runs
    }
    assert {"tpp": 1} == grid.choose(specs, done)


def test_runs_of_one_stream_stand_together():
    """In the order of work each workload and seed comes up once."""
    part = grid.Selection(workloads=("zipf", "gups"), seeds=(1, 2))
    specs = grid.in_order(e.spec for e in grid.plan(grid.REGIMES["main"], part, {}))
    streams = [(s.workload, s.seed) for s in specs]
    changes = sum(a != b for a, b in pairwise(streams))
    assert 3 == changes


def test_code_counts_and_comments_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another docstring or comment is the same code, another number is not."""
    texts = {
        "quality_a": '"""One."""\n\n\ndef f():\n    """Two."""\n    return 1\n',
        "quality_b": '"""Other."""\n# more\ndef f():\n    return 1  # why\n',
        "quality_c": '"""One."""\n\n\ndef f():\n    """Two."""\n    return 2\n',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    a, b, c = (grid._digest_of_module(name) for name in texts)
    assert a == b
    assert a != c


def test_code_of_a_policy_is_its_own():
    """A peer's code is not isotherm's; a trace's content counts too."""
    assert grid.code_of("isotherm", "zipf") != grid.code_of("lru", "zipf")
    assert grid.code_of("lru", "zipf") == grid.code_of("lru", "gups")
    for trace in grid.workloads_of(grid.REGIMES["traces"], None):
        own, whole = grid.code_of("lru", "zipf"), grid.code_of("lru", trace)
        assert whole.startswith(f"{own}-")


@pytest.mark.parametrize("policy", [grid.OURS, *grid.PEERS, *grid.BOUNDS])
def test_only_isotherm_uses_the_tracker(policy: str):
    """So the tracker and isotherm's modules need not count for anyone else."""
    module, _, name = registry._CLASS[policy].partition(":")
    uses = getattr(import_module(module), name).uses_tracker
    assert (policy == grid.OURS) == uses


@pytest.mark.parametrize(
    ("module", "counts_for_peers", "counts_for_us"),
    [
        ("isotherm.policy.isotherm", False, True),
        ("isotherm.policy.sensing", False, True),
        ("isotherm.policy.market", False, True),
        ("isotherm.hotness.tracker", False, True),
        ("isotherm.lab.simulate", True, True),
        ("isotherm.machine.sim.machine", True, True),
        ("isotherm.hints.sampling", True, True),
        ("isotherm.migration.engine", True, True),
        ("isotherm.workloads.kv_cache", True, True),
        ("isotherm.policy.plan", True, True),
    ],
)
def test_a_change_counts_for_those_that_run_it(
    module: str,
    counts_for_peers: bool,
    counts_for_us: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    """Another digest of a module is other code for its users and for nobody else."""
    everyone = [grid.OURS, *grid.PEERS, *grid.BOUNDS]
    before = {p: grid.code_of(p, "zipf") for p in everyone}
    same = grid._digest_of_module
    monkeypatch.setattr(
        grid, "_digest_of_module", lambda name: "new" if name == module else same(name)
    )
    grid._code_of_policy.cache_clear()
    changed = {p for p in everyone if grid.code_of(p, "zipf") != before[p]}
    grid._code_of_policy.cache_clear()
    assert counts_for_us == (grid.OURS in changed)
    peers = set(everyone) - {grid.OURS}
    assert (peers if counts_for_peers else set()) == changed - {grid.OURS}


def test_a_peers_own_module_is_its_own():
    """Memtis' code is memtis', and what two peers share counts for both."""
    aside = (*grid._ASIDE, *grid._OURS_ALONE)
    memtis = grid.modules_of("isotherm.policy.memtis", aside)
    hemem = grid.modules_of("isotherm.policy.hemem", aside)
    assert "isotherm.policy.memtis" in memtis - hemem
    assert "isotherm.policy.options" in memtis & hemem
