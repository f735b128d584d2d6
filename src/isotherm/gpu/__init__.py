"""The accelerator tier: hot pages of a tensor in HBM, the rest in host memory."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isotherm.gpu.tiered import TieredTensor

__all__ = ["TieredTensor"]


def __getattr__(name: str) -> Any:
    """Import the tensor when it is asked for: the protocol alone needs none of it."""
    if name == "TieredTensor":
        from isotherm.gpu.tiered import TieredTensor as tensor  # noqa: N813, PLC0415

        return tensor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
