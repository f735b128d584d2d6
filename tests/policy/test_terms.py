"""What plans owe tenants after the trades."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.policy.plan import Moves, Reason
from isotherm.policy.terms import Terms


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_what_is_held_keeps_all_terms(seed: int) -> None:
    """Of any plan: nobody below its floor or above its maximum, none where barred."""
    rng = np.random.default_rng(seed)
    pages, tenants = int(rng.integers(1, 80)), 3
    node = rng.integers(0, 3, pages).astype(np.uint8)
    label = rng.integers(0, tenants, pages).astype(np.uint8)
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    allowed = np.ones((tenants, 256), np.bool_)
    allowed[:, :3] = rng.random((tenants, 3)) < 0.8
    held = np.bincount(label[node == 0], minlength=tenants)
    floor = rng.integers(0, 20, tenants)
    cap = floor + rng.integers(0, 20, tenants)
    terms = Terms(
        label, node, allowed, fast, held, floor, cap, np.ones(tenants),
        np.full(tenants, pages),
    )  # fmt: skip
    page = rng.permutation(pages)[: int(rng.integers(0, pages + 1))]
    moves = Moves.to(page, 0, Reason.PAYS, 1.0)
    moves.node[:] = rng.integers(0, 3, len(page))
    kept = terms.hold(moves)
    assert allowed[label[kept.page], kept.node].all()
    after = node.copy()
    after[kept.page] = kept.node
    holds = np.bincount(label[after == 0], minlength=tenants)
    assert (holds >= np.minimum(held, floor)).all()
    assert (holds <= np.maximum(held, cap)).all()
    assert (terms.may_give(kept, 1) <= np.maximum(0, holds - floor)).all()
    assert (terms.may_get(kept, 0) <= np.maximum(0, cap - holds)).all()
    fine = np.bincount(label[page], minlength=tenants)
    assert (fine >= np.bincount(label[kept.page], minlength=tenants)).all()


def test_a_plan_on_terms_is_left_as_it_is() -> None:
    """Nothing is copied where nothing is to be left out."""
    label, node = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    terms = Terms(
        label, node, np.ones((1, 256), np.bool_), fast, np.array([0]), np.array([0]),
        np.array([2]), np.ones(1), np.array([4]),
    )  # fmt: skip
    moves = Moves.to(np.array([1, 3]), 0, Reason.PAYS)
    assert terms.hold(moves) is moves
    over = Moves.to(np.array([1, 3, 0]), 0, Reason.PAYS)
    assert [1, 3] == terms.hold(over).page.tolist()


def test_a_trade_may_send_down_what_is_kept_out() -> None:
    """Of two pages of which one must lie below the colder does; nothing else may."""
    label, node = np.zeros(4, np.uint8), np.array([0, 1, 0, 1], np.uint8)
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    allowed = np.ones((1, 256), np.bool_)
    allowed[0, 1] = False
    swap = Moves.concat(
        Moves.to(np.array([0]), 1, Reason.MAKES_ROOM),
        Moves.to(np.array([1]), 0, Reason.PAYS),
    )
    other = Moves.to(np.array([2]), 1, Reason.MAKES_ROOM)
    terms = Terms(
        label, node, allowed, fast, np.array([2]), np.array([2]), np.array([2]),
        np.ones(1), np.array([4]), np.array([0, 1], np.uint32),
    )  # fmt: skip

    held = terms.hold(Moves.concat(swap, other))

    assert [0, 1] == held.page.tolist()
