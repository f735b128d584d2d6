"""Batches on the way: what was handed out and has not come back."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.protocol import SpacesChanged
from isotherm.migration.events import BatchDone, MoveBatch


class Flights:
    """Numbers batches, and says which of their pages have a new owner by now."""

    def __init__(self) -> None:
        self._next_id = 0
        #: ``{id: batch}``
        self._batches: dict[int, MoveBatch] = {}
        #: ``{id: rows whose page was renewed on the way}``
        self._overtaken: dict[int, NDArray[np.bool_]] = {}
        #: Pages in all of them.
        self.pages = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def batches(self) -> Mapping[int, MoveBatch]:
        """``{id: batch}`` (live: do not write)."""
        return self._batches

    @property
    def page(self) -> NDArray[np.uint32]:
        """Pages on the way, uint32[n]."""
        pages = [batch.page for batch in self._batches.values()]
        return np.concatenate(pages) if pages else np.empty(0, np.uint32)

    def start(
        self, page: NDArray[np.uint32], node: NDArray[np.uint8], src: NDArray[np.uint8]
    ) -> MoveBatch:
        """Return a new batch, on its way from now on."""
        batch = MoveBatch(self._next_id, page, node, src)
        self._batches[self._next_id] = batch
        self._next_id += 1
        self.pages += len(page)
        return batch

    def end(self, event: BatchDone) -> MoveBatch:
        """Take a batch off that is done, and return it.

        Raises:
            ValueError: It is not on the way, or has not so many pages.
        """
        batch = self._batches.get(event.batch)
        if batch is None:
            raise ValueError(f"batch {event.batch}: not in flight")
        if len(event.errno) != len(batch.page):
            raise ValueError(
                f"batch {event.batch}: errno has {len(event.errno)} rows, "
                f"expected {len(batch.page)}"
            )
        del self._batches[event.batch]
        self.pages -= len(batch)
        return batch

    def renew(self, change: SpacesChanged) -> None:
        """Note whose pages get a new owner, or none, on the way."""
        for batch in self._batches.values():
            lost = change.holds(batch.page)
            if lost.any():
                before = self._overtaken.get(batch.id)
                self._overtaken[batch.id] = lost if before is None else lost | before

    @property
    def has_overtaken(self) -> bool:
        """Whether any page was renewed on the way."""
        return bool(self._overtaken)

    def take_overtaken(self, batches: list[MoveBatch]) -> NDArray[np.bool_]:
        """Return the rows of batches that are done whose page was renewed."""
        rows = [
            self._overtaken.pop(batch.id, np.zeros(len(batch), np.bool_))
            for batch in batches
        ]
        return np.concatenate(rows)
