"""Readers, a writer, an engine and a churning mover in threads of their own."""

import threading
import time

import numpy as np
import pytest

from isotherm.gpu.tiered import TieredTensor

ROWS, DIM = 512, 256  # a row takes long enough to copy for a mover to come between
READS, DEADLINE_S = 1500, 60.0


def stamped(version: int) -> np.ndarray:
    """Return rows whose every element says row and version."""
    row = np.arange(ROWS, dtype=np.int64) * 1_000_000 + version
    return np.repeat(row[:, None], DIM, axis=1)


class Watch:
    """Threads under way, and what was wrong in any of them."""

    def __init__(self) -> None:
        self.end = time.monotonic() + DEADLINE_S
        self.wrong: list[str] = []
        self.done = 0

    @property
    def goes_on(self) -> bool:
        """Whether it is not over yet."""
        late = time.monotonic() >= self.end
        return self.done < READS and not late and not self.wrong

    def run(self, *targets: object) -> None:
        """Run functions to the end, each in a thread."""
        threads = [threading.Thread(target=self._guard, args=(t,)) for t in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert [] == self.wrong

    def _guard(self, target: object) -> None:
        try:
            target()  # type: ignore[operator]  # a function
        except Exception as error:  # noqa: BLE001  # told by the main thread
            self.wrong.append(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("writable", [False, True])
def test_no_thread_sees_half_a_page(writable: bool) -> None:
    """Whatever comes and goes beside it, a row is whole and is the row asked for."""
    tensor = TieredTensor.from_host(
        stamped(0), backend="numpy", hbm_bytes="20%", writable=writable, epoch_rows=500
    )
    watch = Watch()
    version = np.zeros(ROWS, np.int64)

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while watch.goes_on:
            row = random.integers(0, ROWS, 64)
            least = version[row].copy()
            found = tensor.gather(row)
            if (found != found[:, :1]).any():
                watch.wrong.append("torn")
            if (found[:, 0] // 1_000_000 != row).any():
                watch.wrong.append("another row")
            if (found[:, 0] % 1_000_000 < least).any():
                watch.wrong.append("older than a write that had ended")
            watch.done += 1

    def churn() -> None:
        random = np.random.default_rng(9)
        while watch.goes_on:
            page = np.unique(random.integers(0, 256, 40)).astype(np.uint32)
            tensor.mover.promote(page[::2], copy=bool(random.integers(2)))
            tensor.mover.demote(page[1::2])
            tensor.mover.pump()

    def write() -> None:
        # Rows that readers do not read at the same time: each waits for its turn.
        random = np.random.default_rng(5)
        for number in range(1, 1_000_000):
            if not watch.goes_on or not writable:
                return
            row = np.unique(random.integers(0, ROWS, 8))
            with turn:
                tensor.scatter_(row, stamped(number)[row])
                version[row] = number

    turn = threading.Lock()

    def read_in_turn() -> None:
        random = np.random.default_rng(3)
        while watch.goes_on:
            row = random.integers(0, ROWS, 64)
            with turn:
                found, expected = tensor.gather(row), version[row].copy()
            if (found != (row * 1_000_000 + expected)[:, None]).any():
                watch.wrong.append("not what was written")
            watch.done += 1

    readers = [read_in_turn] if writable else [lambda: read(1), lambda: read(2)]
    watch.run(churn, write, *readers)
    assert watch.done > 0
    tensor.stop()
    tensor.settle()
    tensor.flush()
    expected = np.arange(ROWS) * 1_000_000 + version
    np.testing.assert_array_equal(expected, tensor.host_rows()[:, 0, 0])
    assert (tensor.host_rows()[:, 0] == expected[:, None]).all()
    assert tensor.stats().demoted > 0
    tensor.close()
