"""Poisoning told from faults: a scanner that we know, and what is made of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.hints.live import fault_rounds as fr

S = 1_000_000_000
GRANULES = 4
PAGES = GRANULES * fr.GRANULE


class Followed:
    """The state of a few granules of one process, every page known."""

    def __init__(self, function=fr.follow, known: bool = True) -> None:
        self.function = function
        self.state = np.full(PAGES, fr.KNOWN if known else 0, np.uint8)
        self.owner = np.full(GRANULES, 7, np.int32)
        self.armed_ns = np.full(GRANULES, fr.NEVER, np.int64)
        self.told_ns = np.full(GRANULES, fr.NEVER, np.int64)
        self.silent: list[tuple[int, int]] = []

    def follow(self, faults: list[tuple[int, int]], room: int = fr.GRANULE):
        """Follow faults (page, time); return rows of kind, delay, exposure."""
        page = np.array([p for p, _ in faults], np.uint32)
        time_ns = np.array([t for _, t in faults], np.int64)
        kind = np.zeros(len(page), np.uint8)
        delay_ns = np.zeros(len(page), np.int64)
        exposure_ns = np.zeros(len(page), np.int64)
        quiet, quiet_ns = np.zeros(room, np.uint32), np.zeros(room, np.int64)
        at = 0
        while at < len(page):
            at, count = self.function(
                page,
                time_ns,
                at,
                self.state,
                self.owner,
                self.armed_ns,
                self.told_ns,
                fr.HORIZON_NS,
                kind,
                delay_ns,
                exposure_ns,
                quiet,
                quiet_ns,
            )
            rows = zip(quiet[:count].tolist(), quiet_ns[:count].tolist(), strict=True)
            self.silent += rows
        return list(
            zip(kind.tolist(), delay_ns.tolist(), exposure_ns.tolist(), strict=True)
        )


def test_a_first_touch_is_no_hint_fault() -> None:
    """A page without memory before: its first fault says nothing of poisoning."""
    bench = Followed(known=False)
    rows = bench.follow([(5, S), (5, 3 * S)])
    assert [fr.FIRST_TOUCH, fr.UNDATED] == [kind for kind, _, _ in rows]


def test_delays_run_from_the_first_fault_of_the_stretch() -> None:
    """The first is left out as undated; the others say how long after it they came."""
    bench = Followed()
    rows = bench.follow([(3, S), (4, S + 7), (9, 2 * S)])
    undated, second, third = rows
    assert fr.UNDATED == undated[0]
    assert [(fr.DATED, 7, 7), (fr.DATED, S, S)] == [second, third]


def test_a_neighbour_in_time_is_of_the_same_stretch() -> None:
    """A granule that opens within 50 ms takes over the time; later it has its own."""
    bench = Followed()
    near, far = S + 40_000_000, S + 60_000_000
    rows = bench.follow([(3, S), (600, near), (1100, far)])
    assert [fr.UNDATED, fr.DATED, fr.UNDATED] == [kind for kind, _, _ in rows]
    assert 40_000_000 == rows[1][1]


def test_a_stretch_ends_with_its_process() -> None:
    """Granules of another process are no neighbours."""
    bench = Followed()
    bench.owner[1:] = 8
    rows = bench.follow([(3, S), (600, S + 5)])
    assert [fr.UNDATED, fr.UNDATED] == [kind for kind, _, _ in rows]


def test_a_second_fault_proves_a_new_poisoning_and_the_others_silent() -> None:
    """Pages that faulted a round ago and not in the closed one were silent for it."""
    bench = Followed()
    bench.follow([(3, S), (4, S + 5), (5, S + 6)])
    bench.follow([(3, 10 * S), (4, 10 * S + 5)])  # 5 is silent in this round
    assert [] == bench.silent
    bench.follow([(4, 30 * S)])
    assert [(5, 20 * S)] == bench.silent


def test_what_a_silence_has_told_a_fault_does_not_repeat() -> None:
    """After a report in between only the rest is new exposure; the delay is whole."""
    bench = Followed()
    bench.follow([(3, S)])
    bench.told_ns[0] = 11 * S
    assert [(fr.DATED, 14 * S, 4 * S)] == bench.follow([(8, 15 * S)])


def test_a_known_scanner_is_found_again() -> None:
    """Poisoned every second, touched at known rates: the rates come out."""
    rng = np.random.default_rng(3)
    rate = np.where(np.arange(PAGES) % 8 == 0, 20.0, 0.5)
    faults = []
    for second in range(60):
        first = rng.exponential(1 / rate)
        faults += [
            (page, int((second + first[page]) * S))
            for page in np.flatnonzero(first < 1.0).tolist()
        ]
    faults.sort(key=lambda fault: fault[1])
    bench = Followed()
    events, seconds = np.zeros(PAGES), np.zeros(PAGES)
    rows = bench.follow(faults)
    for (page, _), (kind, _, exposure) in zip(faults, rows, strict=True):
        if kind == fr.DATED:
            events[page] += 1
            seconds[page] += exposure / S
    for page, quiet_ns in bench.silent:
        seconds[page] += quiet_ns / S
    hot = np.arange(PAGES) % 8 == 0
    assert abs(events[hot].sum() / seconds[hot].sum() / 20.0 - 1) < 0.1
    assert abs(events[~hot].sum() / seconds[~hot].sum() / 0.5 - 1) < 0.15


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 5 * S)), max_size=60),
    st.lists(st.integers(0, PAGES - 1), max_size=30),
)
def test_kernel_equals_its_twin(faults, unknown) -> None:
    """The same kinds, delays, silences and state, whatever comes."""
    faults.sort(key=lambda fault: fault[1])
    name = "isotherm.hints.live.fault_rounds.follow"
    found = []
    for function in TWINS.get(name, (fr.follow_twin,) * 2):
        bench = Followed(function)
        bench.state[unknown] = 0
        half = len(faults) // 2
        rows = bench.follow(faults[:half]) + bench.follow(faults[half:])
        found.append(
            (rows, bench.silent, bench.state.tolist(), bench.armed_ns.tolist())
        )
    assert found[0] == found[1]
