"""What a tiered tensor does when memory, the device or the process fails it."""

import gc
import os
import subprocess
import sys
import textwrap
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.gpu import arena, numpy_backend, opening
from isotherm.gpu.backend import DeviceFailedError, Geometry, HbmExhaustedError, Launch
from isotherm.gpu.numpy_backend import NumpyBackend
from isotherm.gpu.stepping import Task
from isotherm.gpu.tiered import TieredTensor

TABLE = np.arange(1000 * 32, dtype=np.float32).reshape(1000, 32)


def make(**options: Any) -> TieredTensor:
    """Return a tensor with 500 slots."""
    defaults: dict[str, Any] = {
        "backend": "numpy",
        "hbm_bytes": "50%",
        "deterministic": True,
    }
    return TieredTensor.from_host(TABLE, **(defaults | options))


# ---- device memory


def test_half_of_the_slots_and_half_again() -> None:
    """What the device cannot give is asked for again, halved, and told."""
    with pytest.warns(UserWarning, match="62.5 KiB asked|device memory"):
        tensor = make(most_slots=130)
    assert 125 == tensor.stats().slots
    np.testing.assert_array_equal(TABLE[:50], tensor.gather(np.arange(50)))
    tensor.close()


def test_without_device_memory_everything_stays_on_the_host() -> None:
    """Below the least number of slots there are none, and reads go on."""
    with pytest.warns(UserWarning, match="everything stays on the host"):
        tensor = make(most_slots=130, min_slots=200, writable=True)
    assert 0 == tensor.stats().slots
    row = np.arange(50)
    np.testing.assert_array_equal(TABLE[row], tensor.gather(row))
    tensor.scatter_(row, TABLE[row] + 1)
    tensor.step()
    tensor.settle()
    np.testing.assert_array_equal(TABLE[row] + 1, tensor.gather(row))
    assert 0 == tensor.prefetch(row, wait=True)
    assert 0 == tensor.flush()
    tensor.gather([1000])
    with pytest.raises(IndexError, match="one of them 1000"):
        tensor.step()
    assert 101 == tensor.stats().misses
    assert 101 * 128 == tensor.stats().bytes_link
    tensor.close()


def test_a_device_that_cannot_hold_even_the_table_says_so() -> None:
    """Where not even a tensor without slots can be made, the error comes through."""
    with pytest.raises(HbmExhaustedError, match="slots asked for"):
        make(most_slots=-1)


# ---- host memory


def tree(tmp_path: Path, **files: str) -> Path:
    """Return a root with /proc and cgroup files; ``__`` stands for a slash."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_least_limit_counts(tmp_path: Path) -> None:
    """MemAvailable, the own cgroup and those above it: the tightest is told."""
    root = tree(
        tmp_path,
        proc__meminfo="MemTotal: 99 kB\nMemAvailable:    4096 kB\n",
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__memory_dot_max="3000000\n",
        sys__fs__cgroup__a__memory_dot_current="1000000\n",
        sys__fs__cgroup__a__b__memory_dot_max="max\n",
        sys__fs__cgroup__a__b__memory_dot_current="5\n",
    )
    size, says = arena.available_bytes(root)
    assert 2_000_000 == size
    assert says.endswith("a/memory.max")
    assert arena.refuse_lock(1_600_000, root) is None
    refused = arena.refuse_lock(1_600_001, root)
    assert refused is not None
    assert "at most 80% of 1.91 MiB" in refused


def test_without_limits_nothing_is_refused(tmp_path: Path) -> None:
    """A root that says nothing limits nothing."""
    assert (None, "") == arena.available_bytes(tmp_path)
    assert arena.refuse_lock(1 << 50, tmp_path) is None


def test_an_arena_larger_than_memory_is_refused(tmp_path: Path) -> None:
    """Before anything is mapped, with what there is."""
    root = tree(tmp_path, proc__meminfo="MemAvailable:    100 kB\n")
    with pytest.raises(arena.HostMemoryError, match=r"128 KiB needed, 100 KiB there"):
        arena.allocate(Geometry(1024, 32, "float32", 1, 0), root)


def test_an_arena_is_aligned_and_exact() -> None:
    """It begins on a huge page, is zero, and as long as the pages."""
    host = arena.allocate(Geometry(1001, 33, "float32", 1, 0))
    assert (1001, 256) == host.shape
    assert 0 == host.ctypes.data % (2 << 20)
    assert not host.any()
    assert host.flags.writeable


def test_what_must_not_be_locked_is_read_through_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device is told to do without zero-copy, and the user why."""
    told: dict[str, Any] = {}

    class Module:
        @staticmethod
        def create(geometry: Geometry, host: np.ndarray, **options: Any) -> Any:
            told.update(options)
            return numpy_backend.create(geometry, host)

    shape = Geometry(10, 32, "float32", 1, 2)
    host = arena.allocate(shape)
    monkeypatch.setattr(arena, "refuse_lock", lambda size: "9 TiB to lock")
    monkeypatch.setattr(opening.importlib, "import_module", lambda name: Module)
    with pytest.warns(UserWarning, match="not locked: 9 TiB to lock"):
        opening.open_backend("torch", shape, host).close()
    assert {"zero_copy": False} == told


# ---- the device


class Broken(NumpyBackend):
    """A device whose context is lost at a launch, for good."""

    def lose(self) -> None:
        """Fail from now on."""
        self.failed = "device cuda:0: an illegal memory access was encountered"

    def _alive(self) -> None:
        if self.failed is not None:
            raise DeviceFailedError(self.failed)

    def gather(self, index: np.ndarray, out: np.ndarray, launch: Launch) -> Task[None]:
        """Read rows, or fail."""
        self._alive()
        return super().gather(index, out, launch)

    def peek(self, name: str) -> np.ndarray:
        """Return device state, or fail."""
        self._alive()
        return super().peek(name)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have numpy devices that can be lost."""
    monkeypatch.setattr(
        numpy_backend,
        "create",
        lambda geometry, host, **_: Broken(geometry, host, None),
    )


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("written", [False, True])
def test_a_lost_device_ends_the_tensor(written: bool) -> None:
    """Every call says what happened and which pages are older on the host."""
    tensor = make(writable=True)
    tensor.prefetch([4, 9], wait=True)
    if written:
        tensor.scatter_([9], np.zeros((1, 32), np.float32))
    tensor.backend.lose()  # type: ignore[attr-defined]  # the device of this test
    lost = "2 pages may be older on the host: 4, 9" if written else "no page was dirty"
    for _ in range(2):
        with pytest.raises(DeviceFailedError, match=f"illegal memory access.*{lost}"):
            tensor.gather([1])
    with pytest.raises(DeviceFailedError):
        tensor.step()
    assert tensor.failed is not None
    expected = [4, 9] if written else []
    assert expected == tensor.dirty_pages().tolist()
    clean = np.setdiff1d(np.arange(1000), expected)
    np.testing.assert_array_equal(TABLE[clean], tensor.host_rows()[clean, 0])
    tensor.close()


@pytest.mark.usefixtures("broken")
def test_a_failure_in_the_thread_is_told_at_the_next_call() -> None:
    """An engine's error does not vanish with its thread."""
    tensor = make(deterministic=False, engine="manual")
    tensor._engine.error = DeviceFailedError("device cuda:0: lost")
    with pytest.raises(DeviceFailedError, match="lost"):
        tensor.gather([1])
    with pytest.raises(DeviceFailedError, match="the host arena holds the tensor"):
        tensor.gather([1])
    tensor.close()


def test_a_launch_that_fails_ends_its_epoch() -> None:
    """A bad argument leaves no launch that a grace period would wait for."""
    with make() as tensor:
        with pytest.raises(IndexError, match="out of bounds"):
            tensor.gather_bag([1, 2], [5, 9])
        assert () == tensor.mover.protocol.readers.running
        tensor.prefetch([1], wait=True)


# ---- the process


def test_a_child_is_refused() -> None:
    """A forked child may not use the tensor, and its end does no harm to the parent."""
    tensor = make(deterministic=False, engine="manual")
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; this child only looks and ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        told = b"nothing"
        try:
            tensor.gather([1])
        except UnsupportedError as error:
            told = error.message.encode()
        os.write(theirs, told)
        tensor.close()
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    told = os.read(ours, 1000).decode()
    os.close(ours)
    assert f"made by process {os.getpid()}, used by its child {child}" in told
    np.testing.assert_array_equal(TABLE[:3], tensor.gather(np.arange(3)))
    tensor.close()


def test_a_closed_tensor_says_so() -> None:
    """Closing twice is fine; using it after is not."""
    tensor = make()
    tensor.close()
    tensor.close()
    with pytest.raises(UsageError, match="closed"):
        tensor.gather([1])


def test_a_tensor_that_nobody_holds_ends_its_thread() -> None:
    """Dropped while its thread runs, it is closed."""
    tensor = make(deterministic=False)
    tensor.gather([1])
    thread = tensor._engine._thread
    assert thread is not None
    gone = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert gone() is None
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
def test_the_interpreter_ends_in_order() -> None:
    """Thread first, then the device, then memory: whatever is left open at the end."""
    script = """
        import numpy as np
        from isotherm.gpu import numpy_backend, tiered
        class Told(numpy_backend.NumpyBackend):
            def synchronise(self):
                print("synchronise", flush=True)
                super().synchronise()
            def close(self):
                print("thread", tensor._engine.runs, flush=True)
                super().close()
                print("closed", int(self.host[3, 0]), flush=True)
        numpy_backend.create = lambda geometry, host, **_: Told(geometry, host, None)
        tensor = tiered.TieredTensor.from_host(
            np.full((100, 32), 7, np.uint8), backend="numpy", bandwidths=(2e12, 3e10))
        tensor.gather([1])
        print("runs", tensor._engine.runs, flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert ["runs True", "thread False", "synchronise", "closed 7"] == (
        done.stdout.splitlines()
    )
    assert "" == done.stderr


# ---- arguments that would let a kernel read or write beside its arrays


def test_an_index_of_two_axes() -> None:
    """It is refused: a kernel reads all that it holds, the result has room for less."""
    tensor = make(writable=True)
    index = np.zeros((2, 3), np.int64)
    with pytest.raises(UsageError, match=r"index: expected \[n\], got \[2, 3\]"):
        tensor.gather(index)
    with pytest.raises(UsageError, match="index"):
        tensor.read_blocks(index)
    with pytest.raises(UsageError, match="index"):
        tensor.scatter_(index, TABLE[:2])
    tensor.close()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 32), np.float32),
        np.zeros((3, 32), np.float16),
        np.zeros((3, 64), np.float32)[:, ::2],
    ],
)
def test_a_result_that_does_not_fit(out: np.ndarray) -> None:
    """Too short, of smaller elements, with gaps: refused before anything is stored."""
    tensor = make()
    with pytest.raises(UsageError, match=r"out: expected \[3, 32\] of float32"):
        tensor.gather(np.arange(3), out)
    assert not out.any()
    tensor.close()


def test_weights_of_another_number() -> None:
    """A bag's weights are one for each row."""
    tensor = make()
    with pytest.raises(UsageError, match="weights: expected one for each of 3"):
        tensor.gather_bag(np.arange(3), np.array([0]), weights=np.ones(2, np.float32))
    tensor.close()


def test_a_thread_that_an_error_ended_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ended it is raised once; the next launch has a thread that decides again."""
    tensor = make(deterministic=False, engine="manual")
    engine = tensor._engine
    step = engine.step

    def fails() -> None:
        raise HbmExhaustedError("device memory: none for a drain")

    monkeypatch.setattr(engine, "step", fails)
    engine.launched(1 << 20, 1)
    engine.start()
    engine._thread.join(60)
    assert not engine.runs
    monkeypatch.setattr(engine, "step", step)
    with pytest.raises(HbmExhaustedError):
        tensor.start()
    tensor.start()
    assert engine.runs
    tensor.close()


def test_pages_that_could_not_be_lent_are_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loan that fails before it begins ends too: its pages may come again."""
    tensor = make(writable=True)

    def fails(*_: object) -> None:
        raise HbmExhaustedError("device memory: none for a column")

    monkeypatch.setattr(tensor.backend, "synchronise", fails)
    with pytest.raises(HbmExhaustedError), tensor.host([3], "w"):
        pass
    monkeypatch.undo()
    assert 1 == tensor.prefetch([3], wait=True)
    tensor.close()


def test_a_tensor_that_is_not_made_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A policy that there is not is refused, and the device is closed again."""
    closed = []

    def close(device: NumpyBackend) -> None:
        closed.append(device)

    monkeypatch.setattr(NumpyBackend, "close", close)
    with pytest.raises(UsageError, match="isotherm"):
        make(policy="isothern")
    assert 1 == len(closed)
