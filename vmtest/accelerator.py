"""Software emulation, or KVM where it really boots the guest."""

import os
from collections.abc import Callable
from pathlib import Path

from vmtest.errors import GuestError

ACCELERATORS = ("tcg", "kvm", "auto")

_KVM = Path("/dev/kvm")


def choose_accelerator(
    wanted: str, boots_with_kvm: Callable[[], bool], device: Path = _KVM
) -> str:
    """Return ``tcg`` or ``kvm``.

    A /dev/kvm that opens is no proof: inside some virtual machines it is there
    and a stock kernel hangs on it. So ``auto`` boots a guest on it first.

    Args:
        wanted: One of ``ACCELERATORS``; ``kvm`` is taken without a probe.
        boots_with_kvm: Boots a guest under KVM within a time limit.
        device: KVM's device file.

    Raises:
        GuestError: KVM is wanted and there is no access to it.
    """
    accessible = os.access(device, os.R_OK | os.W_OK)
    if wanted == "kvm" and not accessible:
        raise GuestError(f"{device}: no access to it", "use --accelerator tcg")
    if wanted == "auto":
        return "kvm" if accessible and boots_with_kvm() else "tcg"
    return wanted
