"""What screens show, made small: four digits, ranges by place, tenants of any run."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isotherm.observability.view import choose_ranges, rows_of, tenant_views


@given(st.floats(-1e12, 1e12, allow_subnormal=False))
@example(2.2250738585072014e-308)
def test_a_table_keeps_four_digits(value: float) -> None:
    """Of every size; zero is zero."""
    ((shown,),) = rows_of(np.array([[value]]))
    assert float(f"{value:.4g}") == pytest.approx(shown, rel=1.1e-3, abs=1e-290)


def test_what_is_not_known_is_none() -> None:
    """Beside what is; types are those of JSON."""
    table = np.array([[np.nan, 0.0, 123456.0], [0.00123456, 2.0, np.nan]], np.float32)
    assert ((None, 0.0, 123500.0), (0.001235, 2.0, None)) == rows_of(table)
    assert all(
        value is None or type(value) is float for row in rows_of(table) for value in row
    )
    assert () == rows_of(np.empty((0, 3)))


def test_ranges_go_by_heat_size_or_address() -> None:
    """Equal ones stay in order of address."""
    rate, size = np.array([1.0, 3.0, 1.0]), np.array([4.0, 1.0, 4.0])
    assert [1, 0, 2] == choose_ranges("heat", rate, size).tolist()
    assert [0, 2, 1] == choose_ranges("size", rate, size).tolist()
    assert [0, 1, 2] == choose_ranges("address", rate, size).tolist()


COMMON = {
    "name": "db",
    "profile": "batch",
    "fast_share": 0.5,
    "slowdown": 2.0,
    "price_ns": 9.0,
    "pool": "owed",
    "paid_moves": 3,
}


def test_tenants_of_a_simulation_are_in_bytes() -> None:
    """What is lent is of what it could use; what it holds beyond is borrowed."""
    row = COMMON | {"pages": 10, "mean_fast_pages": 4.4, "guarantee_pages": 20}
    (tenant,) = tenant_views([row])
    assert (40960, 16384, 81920) == (
        tenant.bytes,
        tenant.fast_bytes,
        tenant.guarantee_bytes,
    )
    assert (24576, 0, 12288) == (
        tenant.lent_bytes,
        tenant.borrowed_bytes,
        tenant.charged_bytes,
    )


def test_tenants_of_a_live_run_are_as_reported() -> None:
    """Nothing is made of them that the daemon has not said."""
    row = COMMON | {"bytes": 100, "fast_bytes": 70, "guarantee_bytes": 50}
    (tenant,) = tenant_views([row])
    assert (100, 70, 0, 20) == (
        tenant.bytes,
        tenant.fast_bytes,
        tenant.lent_bytes,
        tenant.borrowed_bytes,
    )
    assert () == tenant_views([])
