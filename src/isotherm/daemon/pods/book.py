"""The file between who asks the API server and who moves pages: pods of one node.

It holds names and our own annotations, nothing else of a pod, is replaced as a whole,
and is read with suspicion: who writes it has fewer rights than who reads it.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from isotherm.core.errors import ConfigError
from isotherm.core.files import file_error

#: What our annotations begin with.
PREFIX: Final = "isotherm.io/"
#: A file that is larger is none of ours; the API server allows 256 KiB of
#: annotations a pod, a node has 110 pods, and ours are some hundred bytes.
LARGEST_BYTES: Final = 4 << 20

_Word = Annotated[str, Meta(max_length=253)]


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pod.

    Attributes:
        uid: What its control group goes by.
        namespace: Where it is.
        name: Its name there.
        created: When, RFC 3339: older ones go first.
        annotations: Those that begin with ``isotherm.io/``.
    """

    uid: Annotated[str, Meta(max_length=64, pattern="^[0-9a-f-]+$")]
    namespace: _Word
    name: _Word
    created: Annotated[str, Meta(max_length=64)] = ""
    annotations: dict[
        Annotated[str, Meta(max_length=317)], Annotated[str, Meta(max_length=4096)]
    ] = {}

    @property
    def full_name(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        version: Of this format.
        pods: Of the node.
    """

    pods: Annotated[tuple[Pod, ...], Meta(max_length=4096)]
    version: int = 1


def read_book(path: Path) -> tuple[Pod, ...]:
    """Return the pods of a file.

    Raises:
        ConfigError: It cannot be read, is too large, or is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise file_error(
            path,
            error,
            "cannot read it",
            ConfigError,
            hint="isotherm pods watch FILE writes it",
        ) from None
    if len(data) > LARGEST_BYTES:
        raise ConfigError(f"{path}: expected at most {LARGEST_BYTES} bytes")
    try:
        book = msgspec.json.decode(data, type=Book)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: expected a list of pods: {error}",
            hint="isotherm pods watch FILE writes it",
        ) from None
    if book.version != 1:
        raise ConfigError(f"{path}: version: expected 1, got {book.version}")
    return book.pods


def write_book(path: Path, pods: Iterable[Pod]) -> None:
    """Replace the file; who reads it sees the old one or the new one.

    Raises:
        ConfigError: It cannot be written there.
    """
    data = msgspec.json.encode(Book(pods=tuple(sorted(pods, key=lambda p: p.uid))))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)  # the daemon may be another user
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise file_error(path, error, "cannot write it", ConfigError) from None
