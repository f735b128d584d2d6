"""Telling systemd how a service is: ready, alive, reloading, ending.

The protocol of sd_notify(3): datagrams of ``NAME=value`` lines to the socket that
``$NOTIFY_SOCKET`` names, a path or, after ``@``, an abstract name. Without the
variable nothing is sent; a manager that does not listen hurts nobody.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from isotherm.core import privileged


class Notifier:
    """Sends states to whoever manages this service.

    Args:
        environment: Where ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` are; they are not
            passed on to what this process starts.

    Attributes:
        watchdog_s: The manager ends a service that is silent for so long; None:
            it does not.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        name = given.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        usec = given.get("WATCHDOG_USEC", "")
        mine = given.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and mine else None
        if environment is None:
            for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
                os.environ.pop(variable, None)

    def ready(self, status: str = "") -> None:
        """The service has begun, or goes on after a reload."""
        self._send("READY=1", status)

    def alive(self, status: str = "") -> None:
        """Keep the watchdog from barking; ``status`` is what systemctl shows."""
        self._send("WATCHDOG=1", status)

    def reloading(self) -> None:
        """The configuration is read again; ``ready`` follows."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={usec}")

    def stopping(self) -> None:
        """The service puts back what it changed."""
        self._send("STOPPING=1")

    def _send(self, state: str, status: str = "") -> None:
        if not self._address:
            return
        text = f"{state}\nSTATUS={status}" if status else state
        asked = privileged.broker()
        if asked is not None:  # the manager listens to its own child alone
            asked.notify(text)
            return
        self.send(text)

    def send(self, text: str) -> None:
        """Send lines of ``NAME=value``."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            ) as to,
        ):
            to.setblocking(False)
            to.sendto(text.encode(), self._address)
