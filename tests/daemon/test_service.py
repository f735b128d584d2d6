"""The service on the simulator: pace, brake, budget, dry runs, records."""

import errno
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.answers import Answers
from isotherm.daemon.config import BrakeConfig, Config
from isotherm.daemon.pressure import Pressure
from isotherm.daemon.record import LiveRecorder
from isotherm.machine.protocol import SpacesChanged
from isotherm.migration.holdback import Comparison, HoldBack
from isotherm.policy.plan import Outcome

NO_TRIAL = Config(brake=BrakeConfig(hold_back_percent=0))


class Stalling:
    """Pressure that a test sets."""

    def __init__(self) -> None:
        self.some = 0.0

    def read(self, now_ns: int) -> Pressure:
        """Return what was set."""
        return Pressure(self.some, 0.0)


@pytest.mark.slow
def test_hot_memory_ends_in_the_fast_tier(playing):
    """After a minute most accesses are served by fast memory, and it is known."""
    played = playing()
    assert "duration" == played.service.run(played.wait, 60.0)
    result = played.service.result()
    assert 60 == result["epochs"]
    assert 60.0 == pytest.approx(result["duration_s"])
    bill = played.machine.bill
    assert bill.fast_accesses / bill.accesses > 0.7
    assert result["fast_share"] > 0.8
    assert result["fast_share_at_start"] < 0.4
    assert result["promoted_pages"] > 300
    assert 4096 == result["managed_pages"]
    assert ["accessed-bit"] == result["hints"]


def test_a_dry_run_moves_nothing(playing):
    """Plans are made and counted, and every page stays where it is."""
    played = playing(dry_run=True)
    before = played.machine.placement().copy()
    played.service.run(played.wait, 10.0)
    result = played.service.result()
    assert np.array_equal(before, played.machine.placement())
    assert result["dry_run"]
    assert result["promoted_pages"] > 0
    assert 0 == result["held_back_pages"]


def test_it_ends_when_asked_and_when_nobody_is_left(playing):
    """The reason for the end is told apart."""
    asked = playing(NO_TRIAL)
    asked.stop_after_s = 2.0
    assert "asked" == asked.service.run(asked.wait)
    assert 2 == asked.service.epochs
    living = [True, True, False]
    gone = playing(NO_TRIAL, alive=lambda: living.pop(0))
    assert "gone" == gone.service.run(gone.wait)
    assert 2 == gone.service.epochs


def test_it_goes_on_when_a_wait_ends_early_and_somebody_lives(playing):
    """The first process of a command has ended: its forks are managed on, in time."""
    played = playing(NO_TRIAL)
    early = [True, False, True, True]

    def wait(seconds):
        return False if early and early.pop() else played.wait(seconds)

    assert "duration" == played.service.run(wait, 3.0)
    assert (3, [1.0, 1.0, 1.0]) == (played.service.epochs, played.waits)
    living = [True, False]
    gone = playing(NO_TRIAL, alive=lambda: living.pop(0))
    assert "gone" == gone.service.run(lambda seconds: False)
    assert 0 == gone.service.epochs


def test_the_brake_stops_moves_and_lets_them_go_again(playing):
    """Under pressure moves are halved, then none is made; later they are again."""
    stalls = Stalling()
    played = playing(NO_TRIAL, pressure=stalls)
    service = played.service
    tried = []
    for second in range(60):
        stalls.some = 0.5 if second < 20 else 0.0
        played.wait(1.0)
        tried.append(len(service.epoch().outcome.page))
    events = [(shift.event, shift.sign.value) for shift in service.shifts]
    assert [
        ("brake-halves", "pressure"),
        ("brake-stops", "pressure"),
        ("brake-recovers", "pressure"),
    ] == events
    assert 0 == sum(tried[8:20])
    assert sum(tried[51:]) > 0
    assert events[0] == ("brake-halves", service.result()["brake"][0]["sign"])


@pytest.mark.parametrize(("code", "shifts"), [(errno.ENOMEM, 0), (errno.EBUSY, 2)])
def test_a_full_node_is_no_sign_that_moves_fail(playing, code, shifts):
    """Moves wait for room; those that the kernel refuses are braked."""
    service = playing(NO_TRIAL).service
    page = np.arange(100, dtype=np.uint32)
    outcome = Outcome(
        page, page.astype(np.uint8) * 0, np.full(100, code, np.int16), 0.0
    )
    step = replace(service.epoch(), outcome=outcome)
    for second in range(10):
        service._brake(step, (100 + second) * NS_PER_S)
    assert shifts == len(service.shifts)


def test_without_the_brake_pressure_changes_nothing(playing):
    """Where the brake is off nothing is read and nothing held back."""
    stalls = Stalling()
    stalls.some = 1.0
    config = Config(brake=BrakeConfig(enabled=False))
    played = playing(config, pressure=stalls)
    played.service.run(played.wait, 10.0)
    assert [] == played.service.shifts


def test_a_dear_epoch_makes_epochs_longer(playing):
    """At 0.1 s of CPU time an epoch, 2 % of a core needs epochs of 8 s."""
    spent = iter(range(0, 10**12, NS_PER_S // 10))
    played = playing(NO_TRIAL, cpu_ns=lambda: next(spent))
    played.service.run(played.wait, 60.0)
    result = played.service.result()
    assert 8.0 == result["costs"]["epoch_s"]
    assert 8.0 == played.waits[-2]
    assert [8.0] == [change["epoch_s"] for change in result["coarsened"]]
    tracker = played.service.loop.tracker
    assert 8.0 == tracker.epoch_s


def test_what_the_policy_learnt_outlives_a_longer_epoch(playing):
    """The policy that decides is the same one, told of the new length."""
    spent = iter(range(0, 10**12, NS_PER_S // 10))
    played = playing(NO_TRIAL, cpu_ns=lambda: next(spent))
    policy = played.service.gate.inner
    told = []
    real = policy.repace
    policy.repace = lambda epoch_ns: (told.append(epoch_ns), real(epoch_ns))
    played.service.run(played.wait, 60.0)
    assert [8 * NS_PER_S] == told
    assert policy is played.service.gate.inner


def test_moves_that_lose_are_braked(playing):
    """When the moves are worse than those held back, movement halves and stops."""

    class Losing(HoldBack):
        def compare(self, least_entries=30):
            return Comparison(100, 100, 1e6, -1e6, 1e5)

    played = playing(hold_back=Losing(0.1))
    played.service.run(played.wait, 8.0)
    service = played.service
    assert [("brake-halves", "loss"), ("brake-stops", "loss")] == [
        (shift.event, shift.sign.value) for shift in service.shifts
    ]
    assert service.result()["held_back_pages"] > 0


def test_tiers_that_come_and_go_are_taken_up(playing, tmp_path):
    """Shares, records and answers follow; the run says when what changed."""
    played = playing(NO_TRIAL)
    service, machine = played.service, played.machine
    service.recorder = LiveRecorder(
        tmp_path / "record", machine, {}, NS_PER_S, service.engine.move_cost_ns()
    )
    answers = Answers(service, tmp_path / "s")
    both = machine.topology
    sole = replace(both, tiers=both.tiers[1:])
    none = np.empty((0, 2), np.int64)
    script = {3: sole, 6: both}

    def refresh():
        found = script.get(service.epochs)
        return None if found is None else SpacesChanged(machine.pages, none, found)

    machine.refresh = refresh
    shares = []
    for _ in range(12):
        played.wait(1.0)
        service.epoch()
        shares.append(len(service.gate.wished))
    assert [0, 0, 0] == shares[3:6]
    assert sum(shares[6:]) > 0
    said = service.result()["tiers"]
    assert [{"epoch": 3, "tiers": [[1]]}, {"epoch": 6, "tiers": [[0], [1]]}] == said
    assert answers.history.rank[:3].tolist() == [0, 1, 3]
    answers.close()
    service.recorder.finish(service.result(), "isotherm", "test")


def test_observers_see_every_epoch(playing):
    """Who looks on is shown each step."""
    seen = []
    played = playing(NO_TRIAL, observers=(lambda service, step: seen.append(step),))
    played.service.run(played.wait, 3.0)
    assert 3 == len(seen)
    assert seen[-1] is played.service.step


def test_the_result_is_json(playing):
    """Every field of the result can be printed by --json."""
    played = playing()
    played.service.run(played.wait, 3.0)
    again = msgspec.json.decode(msgspec.json.encode(played.service.result()))
    assert 3 == again["epochs"]


@pytest.mark.slow
def test_a_recorded_run_can_be_explained(playing, tmp_path):
    """What --record keeps is a recording that explain reads."""
    pytest.importorskip("pyarrow")
    from isotherm.lab.explain import explain

    played = playing(NO_TRIAL)
    service = played.service
    service.recorder = LiveRecorder(
        tmp_path / "run",
        played.machine,
        {"targets": "pid 1"},
        NS_PER_S,
        service.engine.move_cost_ns(),
    )
    service.run(played.wait, 30.0)
    service.recorder.finish(service.result(), "isotherm", "pid 1")
    found = explain(tmp_path / "run", 0, 511)
    assert "isotherm" == found["policy"]
    assert "pid 1" == found["workload"]
    node = played.machine.placement()[:512]
    ends = {
        str(n): int(c)
        for n, c in zip(*np.unique(node, return_counts=True), strict=True)
    }
    assert ends == found["end_pages_per_node"]
    assert any(move["errno"] == 0 for move in found["moves"])
    assert all(move["reason"] != "unplanned" for move in found["moves"])
