"""Decode libCacheSim's oracleGeneral records: 24 bytes, packed, little-endian.

========  ======  =================================================
offset    type    field
========  ======  =================================================
0         uint32  time, seconds
4         uint64  object id
12        uint32  object size, bytes
16        int64   request number of the object's next request; -1 or
                  2**63 - 1 where there is none
========  ======  =================================================

Source: oracleGeneralBin.h of libCacheSim.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RECORD_BYTES = 24
_YEAR_S = 31_536_000
_MOST_REQUESTS = 1 << 48
RECORD = np.dtype(
    {
        "names": ["time_s", "id", "size_bytes", "next_request"],
        "formats": ["<u4", "<u8", "<u4", "<i8"],
        "offsets": [0, 4, 12, 16],
        "itemsize": RECORD_BYTES,
    }
)


def decode_records(data: bytes) -> NDArray[Any]:
    """Return whole records as a structured array, shape (len(data) // 24,)."""
    return np.frombuffer(data, RECORD, count=len(data) // RECORD_BYTES)


def looks_like_records(head: bytes) -> bool:
    """Return whether the first bytes of a file can be oracleGeneral records.

    The format has no magic number. Times must rise by less than a year, and the
    next request of record ``i`` must lie after ``i`` or be one of the two marks
    for none, and be right where it falls within ``head``.
    """
    records = decode_records(head[: RECORD_BYTES * 1024])
    if not len(records):
        return False
    steps = np.diff(records["time_s"].astype(np.int64))
    if np.any((steps < 0) | (steps > _YEAR_S)):
        return False
    following = records["next_request"]
    none = (following == -1) | (following == np.iinfo(np.int64).max)
    if np.any(~none & ((following < 0) | (following > _MOST_REQUESTS))):
        return False
    # Request numbers start from 0 or from 1, by the tool that wrote them.
    return any(_follows(records["id"], following - base, none) for base in (0, 1))


def _follows(
    ids: NDArray[np.uint64], following: NDArray[np.int64], none: NDArray[np.bool_]
) -> bool:
    """Return whether each next request lies ahead, and is of the same object."""
    row = np.arange(len(ids))
    inside = ~none & (following < len(ids))
    return bool(
        np.all(none | (following > row))
        and np.all(ids[following[inside]] == ids[inside])
    )
