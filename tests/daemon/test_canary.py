"""A share of the processes."""

from isotherm.daemon.canary import OUTSIDE, Canary


class Inner:
    """Has every third process."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def claim(self, pid: int) -> str | None:
        """Say who has it."""
        return "another's" if pid % 3 == 0 else None

    def release(self, pid: int) -> None:
        """Keep what is given up."""
        self.released.append(pid)


def test_about_the_share_is_in() -> None:
    """Of ten thousand processes, whatever their numbers."""
    canary = Canary(0.1, None, lambda pid: 7)
    chosen = [pid for pid in range(1, 10_001) if canary.claim(pid) is None]
    assert 900 < len(chosen) < 1100
    assert all(canary.claim(pid) is None for pid in chosen)


def test_a_recycled_number_is_drawn_anew() -> None:
    """What counts is the process, not its number."""
    began = dict.fromkeys(range(1000), 1)
    canary = Canary(0.5, None, began.get)
    before = [canary.claim(pid) for pid in range(1000)]
    began.update((pid, 2) for pid in range(1000))
    after = [canary.claim(pid) for pid in range(1000)]
    assert 300 < sum(a != b for a, b in zip(before, after, strict=True)) < 700


def test_all_and_none() -> None:
    """A share of one asks nobody out, a share of zero everybody."""
    assert {None} == {Canary(1.0, None).claim(pid) for pid in range(100)}
    assert {OUTSIDE} == {Canary(0.0, None).claim(pid) for pid in range(100)}


def test_those_of_the_share_are_claimed() -> None:
    """By whoever claims without a canary; what is outside is not."""
    inner = Inner()
    canary = Canary(0.5, inner, lambda pid: 1)
    said = {pid: canary.claim(pid) for pid in range(1, 301)}
    assert {OUTSIDE, "another's", None} == set(said.values())
    assert all(pid % 3 == 0 for pid, why in said.items() if why == "another's")
    canary.release(5)
    assert [5] == inner.released
