"""Text of sysfs files: what is right comes back whole, what is odd is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.topology.parse import (
    parse_distances,
    parse_list,
    parse_mask,
    parse_mem_total,
    parse_number,
    parse_signed,
    render_list,
)


@given(st.sets(st.integers(0, 1023)))
def test_a_list_comes_back(numbers: set[int]) -> None:
    """Reading what was written as a kernel list gives the same numbers."""
    ordered = tuple(sorted(numbers))
    assert ordered == parse_list(render_list(ordered), 1024)


@given(st.sets(st.integers(0, 300)))
def test_a_mask_comes_back(cpus: set[int]) -> None:
    """Reading a mask written in 32-bit words gives the same CPUs."""
    bits = sum(1 << cpu for cpu in cpus)
    words = [f"{bits >> shift & 0xFFFFFFFF:08x}" for shift in range(320, -1, -32)]
    assert tuple(sorted(cpus)) == parse_mask(",".join(words))


@pytest.mark.parametrize(
    "text", ["a", "3-1", "0-1024", "1-", "-1", "0 1", "0-99999999999999", "٣", "1,,2"]
)
def test_a_broken_list_is_refused(text: str) -> None:
    """Falling ranges, numbers out of range and other text are errors."""
    with pytest.raises(ValueError, match="list"):
        parse_list(text, 1024)


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0x10", "9" * 21, "١٢", "1 2"])
def test_a_broken_number_is_refused(text: str) -> None:
    """Signs, exponents, other digits and absurd lengths are errors."""
    with pytest.raises(ValueError, match="a number >= 0"):
        parse_number(text)


def test_a_signed_number() -> None:
    """The kernel's -1 for no node is a number."""
    assert -1 == parse_signed("-1")
    with pytest.raises(ValueError, match="a number"):
        parse_signed("--1")


def test_mem_total_is_that_of_the_node() -> None:
    """The line may follow others; one of another node is refused."""
    text = "\nNode 3 MemTotal:       1024 kB\nNode 3 MemFree: 9 kB"
    assert 1 << 20 == parse_mem_total(text, 3)
    with pytest.raises(ValueError, match="node 2, not node 3"):
        parse_mem_total(text, 2)


@pytest.mark.parametrize("text", ["", "MemTotal: 3 kB", "Node 0 MemTotal: 3 MB"])
def test_another_unit_or_form_is_no_capacity(text: str) -> None:
    """A capacity in a unit that the kernel never writes is not guessed."""
    with pytest.raises(ValueError, match="MemTotal"):
        parse_mem_total(text, 0)


def test_an_absurd_capacity_is_refused() -> None:
    """More than page tables can map is no capacity."""
    with pytest.raises(ValueError, match="64 PiB"):
        parse_mem_total("Node 0 MemTotal: 99999999999999 kB", 0)


@pytest.mark.parametrize("text", ["10", "10 21 21", "10 9", "10 256", "10 x"])
def test_a_broken_row_of_distances_is_refused(text: str) -> None:
    """A row needs one distance of 10 to 255 for each online node."""
    with pytest.raises(ValueError, match=r"distances|number"):
        parse_distances(text, 2)
