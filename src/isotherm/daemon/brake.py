"""The brake: when moving does harm, move half as much, then not at all.

A pure state machine. Four signs are watched, each with a gear of its own: free,
halved, stopped. A sign that is bad for ``react_s`` shifts its gear up, and again
for as long as it stays bad; one that is good for ``recover_s`` shifts it down.
What may move is the least that any gear allows. A sign between good and bad (or
one of which nothing is known) leaves its gear where it is, with one exception:
while movement is stopped some signs cannot be seen at all, so a stopped gear that
has seen nothing for ``recover_s`` goes back to halved and looks again.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from isotherm.core.units import NS_PER_S

#: A sign is good below this share of its limit: between, it changes nothing.
GOOD_SHARE: Final = 0.5
#: Tries of moves below this say nothing of the share that fails.
LEAST_TRIES: Final = 64


class Gear(IntEnum):
    """How much one sign lets move."""

    FREE = 0
    HALVED = 1
    STOPPED = 2


#: Share of the moves that a gear lets through.
SHARE: Final = {Gear.FREE: 1.0, Gear.HALVED: 0.5, Gear.STOPPED: 0.0}


class Sign(StrEnum):
    """What is watched."""

    PRESSURE = "pressure"  #: PSI memory some: share of time that a task waits
    REFAULTS = "refaults"  #: workingset_refault: pages that come back, a second
    FAILURES = "failures"  #: share of tried moves that fail
    LOSS = "loss"  #: moves earn less than those held back: standard errors below zero


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a sign is bad.

    Attributes:
        pressure: Share of time, in (0, 1].
        refaults_per_s: Pages a second.
        failures: Share of tries, in (0, 1].
        loss: Standard errors that the gain lies below zero.
        react_s: A sign must be bad so long before its gear shifts up.
        recover_s: Good so long before it shifts down.
    """

    pressure: float = 0.1
    refaults_per_s: float = 1000.0
    failures: float = 0.5
    loss: float = 2.0
    react_s: float = 3.0
    recover_s: float = 30.0

    def of(self, sign: Sign) -> float:
        """Return the limit of a sign."""
        return {
            Sign.PRESSURE: self.pressure,
            Sign.REFAULTS: self.refaults_per_s,
            Sign.FAILURES: self.failures,
            Sign.LOSS: self.loss,
        }[sign]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen in one epoch; None: nothing is known.

    Attributes:
        now_ns: When.
        pressure: Share of the epoch in which some task waited for memory.
        refaults_per_s: Pages that came back after reclaim.
        tried: Moves tried in the epoch.
        failed: Of them.
        gain: Gain of the moves against those held back, in standard errors.
    """

    now_ns: int
    pressure: float | None = None
    refaults_per_s: float | None = None
    tried: int = 0
    failed: int = 0
    gain: float | None = None

    def value(self, sign: Sign) -> float | None:
        """Return what is known of a sign, larger is worse."""
        if sign is Sign.PRESSURE:
            return self.pressure
        if sign is Sign.REFAULTS:
            return self.refaults_per_s
        if sign is Sign.FAILURES:
            return None if self.tried < LEAST_TRIES else self.failed / self.tried
        return None if self.gain is None else -self.gain


@dataclass(frozen=True, slots=True)
class Shift:
    """A gear that changed: what is logged.

    Attributes:
        now_ns: When.
        sign: Whose.
        before: Gear before.
        after: Gear now.
        value: What the sign said; None: it has said nothing for long.
        limit: From where on it is bad.
        share: What may move now, over all signs.
    """

    now_ns: int
    sign: Sign
    before: Gear
    after: Gear
    value: float | None
    limit: float
    share: float

    @property
    def event(self) -> str:
        """Name for the log: what happens to movement because of this sign."""
        if self.after > self.before:
            return "brake-halves" if self.after == Gear.HALVED else "brake-stops"
        if self.value is None:
            return "brake-tries-again"
        return "brake-recovers"


@dataclass(slots=True)
class _Watch:
    gear: Gear = Gear.FREE
    bad_since_ns: int | None = None
    good_since_ns: int | None = None
    known_ns: int | None = None


@dataclass(slots=True)
class Brake:
    """Holds the gears; ``step`` is called once an epoch."""

    limits: Limits = field(default_factory=Limits)
    _watches: dict[Sign, _Watch] = field(
        default_factory=lambda: {sign: _Watch() for sign in Sign}
    )

    @property
    def share(self) -> float:
        """Share of the moves that may be made: 1, 0.5 or 0."""
        return min(SHARE[watch.gear] for watch in self._watches.values())

    @property
    def gears(self) -> dict[str, str]:
        """Gear of every sign, by name."""
        return {
            sign.value: watch.gear.name.lower() for sign, watch in self._watches.items()
        }

    def step(self, reading: Reading) -> list[Shift]:
        """Take in one epoch; return the gears that changed, none twice."""
        shifts = []
        for sign, watch in self._watches.items():
            value = reading.value(sign)
            before = watch.gear
            self._follow(watch, value, self.limits.of(sign), reading.now_ns)
            if watch.gear != before:
                shifts.append(
                    Shift(
                        reading.now_ns,
                        sign,
                        before,
                        watch.gear,
                        value,
                        self.limits.of(sign),
                        self.share,
                    )
                )
        return shifts

    def _follow(
        self, watch: _Watch, value: float | None, limit: float, now_ns: int
    ) -> None:
        react_ns = round(self.limits.react_s * NS_PER_S)
        recover_ns = round(self.limits.recover_s * NS_PER_S)
        if watch.known_ns is None:
            watch.known_ns = now_ns
        if value is None:
            watch.bad_since_ns = watch.good_since_ns = None
            unseen = now_ns - watch.known_ns
            if watch.gear == Gear.STOPPED and unseen >= recover_ns:
                watch.gear, watch.known_ns = Gear.HALVED, now_ns
            elif watch.gear == Gear.HALVED and unseen >= 4 * recover_ns:
                # Nothing to move: there is nothing to hold back either.
                watch.gear, watch.known_ns = Gear.FREE, now_ns
            return
        watch.known_ns = now_ns
        if value >= limit:
            watch.good_since_ns = None
            if watch.bad_since_ns is None:
                watch.bad_since_ns = now_ns
            if now_ns - watch.bad_since_ns >= react_ns and watch.gear < Gear.STOPPED:
                watch.gear = Gear(watch.gear + 1)
                watch.bad_since_ns = now_ns
        elif value < GOOD_SHARE * limit:
            watch.bad_since_ns = None
            if watch.good_since_ns is None:
                watch.good_since_ns = now_ns
            good_ns = now_ns - watch.good_since_ns
            if good_ns >= recover_ns and watch.gear > Gear.FREE:
                watch.gear = Gear(watch.gear - 1)
                watch.good_since_ns = now_ns
        else:
            watch.bad_since_ns = watch.good_since_ns = None
