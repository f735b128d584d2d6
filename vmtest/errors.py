"""What can go wrong before or around a guest, and the exit statuses for it."""

TIMED_OUT = 124
"""The time limit passed; as timeout(1) has it."""

NO_GUEST = 125
"""No guest, or one that ended without an answer; as docker-run has it."""


class GuestError(Exception):
    """The guest cannot be started.

    Attributes:
        hint: What would help, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class FetchError(GuestError):
    """QEMU or the kernel cannot be fetched; a test skips with these words."""
