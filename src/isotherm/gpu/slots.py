"""What the protocol of slots is made of: states, instructions, rules."""

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

#: Nodes of ``SlotProtocol.place``, and of the machine.
HBM, HOST = 0, 1

Pages = NDArray[np.uint32]


class Op(StrEnum):
    """Operations of the mover, by their names in ``Backend``."""

    WANT = "want"
    DEPOSITED = "deposited"
    COPY_IN = "copy_in"
    COMMIT = "commit"
    COPY_OUT = "copy_out"
    CLEAN = "clean"
    UNPUBLISH = "unpublish"


class Slot(IntEnum):
    """What a slot is doing."""

    FREE = 0
    WANTING = 1  # want is under way
    WANTED = 2  # a reader may deposit
    SEALING = 3  # its want is being taken back, to publish a deposit
    SEALED = 4  # waits for the readers that saw it wanted
    COPYING = 5  # copy_in is under way
    COMMITTING = 6
    LIVE = 7
    FLUSHING = 8  # is copied out, and stays
    SAVING = 9  # is copied out, to leave
    LEAVING = 10  # unpublish is under way
    GRACE = 11  # waits for the readers that may look at it
    GONE = 12  # given back to the device


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """What the backend is to do.

    Attributes:
        id: Ascending; answers are given in this order.
        op: Which operation.
        page: uint32[n].
        slot: uint32[n].
        version: uint32[n] for ``commit`` and ``clean``, else None.
    """

    id: int
    op: Op
    page: Pages
    slot: Pages
    version: Pages | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that can be taken away: only to show what each is for.

    Attributes:
        grace: Rule 2.
        grace_from_answer: Count the grace period from the answer, not the call.
        publish_last: Rule 1.
        seal_deposits: The second half of rule 3.
    """

    grace: bool = True
    grace_from_answer: bool = True
    publish_last: bool = True
    seal_deposits: bool = True


SAFE = Rules()


@dataclass(slots=True)
class Totals:
    """What has happened so far, in pages."""

    deposited: int = 0
    copied: int = 0
    left: int = 0
    saved: int = 0
    aborted: int = 0
    refused: int = 0


@dataclass(slots=True)
class Waiting:
    """Slots that wait, each in the order of its epoch."""

    grace: deque[tuple[int, Pages]] = field(default_factory=deque)
    sealed: deque[tuple[int, Pages]] = field(default_factory=deque)
