"""Compressed records of a perf.data file: one zstd stream for all of them."""

from typing import Any, Final

from isotherm.core.errors import UnsupportedError

#: Bytes fed at once: a block of zstd takes 4 and gives 128 KiB at most, so that one
#: step gives 32 MiB at most.
_STEP_BYTES: Final = 1 << 10
#: Where the file does not say how much a record may become.
_MOST_BYTES: Final = 64 << 20


class Decompressor:
    """Decompresses records in their order; gives up for good when one is damaged.

    Args:
        mmap_bytes: Most bytes that one record becomes, as the file says; 0 unknown.

    Raises:
        UnsupportedError: zstandard is not installed.
    """

    def __init__(self, mmap_bytes: int = 0) -> None:
        try:
            import zstandard  # noqa: PLC0415  # only where a file needs it
        except ImportError as error:
            raise UnsupportedError(
                "perf.data: compressed records, and zstandard is not installed",
                hint="pip install 'isotherm[trace]', or record without -z",
            ) from error
        self._errors: type[Exception] = zstandard.ZstdError
        self._stream: Any = zstandard.ZstdDecompressor().decompressobj()
        self._most = max(mmap_bytes, _MOST_BYTES)
        #: Whether nothing more can be read.
        self.broken = False

    def take(self, data: bytes) -> bytes | None:
        """Return what a record becomes; None if it is damaged, or one before was."""
        parts: list[bytes] = []
        size = 0
        try:
            for at in range(0, len(data), _STEP_BYTES):
                if self.broken:
                    break
                parts.append(self._stream.decompress(data[at : at + _STEP_BYTES]))
                size += len(parts[-1])
                self.broken = size > self._most or bool(self._stream.eof)
        except self._errors:
            self.broken = True
        return None if self.broken else b"".join(parts)
