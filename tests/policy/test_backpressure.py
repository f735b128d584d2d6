"""Back-pressure: demotion slows, pages leave, room is kept, nothing else changes."""

import numpy as np
import pytest

from isotherm.machine.protocol import Usage
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.backpressure import LEAD, RELIEF, RESERVE, SLOW, BackPressure
from isotherm.policy.plan import Epoch, Moves, Reason
from isotherm.policy.terms import Terms

TOPOLOGY = load_machine("ocp-expander").topology([100, 200, 1000])
#: Flat pages 0-99 on DRAM, 100-299 on CXL, the rest compressed; page = its heat.
NODE = np.repeat([0, 1, 2], [100, 200, 700]).astype(np.uint8)
KIND = np.arange(1000, dtype=np.uint16)
WORTH = np.arange(1000, dtype=np.float64)


def epoch_of(fill: float | None, used: tuple[int, int, int] = (100, 198, 700)) -> Epoch:
    """Return an epoch whose device is so full."""
    zero = np.zeros(3, np.int64)
    usage = Usage(
        np.array([100, 200, 1000]),
        np.array(used),
        zero,
        zero,
        zero,
        zero,
        fill=None if fill is None else np.array([np.nan, np.nan, fill]),
    )
    cost = np.full((3, 3), 1000.0)
    latency = np.array([[114.0, 271.0, 391.0]])
    return Epoch(0, 0, 500_000_000, TOPOLOGY, usage, NODE, latency, cost)


def pressed(
    fill: float | None,
    moves: Moves | None = None,
    used: tuple[int, int, int] = (100, 198, 700),
    before: float | None = None,
) -> tuple[Moves, dict[str, float]]:
    """Return what becomes of moves, after an epoch with another fill."""
    policy = BackPressure(TOPOLOGY)
    if before is not None:
        policy.reserve(epoch_of(before, used))
    epoch = policy.reserve(epoch_of(fill, used))
    return policy.press(moves or Moves.none(), epoch, WORTH, KIND)


def swaps(count: int) -> Moves:
    """Return exchanges of CXL's coldest for the compressed region's hottest."""
    down = Moves.to(np.arange(100, 100 + count), 2, Reason.MAKES_ROOM, 0.0)
    up = Moves.to(np.arange(999, 999 - count, -1), 1, Reason.PAYS, 5.0)
    return Moves.concat(down, up)


def test_machines_without_such_a_device_are_left_alone() -> None:
    """The same epoch, the same moves, no notes: not one object is new."""
    policy, epoch, moves = BackPressure(TOPOLOGY), epoch_of(None), swaps(3)
    assert policy.reserve(epoch) is epoch
    found, notes = policy.press(moves, epoch, WORTH, KIND)
    assert found is moves
    assert {} == notes


def test_below_the_line_nothing_is_slowed() -> None:
    """Up to SLOW a plan goes through as it is."""
    found, notes = pressed(SLOW - 0.01, swaps(20))
    assert swaps(20).page.tolist() == found.page.tolist()
    assert {"media_fill": SLOW - 0.01, "demotions_refused": 0.0} == notes


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_between_the_lines_demotion_slows(share: float) -> None:
    """In proportion, the coldest first; promotions all go."""
    found, notes = pressed(RELIEF - share * (RELIEF - SLOW) - 1e-9, swaps(20))
    into = found.page[found.node == 2]
    assert list(range(100, 100 + int(20 * share))) == into.tolist()
    assert 20 == np.count_nonzero(found.node == 1)
    assert 20 - int(20 * share) == notes["demotions_refused"]


def test_beyond_the_line_the_hottest_leave_for_the_nearest_room() -> None:
    """CXL first, reserve included, then DRAM; nothing goes to the device."""
    found, notes = pressed(0.95, used=(97, 195, 708))
    assert [999, 998, 997, 996, 995, 994, 993, 992] == found.page.tolist()
    assert [1] * 5 + [0] * 3 == found.node.tolist()
    assert {int(Reason.WATERMARK)} == set(found.reason.tolist())
    assert np.isnan(found.gain_ns).all()
    assert 8 == notes["relief_pages"]
    assert notes["relief_short_pages"] > 0


def test_no_more_leave_than_bring_the_fill_down() -> None:
    """(0.93 - TARGET) of what is stored, less what leaves anyway."""
    found, notes = pressed(0.93, used=(0, 0, 700))
    assert int(np.ceil(0.06 * 700 / 0.93)) == len(found) == notes["relief_pages"]
    assert 0 == notes["relief_short_pages"]
    up = Moves.to(np.arange(300, 310), 1, Reason.PAYS, 5.0)
    found, notes = pressed(0.93, up, used=(0, 0, 700))
    assert int(np.ceil(0.06 * 700 / 0.93)) == len(found)
    assert 10 == len(found) - notes["relief_pages"]
    assert len(found) == len(set(found.page.tolist()))


def test_growth_counts_before_the_line_is_reached() -> None:
    """A fill that rises fast is relieved, the same fill at rest is not."""
    assert 0 == len(pressed(0.85, used=(0, 0, 700), before=0.85)[0])
    rising, _ = pressed(0.85, used=(0, 0, 700), before=0.85 - 0.5 / LEAD)
    assert len(rising) > 0


def test_room_is_kept_in_the_tier_above() -> None:
    """The market sees less of it, and what is too much goes down, coldest first."""
    epoch = BackPressure(TOPOLOGY).reserve(epoch_of(0.5))
    kept = int(RESERVE * 200)
    assert [100, 200 - kept, 1000] == epoch.usage.capacity_pages.tolist()
    found, _ = pressed(0.5, used=(100, 200, 700))
    assert [100, 101] == found.page.tolist()
    assert [2, 2] == found.node.tolist()
    assert {int(Reason.MAKES_ROOM)} == set(found.reason.tolist())


def test_a_full_host_says_how_much_is_short() -> None:
    """Without room above nothing moves, and the note says how much should."""
    found, notes = pressed(0.99, used=(100, 200, 700))
    assert 0 == len(found)
    assert notes["relief_short_pages"] == int(np.ceil(0.12 * 700 / 0.99))


def terms_of(
    label: np.ndarray, *, floor: int = 0, cap: int = 1000, barred: int = 255
) -> Terms:
    """Return the terms of two tenants; those of the second are bent."""
    fast = np.zeros(256, np.bool_)
    fast[0] = True
    allowed = np.ones((2, 256), np.bool_)
    allowed[1, barred] = False
    held = np.bincount(label[NODE == 0], minlength=2)
    return Terms(
        label, NODE, allowed, fast, held, np.array([0, floor]), np.array([1000, cap]),
        np.ones(2), np.full(2, 1000),
    )  # fmt: skip


def relieved(used: tuple[int, int, int], terms: Terms) -> Moves:
    """Return what leaves a device that is full."""
    policy = BackPressure(TOPOLOGY)
    epoch = policy.reserve(epoch_of(RELIEF + 0.05, used))
    moves, _ = policy.press(Moves.none(), epoch, WORTH, KIND, terms)
    return moves


def test_relief_takes_pages_of_who_may_go_there() -> None:
    """The hottest of the second tenant stay: CXL is barred to it, DRAM is full."""
    label = (np.arange(1000) % 2).astype(np.uint8)
    moves = relieved((100, 150, 700), terms_of(label, barred=1))
    assert len(moves) > 10
    assert {1} == set(moves.node.tolist())
    assert {0} == set(label[moves.page].tolist())
    assert list(range(998, 998 - 2 * len(moves), -2)) == moves.page.tolist()


def test_relief_lifts_nobody_over_its_maximum() -> None:
    """The second tenant may have four more pages of DRAM; CXL is full."""
    label = (np.arange(1000) % 2).astype(np.uint8)
    moves = relieved((50, 200, 700), terms_of(label, cap=54))
    up = moves.page[moves.node == 0]
    assert len(up) > 10
    assert 4 == np.count_nonzero(label[up] == 1)


def test_the_reserve_is_made_of_what_nobody_is_owed() -> None:
    """The coldest page above is one that its tenant may not have below."""
    label = np.zeros(1000, np.uint8)
    label[100] = 1
    policy = BackPressure(TOPOLOGY)
    epoch = policy.reserve(epoch_of(0.5, (100, 200, 700)))
    moves, _ = policy.press(Moves.none(), epoch, WORTH, KIND, terms_of(label, barred=2))
    assert list(range(101, 101 + max(1, int(200 * RESERVE)))) == moves.page.tolist()
