"""Access to pyarrow, imported late, and the columns that a trace file may have."""

from typing import Any

import numpy as np

from isotherm.core.errors import UnsupportedError

#: Optional columns of accesses and their types; ``page`` is uint32, always there.
COLUMNS: dict[str, type[np.generic]] = {
    "write": np.uint8,
    "initiator": np.uint8,
    "time_ns": np.int64,
    "count": np.uint32,
}


def import_arrow() -> tuple[Any, Any]:
    """Return the modules (pyarrow, pyarrow.parquet).

    Raises:
        UnsupportedError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # 0.2 s that --help must not pay
        import pyarrow.parquet as pq  # noqa: PLC0415  # as above
    except ImportError as error:
        raise UnsupportedError(
            "traces: pyarrow is not installed", hint="pip install 'isotherm[trace]'"
        ) from error
    return pa, pq


def render_reason(error: BaseException) -> str:
    """Return an error's text: the errno's where it has one, its first line else."""
    text = getattr(error, "strerror", None) or str(error)
    return (str(text).splitlines() or [type(error).__name__])[0][:200]
