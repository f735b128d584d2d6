"""Cells: what pages are told apart by, and the kernels that sort and pick them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import BACKEND, TWINS
from isotherm.hotness import arithmetic as ar
from isotherm.hotness import regions
from isotherm.hotness.evidence import HISTORY_MASK
from isotherm.machine.protocol import NOT_PRESENT
from isotherm.policy import cells as cm

NOWHERE = np.empty((0, 2), np.int64)
UNSHIFTED = np.empty(0, np.int8)
SEEDS = st.integers(0, 2**32 - 1)
numba_only = pytest.mark.skipif(
    BACKEND != "numba", reason="ISOTHERM_KERNELS=numpy: there is only the twin"
)


def both(name):
    """Return the compiled kernel and its twin."""
    return TWINS[f"{cm.__name__}.{name}"]


def parts(cell):
    """Return (history level, own step, region step) of cells."""
    cell = np.asarray(cell)
    own = cell // cm.REGION_LEVELS
    return own // cm.OWN_LEVELS, own % cm.OWN_LEVELS, cell % cm.REGION_LEVELS


def random_pages(rng, pages, tiers):
    """Return (code, history, region, node, tier) of pages at random.

    One page in ten has no memory.
    """
    tier = np.full(256, tiers, np.uint8)
    tier[: tiers + 2] = np.sort(rng.integers(0, tiers, tiers + 2))
    node = rng.integers(0, tiers + 2, pages).astype(np.uint8)
    node[rng.random(pages) < 0.1] = NOT_PRESENT
    return (
        rng.integers(0, 1 << 16, pages).astype(np.uint16),
        rng.integers(0, 256, pages).astype(np.uint8),
        rng.integers(0, 256, -(-pages // 8)).astype(np.uint8),
        node,
        tier,
    )


def full_count(cell, counted, tiers):
    """Return the population as counted from nothing, int32[CELLS, tiers + 1]."""
    known = counted != cm.NOT_COUNTED
    population = np.zeros((cm.CELLS, tiers + 1), np.int32)
    np.add.at(population, (cell[known], counted[known]), 1)
    return population


# ---- twins


@numba_only
def test_every_kernel_here_is_compared():
    """A new kernel without a comparison is a failure."""
    mine = {n.rsplit(".", 1)[1] for n in TWINS if n.startswith(cm.__name__ + ".")}
    assert {"assign", "recount", "take"} == mine


@numba_only
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 100), st.sampled_from([0.0, 1.0, 1.31]), SEEDS)
def test_assign_equals_its_twin(pages, weight, seed):
    """Cells, counts and transitions agree bit by bit, over any stretch."""
    rng = np.random.default_rng(seed)
    columns = random_pages(rng, pages, 3)
    tables = cm.history_table(), cm.own_table(0.7), cm.region_table(0.7)
    # Few cells, so that many additions meet in one transition.
    cell = rng.integers(0, 3, pages).astype(np.uint16)
    counted = rng.choice([0, 1, 2, cm.NOT_COUNTED], pages).astype(np.uint8)
    blocks = len(columns[2])
    first, last = sorted(rng.integers(0, blocks + 1, 2).tolist())
    stride = int(rng.integers(1, 4))
    edges = np.unique(rng.integers(0, blocks + 1, 4))
    ahead = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    shift = rng.integers(-96, 97, blocks if seed % 2 else 0).astype(np.int8)
    found = []
    for run in both("assign"):
        state = (
            cell.copy(),
            counted.copy(),
            full_count(cell, counted, 3),
            np.zeros((cm.CELLS, cm.CELLS), np.float32),
        )
        run(*columns, *tables, first, last, *state, weight, stride, ahead, shift)
        found.append(state)
    for compiled, plain in zip(*found, strict=True):
        assert np.array_equal(plain, compiled)


@numba_only
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 100), SEEDS)
def test_recount_equals_its_twin(pages, seed):
    """Counts agree exactly, whichever pages moved."""
    rng = np.random.default_rng(seed)
    _, _, _, node, tier = random_pages(rng, pages, 3)
    cell = rng.integers(0, 5, pages).astype(np.uint16)
    counted = rng.integers(0, 3, pages).astype(np.uint8)
    page = rng.integers(0, pages, rng.integers(0, pages + 1)).astype(np.uint32)
    found = []
    for run in both("recount"):
        mine, population = counted.copy(), full_count(cell, counted, 3)
        run(page, node, tier, cell, mine, population)
        found.append((mine.tolist(), population[:5].tolist(), population.sum()))
    assert found[1] == found[0]


@numba_only
@settings(deadline=None)
@given(st.integers(1, 80), SEEDS)
def test_take_equals_its_twin(pages, seed):
    """The same pages in the same order, whatever the start."""
    rng = np.random.default_rng(seed)
    _, _, _, node, tier = random_pages(rng, pages, 3)
    cell = rng.integers(0, 5, pages).astype(np.uint16)
    up, down = np.zeros((2, cm.CELLS), np.int64)
    up[:5], down[:5] = rng.integers(0, 9, (2, 5))
    upper, start = int(rng.integers(0, 2)), int(rng.integers(0, pages))
    found = []
    for run in both("take"):
        wish = up.copy(), down.copy()
        page = np.zeros((2, 50), np.uint32)
        n = run(cell, node, tier, upper, start, *wish, *page)
        found.append((n, page.tolist(), [w.tolist() for w in wish]))
    assert found[1] == found[0]


# ---- what they do


def test_every_page_is_in_one_cell_of_its_tier():
    """The population adds up to the pages of each tier."""
    rng = np.random.default_rng(1)
    columns = random_pages(rng, 999, 3)
    cell, population = np.zeros(999, np.uint16), np.zeros((cm.CELLS, 4), np.int32)
    counted = np.full(999, cm.NOT_COUNTED, np.uint8)
    cm.assign(
        *columns,
        cm.history_table(),
        cm.own_table(1.0),
        cm.region_table(1.0),
        0,
        125,
        cell,
        counted,
        population,
        np.zeros((1, 1), np.float32),
        0.0,
        1,
        NOWHERE,
        UNSHIFTED,
    )
    tier = columns[4][columns[3]]
    assert tier.tolist() == counted.tolist()
    assert np.array_equal(full_count(cell, tier, 3), population)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 100), st.integers(1, 5), SEEDS)
def test_population_stays_a_full_count(pages, epochs, seed):
    """After moves and partial passes, the counts are those from nothing.

    Evidence changes everywhere; cells only where a pass came by. Pages that are
    reported moved are recounted at once, others when a pass meets them.
    """
    rng = np.random.default_rng(seed)
    _, _, _, node, tier = random_pages(rng, pages, 3)
    blocks = -(-pages // 8)
    tables = cm.history_table(), cm.own_table(1.0), cm.region_table(1.0)
    cell, counted = np.zeros(pages, np.uint16), np.full(pages, cm.NOT_COUNTED, np.uint8)
    population = np.zeros((cm.CELLS, 4), np.int32)
    transitions = np.zeros((cm.CELLS, cm.CELLS), np.float32)
    followed = 0
    for epoch in range(epochs):
        code, history, region, _, _ = random_pages(rng, pages, 3)
        moved = rng.permutation(pages)[: rng.integers(0, pages + 1)].astype(np.uint32)
        node[moved] = rng.integers(0, 5, len(moved))
        reported = moved[(counted[moved] != cm.NOT_COUNTED) & (moved % 3 > 0)]
        cm.recount(reported, node, tier, cell, counted, population)
        assert tier[node[reported]].tolist() == counted[reported].tolist()
        assert np.array_equal(full_count(cell, counted, 3), population)
        first, last = sorted(rng.integers(0, blocks + 1, 2).tolist())
        if epoch == 0:
            first, last = 0, blocks
        before, was = cell.copy(), counted.copy()
        cm.assign(
            code,
            history,
            region,
            node,
            tier,
            *tables,
            first,
            last,
            cell,
            counted,
            population,
            transitions,
            float(epoch > 0),
            1,
            NOWHERE,
            UNSHIFTED,
        )
        inside = slice(min(pages, 8 * first), min(pages, 8 * last))
        stayed = (was[inside] < 3) & (tier[node[inside]] < 3)
        followed += int(stayed.sum()) * (epoch > 0)
        assert tier[node[inside]].tolist() == counted[inside].tolist()
        assert before[: inside.start].tolist() == cell[: inside.start].tolist()
        assert before[8 * last :].tolist() == cell[8 * last :].tolist()
        assert np.array_equal(full_count(cell, counted, 3), population)
        assert pages == int(population.sum())
    assert followed == transitions.sum()


@pytest.mark.parametrize("stride", [1, 3])
def test_transitions_count_where_pages_went(stride):
    """One block in ``stride`` is followed, with the weight that is asked for."""
    rng = np.random.default_rng(2)
    pages = 400
    columns = random_pages(rng, pages, 2)
    tables = cm.history_table(), cm.own_table(1.0), cm.region_table(1.0)
    before = rng.integers(0, cm.CELLS, pages).astype(np.uint16)
    cell = before.copy()
    counted = np.zeros(pages, np.uint8)
    population = full_count(cell, counted, 2)
    transitions = np.zeros((cm.CELLS, cm.CELLS), np.float32)
    cm.assign(
        *columns,
        *tables,
        10,
        40,
        cell,
        counted,
        population,
        transitions,
        2.0,
        stride,
        NOWHERE,
        UNSHIFTED,
    )
    expected = np.zeros((cm.CELLS, cm.CELLS), np.float32)
    for p in range(80, 320):
        if p // 8 % stride == 0 and columns[3][p] != NOT_PRESENT:
            expected[before[p], cell[p]] += 2.0
    assert np.array_equal(expected, transitions)


@pytest.mark.parametrize("was", [cm.NOT_COUNTED, 2])
def test_where_a_page_goes_counts_only_between_tiers(was):
    """A page that is new, or had no memory before, came from no cell."""
    rng = np.random.default_rng(3)
    code, history, region, node, tier = random_pages(rng, 64, 2)
    counted = np.full(64, was, np.uint8)
    cell = np.zeros(64, np.uint16)
    transitions = np.zeros((cm.CELLS, cm.CELLS), np.float32)
    tables = cm.history_table(), cm.own_table(1.0), cm.region_table(1.0)
    cm.assign(
        code, history, region, node, tier, *tables, 0, 8, cell, counted,
        full_count(cell, counted, 2), transitions, 1.0, 1, NOWHERE, UNSHIFTED,
    )  # fmt: skip
    assert 0 == transitions.sum()
    assert (tier[node] == counted).all()


def test_pages_ahead_of_a_sweep_have_cells_of_their_own():
    """There only their own rate tells them apart, not looks or region."""
    rng = np.random.default_rng(4)
    columns = random_pages(rng, 64, 2)
    cell, counted = np.zeros(64, np.uint16), np.full(64, cm.NOT_COUNTED, np.uint8)
    tables = cm.history_table(), cm.own_table(1.0), cm.region_table(1.0)
    cm.assign(
        *columns, *tables, 0, 8, cell, counted, np.zeros((cm.CELLS, 3), np.int32),
        np.zeros((1, 1), np.float32), 0.0, 1, np.array([[1, 2], [4, 6]]), UNSHIFTED,
    )  # fmt: skip
    in_way = np.isin(np.arange(64) // 8, [1, 4, 5])
    own = tables[1][columns[0] >> ar.EXPOSURE_BITS] // cm.REGION_LEVELS
    assert (cm.AHEAD + own[in_way]).tolist() == cell[in_way].tolist()
    assert (cell[~in_way] < cm.AHEAD).all()


def test_a_shift_moves_pages_as_a_higher_rate_would():
    """A block that stalls twice the mean has the cells of pages twice as hot."""
    rng = np.random.default_rng(5)
    code, history, region, node, tier = random_pages(rng, 64, 2)
    code = ((400 + np.arange(64)) << ar.EXPOSURE_BITS).astype(np.uint16)
    region = np.full(8, 100, np.uint8)
    tables = cm.history_table(), cm.own_table(1.0), cm.region_table(1.0)

    def cells(code, region, shift):
        cell = np.zeros(64, np.uint16)
        counted = np.full(64, cm.NOT_COUNTED, np.uint8)
        cm.assign(
            code, history, region, node, tier, *tables, 0, 8, cell, counted,
            np.zeros((cm.CELLS, 3), np.int32), np.zeros((1, 1), np.float32), 0.0, 1,
            NOWHERE, shift,
        )  # fmt: skip
        return cell.tolist()

    octave = code + np.uint16(32 << ar.EXPOSURE_BITS)  # 32 codes of a page's rate
    hotter = cells(octave, region + np.uint8(8), UNSHIFTED)
    assert hotter == cells(code, region, np.full(8, 8, np.int8))
    assert hotter != cells(code, region, np.zeros(8, np.int8))
    assert cells(code, region, UNSHIFTED) == cells(code, region, np.zeros(8, np.int8))


def test_pages_without_memory_are_not_taken():
    """Whatever is asked for, and whichever tiers there are."""
    cell, node = np.zeros(16, np.uint16), np.full(16, NOT_PRESENT, np.uint8)
    node[5] = 1
    tier = np.full(256, 3, np.uint8)
    tier[:3] = 0, 1, 2
    page = np.zeros((2, 32), np.uint32)
    for upper in (0, 1):
        up, down = np.full((2, cm.CELLS), 16, np.int64)
        n_up, n_down = cm.take(cell, node, tier, upper, 0, up, down, *page)
        assert {5} >= {*page[0, :n_up].tolist(), *page[1, :n_down].tolist()}


def test_history_levels():
    """Nothing in four looks, something older, newest alone, newest two."""
    level = cm.history_table() // (cm.OWN_LEVELS * cm.REGION_LEVELS)
    assert HISTORY_MASK + 1 == len(level)
    assert [0, 2, 1, 3, 1, 2, 1, 3] == level[:8].tolist()
    assert [0, 0] == level[[0b010000, 0b110000]].tolist()
    assert 1 == level[0b001000]


def test_own_step_rises_with_the_rate():
    """Monotone over all codes; the mean page is in the middle; each step used."""
    step = cm.own_table(1.0) // cm.REGION_LEVELS
    assert (np.diff(step) >= 0).all()
    assert set(range(cm.OWN_LEVELS)) == set(step.tolist())
    rate = ar.decode_array(np.arange(ar.RATE_CODES), ar.RATE_SHIFT, ar.RATE_OFFSET)
    assert cm.OWN_LEVELS // 2 == int(step[np.searchsorted(rate, 1.0)])


def test_region_step_rises_with_the_rate():
    """Monotone over all codes; the mean is in the middle; each step is used."""
    step = cm.region_table(1.0)
    assert regions.REGION_CODES == len(step)
    assert (np.diff(step) >= 0).all()
    assert set(range(cm.REGION_LEVELS)) == set(step.tolist())
    one = int(regions.region_code_array(np.ones(1))[0])
    assert abs(int(step[one]) - cm.REGION_LEVELS / 2) <= 0.5


@pytest.mark.parametrize("relative", [0.25, 4.0])
def test_steps_are_relative_to_the_mean(relative):
    """Where the mean is lower, the same code is that much hotter."""
    octaves = round(np.log2(relative))
    rate = ar.decode_array(np.arange(ar.RATE_CODES), ar.RATE_SHIFT, ar.RATE_OFFSET)
    codes = np.flatnonzero((rate > 2.0**-12 * 8) & (rate < 2.0**12))
    shifted = codes + octaves * 32  # five bits of mantissa: 32 codes an octave
    assert cm.own_table(1.0)[shifted].tolist() == cm.own_table(relative)[codes].tolist()


def test_features_describe_their_cell():
    """One history level, ln of own and region rate as the tables cut them, 1."""
    z = cm.features()
    history, own, region = parts(np.arange(cm.AHEAD))
    assert (cm.AHEAD, cm.HISTORY_LEVELS + 3) == z.shape
    assert history.tolist() == z[:, : cm.HISTORY_LEVELS].argmax(1).tolist()
    assert np.ones(cm.AHEAD).tolist() == z[:, : cm.HISTORY_LEVELS].sum(1).tolist()
    assert np.ones(cm.AHEAD).tolist() == z[:, -1].tolist()
    in_octaves = z[:, cm.HISTORY_LEVELS] / np.log(2.0) * cm.OWN_STEPS
    assert own - cm.OWN_LEVELS / 2 == pytest.approx(in_octaves)
    in_octaves = z[:, cm.HISTORY_LEVELS + 1] / np.log(2.0) * cm.REGION_STEPS
    assert region - cm.REGION_LEVELS / 2 == pytest.approx(in_octaves)


@settings(deadline=None)
@given(st.integers(1, 60), SEEDS)
def test_take_gives_what_is_asked_for_as_far_as_it_is_there(pages, seed):
    """So many pages of each cell, from the right tier, no page twice."""
    rng = np.random.default_rng(seed)
    _, _, _, node, tier = random_pages(rng, pages, 2)
    cell = rng.integers(0, 4, pages).astype(np.uint16)
    up, down = np.zeros((2, cm.CELLS), np.int64)
    up[:4], down[:4] = rng.integers(0, 9, (2, 4))
    have_up = np.bincount(cell[tier[node] == 1], minlength=4)
    have_down = np.bincount(cell[tier[node] == 0], minlength=4)
    page = np.zeros((2, 50), np.uint32)
    wanted = up.copy(), down.copy()
    start = int(rng.integers(0, pages))
    n_up, n_down = cm.take(cell, node, tier, 0, start, *wanted, *page)
    taken_up, taken_down = page[0, :n_up], page[1, :n_down]
    assert n_up == len(set(taken_up.tolist()))
    assert n_down == len(set(taken_down.tolist()))
    assert (tier[node[taken_up]] == 1).all()
    assert (tier[node[taken_down]] == 0).all()
    given_up = np.bincount(cell[taken_up], minlength=4)[:4]
    given_down = np.bincount(cell[taken_down], minlength=4)[:4]
    assert np.minimum(up[:4], have_up).tolist() == given_up.tolist()
    assert np.minimum(down[:4], have_down).tolist() == given_down.tolist()


def test_take_goes_round_from_its_start():
    """So that no end of the memory is always first."""
    cell, node = np.zeros(6, np.uint16), np.ones(6, np.uint8)
    tier = np.zeros(256, np.uint8)
    tier[1] = 1
    up, down = np.zeros((2, cm.CELLS), np.int64)
    up[0] = 4
    page = np.zeros((2, 6), np.uint32)
    assert (4, 0) == cm.take(cell, node, tier, 0, 4, up, down, *page)
    assert [4, 5, 0, 1] == page[0, :4].tolist()
