"""Abstract distance: the kernel's numbers, from the kernel's figures."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from isotherm.topology.adistance import (
    ADISTANCE_DRAM,
    ADISTANCE_KMEM,
    Coordinates,
    kernel_wraps,
    mt_perf_to_adistance,
    tier_id,
)

FIGURE = st.integers(1, 10**6)
COORDINATES = st.builds(Coordinates, FIGURE, FIGURE, FIGURE, FIGURE)
DRAM = Coordinates(80, 80, 102400, 102400)


def test_the_constants_are_the_kernels() -> None:
    """DRAM is 576 and in tier 4; DAX memory of unknown speed is 2880, tier 22."""
    assert (576, 4) == (ADISTANCE_DRAM, tier_id(ADISTANCE_DRAM))
    assert (2880, 22) == (ADISTANCE_KMEM, tier_id(ADISTANCE_KMEM))


def test_cxl_golden_number() -> None:
    """250 ns at 30720 MiB/s beside 80 ns at 102400 MiB/s is 6000, tier 46."""
    assert 6000 == mt_perf_to_adistance(Coordinates(250, 250, 30720, 30720), DRAM)
    assert 46 == tier_id(6000)


def test_figures_for_which_a_linux_6_12_guest_showed_memory_tier72() -> None:
    """400 ns at 6400 MiB/s beside 100 ns at 25600 MiB/s is in tier 72."""
    perf = Coordinates(400, 400, 6400, 6400)
    dram = Coordinates(100, 100, 25600, 25600)
    adistance = mt_perf_to_adistance(perf, dram)
    assert 9216 == adistance
    assert 72 == tier_id(9216)


def test_read_and_write_are_summed() -> None:
    """Reads and writes count alike: swapping them changes nothing."""
    one = mt_perf_to_adistance(Coordinates(100, 300, 1000, 3000), DRAM)
    other = mt_perf_to_adistance(Coordinates(300, 100, 3000, 1000), DRAM)
    assert one == other


def test_division_comes_in_the_kernels_order() -> None:
    """576 * 7 // 11 = 366, * 10 // 3 = 1220; dividing once would give 1221."""
    perf, dram = Coordinates(3, 4, 1, 2), Coordinates(5, 6, 4, 6)
    assert 1220 == mt_perf_to_adistance(perf, dram)
    assert 1221 == 576 * 7 * 10 // (11 * 3)


def test_unknown_is_none() -> None:
    """A sum of 0, the kernel's -EINVAL, is no distance rather than a wrong one."""
    assert mt_perf_to_adistance(Coordinates(0, 0, 5, 5), DRAM) is None
    assert mt_perf_to_adistance(Coordinates(5, 5, 0, 0), DRAM) is None
    assert mt_perf_to_adistance(DRAM, Coordinates(0, 0, 5, 5)) is None
    assert mt_perf_to_adistance(DRAM, Coordinates(5, 5, 0, 0)) is None


@given(COORDINATES)
def test_memory_like_dram_is_dram(dram: Coordinates) -> None:
    """The reference itself is at 576, whatever its figures."""
    assert ADISTANCE_DRAM == mt_perf_to_adistance(dram, dram)


@given(COORDINATES, COORDINATES)
def test_the_integers_stay_close_below_the_exact_ratio(
    perf: Coordinates, dram: Coordinates
) -> None:
    """Rounding takes less than one step of each of the two divisions."""
    ratio = Fraction(dram.bandwidth_mib_s, perf.bandwidth_mib_s)
    exact = Fraction(ADISTANCE_DRAM * perf.latency_ns, dram.latency_ns) * ratio
    adistance = mt_perf_to_adistance(perf, dram)
    assert adistance is not None
    assert exact - ratio - 1 < adistance <= exact


@given(COORDINATES, COORDINATES)
def test_wrapping_is_told(perf: Coordinates, dram: Coordinates) -> None:
    """Arithmetic modulo 2^32 gives our number unless we say that it wraps."""
    wrapped = ADISTANCE_DRAM * perf.latency_ns % 2**32 // dram.latency_ns
    wrapped = wrapped * dram.bandwidth_mib_s % 2**32 // perf.bandwidth_mib_s
    if not kernel_wraps(perf, dram):
        assert wrapped == mt_perf_to_adistance(perf, dram)


def test_figures_that_wrap_in_the_kernel() -> None:
    """1600 ns beside DRAM of 819200 MiB/s overflows 32 bits."""
    dram = Coordinates(80, 80, 819200, 819200)
    assert kernel_wraps(Coordinates(800, 800, 4096, 4096), dram)
    assert not kernel_wraps(Coordinates(160, 160, 4096, 4096), dram)
