"""NUMA balancing in tiering mode, step by step."""

import pytest

from isotherm.hints.batch import Look, Mechanism
from isotherm.policy.numa_scan import SCAN_DEFAULTS, NumaScan
from isotherm.policy.numab2 import DEFAULTS, Numab2

MS = 1_000_000
NO_BITS = frozenset({Mechanism.HINT_FAULT})
S60 = 121  # epochs of half a second: more than a scan_period_max


def table_of(bench, **rest):
    """Return four fast pages, full, and twelve slow ones."""
    return bench([0] * 4 + [1] * 12, [4, 16], hints=NO_BITS, **rest)


def test_published_defaults():
    """Thresholds, sizes and periods are the kernel's."""
    assert (1000, 65536, 256, 1000, 60000, 1000, 1) == (
        DEFAULTS["hot_threshold_ms"],
        DEFAULTS["promote_rate_limit_mb_s"],
        DEFAULTS["scan_size_mb"],
        DEFAULTS["scan_delay_ms"],
        DEFAULTS["scan_period_max_ms"],
        DEFAULTS["scan_period_min_ms"],
        DEFAULTS["bypass_gib"],
    )


def test_promotes_below_the_threshold(bench, hint):
    """Touched within 1000 ms of poisoning: up, a cold page down. Later: stays."""
    table = table_of(bench)
    plan = table.step(Numab2(table.setup()), hint.faults({9: 0.999, 5: 1.0}))
    assert [(0, 1), (9, 0)] == hint.moves(plan)


def test_faults_on_fast_pages_are_ignored(bench, hint):
    """Only slow pages are candidates."""
    table = table_of(bench)
    plan = table.step(Numab2(table.setup()), hint.faults({0: 0.1}))
    assert [] == hint.moves(plan)
    assert 0 == plan.notes["candidates"]


def test_promotes_in_order_of_fault(bench, hint):
    """The plan keeps the order in which the faults came."""
    table = table_of(bench)
    plan = table.step(Numab2(table.setup()), hint.faults({9: 0.9, 4: 0.1, 7: 0.5}))
    assert [(0, 1), (1, 1), (2, 1), (9, 0), (4, 0), (7, 0)] == hint.moves(plan)


def test_no_room_no_promotion(bench, hint):
    """With nowhere to demote to, faults fail; that is counted."""
    table = bench([0, 0, 1, 1], [2, 2], hints=NO_BITS)
    plan = table.step(Numab2(table.setup()), hint.faults({2: 0.1}))
    assert [] == hint.moves(plan)
    assert 1 == plan.notes["no_room"]


def test_kswapd_needs_bits_first(bench, hint):
    """Where bits can be had they are asked for; promotions fail for an epoch."""
    table = bench([0] * 4 + [1] * 12, [4, 16])
    policy = Numab2(table.setup())
    plan = table.step(policy, hint.faults({9: 0.1}))
    assert [] == hint.moves(plan)
    assert (Look(Mechanism.ACCESSED_BIT, 0, 16, node=0),) == plan.look
    plan = table.step(policy, hint.faults({9: 0.1}), hint.touched([0, 1]))
    assert [(2, 1), (9, 0)] == hint.moves(plan)


def test_free_memory_bypasses_the_threshold(bench, hint):
    """Free above promo + a sixteenth: promoted whatever the delay, while it lasts."""
    table = bench([0] * 2 + [1] * 30, [16, 32], hints=NO_BITS, promo=3)
    policy = Numab2(table.setup(bypass_gib=0))
    late = dict.fromkeys(range(2, 14), 5.0)
    plan = table.step(policy, hint.faults(late))
    # 14 free - (3 + 16 // 16) = 10 pages.
    assert [(p, 0) for p in range(2, 12)] == hint.moves(plan)
    assert 0 == plan.notes["candidates"]


def test_bypass_of_one_gib_is_scaled(bench, hint):
    """1 GiB of 64 is a 64th of the footprint: 512 pages of 32768."""
    table = bench([1] * 32768, [600, 32768], hints=NO_BITS)
    plan = table.step(
        Numab2(table.setup()), hint.faults(dict.fromkeys(range(100), 5.0))
    )
    assert 600 - 512 == len(plan.moves)


@pytest.mark.parametrize(("bits", "moved"), [(12, 1), (21, 0)])
def test_the_time_field_wraps(bench, hint, bits, moved):
    """With 12 bits a page touched after 4.196 s looks like 100 ms."""
    table = table_of(bench)
    policy = Numab2(table.setup(time_bits=bits))
    table.step(policy, hint.faults({9: 4.196}))
    assert moved == int((table.node[4:] == 0).sum())


def test_rate_limit_counts_candidates(bench, hint):
    """Two pages a second: the third candidate of the window is rejected."""
    table = table_of(bench)
    two = 2 * 4096 / (1 << 20)
    policy = Numab2(table.setup(promote_rate_limit_mb_s=two, reference_gib=0))
    plan = table.step(policy, hint.faults({9: 0.1, 10: 0.1, 11: 0.1}))
    assert [(0, 1), (1, 1), (9, 0), (10, 0)] == hint.moves(plan)
    assert 3 == plan.notes["candidates"]
    plan = table.step(policy, hint.faults({12: 0.1}))
    assert [(2, 1), (12, 0)] == hint.moves(plan), "a second has passed: a new window"


def thresholds(bench, hint, rate_mb_s, periods):
    """Return the threshold after each 60.5 s, one candidate in each."""
    table = table_of(bench)
    policy = Numab2(table.setup(promote_rate_limit_mb_s=rate_mb_s, reference_gib=0))
    found = []
    for _ in range(periods):
        table.index += S60
        plan = table.step(policy, hint.faults({9: 0.0}), apply=False)
        found.append(plan.notes["threshold_ms"])
    return found


def test_threshold_rises_to_twice(bench, hint):
    """Fewer candidates than 0.9 of the limit: +125 ms a minute, up to 2000 ms."""
    rises = [1125, 1250, 1375, 1500, 1625, 1750, 1875, 2000, 2000]
    assert rises == thresholds(bench, hint, 65536, 9)


def test_threshold_falls_to_an_eighth(bench, hint):
    """More than 1.1 of what the limit allows: -125 ms a minute, down to 125 ms."""
    table = bench([0] * 4 + [1] * 124, [4, 128], hints=NO_BITS)
    one = 4096 / (1 << 20)
    policy = Numab2(table.setup(promote_rate_limit_mb_s=one, reference_gib=0))
    many = hint.faults(dict.fromkeys(range(4, 74), 0.0))  # 70 > 1.1 * 60
    table.step(policy, many, apply=False)
    found = []
    for _ in range(9):
        table.index += S60
        found.append(table.step(policy, many, apply=False).notes["threshold_ms"])
    assert [875, 750, 625, 500, 375, 250, 125, 125, 125] == found


def test_first_scan_after_the_delay(bench):
    """Nothing is poisoned for 1000 ms; then five scans of 128 pages an epoch."""
    table = bench([1] * 32768, [0, 40000], hints=NO_BITS)
    policy = Numab2(table.setup())
    assert () == table.step(policy).look
    assert (Look(Mechanism.HINT_FAULT, 0, 640, node=1),) == table.step(policy).look
    assert (Look(Mechanism.HINT_FAULT, 640, 1280, node=1),) == table.step(policy).look


def test_no_looks_without_hint_faults(bench):
    """Where hint faults are off, none are asked for."""
    table = bench([1] * 16, [0, 16], hints=frozenset({Mechanism.SAMPLING}))
    policy = Numab2(table.setup())
    assert [(), (), ()] == [table.step(policy).look for _ in range(3)]


def test_periods_of_64_gib():
    """256 scans cover 64 GiB: every 100 ms at best, every 234 ms at worst."""
    scan = NumaScan(32768, SCAN_DEFAULTS, 1 / 512)
    assert (128, 100, 234.375) == (scan.scan_pages, scan.min_ms, scan.max_ms)


def test_periods_of_a_small_process():
    """128 MiB as it stands is less than one scan: every 1 s to 60 s."""
    scan = NumaScan(32768, SCAN_DEFAULTS, 1.0)
    assert (1000, 60000) == (scan.min_ms, scan.max_ms)


@pytest.mark.parametrize(
    ("promoted", "failed", "period_ms"),
    [(0, 0, 2000), (5, 1, 2000), (5, 0, 1300)],
    ids=["no faults", "a promotion failed", "promotions"],
)
def test_period_after_a_sweep(promoted, failed, period_ms):
    """Without faults or with failures it doubles, else it grows by three slots."""
    scan = NumaScan(32768, SCAN_DEFAULTS, 1.0)
    scan.feedback(promoted, failed)
    looks = scan.next_looks(2000 * MS, 1000 * MS, [1])
    assert (Look(Mechanism.HINT_FAULT, 0, 32768, node=1),) == looks
    assert period_ms == scan.period_ms


def test_scan_wraps_around():
    """A scan that reaches the end goes on at the beginning, in whole blocks."""
    options = {**SCAN_DEFAULTS, "scan_delay_ms": 0, "scan_size_mb": 1}
    scan = NumaScan(320, options, 1.0)  # 256 pages a scan
    found = [
        [(k.start_page, k.end_page) for k in scan.next_looks(i * MS, 500 * MS, [1])]
        for i in range(1, 3)
    ]
    assert [[(0, 256)], [(256, 320), (0, 192)]] == found
