"""Results in words."""

from types import ModuleType

from isotherm.lab.regret import judge
from isotherm.lab.summary import duels, headline, settings_of, standings


def test_standings_rank_by_slowdown(samples: ModuleType) -> None:
    """The lowest geometric mean of slowdown stands first; bounds do not stand."""
    ranking = standings(judge(samples.grid()))
    names = [standing.policy for standing in ranking]
    assert names == ["isotherm", "memtis", "first-touch", "tpp"]
    assert ranking[0].wins == 4
    assert ranking[0].cells == 4
    assert ranking[1].wins == 0


def test_headline_says_how_much(samples: ModuleType) -> None:
    """The headline compares isotherm with leaving pages where they are."""
    rows = judge(
        [
            samples.result("isotherm", 1.5),
            samples.result("first-touch", 2.0),
            samples.result("memtis", 1.8),
        ]
    )
    title, sentences = headline(rows)
    assert "isotherm takes 25% less memory time" in title
    assert any("memtis, 20.0% slower" in sentence for sentence in sentences)
    assert any("a host can run beats it." in sentence for sentence in sentences)


def test_headline_says_times_where_per_cent_are_many(samples: ModuleType) -> None:
    """A cache in hardware may lose by a factor of hundreds."""
    rows = judge(
        [
            samples.result("isotherm", 2.0),
            samples.result("first-touch", 2.5),
            samples.result("lru", 600.0),
        ]
    )
    _, sentences = headline(rows)
    assert any("It is 299 times slower than isotherm." in s for s in sentences)


def test_headline_names_losses(samples: ModuleType) -> None:
    """Where another policy is faster, that is said, with the place and figure."""
    rows = judge(
        [
            samples.result("isotherm", 2.0),
            samples.result("first-touch", 2.5),
            samples.result("memtis", 1.8),
        ]
    )
    _, sentences = headline(rows)
    assert any("loses on gups at 20% fast to memtis by 10.0%" in s for s in sentences)


def test_flat_workloads_are_told_apart(samples: ModuleType) -> None:
    """Where nothing is to be gained, moves and cost are named."""
    rows = judge(
        [
            samples.result("isotherm", 2.727, workload="uniform"),
            samples.result("first-touch", 2.70, workload="uniform"),
        ]
    )
    _, sentences = headline(rows)
    assert any("moves 0.30 times its memory" in sentence for sentence in sentences)
    assert any("costs 1.0%" in sentence for sentence in sentences)


def test_references_stand_in_every_period(samples: ModuleType) -> None:
    """first-touch and the bounds, run once, stand beside each sampling period."""
    rows = judge(
        [
            samples.result("isotherm", 1.5, sampling_period=200),
            samples.result("isotherm", 1.7, sampling_period=20000),
            samples.result("first-touch", 2.0),
        ]
    )
    found = {
        setting[-1]: [row["policy"] for row in r] for setting, r in settings_of(rows)
    }
    assert found == {
        200: ["isotherm", "first-touch"],
        20000: ["isotherm", "first-touch"],
    }
    assert [fight.rival for fight in duels(rows, "isotherm")] == ["first-touch"] * 2


def test_hardware_stands_apart(samples: ModuleType) -> None:
    """What no host can run takes no win and is no rival; a sentence is its own."""
    rows = judge(
        [
            samples.result("isotherm", 1.5),
            samples.result("first-touch", 2.0),
            samples.result("memtis", 1.8),
            samples.result("lru", 1.2),
        ]
    )
    ranking = standings(rows)
    assert [one.policy for one in ranking][-1] == "lru"
    assert ranking[0].wins == 1
    assert [fight.rival for fight in duels(rows, "isotherm")] == ["memtis"]
    _, sentences = headline(rows)
    assert "No policy that a host can run beats it." in sentences
    assert any("no host can run. It is 20.0% faster" in said for said in sentences)


def test_bounds_alone_have_a_headline(samples: ModuleType) -> None:
    """Without any policy there is nothing to compare, and that is said."""
    title, _ = headline(judge([samples.result("all-fast")]))
    assert title == "Bounds only"


def test_what_looks_at_nothing_stands_in_every_setting(samples: ModuleType) -> None:
    """What needs no samples is run once; both sampling periods show them."""
    rows = [
        samples.result("isotherm", 1.3, sampling_period=200),
        samples.result("isotherm", 1.4, sampling_period=20_000),
        samples.result("lru", 1.5),
        samples.result("first-touch", 2.2),
    ]
    found = {
        setting[-1]: [row["policy"] for row in of] for setting, of in settings_of(rows)
    }
    names = ["isotherm", "lru", "first-touch"]
    assert {200: names, 20_000: names} == found
