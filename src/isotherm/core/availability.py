"""What this host offers, one fact a line: present or not, why, and what would help."""

from dataclasses import dataclass
from typing import Literal

#: What a fact is about; ``isotherm doctor`` groups by it.
Kind = Literal["source", "actuator", "mover", "device", "gpu", "permission"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one thing is there, as found without changing anything.

    Attributes:
        name: What it is called: ``damon-vaddr``, ``move-pages``, ``cap-sys-nice``.
        kind: A hint source, an actuator, another mover of memory, a CXL
            memory device, a GPU, or a permission.
            A mover that is present is *active*: it moves memory now.
        present: Whether it can be used here, by this user, now.
        why: What was found, in words: the file, the errno, the value.
        command: What would enable it (stop it, for a mover), to be pasted into a
            shell; None where nothing is missing or no command can help.
    """

    name: str
    kind: Kind
    present: bool
    why: str
    command: str | None = None
