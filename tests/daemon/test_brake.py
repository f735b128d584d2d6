"""The brake: halves, stops, recovers, and says so."""

from isotherm.core.units import NS_PER_S
from isotherm.daemon.brake import Brake, Limits, Reading, Sign

LIMITS = Limits(react_s=3, recover_s=10)


def play(readings):
    """Return ``second event sign share`` for every shift of a run."""
    brake = Brake(LIMITS)
    said = []
    for second, fields in readings:
        said += [
            f"{second:3} {shift.event} {shift.sign} {shift.share:g}"
            for shift in brake.step(Reading(second * NS_PER_S, **fields))
        ]
    return said, brake


def test_pressure_halves_then_stops_then_recovers():
    """Three seconds of pressure halve, three more stop; ten good ones each free."""
    high = [(second, {"pressure": 0.3}) for second in range(10)]
    low = [(second, {"pressure": 0.01}) for second in range(10, 40)]
    said, brake = play(high + low)
    assert [
        "  3 brake-halves pressure 0.5",
        "  6 brake-stops pressure 0",
        " 20 brake-recovers pressure 0.5",
        " 30 brake-recovers pressure 1",
    ] == said
    assert {sign.value: "free" for sign in Sign} == brake.gears


def test_a_spike_is_no_sign():
    """Two bad seconds, again and again, change nothing."""
    values = [0.9, 0.9, 0.0] * 10
    said, _ = play([(second, {"pressure": v}) for second, v in enumerate(values)])
    assert [] == said


def test_between_good_and_bad_nothing_changes():
    """A halved brake stays halved while the sign is neither good nor bad."""
    high = [(second, {"refaults_per_s": 5000.0}) for second in range(5)]
    middle = [(second, {"refaults_per_s": 800.0}) for second in range(5, 100)]
    said, brake = play(high + middle)
    assert ["  3 brake-halves refaults 0.5"] == said
    assert 0.5 == brake.share


def test_failures_stop_and_are_tried_again():
    """When movement is stopped nothing can fail: it is tried at half again."""
    failing = [(second, {"tried": 100, "failed": 80}) for second in range(7)]
    silent = [(second, {}) for second in range(7, 20)]
    failing_still = [(second, {"tried": 100, "failed": 90}) for second in range(20, 25)]
    said, _ = play(failing + silent + failing_still)
    assert [
        "  3 brake-halves failures 0.5",
        "  6 brake-stops failures 0",
        " 16 brake-tries-again failures 0.5",
        " 23 brake-stops failures 0",
    ] == said


def test_few_tries_say_nothing_of_failures():
    """All of ten moves failing is not yet a sign."""
    said, _ = play([(second, {"tried": 10, "failed": 10}) for second in range(60)])
    assert [] == said


def test_moves_that_lose_are_stopped():
    """A gain below that of the held-back moves by two errors stops; above frees."""
    losing = [(second, {"gain": -5.0}) for second in range(8)]
    earning = [(second, {"gain": 3.0}) for second in range(8, 30)]
    said, _ = play(losing + earning)
    assert [
        "  3 brake-halves loss 0.5",
        "  6 brake-stops loss 0",
        " 18 brake-recovers loss 0.5",
        " 28 brake-recovers loss 1",
    ] == said


def test_the_least_of_all_gears_counts():
    """Two signs: what may move is what the worse one allows."""
    both = {"pressure": 0.5, "tried": 100, "failed": 60}
    said, brake = play(
        [(second, {"pressure": 0.5}) for second in range(4)]
        + [(second, both) for second in range(4, 9)]
    )
    assert [
        "  3 brake-halves pressure 0.5",
        "  6 brake-stops pressure 0",
        "  7 brake-halves failures 0",
    ] == said
    assert 0.0 == brake.share


def test_without_any_knowledge_nothing_brakes():
    """A host without PSI and without moves runs free."""
    said, brake = play([(second, {}) for second in range(200)])
    assert [] == said
    assert 1.0 == brake.share
