"""What another mover of memory is."""

from dataclasses import dataclass

from isotherm.core.availability import Availability


@dataclass(frozen=True, slots=True)
class Mover:
    """Another mover that is active now.

    Attributes:
        name: ``numa-balancing-tiering``, ``damon-scheme``, ``isotherm``...
        why: What was found: the file and its value, or the process.
        command: What stops it.
        refuses: Whether a run beside it is refused; else it is only told.
    """

    name: str
    why: str
    command: str | None
    refuses: bool = True

    @property
    def availability(self) -> Availability:
        """The same for ``isotherm doctor``."""
        return Availability(self.name, "mover", True, self.why, self.command)
