"""What the guest says on its control port: one line per event."""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^(started|exit|failed) ?(.*)$")


@dataclass(slots=True)
class Progress:
    """How far the guest has come.

    Attributes:
        started_s: The guest's uptime when the command began, or None.
        exit_status: The command's, or None.
        failure: Why the command was not begun, or None.
    """

    started_s: float | None = None
    exit_status: int | None = None
    failure: str | None = None
    _rest: str = ""

    def hear(self, data: bytes) -> None:
        """Take in bytes from the port; lines may come in pieces."""
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                continue
            word, value = found.groups()
            if word == "started":
                self.started_s = float(value)
            elif word == "exit":
                self.exit_status = int(value)
            else:
                self.failure = value
