"""Which sources a run looks with."""

from types import SimpleNamespace

import pytest

from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.daemon.config import Config, SourcesConfig
from isotherm.daemon.sources import KINDS, Kind, choose_sources
from isotherm.hints.batch import Mechanism

MACHINE = SimpleNamespace(follower=SimpleNamespace(targets={4242: None}))


class Driver:
    """A source that remembers what it was made from."""

    mechanism = Mechanism.REGION

    def __init__(self, wants):
        self.wants = wants

    def open(self):
        """Do nothing."""

    def close(self):
        """Do nothing."""


def kind(name, *, present=True, enough=False, intrusive=False):
    """Return a kind of source as a host may have it."""
    fact = Availability(name, "source", present, f"{name} is told", f"enable {name}")
    return Kind(name, intrusive, enough, lambda: fact, Driver)


def names(kinds, use=("auto",), *, intrusive=False):
    """Return the names of what is chosen."""
    config = Config(sources=SourcesConfig(use=use))
    chosen = choose_sources(
        MACHINE, config, HostChanges(None), intrusive=intrusive, kinds=kinds
    )
    return [one.name for one in chosen]


def test_the_first_that_sees_enough_is_alone():
    """One source of all pages' bits needs no other."""
    kinds = (
        kind("idle", present=False, enough=True),
        kind("bits", enough=True),
        kind("faults"),
    )
    assert ["bits"] == names(kinds)


def test_where_none_sees_enough_all_are_taken():
    """Partial sources add up."""
    kinds = (kind("bits", present=False, enough=True), kind("faults"), kind("out"))
    assert ["faults", "out"] == names(kinds)


def test_intrusive_sources_need_the_word():
    """What changes the target is never taken by default."""
    kinds = (kind("bits", enough=True), kind("inject", intrusive=True))
    assert ["bits"] == names(kinds)
    assert ["bits", "inject"] == names(kinds, intrusive=True)
    with pytest.raises(UsageError) as error:
        names(kinds, ("inject",))
    assert "--intrusive allows it" == error.value.hint


def test_intrusive_sources_are_told_for_whom():
    """Only the targets of this run may be intruded on."""
    kinds = (kind("inject", intrusive=True), kind("bits", enough=True))
    for word, expected in ((True, {4242}), (False, set())):
        chosen = choose_sources(
            MACHINE, Config(), HostChanges(None), intrusive=word, kinds=kinds
        )
        assert expected == chosen[-1].source.wants.intrusive


def test_named_sources_are_all_taken_or_refused():
    """A name is obeyed; one that is absent or unknown is an error with a hint."""
    kinds = (kind("bits", enough=True), kind("faults"), kind("idle", present=False))
    assert ["faults", "bits"] == names(kinds, ("faults", "bits"))
    with pytest.raises(UnsupportedError) as absent:
        names(kinds, ("idle",))
    assert ("idle: idle is told", "enable idle") == (
        absent.value.message,
        absent.value.hint,
    )
    with pytest.raises(UsageError, match="did you mean 'faults'"):
        names(kinds, ("fault",))


def test_a_host_with_nothing_is_told_why():
    """The message names each that is missing, the hint what would help."""
    with pytest.raises(UnsupportedError) as error:
        names((kind("bits", present=False, enough=True), kind("out", present=False)))
    assert (
        "nothing to look with: bits: bits is told; out: out is told"
        == error.value.message
    )
    assert "enable bits" == error.value.hint


def test_defaults_change_nothing_in_the_target():
    """Only write tracking, which injects a call, asks for --intrusive."""
    assert {"write-tracking"} == {one.name for one in KINDS if one.intrusive}
    assert len(KINDS) == len({one.name for one in KINDS})
