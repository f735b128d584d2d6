"""A kind of hint source, what it is made from, and one that a run looks with."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.units import NS_PER_S
from isotherm.daemon.config import Config
from isotherm.hints.batch import HintSource
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.process import Process
from isotherm.topology.model import Topology

if TYPE_CHECKING:
    from isotherm.hints.live.frame_map import FrameMap


class LiveSource(HintSource, Protocol):
    """A hint source on a live host."""

    def open(self) -> None:
        """Begin to look."""
        ...

    def close(self) -> None:
        """Stop, and leave nothing behind; may be called again."""
        ...


@runtime_checkable
class Tiered(Protocol):
    """A source to which it matters which nodes are fast."""

    def take_tiers(self, topology: Topology) -> None:
        """Go on with these tiers."""
        ...


@runtime_checkable
class Translating(Protocol):
    """A source that is told frames or physical addresses."""

    @property
    def frames(self) -> "FrameMap | None":
        """Which flat page is on a frame; None where it needs no such map."""
        ...


@dataclass(slots=True)
class Chosen:
    """A source that a run looks with.

    Attributes:
        name: As ``isotherm doctor`` names it.
        why: Why it was chosen, or what was found.
        source: The driver.
    """

    name: str
    why: str
    source: LiveSource

    def open(self) -> None:
        """Begin to look."""
        self.source.open()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.source.close()
        if self.frames is not None:
            self.frames.close()

    @property
    def frames(self) -> "FrameMap | None":
        """The source's map of frames; None where it has none."""
        return self.source.frames if isinstance(self.source, Translating) else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; with what could not be translated, if it translates."""
        found = {"name": self.name, "mechanism": self.source.mechanism.value}
        if self.frames is None:
            return found
        counts = self.frames.counts
        said = {"untranslated": counts.untranslated, "said": str(counts)}
        return found | {"frames": asdict(counts) | said}


@dataclass(frozen=True, slots=True)
class Wants:
    """What a source is made from.

    Attributes:
        machine: Whose memory.
        config: Settings.
        changes: Where what is changed is written down.
        intrusive: Processes in which something may be changed.
    """

    machine: LinuxMachine
    config: Config
    changes: HostChanges
    intrusive: frozenset[int] = frozenset()

    @property
    def epoch_ns(self) -> int:
        """Length of an epoch."""
        return round(self.config.loop.epoch_s * NS_PER_S)

    def process_of(self, pid: int) -> Process | None:
        """Return the followed process of a pid; its number may be another's by now."""
        target = self.machine.follower.targets.get(pid)
        return None if target is None else target.process

    @property
    def budget(self) -> float:
        """CPU time that looking may take, as a share of one CPU."""
        return self.config.budget.cpu_percent / 100


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of source.

    Attributes:
        name: As ``isotherm doctor`` names it.
        intrusive: Whether it changes something in the target.
        enough: Whether it sees all pages' reads and writes, so that no other is
            needed.
        probe: Says whether it is there.
        make: Builds it.
    """

    name: str
    intrusive: bool
    enough: bool
    probe: Callable[[], Availability]
    make: Callable[[Wants], LiveSource]
