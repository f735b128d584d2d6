"""What a compressing memory expander is, as part of a machine's description."""

import math
from collections.abc import Sequence

import msgspec

from isotherm.core.errors import ConfigError
from isotherm.trace.compressibility import MAX_RATIO


class ExpanderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device with a compressed region and, it may be, an uncompressed one.

    Each region is a node. Both sit behind the same link: what one carries loads
    the other.

    Attributes:
        compressed: Node of the compressed region; in the last tier, whose
            ``read_latency_ns`` is that of a block that is not in the block cache.
        uncompressed: Node of the uncompressed region; None if there is none.
        advertised_ratio: Size that the compressed region shows over the media
            behind it.
        decompress_ns: What a hit in the block cache saves.
        compress_ns: What compressing a block takes.
        block_cache_mib: Decompressed blocks on the device, at the machine's
            ``reference_gib``; scaled as bandwidth is, to at least 16 blocks.
        media_bandwidth_gb_s: Of the media behind the compressed region, which a
            miss reads a whole stored block from; None: no limit.
        refuse_above: Share of the media beyond which pages are refused; the rest
            is for blocks that grow.
    """

    compressed: int
    uncompressed: int | None = None
    advertised_ratio: float = 2.0
    decompress_ns: float = 120.0
    compress_ns: float = 150.0
    block_cache_mib: float = 64.0
    media_bandwidth_gb_s: float | None = None
    refuse_above: float = 0.97

    def check(self, path: str, tiers: Sequence[int], latency_ns: float) -> None:
        """Raise ConfigError where the figures do not make a device.

        Args:
            path: File, for the message.
            tiers: Tier of every node.
            latency_ns: Lowest read latency of the compressed node.
        """
        last = max(tiers)
        if not 0 <= self.compressed < len(tiers) or tiers[self.compressed] != last:
            raise ConfigError(
                f"{path}: expander.compressed: expected a node of the last tier, "
                f"got {self.compressed}"
            )
        if sum(tier == last for tier in tiers) > 1:
            raise ConfigError(
                f"{path}: expander.compressed: expected one node in the last tier"
            )
        if self.uncompressed is not None and (
            not 0 <= self.uncompressed < len(tiers)
            or self.uncompressed == self.compressed
        ):
            raise ConfigError(
                f"{path}: expander.uncompressed: expected another node, "
                f"0 to {len(tiers) - 1}, got {self.uncompressed}"
            )
        for name, low, high in (
            ("advertised_ratio", 1.0, MAX_RATIO),
            ("decompress_ns", 0.0, latency_ns),
            ("compress_ns", 0.0, math.inf),
            ("block_cache_mib", 0.0, math.inf),
            ("refuse_above", 0.0, 1.0),
            ("media_bandwidth_gb_s", 1e-9, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and value < math.inf):
                raise ConfigError(
                    f"{path}: expander.{name}: expected {low:g} to {high:g}, "
                    f"got {value}"
                )
