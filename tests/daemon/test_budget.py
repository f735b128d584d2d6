"""The budget: long enough epochs, large enough units."""

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.budget import Paced, Pacer, choose_unit, state_bytes

MS = NS_PER_S // 1000


def test_epochs_grow_until_the_budget_is_kept():
    """0.1 s of work an epoch at 2 % of a core needs 5 s: the next doubling, 8 s."""
    pacer = Pacer(1.0, 60.0, 0.02)
    changes = [pacer.observe(100 * MS) for _ in range(6)]
    assert [None, None, None, Paced(1.0, 8.0, 0.1, 0.1, True), None, None] == changes
    assert 8.0 == pacer.epoch_s


def test_what_compiling_costs_decides_nothing():
    """The first epochs may cost seconds: they change no pace."""
    pacer = Pacer(1.0, 60.0, 0.02)
    assert [None] * 3 == [pacer.observe(5000 * MS) for _ in range(3)]
    assert pacer.observe(1 * MS) is None
    assert 1.0 == pacer.epoch_s


def test_epochs_shrink_only_after_a_while():
    """Epochs get shorter when many in a row had room."""
    pacer = Pacer(1.0, 60.0, 0.02)
    for _ in range(4):
        pacer.observe(100 * MS)
    changes = [pacer.observe(1 * MS) for _ in range(40)]
    first = next(at for at, change in enumerate(changes) if change)
    assert first >= 8
    assert 1.0 == pacer.epoch_s


def test_the_longest_epoch_is_the_end():
    """What no epoch can keep is said."""
    pacer = Pacer(1.0, 10.0, 0.02)
    for _ in range(3):
        pacer.observe(1)
    assert Paced(1.0, 10.0, 1.0, 1.0, False) == pacer.observe(1000 * MS)


def test_units_keep_the_memory_budget_at_any_size():
    """State is within 0.1 % of memory, or the floor, from 1 GiB to 16 TiB."""
    floor = 64 << 20
    for shift in range(18, 33):
        pages = 1 << shift
        unit = choose_unit(pages, 1.0, floor)
        allowed = max(floor, pages * PAGE_BYTES / 1000)
        assert state_bytes(pages, unit) <= allowed
        assert unit == 1 or state_bytes(pages, unit // 2) > allowed
