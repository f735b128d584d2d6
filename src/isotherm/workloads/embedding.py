"""Look-ups of embedding rows, with the reuse that Meta's traces show."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.kernels import kernel
from isotherm.workloads import spec
from isotherm.workloads.density import Density, density_from_edges
from isotherm.workloads.draw import MixtureStream
from isotherm.workloads.rng import (
    LOW32,
    S32,
    generator,
    mix64,
    mix64_array,
    stream_key,
)
from isotherm.workloads.stream import NOMINAL_S, TICK_S, Generated
from isotherm.workloads.table import Part, build_table

# Meta's dlrm_datasets, fbgemm_t856_bs65536 (2021, 856 tables): 887,017,990
# look-ups of 128,435,723 rows in one batch. Bin k holds the rows that were
# looked up 2^(k-1) + 1 to 2^k times (bin 0: once).
LOOKUPS_PER_ROW = 887_017_990 / 128_435_723
ROW_SHARE = (0.473, 0.152, 0.139, 0.112, 0.072, 0.032, 0.011)
ACCESS_SHARE = (
    0.069, 0.044, 0.068, 0.101, 0.121, 0.104, 0.073, 0.058, 0.052,
    0.050, 0.049, 0.048, 0.048, 0.043, 0.031, 0.023, 0.019,
)  # fmt: skip
#: A row's generation is mixed into its hash with this odd multiplier.
GENERATION = np.uint64(0xD1342543DE82EF95)
#: Row numbers are uint32.
MAX_ROWS = 0xFFFFFFFF


def reuse_density(rows: int) -> Density:
    """Return the density of look-ups over rows, hottest first.

    The file prints the share of rows to three digits, too few beyond bin 6:
    there it is the bin's accesses over its mean reuse, 2^k ln 2 for a density
    that falls as the square (65,536 for the open bin above 32,768).

    Args:
        rows: >= 1; with fewer than bins, the coldest bins fall away.
    """
    share = list(ROW_SHARE)
    for k in range(len(ROW_SHARE), len(ACCESS_SHARE)):
        mean = 65536.0 if k == len(ACCESS_SHARE) - 1 else 2.0**k * float(np.log(2.0))
        share.append(ACCESS_SHARE[k] * LOOKUPS_PER_ROW / mean)
    hottest_first = np.array(share[::-1]) / sum(share)
    weight = np.array(ACCESS_SHARE[::-1])
    edges = np.round(np.cumsum(hottest_first) * rows).astype(np.int64)
    edges = np.maximum(edges, np.arange(1, len(edges) + 1))
    edges[-1] = max(rows, int(edges[-1]))
    kept = int(np.searchsorted(edges, rows)) + 1
    edges = np.minimum(edges[:kept], rows)
    return density_from_edges(np.concatenate([[0], edges]), weight[:kept])


def _place_rows_twin(
    page: NDArray[np.uint32], key: np.uint64, pages: int, age: np.uint64
) -> None:
    for at in range(0, len(page), 1 << 16):
        block = page[at : at + (1 << 16)]
        word = mix64_array(key + block)
        if age > 0:
            generation = ((word & LOW32) + age) >> S32
            word = mix64_array(word + generation * GENERATION)
        block[:] = ((word >> S32) * np.uint64(pages)) >> S32


@kernel(_place_rows_twin)
def place_rows(
    page: NDArray[np.uint32], key: np.uint64, pages: int, age: np.uint64
) -> None:
    """Replace row numbers by the pages they lie in, in place.

    Args:
        page: Row numbers in, pages out, uint32.
        key: Decides where rows lie.
        pages: Footprint.
        age: Times that every row has been replaced by a fresh one, as a
            multiple of 2^-32; each row's turn comes at its own moment.
    """
    span = np.uint64(pages)
    for i in range(len(page)):
        word = mix64(key + np.uint64(page[i]))
        if age > 0:
            generation = ((word & LOW32) + age) >> S32
            word = mix64(word + generation * GENERATION)
        page[i] = np.uint32(((word >> S32) * span) >> S32)


class EmbeddingStream(MixtureStream):
    """Draws of rows, placed in pages by hash."""

    pages: int
    row_key: np.uint64
    drift: float
    _age = np.uint64(0)

    def tick(self, tick: int) -> None:
        """Let rows grow old."""
        self._age = np.uint64(
            int(tick * TICK_S / NOMINAL_S * self.drift * float(1 << 32))
        )

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses."""
        super().fill(page, write)
        place_rows(page, self.row_key, self.pages, self._age)


def build_embedding(own: spec.Embedding, name: str, pages: int, seed: int) -> Generated:
    """Return row look-ups with DLRM's reuse, rows scattered over pages by hash.

    ``drift`` is the share of rows that fresh ones replace in 120 s, a few at a
    time: what is popular changes from day to day.

    Raises:
        UsageError: More rows than fit 32 bits.
    """
    rows = pages * own.rows_per_page
    if rows > MAX_ROWS:
        raise UsageError(
            f"{name}: rows_per_page: {rows} rows, expected at most {MAX_ROWS}",
            hint=f"try rows_per_page={max(1, MAX_ROWS // pages)}",
        )
    rng = generator(seed, "embedding")
    key, row_key = stream_key(rng), stream_key(rng)
    table = build_table([Part(1.0, reuse_density(rows))])

    def start() -> EmbeddingStream:
        stream = EmbeddingStream(table, np.empty(0, np.uint32), key, own.write_share)
        stream.pages, stream.row_key, stream.drift = pages, row_key, own.drift
        return stream

    return Generated(name, pages, start, writes=own.write_share is not None)
