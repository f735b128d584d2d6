"""Launches under way: what a grace period waits for."""


class Readers:
    """Epochs of launches that have not ended, and the last one given out.

    A launch counts from the moment it takes its epoch, before anything of it is
    handed to the device, to the moment its end has been seen.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._running: dict[int, None] = {}  # ascending: epochs are taken in order
        #: Words of launches that ended half made: what they stamped is not whole.
        self.spoiled: set[int] = set()

    def take(self) -> int:
        """Return the epoch of a launch that is about to be made, >= 1, ascending."""
        self.epoch += 1
        self._running[self.epoch] = None
        return self.epoch

    def end(self, epoch: int) -> None:
        """Take note that a launch has ended, or was never made.

        Raises:
            KeyError: It is not under way.
        """
        del self._running[epoch]

    def are_past(self, epoch: int) -> bool:
        """Return whether every launch up to and with an epoch has ended."""
        return next(iter(self._running), self.epoch + 1) > epoch

    def has_ended(self, word: int) -> bool:
        """Return whether the launch with the lowest 32 bits of its epoch has ended."""
        return word not in {epoch & 0xFFFFFFFF for epoch in self._running}

    @property
    def running(self) -> tuple[int, ...]:
        """Epochs under way, ascending."""
        return tuple(self._running)

    def copy(self) -> "Readers":
        """Return another one that goes on from here."""
        other = Readers()
        other.epoch, other._running = self.epoch, dict(self._running)
        other.spoiled = set(self.spoiled)
        return other
