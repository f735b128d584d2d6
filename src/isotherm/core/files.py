"""Files that a person names: what they may be, and what went wrong with them."""

import errno
import os
from pathlib import Path

from isotherm.core.errors import IsothermError, NotPermittedError, UsageError

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def file_error(
    path: Path,
    error: OSError,
    doing: str,
    otherwise: type[IsothermError] = UsageError,
    hint: str | None = None,
) -> IsothermError:
    """Return the error that a person is told of a file.

    Args:
        path: As it was named.
        error: What the system said.
        doing: What was tried: ``cannot write``.
        otherwise: What it is where nothing was forbidden and no disk failed.
        hint: A command or a setting that helps.

    >>> type(file_error(Path("x"), PermissionError(13, "no"), "cannot read")).__name__
    'NotPermittedError'
    """
    why = error.strerror or str(error) or type(error).__name__
    kind: type[IsothermError] = otherwise
    if error.errno in _FORBIDDEN:
        kind = NotPermittedError
    elif error.errno in _FAILED:
        kind = IsothermError
    return kind(f"{path}: {doing}: {why}", hint=hint)


def output_file(path: Path) -> Path:
    """Return the file that is replaced when a path is written: links are followed.

    Raises:
        UsageError: There is something that is no regular file, a device for one.
        NotPermittedError: Its folder may not be looked into.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise UsageError(f"{path}: is a folder, expected a file name")
        if target.exists() and not target.is_file():
            raise UsageError(
                f"{path}: is a device, pipe or socket, expected a file name",
                hint="it would be replaced by a file",
            )
        if target.is_symlink():  # one that leads back to itself
            raise UsageError(f"{path}: is a link that ends nowhere")
    except OSError as error:
        raise file_error(path, error, "cannot write") from error
    return target


def check_writable(path: Path) -> None:
    """Check that a file can be written before an hour of work, by beginning to.

    What is there is not touched.

    Raises:
        UsageError: It is no regular file, or its folder does not exist.
        NotPermittedError: Its folder may not be written to.
    """
    target = output_file(path)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("ab") as file:
            begun = file.tell() == 0
        if begun:
            partial.unlink()
    except OSError as error:
        raise file_error(path, error, "cannot write") from error
