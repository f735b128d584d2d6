"""The cache: QEMU and kernels, each fetched once and unpacked into a folder."""

import contextlib
import fcntl
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vmtest.debian import image_name, make_image
from vmtest.errors import FetchError, GuestError
from vmtest.kernel import Kernel, find_image, unpack_image
from vmtest.packages import Apt, Origin, unpack
from vmtest.qemu import Qemu

_NEWER = ("trixie", "trixie-backports")

KERNELS: dict[str, tuple[Origin, ...]] = {
    "6.1": (Origin("linux-image-amd64", ("bookworm",)),),
    "6.12": (
        Origin("linux-image-6.12-amd64"),
        Origin("linux-image-amd64", ("trixie",)),
    ),
    "newer": (Origin("linux-image-amd64", _NEWER),),
}
"""Where each kernel comes from; the first place that has it."""

QEMUS: dict[str, tuple[Origin, ...]] = {
    "own": (
        Origin("qemu-system-x86"),
        Origin("qemu-system-x86", ("bookworm",)),
    ),
    # Before QEMU 11 each access to emulated CXL memory leaves the emulated
    # CPU, which makes it a hundred times slower.
    "newer": (Origin("qemu-system-x86", _NEWER),),
}
"""Where each QEMU comes from: the system's own, and one for CXL."""


SYSTEMS: dict[str, tuple[Origin, ...]] = {
    "debian": (Origin("systemd", ("bookworm",)),),
}
"""Systems of their own for a guest."""


def cache_folder() -> Path:
    """Return VMTEST_CACHE, or vmtest in XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("VMTEST_CACHE")
    if given:
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "vmtest"


class Cache:
    """QEMU and kernels, fetched when first asked for."""

    def __init__(self, top: Path | None = None) -> None:
        self.top = cache_folder() if top is None else top

    def qemu(self, name: str) -> Qemu:
        """Return a QEMU of ``QEMUS``.

        Raises:
            FetchError: It is not in the cache and cannot be fetched.
        """

        def fill(origin: Origin, tree: Path) -> None:
            with Apt(origin.suites) as apt:
                unpack(apt.fetch_closure(origin.package, "busybox-static"), tree)

        return Qemu(self._tree(f"qemu-{name}", QEMUS[name], fill))

    def kernel(self, name: str) -> Kernel:
        """Return a kernel of ``KERNELS``.

        Raises:
            FetchError: It is not in the cache and cannot be fetched.
        """

        def fill(origin: Origin, tree: Path) -> None:
            with Apt(origin.suites) as apt:
                unpack(apt.fetch_kernel(origin.package), tree)
            image = unpack_image(find_image(tree).read_bytes())
            (tree / "vmlinux").write_bytes(image)

        return Kernel(self._tree(f"kernel-{name}", KERNELS[name], fill))

    def system(self, name: str, offered: Sequence[str] = ()) -> Path:
        """Return the image of a system of ``SYSTEMS``.

        Args:
            name: Of the system.
            offered: Packages that can be installed in the guest.

        Raises:
            FetchError: It is not in the cache and cannot be fetched.
        """

        def fill(origin: Origin, tree: Path) -> None:
            make_image(origin.suites, offered, tree)

        made = self._tree(image_name(offered), SYSTEMS[name], fill)
        return made / "image"

    def folder(self, name: str) -> Path:
        """Return a folder of the cache for other things, made if need be."""
        path = self.top / name
        with self._writable():
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _tree(
        self,
        name: str,
        origins: tuple[Origin, ...],
        fill: Callable[[Origin, Path], None],
    ) -> Path:
        made = self.top / name
        if made.is_dir():
            return made
        if platform.machine() != "x86_64":
            raise FetchError(
                f"expected an x86_64 machine, found {platform.machine()}: "
                "the guest shares this machine's programs"
            )
        with self._locked():
            if made.is_dir():  # another process was faster
                return made
            refused = []
            for origin in origins:
                sys.stderr.write(f"vmtest: fetching {origin}\n")
                try:
                    with tempfile.TemporaryDirectory(
                        dir=self.top, prefix="new-"
                    ) as new:
                        tree = Path(new) / "tree"
                        tree.mkdir()
                        fill(origin, tree)
                        tree.rename(made)
                except FetchError as error:
                    refused.append(error)
                else:
                    return made
        raise FetchError(
            "\n".join(str(error) for error in refused), refused[-1].hint
        ) from refused[-1]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._writable():
            self.top.mkdir(parents=True, exist_ok=True)
            lock = (self.top / "lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GuestError(
                f"{self.top}: cannot write to the cache: {error.strerror}",
                "name another folder in VMTEST_CACHE",
            ) from error
