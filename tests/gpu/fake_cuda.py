"""CUDA's streams and events without a GPU: work is done at once, ends are told later.

What a stream waits for is written down, so that a test can ask whether the order that
the device would have kept is the right one.
"""

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest


class Event:
    """Passes when it is told to, or when somebody waits for it."""

    def __init__(self, stream: "Stream", number: int) -> None:
        self.stream, self.number, self.passed = stream, number, False

    def query(self) -> bool:
        """Return whether it has passed."""
        return self.passed

    def synchronize(self) -> None:
        """Pass."""
        self.passed = True


class Stream:
    """Notes what it waits for."""

    def __init__(self, name: str, fake: "FakeCuda") -> None:
        self.name, self._fake = name, fake
        self.waits: list[Event] = []

    def wait_event(self, event: Event) -> None:
        """Note it."""
        self.waits.append(event)

    def record_event(self) -> Event:
        """Return an event."""
        event = Event(self, len(self._fake.events))
        self._fake.events.append(event)
        return event

    def synchronize(self) -> None:
        """Pass all of its events."""
        for event in self._fake.events:
            event.passed |= event.stream is self


class Runtime:
    """Locks memory, or refuses to."""

    def __init__(self) -> None:
        self.refuses = False
        self.locked: set[int] = set()

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        """Return 0, or 1."""
        if self.refuses:
            return 1
        self.locked.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        """Return 0."""
        self.locked.remove(address)
        return 0


class FakeCuda:
    """In place of ``torch.cuda``, for devices made by ``device``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        self.events: list[Event] = []
        self.runtime = Runtime()
        self.caller = Stream("caller", self)
        self._current = self.caller
        self.emptied = 0
        for name, value in {
            "Stream": lambda: Stream("side", self),
            "stream": self._on,
            "current_stream": lambda *_: self._current,
            "device": self._nothing,
            "synchronize": lambda *_: self.end_all(),
            "cudart": lambda: self.runtime,
            "empty_cache": self._empty,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def _on(self, stream: Stream) -> Any:
        before, self._current = self._current, stream
        yield
        self._current = before

    @contextmanager
    def _nothing(self, _: object) -> Any:
        yield

    def _empty(self) -> None:
        self.emptied += 1

    def end_all(self) -> None:
        """Let everything end."""
        for event in self.events:
            event.passed = True

    def device(self) -> Any:
        """Return a device that takes the CPU for a GPU."""
        import torch

        from isotherm.gpu.torch_device import Device

        class OnCpu(Device):
            """Sees host memory as a tensor of the CPU."""

            def view(self, array: np.ndarray) -> Any:
                return torch.from_numpy(array)

        made = OnCpu("cpu")
        made.cuda = True
        made.processors = 2
        made.mover, made.fetcher, made.side = (
            Stream(name, self) for name in ("mover", "fetcher", "side")
        )
        return made
