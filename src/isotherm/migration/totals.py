"""The books: every wish that arrived is in exactly one of these in the end."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Totals:
    """What became of all wishes since the start; pages unless named otherwise."""

    planned: int = 0  #: wishes that arrived
    tried: int = 0  #: pages in batches that are done
    applied: int = 0  #: moved
    promoted: int = 0  #: moved to a faster tier
    demoted: int = 0  #: moved to a slower tier
    lateral: int = 0  #: moved within a tier
    ping_pong: int = 0  #: moved back within the window
    superseded: int = 0  #: replaced by a newer plan before they started
    already_there: int = 0  #: on their node when the plan arrived
    not_present: int = 0  #: without memory, or on an unknown node, as the plan came
    duplicate: int = 0  #: named before in the same plan
    in_flight: int = 0  #: on the way when a newer plan named them
    rested: int = 0  #: refused: failed every time or held back, not long ago
    gave_up: int = 0  #: failed ``max_tries`` times
    dropped: int = 0  #: failed for a reason that will not pass
    renewed: int = 0  #: their page got a new owner, or none, before they started
    overtaken: int = 0  #: the same while they were on the way
    held_back: int = 0  #: left where they are, for comparison
    batches: int = 0  #: batches that are done
    cost_ns: float = 0.0  #: time of those
    errno: dict[int, int] = field(default_factory=dict)  #: ``{errno: pages}``

    @property
    def ended(self) -> int:
        """Wishes that are neither queued, nor in flight, nor waiting."""
        return (
            self.applied + self.superseded + self.already_there + self.not_present
            + self.duplicate + self.in_flight + self.rested + self.gave_up
            + self.dropped + self.renewed + self.overtaken
            + self.held_back
        )  # fmt: skip
