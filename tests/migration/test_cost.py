"""The cost model: exact on exact data, patient with noise, prior until it knows."""

import numpy as np
import pytest

from isotherm.migration import CostModel, CostPrior


def test_prior_rules_before_the_first_move():
    """With no observation a page costs fixed / batch + page; the diagonal 0."""
    model = CostModel(2, CostPrior(page_ns=1000.0, fixed_ns=5120.0))
    expected = np.array([[0.0, 1010.0], [1010.0, 0.0]])
    np.testing.assert_allclose(expected, model.expected_ns_per_page(512), rtol=1e-12)


def test_reference_machine_stays_exact():
    """2.5 us a page observed under a prior of 2.5 us is 2.5 us, to nine digits."""
    model = CostModel(2)
    pages = np.array([512, 512, 17])
    model.observe(1, 0, pages, 2500.0 * pages)
    assert model.expected_ns_per_page(512)[1, 0] == pytest.approx(2500, rel=1e-9)


def test_learns_fixed_and_per_page_cost_of_one_path():
    """20 us + 1.1 us a page is found within 3 %; the other paths keep the prior."""
    model = CostModel(3)
    rng = np.random.default_rng(1)
    pages = rng.integers(1, 513, 400)
    model.observe(2, 0, pages, 20_000.0 + 1100.0 * pages)
    assert model.fixed_ns[2, 0] == pytest.approx(20_000, rel=0.03)
    assert model.expected_ns_per_page(512)[2, 0] == pytest.approx(1139.06, rel=0.02)
    assert 2500.0 == model.expected_ns_per_page(512)[0, 2]


def test_noise_averages_out():
    """30 % noise on 400 batches leaves less than 5 % error at the usual size."""
    model = CostModel(2)
    rng = np.random.default_rng(2)
    pages = rng.integers(64, 513, 400)
    cost_ns = (10_000 + 2000.0 * pages) * rng.lognormal(0, 0.3, 400)
    mean = np.exp(0.3**2 / 2)
    model.observe(0, 1, pages, cost_ns)
    expected = mean * (10_000 / 512 + 2000)
    assert model.expected_ns_per_page(512)[0, 1] == pytest.approx(expected, rel=0.05)


def test_forgets_what_no_longer_holds():
    """After 5 times the memory the new cost rules."""
    model = CostModel(2, memory_batches=50)
    pages = np.full(250, 512)
    model.observe(0, 1, pages, 1000.0 * pages)
    model.observe(0, 1, pages, 4000.0 * pages)
    assert model.expected_ns_per_page(512)[0, 1] == pytest.approx(4000, rel=0.03)


def test_one_call_or_many_is_the_same():
    """Observations in one call equal the same ones one by one."""
    pages = np.array([1, 64, 512, 300])
    cost_ns = np.array([9e3, 9e4, 6e5, 4e5])
    together, apart = CostModel(2), CostModel(2)
    together.observe(0, 1, pages, cost_ns)
    for n, cost in zip(pages, cost_ns, strict=True):
        apart.observe(0, 1, np.array([n]), np.array([cost]))
    np.testing.assert_allclose(
        together.expected_ns_per_page(64), apart.expected_ns_per_page(64), rtol=1e-12
    )


def test_huge_pages_are_learnt_apart():
    """Batches of huge pages at 200 us each leave the 4 KiB cost alone."""
    model = CostModel(2)
    huge = np.array([1, 2, 4, 8] * 20)
    model.observe(1, 0, huge, 200_000.0 * huge, huge)
    per_huge = model.expected_ns_per_huge_page(8)[1, 0]
    assert per_huge == pytest.approx(200_000, rel=0.05)
    assert model.expected_ns_per_page(512)[1, 0] == pytest.approx(2500, rel=0.01)


def test_costs_are_never_negative():
    """Data that a negative fixed cost would fit best still gives a positive one."""
    model = CostModel(2)
    pages = np.array([8, 512] * 50)
    model.observe(0, 1, pages, np.where(pages == 8, 8000.0, 4_000_000.0))
    assert model.fixed_ns[0, 1] >= 0
    assert model.expected_ns_per_page(512)[0, 1] > 0


def test_batches_in_which_nothing_moved_make_moves_dearer():
    """A batch that cost time and moved no page raises the fixed part."""
    model = CostModel(2)
    model.observe(0, 1, np.array([0, 0]), np.array([5000.0, 5000.0]))
    assert model.expected_ns_per_page(1)[0, 1] > 2500


def test_room_for_more_nodes_keeps_what_was_learnt():
    """A node that comes has the prior's cost; the paths that were known stay so."""
    cost = CostModel(2)
    cost.observe(1, 0, np.full(50, 512), np.full(50, 512 * 5000.0))
    before = cost.expected_ns_per_page(512)
    cost.grow(4)
    after = cost.expected_ns_per_page(512)
    assert before.tolist() == after[:2, :2].tolist()
    assert {2500.0} == set(after[:2, 2:].ravel().tolist())
    cost.observe(3, 0, np.full(50, 512), np.full(50, 512 * 9000.0))
    assert 9000.0 == pytest.approx(cost.expected_ns_per_page(512)[3, 0], rel=0.02)
    cost.grow(1)
    assert 4 == len(cost.expected_ns_per_page(512))


@pytest.mark.parametrize("prior", [{"page_ns": 0.0}, {"fixed_ns": -1.0}])
def test_impossible_prior_is_refused(prior):
    """A page costs something, a batch not less than nothing."""
    with pytest.raises(ValueError, match="prior"):
        CostModel(2, CostPrior(**prior))


def test_one_batch_that_was_held_up_is_no_news():
    """A thread that was not let run for 22 ms does not make moves dear for good."""
    model = CostModel(2)
    model.observe(1, 0, np.array([16]), np.array([22e6]))
    assert 20_000 > model.expected_ns_per_page(512)[1, 0]


def test_costs_that_have_risen_are_believed():
    """A path a hundred times as dear as thought is known after some batches."""
    model = CostModel(2)
    pages = np.full(20, 512)
    for n in pages:
        model.observe(1, 0, np.array([n]), np.array([250_000.0 * n]))
    assert 150_000 < model.expected_ns_per_page(512)[1, 0]


def test_what_was_observed_fades():
    """Moves believed too dear to be made are tried again some time."""
    model = CostModel(2)
    pages = np.full(20, 512)
    model.observe(1, 0, pages, 9000.0 * pages)
    dear = model.expected_ns_per_page(512)[1, 0]
    for _ in range(3600):
        model.fade(1e9)
    assert 8000 < dear
    assert 3000 > model.expected_ns_per_page(512)[1, 0]
