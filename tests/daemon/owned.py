"""A simulated machine that tells of processes."""

from typing import Any

from isotherm.machine.protocol import Space
from isotherm.machine.sim.machine import SimMachine


class Owned:
    """A simulated machine whose pages belong to processes.

    Args:
        machine: It.
        spaces: Of the processes.
    """

    def __init__(self, machine: SimMachine, spaces: tuple[Space, ...]) -> None:
        self._machine, self.spaces = machine, spaces

    def __getattr__(self, name: str) -> Any:
        """Return all else as the machine has it."""
        return getattr(self._machine, name)
