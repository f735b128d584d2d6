"""Reclaim: what nobody misses goes out, within a stall budget."""

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.hints.batch import AccessedBits, HintBatch, LiveMechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.reclaim import LOOKS_PER_S, RUN_PAGES, STAY_S, Reclaim

RUNS = 10
PAGES = RUNS * RUN_PAGES
EPOCH_S = 0.5


def bits(runs: dict[int, int], interval_s: float = 4.0, **rest) -> HintBatch:
    """Return bits of the first block of some runs."""
    block = np.array([8 * run for run in runs], np.uint32)
    seen = AccessedBits(
        block,
        np.array(list(runs.values()), np.uint8),
        np.full(len(block), interval_s, np.float32),
        **rest,
    )
    return HintBatch("page-out", 0, 1, seen)


def quiet(*runs: int) -> HintBatch:
    """Return bits of runs that nobody touched."""
    return bits(dict.fromkeys(runs, 0))


def pages_of(*runs: int) -> list[int]:
    """Return all pages of runs."""
    return [p for r in runs for p in range(RUN_PAGES * r, RUN_PAGES * (r + 1))]


@pytest.fixture
def table(bench):
    """Return a bench with all pages in the upper tier, and the policy."""
    made = bench([0] * PAGES, [2 * PAGES, 2 * PAGES])
    return made, Reclaim(made.setup())


def test_quiet_runs_go_out_and_touched_ones_stay(table) -> None:
    """A block of eight without a touch speaks for its run; one touch keeps it."""
    bench, policy = table
    saw = dict.fromkeys(range(RUNS), 0) | {2: 0xFF, 5: 1}
    plan = bench.step(policy, bits(saw))
    expected = pages_of(0, 1, 3, 4, 6, 7, 8, 9)
    assert expected == sorted(plan.moves.page.tolist())
    assert {1} == set(plan.moves.node.tolist())


def test_what_nobody_has_looked_at_stays_and_is_asked_for(table) -> None:
    """No evidence, no moves; looks at whole runs instead, none of them twice."""
    bench, policy = table
    plan = bench.step(policy, quiet(3))
    assert pages_of(3) == sorted(plan.moves.page.tolist())
    asked = [(k.start_page // RUN_PAGES, k.end_page // RUN_PAGES) for k in plan.look]
    assert [(r, r + 1) for r in range(RUNS) if r != 3] == asked
    assert {LiveMechanism.PAGE_OUT} == {k.mechanism for k in plan.look}
    assert () == bench.step(policy).look


def test_looks_are_few(bench) -> None:
    """However much is unknown, no more are asked for than the source can do."""
    made = bench([0] * (100 * RUN_PAGES), [10000, 10000])
    assert LOOKS_PER_S * EPOCH_S == len(made.step(Reclaim(made.setup())).look)


def test_the_stall_budget_is_kept(bench) -> None:
    """The expected waits of all that is out stay within it; 0 moves nothing."""
    made = bench([0] * PAGES, [2 * PAGES, 2 * PAGES])
    everything = quiet(*range(RUNS))
    assert 0 == len(made.step(Reclaim(made.setup(stall_share=0.0)), everything).moves)
    stall_s = float(made.epoch().latency_ns.mean(0)[1]) / 1e9
    per_run = 0.5 / 32.0 * stall_s * RUN_PAGES  # half a touch in 32 page-seconds
    policy = Reclaim(made.setup(stall_share=3.5 * per_run))
    plan = made.step(policy, everything)
    assert 3 * RUN_PAGES == len(plan.moves)
    assert plan.notes["expected_stall_share"] <= 3.5 * per_run


def test_silence_of_what_is_out_lets_more_go_out(bench) -> None:
    """As the pages that are out stay silent, the same budget holds more of them."""
    made = bench([0] * PAGES, [2 * PAGES, 2 * PAGES])
    stall_s = float(made.epoch().latency_ns.mean(0)[1]) / 1e9
    policy = Reclaim(made.setup(stall_share=2.5 * 0.5 / 32.0 * stall_s * RUN_PAGES))
    out = [len(made.step(policy, quiet(*range(RUNS))).moves)]
    out += [len(made.step(policy).moves) for _ in range(20)]
    assert 2 * RUN_PAGES == out[0]
    assert PAGES == sum(out)


def test_what_comes_back_stays_longer_each_time(table) -> None:
    """A page that was missed stays 30 s, then 60 s, however quiet its run is."""
    bench, policy = table
    page = 3 * RUN_PAGES + 5
    bench.step(policy, quiet(3))
    stays = []
    for _ in range(2):
        bench.node[page] = 0
        began = bench.index
        while bench.node[page] == 0:
            assert bench.index < 1000
            bench.step(policy, quiet(3))
        stays.append((bench.index - began) * EPOCH_S)
    assert stays == [pytest.approx(STAY_S, abs=1.5), pytest.approx(2 * STAY_S, abs=1.5)]


def test_bits_that_only_writes_set_are_no_evidence(table) -> None:
    """An unwritten page may be read all the time."""
    bench, policy = table
    batch = bits(dict.fromkeys(range(RUNS), 0), writes_only=True)
    assert 0 == len(bench.step(policy, batch).moves)


def test_room_and_limit_are_kept(bench) -> None:
    """No more pages than the lower tier holds and the engine can move."""
    made = bench([0] * PAGES, [2 * PAGES, 3 * RUN_PAGES], limit=5 * RUN_PAGES)
    policy = Reclaim(made.setup())
    assert 3 * RUN_PAGES == len(made.step(policy, quiet(*range(RUNS))).moves)
    made.limit = RUN_PAGES
    made.capacity[1] = 2 * PAGES
    assert RUN_PAGES == len(made.step(policy).moves)


def test_new_owners_begin_anew(table) -> None:
    """What was known of a renewed range is forgotten; new pages find room."""
    bench, policy = table
    bench.limit = 0
    bench.step(policy, quiet(*range(RUNS)))
    bench.limit = 1 << 31
    renewed = np.array([[RUN_PAGES, 3 * RUN_PAGES]], np.int64)
    policy.renew(SpacesChanged(PAGES + 8, renewed))
    bench.node = np.concatenate([bench.node, np.zeros(8, np.uint8)])
    moved = sorted(bench.step(policy).moves.page.tolist())
    assert pages_of(0, *range(3, RUNS)) == moved


def test_unknown_options_are_refused(bench) -> None:
    """An option that it does not have is an error, with the one that it has."""
    made = bench([0] * 8, [8, 8])
    with pytest.raises(UsageError):
        Reclaim(made.setup(stall_shares=0.1))


def test_it_is_known_by_name_on_hosts_only(table) -> None:
    """A live run makes it by name; the lab, which cannot run it, does not list it."""
    from isotherm.policy import registry

    bench, _ = table
    assert isinstance(registry.make_policy("reclaim", bench.setup()), Reclaim)
    assert "reclaim" in registry.LIVE
    assert "reclaim" not in registry.POLICIES


def test_what_a_source_puts_out_and_brings_back_is_no_return(table) -> None:
    """Only pages that the policy itself sent out are missed when they come back."""
    bench, policy = table
    bench.limit = 0
    bench.node[:8] = 1
    bench.step(policy, quiet(0))
    bench.node[:8] = 0
    bench.limit = 1 << 31
    assert pages_of(0) == sorted(bench.step(policy).moves.page.tolist())
