"""Bytes of a foreign file, decompressed on the way, in blocks of whole lines."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from isotherm.core.errors import (
    NotPermittedError,
    TraceFormatError,
    UnsupportedError,
    UsageError,
)
from isotherm.trace.arrow import render_reason

#: Called with (bytes of the file consumed, bytes of the file or None).
Progress = Callable[[int, int | None], None]

#: Text handed on at once.
BLOCK_BYTES = 4 << 20
#: A line longer than this is taken for something that is no text.
MAX_LINE_BYTES = 64 << 20
#: Compressed bytes decoded at once; bounds what one step of a bomb can give.
_STEP_BYTES = 1 << 15
_OUTPUT_BYTES = 1 << 20

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)


class _Zlib:
    """One gzip member or zlib stream, its output bounded like bz2's and lzma's."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self._pending = b""
        self.eof = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        return not self._pending

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._pending + data, max_length)
        self._pending = self._inner.unconsumed_tail
        self.eof = self._inner.eof
        self.unused_data = self._inner.unused_data
        return out


class _Zstd:
    """One zstd frame; a step gives at most its blocks, 128 KiB each."""

    needs_input = True

    def __init__(self) -> None:
        self._inner = _import_zstandard().ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return bytes(self._inner.decompress(data))


def _import_zstandard() -> Any:
    try:
        import zstandard  # noqa: PLC0415  # only where a file needs it
    except ImportError as error:
        raise UnsupportedError(
            "traces: zstandard is not installed", hint="pip install 'isotherm[trace]'"
        ) from error
    return zstandard


_DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: _Zlib(31),
    "zlib": lambda: _Zlib(15),
    "xz": lzma.LZMADecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "zstd": _Zstd,
}


def _errors_of(kind: str) -> tuple[type[Exception], ...]:
    known = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)
    return (*known, _import_zstandard().ZstdError) if kind == "zstd" else known


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of text.

    Attributes:
        text: Ends in a newline.
        line: Number of the first line, from 1.
    """

    text: bytes
    line: int


class ByteSource:
    """A foreign file, read once from the start; use it as a context manager.

    gzip, xz, zstd, bzip2 and zlib are told by their first bytes and decoded.

    Args:
        path: The file.
        progress: Told how far the file is read, in bytes of the file.

    Raises:
        UsageError: The file does not exist or is a folder.
        NotPermittedError: It may not be read.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path = path
        self._progress = progress
        try:
            self._file: BinaryIO = path.open("rb")
            self._total = path.stat().st_size or None
        except PermissionError as error:
            raise NotPermittedError(f"{path}: {render_reason(error)}") from error
        except OSError as error:
            raise UsageError(f"{path}: {render_reason(error)}") from error
        self._done = 0
        self._ahead = self._read_file(_STEP_BYTES)
        self.compression = _compression_of(self._ahead)
        self._steps = self._decoded() if self.compression else self._plain()
        self._buffer = b""
        self._head = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fail(self, where: str, found: object, expected: str) -> TraceFormatError:
        """Return the error for a place in this file, such as ``line 7``."""
        text = found if isinstance(found, str) else ascii(found)
        return TraceFormatError(
            f"{self.path}: {where}: got {text[:120]}, expected {expected}"
        )

    def _read_file(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise UsageError(f"{self.path}: {render_reason(error)}") from error
        self._done += len(data)
        if self._progress is not None and data:
            self._progress(self._done, self._total)
        return data

    def _plain(self) -> Iterator[bytes]:
        data, self._ahead = self._ahead, b""
        while data:
            yield data
            data = self._read_file(_OUTPUT_BYTES)

    def _decoded(self) -> Iterator[bytes]:
        kind = cast("str", self.compression)
        decoder = _DECODERS[kind]()
        data, self._ahead = self._ahead, b""
        try:
            while True:
                out = decoder.decompress(data, _OUTPUT_BYTES)
                if out:
                    yield out
                if decoder.eof:
                    data = decoder.unused_data or self._read_file(_STEP_BYTES)
                    # gzip and xz files may be padded with zeros.
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                    decoder = _DECODERS[kind]()
                elif decoder.needs_input:
                    data = self._read_file(_STEP_BYTES)
                    if not data:
                        raise TraceFormatError(
                            f"{self.path}: {kind} data ends early, expected its end "
                            f"after byte {self._done}",
                            hint="fetch or compress the file again",
                        )
                else:
                    data = b""
        except _errors_of(kind) as error:
            raise TraceFormatError(
                f"{self.path}: byte {self._done}: {render_reason(error)}, "
                f"expected {kind} data"
            ) from error

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end.

        Raises:
            TraceFormatError: Compressed data are damaged or end early.
        """
        parts, have = [self._buffer], len(self._buffer)
        while have < size:
            step = next(self._steps, None)
            if step is None:
                break
            parts.append(step)
            have += len(step)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    def peek(self, size: int = 1 << 16) -> bytes:
        """Return the next ``size`` bytes without consuming them."""
        data = self.read(size)
        self._buffer = data + self._buffer
        return data

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[Block]:
        """Yield the text in blocks of whole lines, about ``size`` bytes each.

        A last line without a newline is given one.

        Raises:
            TraceFormatError: A line is longer than 64 MiB; or as for ``read``.
        """
        line, carry = 1, b""
        while data := self.read(size):
            end = data.rfind(b"\n") + 1
            if not end:
                carry += data
                if len(carry) > MAX_LINE_BYTES:
                    raise self.fail(f"line {line}", "more than 64 MiB", "lines of text")
                continue
            text = carry + data[:end]
            carry = data[end:]
            yield Block(text, line)
            line += text.count(b"\n")
        if carry:
            yield Block(carry + b"\n", line)


def _compression_of(head: bytes) -> str | None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    # RFC 1950: deflate with a 32 KiB window, and a check over the first two bytes;
    # "x " passes both, so text is told by what decoding it gives.
    if head[:1] != b"x" or int.from_bytes(head[:2], "big") % 31:
        return None
    try:
        zlib.decompressobj().decompress(head, 64)
    except zlib.error:
        return None
    return "zlib"
